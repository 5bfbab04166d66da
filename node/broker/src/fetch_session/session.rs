use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use meridian_types::{LeaderEpoch, TopicId};

/// How a request names a topic: by name before Fetch v13, by id from then on.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum TopicKey {
    Name(Arc<str>),
    Id(TopicId),
}

impl fmt::Debug for TopicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "{name}"),
            Self::Id(id) => write!(f, "{id}"),
        }
    }
}

/// One partition as a fetch asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SessionPartition {
    pub(crate) topic: TopicKey,
    pub(crate) index: i32,
    /// As sent; a negative one is out of range.
    pub(crate) fetch_offset: i64,
    /// Most bytes for this partition, the first batch apart.
    pub(crate) bytes_max: u32,
    /// The epoch the client believes in, if it says one.
    pub(crate) current_leader_epoch: Option<LeaderEpoch>,
    /// Epoch of the last record the client has, if it says one (v12).
    pub(crate) last_fetched_epoch: Option<LeaderEpoch>,
}

/// What the client was last told about a partition. A response without news is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reported {
    pub(crate) high_watermark: i64,
    pub(crate) last_stable_offset: i64,
    pub(crate) log_start_offset: i64,
}

type Key = (TopicKey, i32);

/// The partitions of one session in the order they are served: who got data goes to the end, so that with
/// small responses each has its turn.
#[derive(Debug, Default)]
pub(super) struct Session {
    /// Epoch that the next request must have.
    pub(super) next_epoch: i32,
    pub(super) uses_topic_ids: bool,
    pub(super) created_ms: i64,
    pub(super) last_used_ms: i64,
    in_order: BTreeMap<u64, Entry>,
    places: HashMap<Key, u64>,
    next_place: u64,
}

#[derive(Debug)]
struct Entry {
    partition: SessionPartition,
    /// `None`: nothing yet, so whatever comes is news.
    reported: Option<Reported>,
}

impl Session {
    pub(super) fn new(now_ms: i64, uses_topic_ids: bool) -> Self {
        Self {
            next_epoch: 1,
            uses_topic_ids,
            created_ms: now_ms,
            last_used_ms: now_ms,
            ..Self::default()
        }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Partitions that `added` names and the session does not have.
    pub(super) fn count_new(&self, added: &[SessionPartition]) -> usize {
        added
            .iter()
            .filter(|partition| !self.places.contains_key(&key(partition)))
            .count()
    }

    /// Adds a partition, or changes what is asked of it without changing its turn.
    pub(super) fn put(&mut self, partition: SessionPartition) {
        let key = key(&partition);
        if let Some(place) = self.places.get(&key) {
            let entry = self.in_order.get_mut(place).expect("every place has its entry");
            entry.partition = partition;
            return;
        }
        self.places.insert(key, self.next_place);
        self.in_order.insert(
            self.next_place,
            Entry {
                partition,
                reported: None,
            },
        );
        self.next_place += 1;
    }

    pub(super) fn remove(&mut self, topic: &TopicKey, index: i32) {
        if let Some(place) = self.places.remove(&(topic.clone(), index)) {
            self.in_order.remove(&place);
        }
    }

    pub(super) fn partitions(&self) -> Vec<SessionPartition> {
        self.in_order
            .values()
            .map(|entry| entry.partition.clone())
            .collect()
    }

    /// Whether the answer for a partition is news to the client; remembers it as told.
    pub(super) fn report(
        &mut self,
        topic: &TopicKey,
        index: i32,
        reported: Reported,
        has_data: bool,
        must: bool,
    ) -> bool {
        let key = (topic.clone(), index);
        let Some(place) = self.places.get(&key).copied() else {
            return true;
        };
        let entry = self.in_order.get_mut(&place).expect("every place has its entry");
        let is_news = has_data || must || entry.reported != Some(reported);
        // After an error the next good answer is news, whatever its numbers.
        entry.reported = (!must).then_some(reported);
        if has_data {
            let entry = self.in_order.remove(&place).expect("every place has its entry");
            self.in_order.insert(self.next_place, entry);
            self.places.insert(key, self.next_place);
            self.next_place += 1;
        }
        is_news
    }
}

fn key(partition: &SessionPartition) -> Key {
    (partition.topic.clone(), partition.index)
}
