//! What the tests of a region share, whether it has one node or several.

use std::collections::BTreeMap;

use meridian_controller::{Command, NewTopic, Outcome};
use meridian_shard::Region;
use meridian_types::TopicId;

/// Creates a topic of 8 partitions.
pub(crate) async fn create_topic(region: &Region, name: &str, configs: &[(&str, &str)]) -> TopicId {
    let id = region.new_topic_id();
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
    let outcome = region.control(command).await.expect("it is decided");
    let Outcome::TopicsCreated(results) = outcome else {
        panic!("{outcome:?}")
    };
    results.into_iter().for_each(|result| {
        result.expect("a good topic");
    });
    id
}
