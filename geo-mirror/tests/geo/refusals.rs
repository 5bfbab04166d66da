//! What a source does not give.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use meridian_geo_mirror::{FollowState, Refusal};
use meridian_types::ShardId;

use crate::harness::{Node, commands, until};

fn phase(node: &Node) -> Option<FollowState> {
    node.link().shards.first().map(|shard| shard.state)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_final_refusal_parks_a_shard_until_it_is_followed_anew() {
    let (owner, mirror) = (Node::start(0).await, Node::start(1).await);
    let all = commands(1, 20, 100, true);
    owner.region.append(ShardId(0), all.clone());
    owner
        .region
        .shards
        .lock()
        .get_mut(&ShardId(0))
        .expect("made")
        .oldest = 10;
    mirror.follow(&owner, [0]);
    until("it is parked", || phase(&mirror) == Some(FollowState::Parked)).await;
    assert_eq!(
        *mirror.region.refused.lock(),
        [(ShardId(0), Refusal::Purged { oldest: 10 })]
    );
    // As from a checkpoint.
    mirror.region.append(ShardId(0), all[..10].to_vec());
    mirror
        .links
        .follow(ShardId(0), owner.region.number(), &owner.address(), 1);
    mirror.caught_up(&owner, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histories_that_differ_are_refused_loudly() {
    let (owner, mirror) = (Node::start(0).await, Node::start(1).await);
    owner.region.append(ShardId(0), commands(1, 20, 100, true));
    mirror
        .region
        .append(ShardId(0), [Bytes::from_static(b"never written there")]);
    mirror.follow(&owner, [0]);
    until("it is parked", || phase(&mirror) == Some(FollowState::Parked)).await;
    assert_eq!(
        *mirror.region.refused.lock(),
        [(ShardId(0), Refusal::DigestDiffers { at: 1 })]
    );
    let trouble = mirror.link().shards[0].trouble.clone();
    assert!(trouble.is_some_and(|trouble| trouble.contains("differ")));
    assert_eq!(mirror.region.sequence(ShardId(0)), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_appears_later_is_followed_then_and_no_more_when_unfollowed() {
    let (owner, mirror) = (Node::start(0).await, Node::start(1).await);
    mirror.follow(&owner, [5]);
    until("it is refused", || !mirror.region.refused.lock().is_empty()).await;
    assert_eq!(mirror.region.refused.lock()[0], (ShardId(5), Refusal::NotHosted));
    owner.region.append(ShardId(5), commands(1, 20, 100, true));
    mirror.caught_up(&owner, 5).await;
    let is_served = || {
        let sessions = owner.listener.status();
        sessions.iter().any(|session| !session.shards.is_empty())
    };
    until("the source says that it serves it", is_served).await;
    mirror.links.unfollow(ShardId(5));
    until("the source forgets it", || !is_served()).await;
    owner.region.append(ShardId(5), commands(2, 20, 100, true));
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert_eq!(mirror.region.sequence(ShardId(5)), 20);
    mirror.follow(&owner, [5]);
    mirror.caught_up(&owner, 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_watermarks_the_lag_is_unknown() {
    let (owner, mirror) = (Node::start(0).await, Node::start(1).await);
    owner.region.is_promising.store(false, Ordering::Relaxed);
    owner.region.append(ShardId(0), commands(1, 20, 100, true));
    mirror.follow(&owner, [0]);
    mirror.caught_up(&owner, 0).await;
    until("it is reported", || !mirror.link().shards.is_empty()).await;
    let shard = mirror.link().shards.remove(0);
    assert_eq!(
        (shard.lag, shard.lag_sequences, shard.lag_bytes),
        (None, None, None)
    );
}
