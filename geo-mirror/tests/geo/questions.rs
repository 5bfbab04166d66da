//! Questions beside the content.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meridian_geo_mirror::{AskError, GeoTls, OsNetwork, Refusal, Settings, TransportSetting};
use meridian_types::ShardId;
use tokio::time::timeout;

use crate::harness::{Node, settings};

async fn pair(transport: TransportSetting) -> (Node, Node) {
    let start = |number| {
        let settings = Settings {
            transport,
            ..settings()
        };
        let tls = GeoTls::ephemeral().expect("TLS");
        Node::start_with(number, settings, tls, Arc::new(OsNetwork))
    };
    let (owner, mirror) = (start(0).await, start(1).await);
    mirror.follow(&owner, [2]);
    (owner, mirror)
}

async fn ask(mirror: &Node, question: &'static [u8]) -> Result<Bytes, AskError> {
    let asked = mirror.links.ask(ShardId(2), Bytes::from_static(question));
    timeout(Duration::from_secs(60), asked).await.expect("in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_are_answered_over_either_transport() {
    for transport in [TransportSetting::Quic, TransportSetting::Tcp] {
        let (_owner, mirror) = pair(transport).await;
        let large = ask(&mirror, b"3000000").await.expect("an answer");
        assert_eq!(large.len(), 3_000_000, "{transport:?}");
        assert_eq!(ask(&mirror, b"0").await, Ok(Bytes::new()));
        // What the other side refuses is told, and more than one link may carry is asked for in turn.
        let reason = "no number".to_owned();
        let refused = Err(AskError::Refused(Refusal::Unknown { reason }));
        assert_eq!(ask(&mirror, b"what?").await, refused);
        let many = (0..100).map(|_| ask(&mirror, b"100000"));
        for answer in futures::future::join_all(many).await {
            assert_eq!(answer.map(|bytes| bytes.len()), Ok(100_000));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_ends_with_its_link_and_the_limit_holds_answers_too() {
    let (owner, mirror) = pair(TransportSetting::Quic).await;
    let elsewhere = mirror.links.ask(ShardId(3), Bytes::new()).await;
    assert_eq!(elsewhere, Err(AskError::Unlinked), "nobody follows it");
    ask(&mirror, b"1").await.expect("the link is up");
    owner.listener.throttle(mirror.region.number(), Some(1_000_000));
    let started = tokio::time::Instant::now();
    for _ in 0..4 {
        ask(&mirror, b"500000").await.expect("an answer");
    }
    let took = started.elapsed();
    assert!(
        took >= Duration::from_millis(1000),
        "1.5 MB behind the first took {took:?}"
    );
    let waiting = ask(&mirror, b"never");
    tokio::pin!(waiting);
    assert!(timeout(Duration::from_millis(300), &mut waiting).await.is_err());
    drop(owner);
    assert_eq!(waiting.await, Err(AskError::Unlinked));
}
