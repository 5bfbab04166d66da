//! Connections that break and come back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meridian_net::TcpNet;
use meridian_net::testing::MemoryNet;
use meridian_peer::{CallError, Lane, LinkState, PeerAddress, PeerSettings};
use tokio::time::{Instant, sleep};

use crate::harness::{ECHO, HOLD, RELEASE, SHARD, TestNode, body, loopback, settings, soon, until};

#[tokio::test]
async fn a_process_that_is_gone_is_known_at_once_and_found_again_when_it_is_back() {
    let (one, two) = (TestNode::start(1).await, TestNode::start(2).await);
    one.connect(&two).await;
    // So long that the connection counts as a good one.
    sleep(Duration::from_millis(250)).await;
    let held = one.peers.call(two.id, Lane::Bulk, HOLD, SHARD, body(1));
    until("the call is there", || !two.answers.heard.lock().is_empty()).await;
    let began = Instant::now();
    two.stop().await;
    assert_eq!(soon(held).await, Err(CallError::Closed), "sent, and nobody knows");
    one.until_link(two.id, |state| state == LinkState::Refused).await;
    // By the end of the connection, long before it would be taken for silent.
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    until("both lanes were refused", || {
        one.peers.stats().iter().all(|lane| lane.failed_dials > 0)
    })
    .await;
    let call = one.peers.call(two.id, Lane::Bulk, ECHO, SHARD, body(1));
    assert_eq!(call.await, Err(CallError::NotConnected), "certainly not sent");
    one.peers.notify(two.id, Lane::Bulk, RELEASE, SHARD, body(1));
    assert_eq!(one.peers.stats()[0].dropped_notices, 1);

    let two = TestNode::start_with(settings(2), Arc::new(TcpNet), two.at).await;
    one.until_link(two.id, LinkState::is_connected).await;
    assert!(
        one.peers
            .call(two.id, Lane::Bulk, ECHO, SHARD, body(2))
            .await
            .is_ok()
    );
    assert!(
        two.answers.numbers(RELEASE).is_empty(),
        "what was dropped does not come later"
    );
}

#[tokio::test]
async fn a_node_that_shows_itself_is_dialled_without_waiting() {
    let patient = PeerSettings {
        backoff_min: Duration::from_secs(60),
        backoff_max: Duration::from_secs(60),
        ..settings(1)
    };
    let one = TestNode::start_with(patient, Arc::new(TcpNet), loopback()).await;
    let two = TestNode::start(2).await;
    two.stop().await;
    one.learn(&two);
    one.until_link(two.id, |state| state == LinkState::Refused).await;
    until("both lanes were refused", || {
        one.peers.stats().iter().all(|lane| lane.failed_dials > 0)
    })
    .await;
    let two = TestNode::start_with(settings(2), Arc::new(TcpNet), two.at).await;
    let began = Instant::now();
    two.connect(&one).await;
    one.until_link(two.id, LinkState::is_connected).await;
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn calls_made_before_the_first_connection_wait_for_it() {
    let net = MemoryNet::new();
    let at = SocketAddr::from(([0, 0, 0, 0], 9190));
    let one = TestNode::start_with(settings(1), Arc::new(net.host("one")), at).await;
    let two = TestNode::start_with(settings(2), Arc::new(net.host("two")), at).await;
    net.cut("one", "two");
    one.learn(&two);
    let call = one.peers.call(two.id, Lane::Bulk, ECHO, SHARD, body(1));
    sleep(Duration::from_millis(20)).await;
    net.heal("one", "two");
    assert!(soon(call).await.is_ok());
}

#[tokio::test]
async fn a_changed_address_moves_the_connection_and_none_ends_it() {
    let (one, two) = (TestNode::start(1).await, TestNode::start(2).await);
    one.connect(&two).await;
    let mut links = one.peers.links();
    links.mark_unchanged();
    one.learn(&two);
    assert!(
        !links.has_changed().expect("alive"),
        "the same again changes nothing"
    );
    let held = one.peers.call(two.id, Lane::Bulk, HOLD, SHARD, body(1));
    until("the call is there", || !two.answers.heard.lock().is_empty()).await;

    let moved = TestNode::start_with(settings(2), Arc::new(TcpNet), loopback()).await;
    one.learn(&moved);
    assert_eq!(soon(held).await, Err(CallError::Closed));
    one.until_link(two.id, LinkState::is_connected).await;
    assert!(
        one.peers
            .call(two.id, Lane::Bulk, ECHO, SHARD, body(2))
            .await
            .is_ok()
    );
    assert_eq!(moved.answers.numbers(ECHO), [2]);
    assert_eq!(one.peers.stats()[0].connects, 2, "counters go on");

    one.peers.set_address(two.id, None);
    assert_eq!(one.peers.link(two.id), LinkState::Down);
    let call = one.peers.call(two.id, Lane::Bulk, ECHO, SHARD, body(3)).await;
    assert_eq!(call, Err(CallError::UnknownNode));
    assert!(one.peers.stats().is_empty());
}

#[tokio::test]
async fn after_a_shutdown_nothing_is_connected_and_the_port_is_free() {
    let (one, two) = (TestNode::start(1).await, TestNode::start(2).await);
    one.connect(&two).await;
    two.connect(&one).await;
    one.stop().await;
    assert_eq!(one.peers.link(two.id), LinkState::Down);
    let call = one.peers.call(two.id, Lane::Bulk, ECHO, SHARD, body(1)).await;
    assert_eq!(call, Err(CallError::NotConnected));
    two.until_link(one.id, |state| state == LinkState::Refused).await;
    std::net::TcpListener::bind(one.at).expect("the port is free");
}

fn quick(node: u32) -> PeerSettings {
    PeerSettings {
        silence_max: Duration::from_millis(400),
        dial_timeout: Duration::from_millis(200),
        ..settings(node)
    }
}

async fn in_memory(net: &MemoryNet, node: u32) -> TestNode {
    let host = net.host(&format!("node-{node}"));
    let at = SocketAddr::from(([0, 0, 0, 0], 9190));
    TestNode::start_with(quick(node), Arc::new(host), at).await
}

#[tokio::test]
async fn an_idle_connection_lives_on() {
    let net = MemoryNet::new();
    let (one, two) = (in_memory(&net, 1).await, in_memory(&net, 2).await);
    one.connect(&two).await;
    // Again where the machine stood still for longer than the silence that is borne.
    let mut lived_on = false;
    for _ in 0..5 {
        one.until_link(two.id, LinkState::is_connected).await;
        let before = one.peers.stats()[0].connects;
        sleep(Duration::from_millis(1500)).await;
        let answer = one.peers.call(two.id, Lane::Bulk, ECHO, SHARD, body(1)).await;
        lived_on = answer.is_ok() && one.peers.stats()[0].connects == before;
        if lived_on {
            break;
        }
    }
    assert!(lived_on, "{:?}", one.peers.stats());
}

#[tokio::test]
async fn a_cut_is_noticed_by_silence_in_either_direction_and_healed_soon() {
    for direction in 0..3 {
        let net = MemoryNet::new();
        let (one, two) = (in_memory(&net, 1).await, in_memory(&net, 2).await);
        one.connect(&two).await;
        match direction {
            0 => net.cut("node-1", "node-2"),
            1 => net.cut_one_way("node-1", "node-2"),
            _ => net.cut_one_way("node-2", "node-1"),
        }
        let call = one.peers.call(two.id, Lane::Bulk, ECHO, SHARD, body(1));
        let answer = soon(call).await;
        assert!(
            matches!(
                answer,
                // Not connected: the machine stood still, and the cut was noticed before the call.
                Err(CallError::Closed | CallError::Timeout | CallError::NotConnected)
            ),
            "{answer:?}"
        );
        one.until_link(two.id, |state| state == LinkState::Down).await;
        sleep(Duration::from_millis(300)).await;
        assert_eq!(one.peers.link(two.id), LinkState::Down, "a cut is no refusal");
        net.heal_all();
        one.until_link(two.id, LinkState::is_connected).await;
        assert!(
            one.peers
                .call(two.id, Lane::Bulk, ECHO, SHARD, body(2))
                .await
                .is_ok()
        );
        one.stop().await;
        two.stop().await;
    }
}

#[tokio::test]
async fn a_severed_connection_is_dialled_again() {
    let net = MemoryNet::new();
    let (one, two) = (in_memory(&net, 1).await, in_memory(&net, 2).await);
    one.connect(&two).await;
    net.sever("node-1", "node-2");
    one.until_link(two.id, |state| !state.is_connected()).await;
    one.until_link(two.id, LinkState::is_connected).await;
    assert!(
        one.peers
            .call(two.id, Lane::Bulk, ECHO, SHARD, body(1))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn an_address_without_an_incarnation_takes_any() {
    let (one, two) = (TestNode::start(1).await, TestNode::start(2).await);
    let address = PeerAddress {
        at: two.host_port(),
        incarnation: None,
    };
    one.peers.set_address(two.id, Some(address));
    one.until_link(two.id, LinkState::is_connected).await;
}
