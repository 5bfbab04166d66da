//! Which consumers are pointed to a replica in their own rack, and which are not (KIP-392). Pure.

use std::collections::HashMap;
use std::time::Duration;

use meridian_types::{NodeId, Offset, Partition};
use tokio::time::Instant;

/// A consumer that comes back within this time without having read anything was not served there.
const RETURN_WITHIN: Duration = Duration::from_secs(60);
/// Partitions that are remembered of one connection; beyond it all are forgotten, which costs each one more round trip.
const REMEMBERED_MAX: usize = 100_000;

/// The nodes in the client's rack, which it should rather read from; none when this node is in that rack itself.
/// `nodes`: every node with its rack.
pub(crate) fn near(client_rack: &str, here: NodeId, nodes: &[(NodeId, Option<&str>)]) -> Vec<NodeId> {
    if client_rack.is_empty() {
        return Vec::new();
    }
    let in_rack = nodes.iter().filter(|(_, rack)| *rack == Some(client_rack));
    let near: Vec<NodeId> = in_rack.map(|(node, _)| *node).collect();
    match near.contains(&here) {
        true => Vec::new(),
        false => near,
    }
}

/// One of the nodes near the client that has all there is to read. Clients spread over several by `spread`.
pub(crate) fn select(near: &[NodeId], in_step: &[NodeId], spread: u64) -> Option<NodeId> {
    let fit: Vec<NodeId> = near
        .iter()
        .copied()
        .filter(|node| in_step.contains(node))
        .collect();
    let place = spread.checked_rem(fit.len() as u64)?;
    fit.get(usize::try_from(place).ok()?).copied()
}

/// Remembers for which partitions the consumer on a connection was pointed elsewhere. A replica that is made anew lacks old records, and
/// cannot tell the leader which: a consumer that it sends back is served here, until it has read all that there was when
/// it came.
#[derive(Debug, Default)]
pub(crate) struct Redirects {
    known: HashMap<Partition, Redirect>,
}

#[derive(Clone, Copy, Debug)]
struct Redirect {
    /// Where it stood when it was pointed elsewhere.
    offset: Offset,
    at: Instant,
    /// It came back: it stays here until it has read up to here.
    stays_below: Option<Offset>,
}

impl Redirects {
    /// Whether the consumer, about to read from `offset`, may be pointed elsewhere; if so it is remembered.
    pub(crate) fn may_point(
        &mut self,
        now: Instant,
        partition: Partition,
        offset: Offset,
        high_watermark: Offset,
    ) -> bool {
        let pointed = Redirect {
            offset,
            at: now,
            stays_below: None,
        };
        match self.known.get_mut(&partition) {
            Some(Redirect {
                stays_below: Some(end),
                ..
            }) if offset < *end => return false,
            Some(known) if known.stays_below.is_none() && known.offset == offset => {
                if now.duration_since(known.at) < RETURN_WITHIN {
                    known.stays_below = Some(high_watermark.max(offset.plus(1)));
                    return false;
                }
                *known = pointed;
            }
            Some(known) => *known = pointed,
            None => {
                if self.known.len() >= REMEMBERED_MAX {
                    self.known.clear();
                }
                self.known.insert(partition, pointed);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use meridian_types::{TopicId, Uuid};

    use super::*;

    const PARTITION: Partition = Partition {
        topic: TopicId(Uuid::from_u128(1)),
        index: 0,
    };

    #[test]
    fn a_consumer_is_pointed_to_its_own_rack_unless_the_leader_is_there() {
        let racks = [(1, Some("a")), (2, Some("b")), (3, None), (4, Some("b"))];
        let nodes = racks.map(|(id, rack)| (NodeId(id), rack));
        let near = |client: &str| near(client, NodeId(1), &nodes);
        assert_eq!(near("b"), [NodeId(2), NodeId(4)]);
        assert!(near("a").is_empty() && near("c").is_empty() && near("").is_empty());
    }

    #[test]
    fn clients_spread_over_the_replicas_nearby_that_are_in_step() {
        let near = [2, 4].map(NodeId);
        let selected = |in_step: &[u32], spread| {
            let in_step: Vec<NodeId> = in_step.iter().copied().map(NodeId).collect();
            select(&near, &in_step, spread).map(|node| node.0)
        };
        assert_eq!(
            (selected(&[2, 3, 4], 0), selected(&[2, 3, 4], 1)),
            (Some(2), Some(4))
        );
        assert_eq!((selected(&[3, 4], 0), selected(&[3], 0)), (Some(4), None));
    }

    #[test]
    fn a_consumer_that_a_replica_sends_back_is_served_by_the_leader_until_it_has_caught_up() {
        let mut redirects = Redirects::default();
        let now = Instant::now();
        let end = Offset(100);
        let mut may = |seconds, offset| {
            let now = now + Duration::from_secs(seconds);
            redirects.may_point(now, PARTITION, Offset(offset), end)
        };
        assert!(may(0, 40));
        assert!(!may(1, 40), "the replica did not have it");
        assert!(!may(2, 60) && !may(900, 99), "it reads on here");
        assert!(may(901, 100), "whatever comes now every replica has");
        // Nothing was written meanwhile: it came back since its lease ended.
        assert!(may(2000, 100));
    }

    #[test]
    fn a_consumer_that_has_read_on_elsewhere_is_pointed_there_again() {
        let mut redirects = Redirects::default();
        let now = Instant::now();
        assert!(redirects.may_point(now, PARTITION, Offset(1), Offset(9)));
        assert!(redirects.may_point(now, PARTITION, Offset(5), Offset(9)));
    }
}
