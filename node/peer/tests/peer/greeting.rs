//! Who is let in, and what the others are told.

use std::sync::Arc;

use meridian_net::TcpNet;
use meridian_peer::{AddressError, CallError, DialError, Lane, LinkState, PeerAddress, PeerSettings};
use meridian_types::Uuid;

use crate::harness::{ECHO, SHARD, TestNode, body, incarnation, loopback, settings, until};
use crate::hostile::{Raw, hello};

#[tokio::test]
async fn versions_without_a_common_one_are_told_apart_by_both_ranges() {
    let two = TestNode::start(2).await;
    let mut raw = Raw::connect(two.at).await;
    raw.send(&hello((7, 9), 7, 7, "west")).await;
    let reason = raw.rejection().await;
    assert_eq!(
        reason,
        "it speaks frame versions 7 to 9, node 2 speaks 1 to 1: upgrade the older of the two"
    );
    raw.closed().await;
    // A newer node that still speaks version 1 is let in, at version 1.
    let mut newer = Raw::connect(two.at).await;
    newer.send(&hello((1, 9), 7, 7, "west")).await;
    assert_eq!(newer.greeting().await[..3], [0, 1, 0]);
}

#[tokio::test]
async fn a_node_of_another_region_is_turned_away_with_both_names() {
    let east = PeerSettings {
        region: "east".to_owned(),
        ..settings(1)
    };
    let one = TestNode::start_with(east, Arc::new(TcpNet), loopback()).await;
    let two = TestNode::start(2).await;
    let error = one.peers.call_address(&two.host_port(), ECHO, Vec::new()).await;
    let Err(AddressError::Dial(DialError::Rejected(reason))) = error else {
        panic!("{error:?}");
    };
    assert!(
        reason.contains("region `east`") && reason.contains("region `west`"),
        "{reason}"
    );
    one.learn(&two);
    let call = one.peers.call(two.id, Lane::Bulk, ECHO, SHARD, Vec::new()).await;
    assert_eq!(call, Err(CallError::NotConnected));
    assert_eq!(one.peers.link(two.id), LinkState::Down);
    assert!(one.last_failure(Lane::Bulk).contains("turned this node away"));
}

#[tokio::test]
async fn a_node_that_lost_its_data_is_turned_away_until_it_is_known_anew() {
    let (one, two) = (TestNode::start(1).await, TestNode::start(2).await);
    one.connect(&two).await;
    two.connect(&one).await;
    one.stop().await;
    let wiped = PeerSettings {
        incarnation: Uuid::from_u128(0xbad),
        ..settings(1)
    };
    // At the same address, so node 2 dials it too.
    let wiped = TestNode::start_with(wiped, Arc::new(TcpNet), one.at).await;
    let error = wiped.peers.call_address(&two.host_port(), ECHO, Vec::new()).await;
    let Err(AddressError::Dial(DialError::Rejected(reason))) = error else {
        panic!("{error:?}");
    };
    assert!(
        reason.contains(&incarnation(1).to_string()) && reason.contains("no node had before"),
        "{reason}"
    );
    until("node 2 refuses to talk to it", || {
        two.last_failure(Lane::Bulk).contains("has incarnation")
    })
    .await;
    assert!(!two.peers.link(wiped.id).is_connected());
    // The old node was removed, the new one registered.
    two.connect(&wiped).await;
    let answer = wiped.peers.call_address(&two.host_port(), ECHO, body(1)).await;
    assert!(answer.is_ok(), "{answer:?}");
}

#[tokio::test]
async fn a_known_node_that_is_known_anew_loses_its_old_connections() {
    let (one, two) = (TestNode::start(1).await, TestNode::start(2).await);
    one.connect(&two).await;
    let other = PeerAddress {
        at: one.host_port(),
        incarnation: Some(Uuid::from_u128(0xbad)),
    };
    two.peers.set_address(one.id, Some(other));
    one.until_link(two.id, |state| !state.is_connected()).await;
    until("node 1 is told", || {
        one.last_failure(Lane::Bulk).contains("no node had before")
    })
    .await;
}

#[tokio::test]
async fn a_node_id_given_twice_is_found_out() {
    let two = TestNode::start(2).await;
    let twin = PeerSettings {
        incarnation: Uuid::from_u128(0xbad),
        ..settings(2)
    };
    let twin = TestNode::start_with(twin, Arc::new(TcpNet), loopback()).await;
    let error = twin.peers.call_address(&two.host_port(), ECHO, Vec::new()).await;
    assert!(
        matches!(&error, Err(AddressError::Dial(DialError::Rejected(reason))) if reason.contains("another node uses its id")),
        "{error:?}"
    );
}

#[tokio::test]
async fn another_node_at_a_known_address_is_not_taken_for_the_known_one() {
    let (one, two, three) = (
        TestNode::start(1).await,
        TestNode::start(2).await,
        TestNode::start(3).await,
    );
    let wrong = PeerAddress {
        at: two.host_port(),
        incarnation: None,
    };
    one.peers.set_address(three.id, Some(wrong));
    let call = one
        .peers
        .call(three.id, Lane::Bulk, ECHO, SHARD, Vec::new())
        .await;
    assert_eq!(call, Err(CallError::NotConnected));
    let failure = one.last_failure(Lane::Bulk);
    assert!(
        failure.contains("node 2 listens at") && failure.contains("expected node 3"),
        "{failure}"
    );
    assert!(two.answers.heard.lock().is_empty());
}
