//! The greeting: who is there, and whether the two fit together.

use std::time::Duration;

use meridian_types::RegionNumber;
use tokio::time::timeout;

use crate::budget::Budget;
use crate::frame::{Frame, Greeting, Intent, Reject, VERSIONS};
use crate::head::FrameError;
use crate::hello::Hello;
use crate::lane::{Lane, LaneError, read_frame, write_frame};
use crate::named_region;

/// How long a side that was turned away gets to read why.
const FAREWELL: Duration = Duration::from_millis(500);
/// A greeting has at most 1 KiB.
const GREETING_BUDGET_BYTES: usize = 4 << 10;

/// Whether the other side fits. Returns the version to speak.
///
/// Errors: why not, for the other side.
pub(crate) fn judge(own: &Hello, theirs: &Greeting) -> Result<u16, (Reject, String)> {
    let peer = &theirs.hello;
    let version = *theirs.versions.end().min(VERSIONS.end());
    if version < *theirs.versions.start().max(VERSIONS.start()) {
        return Err((
            Reject::Version,
            format!(
                "this node speaks versions {} to {} of the frames between regions, you {} to {}: upgrade the older side",
                VERSIONS.start(),
                VERSIONS.end(),
                theirs.versions.start(),
                theirs.versions.end()
            ),
        ));
    }
    if peer.number == own.number {
        return Err((
            Reject::DuplicateRegion,
            format!(
                "region number {} is that of region `{}` here: give each region of the cluster its own region.number",
                own.number, own.region
            ),
        ));
    }
    if RegionNumber::of(peer.node) != Some(peer.number) {
        return Err((
            Reject::Other,
            format!("node {} is none of region number {}", peer.node, peer.number),
        ));
    }
    if theirs.intent == Intent::Question {
        return Ok(version);
    }
    if peer.cluster_id != own.cluster_id {
        return Err((
            Reject::Cluster,
            format!(
                "this is cluster `{}`, yours is `{}`: regions of one cluster only can be linked",
                own.cluster_id, peer.cluster_id
            ),
        ));
    }
    if peer.shards != own.shards {
        return Err((
            Reject::Shards,
            format!(
                "this region has {} shards, yours {}: regions of a cluster have equally many",
                own.shards, peer.shards
            ),
        ));
    }
    Ok(version)
}

/// Whether the certificate allows what the other side says it is.
pub(crate) fn check_certificate(lane: &Lane, peer: &Hello) -> Result<(), String> {
    if !lane.is_authenticated {
        return Ok(());
    }
    match &lane.certificate {
        Some(certificate) => named_region::check(certificate, &peer.region, peer.node),
        None => Err("the other side presented no certificate".to_owned()),
    }
}

/// Reads what the side that dialled says first.
pub(crate) async fn hear(lane: &mut Lane, idle: Duration) -> Result<Greeting, LaneError> {
    match answer(lane, idle).await? {
        Frame::Hello(greeting) => Ok(greeting),
        other => Err(FrameError::Misplaced(other.type_byte()).into()),
    }
}

/// Reads one frame of the greeting.
pub(crate) async fn answer(lane: &mut Lane, idle: Duration) -> Result<Frame, LaneError> {
    let budget = Budget::new(GREETING_BUDGET_BYTES);
    Ok(read_frame(&mut lane.reader, idle, &budget).await?.0)
}

/// Says one thing.
pub(crate) async fn say(lane: &mut Lane, frame: &Frame, idle: Duration) -> Result<(), LaneError> {
    write_frame(&mut lane.writer, &[frame.encode()], idle).await
}

/// Says why the connection ends here, and waits a little for the other side to read it.
pub(crate) async fn turn_away(mut lane: Lane, reject: Reject, reason: String) {
    let frame = Frame::Rejected {
        reject,
        reason: reason.clone(),
    };
    // The other side may be gone, or no node at all; nothing depends on it.
    let _ = say(&mut lane, &frame, FAREWELL).await;
    let _ = timeout(FAREWELL, answer(&mut lane, FAREWELL)).await;
    if let Some(connection) = &lane.quic {
        connection.close(quinn::VarInt::from_u32(reject as u32), reason.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use meridian_types::{NodeId, RegionEpoch};

    use super::*;

    fn hello(number: u16, node: u32) -> Hello {
        Hello {
            cluster_id: "cluster".to_owned(),
            region: format!("region-{number}"),
            number: RegionNumber(number),
            node: NodeId(node),
            shards: 16,
            region_epoch: RegionEpoch(0),
            feature_level: 4,
        }
    }

    #[test]
    fn who_does_not_fit_is_told_why() {
        let own = hello(0, 1);
        let good = Greeting {
            versions: 1..=7,
            intent: Intent::Link,
            session: 1,
            hello: hello(1, 100_001),
        };
        assert_eq!(judge(&own, &good), Ok(1));
        let refused = |change: &dyn Fn(&mut Greeting)| {
            let mut greeting = good.clone();
            change(&mut greeting);
            judge(&own, &greeting).map_err(|(reject, _)| reject)
        };
        assert_eq!(refused(&|g| g.versions = 2..=7), Err(Reject::Version));
        assert_eq!(refused(&|g| g.hello.cluster_id.clear()), Err(Reject::Cluster));
        assert_eq!(refused(&|g| g.hello.shards = 8), Err(Reject::Shards));
        assert_eq!(refused(&|g| g.hello = hello(0, 2)), Err(Reject::DuplicateRegion));
        assert_eq!(refused(&|g| g.hello = hello(1, 2)), Err(Reject::Other));
        // Who only asks may not know yet.
        let asking = refused(&|g| {
            g.intent = Intent::Question;
            g.hello.cluster_id.clear();
            g.hello.shards = 0;
        });
        assert_eq!(asking, Ok(1));
    }
}
