//! Calls, notices and their order.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use meridian_net::TcpNet;
use meridian_peer::{AddressError, CallError, DialError, HostPort, Lane, PeerSettings};
use meridian_types::{NodeId, ShardId};
use tokio::time::Instant;

use crate::harness::{
    ECHO, GIVE, HOLD, REFUSE, RELEASE, SHARD, SLOW, TestNode, body, loopback, settings, soon, until,
};

#[tokio::test]
async fn a_call_brings_its_bytes_there_and_the_answer_back() {
    let (one, two) = (TestNode::start(1).await, TestNode::start(2).await);
    one.learn(&two);
    let parts = vec![
        Bytes::from_static(b"hello "),
        Bytes::new(),
        Bytes::from_static(b"world"),
    ];
    for lane in Lane::ALL {
        let answer = one.peers.call(two.id, lane, ECHO, SHARD, parts.clone()).await;
        assert_eq!(answer, Ok(Bytes::from_static(b"hello world")));
    }
    let empty = one.peers.call(two.id, Lane::Bulk, ECHO, SHARD, Vec::new()).await;
    assert_eq!(empty, Ok(Bytes::new()));
    let heard = two.answers.heard.lock()[0];
    assert_eq!((heard.0, heard.1, heard.2), (one.id, ECHO, SHARD));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_a_lane_arrive_in_order_and_thousands_of_calls_find_their_answers() {
    let (one, two) = (TestNode::start(1).await, TestNode::start(2).await);
    one.connect(&two).await;
    let calls: Vec<_> = (0..5000)
        .map(|number| {
            one.peers.notify(two.id, Lane::Bulk, RELEASE, SHARD, body(number));
            one.peers.call(two.id, Lane::Bulk, ECHO, SHARD, body(number))
        })
        .collect();
    for (number, answer) in (0_u64..).zip(soon(join_all(calls)).await) {
        assert_eq!(answer, Ok(Bytes::copy_from_slice(&number.to_le_bytes())));
    }
    let heard: Vec<(u16, u64)> = two
        .answers
        .heard
        .lock()
        .iter()
        .map(|heard| (heard.1, heard.3))
        .collect();
    let sent: Vec<(u16, u64)> = (0..5000)
        .flat_map(|number| [(RELEASE, number), (ECHO, number)])
        .collect();
    assert_eq!(heard, sent);
}

#[tokio::test]
async fn answers_may_overtake_one_another() {
    let (one, two) = (TestNode::start(1).await, TestNode::start(2).await);
    one.connect(&two).await;
    let held = one.peers.call(two.id, Lane::Bulk, HOLD, SHARD, body(1));
    let quick = one.peers.call(two.id, Lane::Bulk, ECHO, SHARD, body(2)).await;
    assert!(quick.is_ok());
    one.peers.notify(two.id, Lane::Bulk, RELEASE, SHARD, Vec::new());
    assert!(soon(held).await.is_ok());
}

#[tokio::test]
async fn a_refusal_comes_with_its_reason() {
    let (one, two) = (TestNode::start(1).await, TestNode::start(2).await);
    one.learn(&two);
    let answer = one
        .peers
        .call(two.id, Lane::Bulk, REFUSE, SHARD, Vec::new())
        .await;
    assert_eq!(answer, Err(CallError::Refused("no call of kind 0202".to_owned())));
}

#[tokio::test]
async fn a_call_without_an_answer_ends_at_its_deadline() {
    let (one, two) = (TestNode::start(1).await, TestNode::start(2).await);
    one.connect(&two).await;
    let began = Instant::now();
    let call = one.peers.call(two.id, Lane::Bulk, SLOW, SHARD, body(60_000));
    let answer = call.with_timeout(Duration::from_millis(80)).await;
    assert_eq!(answer, Err(CallError::Timeout));
    assert!(began.elapsed() >= Duration::from_millis(80));
    // The connection is as good as before, and the late answer is nobody's.
    assert!(
        one.peers
            .call(two.id, Lane::Bulk, ECHO, SHARD, Vec::new())
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn calls_to_nobody_fail_at_once() {
    let one = TestNode::start(1).await;
    let call = one
        .peers
        .call(NodeId(9), Lane::Bulk, ECHO, SHARD, Vec::new())
        .await;
    assert_eq!(call, Err(CallError::UnknownNode));
    one.learn(&one);
    let own = one.peers.call(one.id, Lane::Bulk, ECHO, SHARD, Vec::new()).await;
    assert_eq!(own, Err(CallError::UnknownNode));
}

#[tokio::test]
async fn a_body_larger_than_a_frame_is_refused_before_it_is_sent() {
    let small = PeerSettings {
        frame_bytes_max: 1 << 20,
        ..settings(1)
    };
    let one = TestNode::start_with(small, Arc::new(TcpNet), loopback()).await;
    let two = TestNode::start(2).await;
    one.connect(&two).await;
    let call = |lane, bytes: usize| {
        one.peers
            .call(two.id, lane, ECHO, SHARD, vec![Bytes::from(vec![1; bytes])])
    };
    assert_eq!(
        call(Lane::Bulk, 1 << 20).await.map(|answer| answer.len()),
        Ok(1 << 20)
    );
    let error = call(Lane::Bulk, (1 << 20) + 1).await;
    assert_eq!(
        error,
        Err(CallError::TooLarge {
            bytes: (1 << 20) + 1,
            bytes_max: 1 << 20
        })
    );
    assert!(matches!(
        call(Lane::Urgent, (1 << 20) + 1).await,
        Err(CallError::TooLarge { .. })
    ));
}

#[tokio::test]
async fn an_answer_larger_than_a_frame_becomes_a_refusal() {
    let small = PeerSettings {
        frame_bytes_max: 1000,
        ..settings(2)
    };
    let one = TestNode::start(1).await;
    let two = TestNode::start_with(small, Arc::new(TcpNet), loopback()).await;
    one.connect(&two).await;
    let answer = one.peers.call(two.id, Lane::Bulk, GIVE, SHARD, body(1001)).await;
    assert!(
        matches!(&answer, Err(CallError::Refused(reason)) if reason.contains("1001 bytes")),
        "{answer:?}"
    );
    assert!(
        one.peers
            .call(two.id, Lane::Bulk, GIVE, SHARD, body(1000))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_call_given_up_before_it_was_sent_is_not_sent() {
    let (one, two) = (TestNode::start(1).await, TestNode::start(2).await);
    one.learn(&two);
    drop(one.peers.call(two.id, Lane::Bulk, ECHO, SHARD, body(1)));
    assert!(
        one.peers
            .call(two.id, Lane::Bulk, ECHO, SHARD, body(2))
            .await
            .is_ok()
    );
    assert_eq!(two.answers.numbers(ECHO), [2]);
}

#[tokio::test]
async fn whoever_listens_at_an_address_can_be_asked() {
    let (one, two) = (TestNode::start(1).await, TestNode::start(2).await);
    let (identity, answer) = one
        .peers
        .call_address(&two.host_port(), ECHO, body(5))
        .await
        .expect("an answer");
    assert_eq!((identity.node, identity.incarnation), (two.id, two.incarnation));
    assert_eq!(answer, body(5)[0]);
    assert_eq!(two.answers.heard.lock()[0].2, ShardId::CONTROLLER);
    // Seeds may name the asking node itself.
    let (own, _) = one
        .peers
        .call_address(&one.host_port(), ECHO, body(5))
        .await
        .expect("itself");
    assert_eq!(own.node, one.id);

    let refused = one.peers.call_address(&two.host_port(), REFUSE, Vec::new()).await;
    assert!(matches!(refused, Err(AddressError::Call(CallError::Refused(_)))));
    two.stop().await;
    let gone = one.peers.call_address(&two.host_port(), ECHO, Vec::new()).await;
    assert!(
        matches!(gone, Err(AddressError::Dial(DialError::Refused))),
        "{gone:?}"
    );
    let nowhere = HostPort::new("no-such-host.invalid", 1);
    let unknown = one.peers.call_address(&nowhere, ECHO, Vec::new()).await;
    assert!(matches!(unknown, Err(AddressError::Dial(_))), "{unknown:?}");
}

#[tokio::test]
async fn what_went_is_counted_by_node_and_lane() {
    let (one, two) = (TestNode::start(1).await, TestNode::start(2).await);
    one.connect(&two).await;
    two.connect(&one).await;
    one.peers.notify(
        NodeId(2),
        Lane::Urgent,
        RELEASE,
        SHARD,
        vec![Bytes::from(vec![0; 76])],
    );
    until("the notice came", || !two.answers.heard.lock().is_empty()).await;
    assert!(
        one.peers
            .call(two.id, Lane::Urgent, GIVE, SHARD, body(992))
            .await
            .is_ok()
    );
    let stats = one.peers.stats();
    let [bulk, urgent] = &stats[..] else {
        panic!("two lanes: {stats:?}");
    };
    assert_eq!(
        (bulk.node, bulk.lane, urgent.lane),
        (two.id, Lane::Bulk, Lane::Urgent)
    );
    assert_eq!((urgent.sent_frames, urgent.sent_bytes), (2, 24 + 76 + 24 + 8));
    assert_eq!((urgent.received_frames, urgent.received_bytes), (1, 24 + 992));
    assert_eq!((bulk.sent_frames, bulk.connects, bulk.queue_bytes), (0, 1, 0));
    // The other side counts the connections that others opened too.
    let theirs = &two.peers.stats()[1];
    assert_eq!((theirs.received_frames, theirs.sent_frames), (2, 1));
}
