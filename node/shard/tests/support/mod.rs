//! What the tests of a region share, whether it has one node or several.

use std::collections::BTreeMap;

use meridian_controller::{Command, NewTopic, Outcome};
use meridian_shard::{ControlError, Region};
use meridian_types::TopicId;

/// Creates a topic of 8 partitions.
pub(crate) async fn create_topic(region: &Region, name: &str, configs: &[(&str, &str)]) -> TopicId {
    let id = region.new_topic_id(None);
    let configs: BTreeMap<_, _> = configs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    let topic = NewTopic {
        name: name.into(),
        id,
        partitions: 8,
        configs,
    };
    let command = Command::CreateTopics {
        topics: vec![topic],
        now: region.now(),
    };
    // Where the leader goes meanwhile it is not known whether it is decided: look, and else ask again.
    for _ in 0..10 {
        match region.control(command.clone()).await {
            Ok(Outcome::TopicsCreated(results)) => {
                let is_there = region.controller().topic_by_id(id).is_some();
                assert!(is_there, "a good topic: {results:?}");
                return id;
            }
            Ok(outcome) => panic!("{outcome:?}"),
            Err(ControlError::NotLeader { .. } | ControlError::Unknown { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    panic!("nobody decides about {name}");
}
