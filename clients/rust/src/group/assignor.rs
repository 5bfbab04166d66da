//! Who reads what: the assignors that Kafka's clients have in common. Pure.
//!
//! The group's leader runs one of them; any member may be the leader, so a Java client and this one must agree.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use meridian_wire::Decoder;

use super::protocol::{Subscription, TopicPartition};

/// How partitions are given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignor {
    /// Each topic for itself: neighbouring partitions to each member.
    Range,
    /// All partitions in turn.
    RoundRobin,
    /// Evenly, and as few as can be change hands; everything stops during a rebalance.
    Sticky,
    /// As `Sticky`, but only what changes hands stops (KIP-429).
    CooperativeSticky,
}

/// A member, as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The id that the coordinator gave it.
    pub id: String,
    /// The id it gave itself, if it is a static member.
    pub instance_id: Option<String>,
    /// What it asks for.
    pub subscription: Subscription,
}

/// What each member gets, by member id.
pub type Assignments = BTreeMap<String, Vec<TopicPartition>>;

impl Assignor {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Range,
        Self::RoundRobin,
        Self::Sticky,
        Self::CooperativeSticky,
    ];

    /// The name by which members agree on one.
    pub fn name(self) -> &'static str {
        match self {
            Self::Range => "range",
            Self::RoundRobin => "roundrobin",
            Self::Sticky => "sticky",
            Self::CooperativeSticky => "cooperative-sticky",
        }
    }

    /// The assignor of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|assignor| assignor.name() == name)
    }

    /// Whether members keep what they have during a rebalance.
    pub fn is_cooperative(self) -> bool {
        self == Self::CooperativeSticky
    }

    /// What a member adds to its subscription for this assignor.
    pub(super) fn user_data(self, owned: &[TopicPartition], generation: i32) -> Option<Bytes> {
        match self {
            Self::Range | Self::RoundRobin => None,
            Self::Sticky => Some(encode_sticky(owned, generation)),
            Self::CooperativeSticky => Some(Bytes::copy_from_slice(&generation.to_be_bytes())),
        }
    }

    /// Gives out the partitions of `topics`, of which the numbers of partitions are known.
    pub fn assign(self, members: &[Member], topics: &BTreeMap<String, u32>) -> Assignments {
        match self {
            Self::Range => range(members, topics),
            Self::RoundRobin => round_robin(members, topics),
            Self::Sticky => {
                let owned = members
                    .iter()
                    .map(|member| (member, sticky_owned(&member.subscription)));
                sticky(&owned.collect::<Vec<_>>(), topics)
            }
            Self::CooperativeSticky => {
                let owned: Vec<_> = members
                    .iter()
                    .map(|member| {
                        let subscription = &member.subscription;
                        let generation = subscription.generation.unwrap_or(-1);
                        (member, (subscription.owned.clone(), generation))
                    })
                    .collect();
                let mut assignments = sticky(&owned, topics);
                hold_back_what_moves(members, &mut assignments);
                assignments
            }
        }
    }
}

/// Members in the order of Kafka's assignors: static ones first, by the id they gave themselves.
fn sorted(members: &[Member]) -> Vec<&Member> {
    let mut sorted: Vec<&Member> = members.iter().collect();
    sorted.sort_by_key(|member| (member.instance_id.is_none(), &member.instance_id, &member.id));
    sorted
}

fn nothing_yet(members: &[Member]) -> Assignments {
    members
        .iter()
        .map(|member| (member.id.clone(), Vec::new()))
        .collect()
}

fn wants(member: &Member, topic: &str) -> bool {
    member.subscription.topics.iter().any(|wanted| wanted == topic)
}

fn range(members: &[Member], topics: &BTreeMap<String, u32>) -> Assignments {
    let mut assignments = nothing_yet(members);
    let sorted = sorted(members);
    for (topic, count) in topics {
        let readers: Vec<&&Member> = sorted.iter().filter(|member| wants(member, topic)).collect();
        let Ok(number) = u32::try_from(readers.len()) else {
            continue;
        };
        if number == 0 {
            continue;
        }
        let (each, extra) = (count / number, count % number);
        for (place, member) in (0..).zip(readers) {
            let start = each * place + place.min(extra);
            let length = each + u32::from(place < extra);
            let given = assignments.entry(member.id.clone()).or_default();
            given.extend((start..start + length).map(|index| (topic.clone(), index)));
        }
    }
    assignments
}

fn round_robin(members: &[Member], topics: &BTreeMap<String, u32>) -> Assignments {
    let mut assignments = nothing_yet(members);
    let sorted = sorted(members);
    let mut turn = 0;
    for (topic, count) in topics {
        if !sorted.iter().any(|member| wants(member, topic)) {
            continue;
        }
        for index in 0..*count {
            while !wants(sorted[turn % sorted.len()], topic) {
                turn += 1;
            }
            let member = sorted[turn % sorted.len()];
            assignments
                .entry(member.id.clone())
                .or_default()
                .push((topic.clone(), index));
            turn += 1;
        }
    }
    assignments
}

/// A member with the partitions it says it has, and the generation in which it got them.
type Claim<'a> = (&'a Member, (Vec<TopicPartition>, i32));

fn sticky(claims: &[Claim<'_>], topics: &BTreeMap<String, u32>) -> Assignments {
    let members: Vec<&Member> = claims.iter().map(|(member, _)| *member).collect();
    let mut given: BTreeMap<&str, BTreeSet<TopicPartition>> = members
        .iter()
        .map(|member| (member.id.as_str(), BTreeSet::new()))
        .collect();
    // Who has a partition: the one who got it last. Two who say the same of one generation both lose it: one of
    // them must be wrong (KAFKA-12984).
    let mut owners: BTreeMap<&TopicPartition, (i32, Option<&str>)> = BTreeMap::new();
    for (member, (owned, generation)) in claims {
        for partition in owned {
            let exists = topics.get(&partition.0).is_some_and(|count| partition.1 < *count);
            if !exists || !wants(member, &partition.0) {
                continue;
            }
            match owners.get(partition) {
                Some((other, _)) if other > generation => {}
                Some((other, _)) if other == generation => {
                    owners.insert(partition, (*generation, None));
                }
                _ => {
                    owners.insert(partition, (*generation, Some(&member.id)));
                }
            }
        }
    }
    for (partition, (_, owner)) in &owners {
        if let Some(owner) = owner {
            given.entry(owner).or_default().insert((*partition).clone());
        }
    }
    let all = topics
        .iter()
        .flat_map(|(topic, count)| (0..*count).map(move |index| (topic.clone(), index)));
    for partition in all {
        if owners.get(&partition).is_some_and(|(_, owner)| owner.is_some()) {
            continue;
        }
        let readers = members.iter().filter(|member| wants(member, &partition.0));
        if let Some(least) = readers.min_by_key(|member| (given[member.id.as_str()].len(), &member.id)) {
            given.entry(least.id.as_str()).or_default().insert(partition);
        }
    }
    balance(&members, &mut given);
    given
        .into_iter()
        .map(|(id, partitions)| (id.to_owned(), partitions.into_iter().collect()))
        .collect()
}

/// Moves partitions one at a time from who has more to who has less, while that makes it more even.
fn balance<'a>(members: &[&'a Member], given: &mut BTreeMap<&'a str, BTreeSet<TopicPartition>>) {
    loop {
        let mut by_load: Vec<&'a Member> = members.to_vec();
        by_load.sort_by_key(|member| std::cmp::Reverse((given[member.id.as_str()].len(), &member.id)));
        let step = by_load.iter().find_map(|from| {
            let load = given[from.id.as_str()].len();
            given[from.id.as_str()].iter().find_map(|partition| {
                let to = by_load
                    .iter()
                    .rev()
                    .take_while(|to| given[to.id.as_str()].len() + 1 < load)
                    .find(|to| wants(to, &partition.0))?;
                Some((from.id.as_str(), to.id.as_str(), partition.clone()))
            })
        });
        let Some((from, to, partition)) = step else {
            return;
        };
        given.entry(from).or_default().remove(&partition);
        given.entry(to).or_default().insert(partition);
    }
}

/// A partition that someone has and another is to get waits until the one has let go of it: the next rebalance,
/// which follows at once, gives it away.
fn hold_back_what_moves(members: &[Member], assignments: &mut Assignments) {
    let mut owned: BTreeMap<&TopicPartition, BTreeSet<&str>> = BTreeMap::new();
    for member in members {
        for partition in &member.subscription.owned {
            owned.entry(partition).or_default().insert(&member.id);
        }
    }
    for (id, partitions) in assignments {
        partitions.retain(|partition| {
            owned
                .get(partition)
                .is_none_or(|owners| owners.contains(id.as_str()) && owners.len() == 1)
        });
    }
}

/// What a member of the eager sticky assignor says it has: its user data, as the Java client writes it.
fn sticky_owned(subscription: &Subscription) -> (Vec<TopicPartition>, i32) {
    let decoded = subscription.user_data.as_ref().and_then(decode_sticky);
    decoded.unwrap_or_else(|| (subscription.owned.clone(), subscription.generation.unwrap_or(-1)))
}

/// `[topic, [partition]], generation`, all in fixed lengths.
fn encode_sticky(owned: &[TopicPartition], generation: i32) -> Bytes {
    let mut topics: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for (topic, index) in owned {
        topics.entry(topic).or_default().push(*index);
    }
    let mut out = BytesMut::new();
    out.put_i32(topics.len() as i32);
    for (topic, partitions) in topics {
        out.put_i16(topic.len() as i16);
        out.put_slice(topic.as_bytes());
        out.put_i32(partitions.len() as i32);
        for index in partitions {
            out.put_u32(index);
        }
    }
    out.put_i32(generation);
    out.freeze()
}

/// `None`: it is something else.
fn decode_sticky(bytes: &Bytes) -> Option<(Vec<TopicPartition>, i32)> {
    let mut d = Decoder::new(BytesMut::from(&bytes[..]));
    let mut owned = Vec::new();
    // A false count ends with the bytes: nothing is reserved for it.
    for _ in 0..d.i32().ok()? {
        let topic = d.str(false).ok()??;
        for _ in 0..d.i32().ok()? {
            owned.push((topic.as_str().to_owned(), u32::try_from(d.i32().ok()?).ok()?));
        }
    }
    // The first version of the format has no generation.
    Some((owned, d.i32().unwrap_or(-1)))
}

#[cfg(test)]
mod tests;
