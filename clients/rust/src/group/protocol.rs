//! What the members of a consumer group tell one another, as this crate works with it.

use bytes::Bytes;
use meridian_wire::messages::consumer_assignment;
use meridian_wire::messages::consumer_subscription;
use meridian_wire::{
    ConsumerProtocolAssignment, ConsumerProtocolSubscription, DecodeError, EncodeError, embedded,
};
use std::collections::BTreeMap;

/// A topic and a partition in it.
pub type TopicPartition = (String, u32);

/// What a member asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscription {
    /// The topics it wants.
    pub topics: Vec<String>,
    /// The partitions it has at the moment.
    pub owned: Vec<TopicPartition>,
    /// The generation in which it got those; `None` if it tells none.
    pub generation: Option<i32>,
    /// Its rack.
    pub rack: Option<String>,
    /// What its assignor adds; the sticky assignor puts its last assignment here.
    pub user_data: Option<Bytes>,
}

/// What a member is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// Its partitions.
    pub partitions: Vec<TopicPartition>,
}

impl Subscription {
    /// Writes it, in version 3: older readers take of it what they know.
    pub fn encode(&self) -> Result<Bytes, EncodeError> {
        let message = ConsumerProtocolSubscription {
            topics: self.topics.iter().map(Into::into).collect(),
            user_data: self.user_data.clone(),
            owned_partitions: by_topic(&self.owned)
                .into_iter()
                .map(|(topic, partitions)| consumer_subscription::TopicPartition {
                    topic: topic.into(),
                    partitions,
                })
                .collect(),
            generation_id: self.generation.unwrap_or(-1),
            rack_id: self.rack.as_ref().map(Into::into),
        };
        embedded::encode(&message, 3)
    }

    /// Reads one of any version.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let message: ConsumerProtocolSubscription = embedded::decode(bytes)?;
        Ok(Self {
            topics: message.topics.into_iter().map(Into::into).collect(),
            owned: message
                .owned_partitions
                .iter()
                .flat_map(|topic| flatten(&topic.topic, &topic.partitions))
                .collect(),
            generation: Some(message.generation_id).filter(|generation| *generation >= 0),
            rack: message.rack_id.map(Into::into),
            user_data: message.user_data,
        })
    }
}

impl Assignment {
    /// Writes it, in version 1, which every reader knows.
    pub fn encode(&self) -> Result<Bytes, EncodeError> {
        let message = ConsumerProtocolAssignment {
            assigned_partitions: by_topic(&self.partitions)
                .into_iter()
                .map(|(topic, partitions)| consumer_assignment::TopicPartition {
                    topic: topic.into(),
                    partitions,
                })
                .collect(),
            user_data: None,
        };
        embedded::encode(&message, 1)
    }

    /// Reads one of any version. No bytes at all are an empty assignment, as a coordinator gives it to a member
    /// that the leader forgot.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let message: ConsumerProtocolAssignment = embedded::decode(bytes)?;
        Ok(Self {
            partitions: message
                .assigned_partitions
                .iter()
                .flat_map(|topic| flatten(&topic.topic, &topic.partitions))
                .collect(),
        })
    }
}

fn by_topic(partitions: &[TopicPartition]) -> BTreeMap<&String, Vec<i32>> {
    let mut topics: BTreeMap<&String, Vec<i32>> = BTreeMap::new();
    for (topic, index) in partitions {
        topics
            .entry(topic)
            .or_default()
            .push(i32::try_from(*index).unwrap_or(i32::MAX));
    }
    topics
}

/// Negative indexes are no partitions and are left out.
fn flatten<'a>(topic: &'a str, partitions: &'a [i32]) -> impl Iterator<Item = TopicPartition> + 'a {
    partitions
        .iter()
        .filter_map(|index| u32::try_from(*index).ok())
        .map(|index| (topic.to_owned(), index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscription_and_assignment_come_back_as_they_went() {
        let subscription = Subscription {
            topics: vec!["a".to_owned(), "b".to_owned()],
            owned: vec![("a".to_owned(), 0), ("a".to_owned(), 2), ("b".to_owned(), 1)],
            generation: Some(7),
            rack: Some("r1".to_owned()),
            user_data: Some(Bytes::from_static(b"x")),
        };
        let bytes = subscription.encode().unwrap();
        assert_eq!(Subscription::decode(&bytes), Ok(subscription));
        let assignment = Assignment {
            partitions: vec![("a".to_owned(), 3)],
        };
        assert_eq!(Assignment::decode(&assignment.encode().unwrap()), Ok(assignment));
        assert_eq!(Assignment::decode(&Bytes::new()), Ok(Assignment::default()));
    }
}
