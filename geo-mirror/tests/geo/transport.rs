//! Cuts, and networks that let no UDP through.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use meridian_geo_mirror::{
    CompressionSetting, FollowState, GeoTls, Settings, Source, Transport, TransportSetting, ask,
};
use meridian_types::ShardId;
use tokio::time::{Instant, sleep};

use crate::harness::{Cuttable, Node, Sides, commands, settings, until};

async fn pair(settings: Settings, network: &Arc<Cuttable>) -> (Node, Node) {
    let start = |number| {
        let tls = GeoTls::ephemeral().expect("TLS");
        Node::start_with(number, settings.clone(), tls, network.clone())
    };
    (start(0).await, start(1).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_link_resumes_where_it_was_and_knows_that_it_is_behind() {
    let network = Arc::new(Cuttable::default());
    let settings = Settings {
        transport: TransportSetting::Quic,
        compression: CompressionSetting::Off,
        idle_timeout: Duration::from_secs(1),
        quic_timeout: Duration::from_millis(500),
        ..settings()
    };
    let (owner, mirror) = pair(settings, &network).await;
    owner.region.append(ShardId(0), commands(1, 3000, 4000, true));
    // Slowly, so that it is cut long before all is there.
    owner.listener.throttle(mirror.region.number(), Some(2_000_000));
    mirror.follow(&owner, [0]);
    until("a part is there", || mirror.region.sequence(ShardId(0)) > 500).await;
    network.is_udp_cut.store(true, Ordering::Relaxed);
    until("the link notices", || mirror.link().transport.is_none()).await;
    until("it says so", || {
        let link = mirror.link();
        link.trouble.is_some() && link.shards[0].state == FollowState::Disconnected
    })
    .await;
    let before = mirror.region.sequence(ShardId(0));
    assert!(before < owner.region.sequence(ShardId(0)));
    let shard = mirror.link().shards.remove(0);
    // The first watermark has never been reached.
    assert_eq!(shard.lag, None);
    owner.listener.throttle(mirror.region.number(), None);
    network.is_udp_cut.store(false, Ordering::Relaxed);
    mirror.caught_up(&owner, 0).await;
    until("the lag is known again", || {
        mirror.link().shards[0].lag_sequences == Some(0)
    })
    .await;
    // From now on a cut makes the copy older and older.
    network.is_udp_cut.store(true, Ordering::Relaxed);
    until("the link notices", || mirror.link().transport.is_none()).await;
    let mut last = Duration::ZERO;
    until("the copy is known to be old", || {
        let age = mirror.link().shards[0].lag.expect("known");
        assert!(age >= last, "{age:?} after {last:?}");
        last = age;
        age >= Duration::from_secs(2)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_udp_does_not_pass_tcp_carries_until_quic_comes_up() {
    let network = Arc::new(Cuttable::default());
    network.is_udp_cut.store(true, Ordering::Relaxed);
    let settings = Settings {
        quic_timeout: Duration::from_millis(300),
        quic_retry_interval: Duration::from_millis(500),
        ..settings()
    };
    let (owner, mirror) = pair(settings.clone(), &network).await;
    // Whoever only asks falls back too.
    let tls = GeoTls::ephemeral().expect("TLS");
    let own = Sides(mirror.region.clone()).hello();
    let answered = ask(&settings, &tls, network.clone(), own, &owner.address()).await;
    assert_eq!(answered.expect("answered").number, owner.region.number());

    owner.region.append(ShardId(2), commands(1, 100, 4000, true));
    let started = Instant::now();
    mirror.follow(&owner, [2]);
    mirror.caught_up(&owner, 2).await;
    assert!(started.elapsed() < Duration::from_secs(20));
    until("the transport is told", || mirror.link().transport.is_some()).await;
    let transport = mirror.link().transport.expect("connected").transport;
    assert_eq!(transport, Transport::Tcp);
    assert_eq!(mirror.counters.fallbacks.load(Ordering::Relaxed), 1);
    // Still blocked when it is tried again.
    sleep(Duration::from_millis(1000)).await;
    owner.region.append(ShardId(2), commands(2, 10, 4000, true));
    mirror.caught_up(&owner, 2).await;
    network.is_udp_cut.store(false, Ordering::Relaxed);
    until("QUIC takes over", || {
        mirror
            .link()
            .transport
            .is_some_and(|status| status.transport == Transport::Quic)
    })
    .await;
    owner.region.append(ShardId(2), commands(3, 10, 4000, true));
    mirror.caught_up(&owner, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_is_linked_to_by_whichever_node_answers() {
    let network = Arc::new(Cuttable::default());
    let settings = Settings {
        // How long the node that is gone is waited for.
        quic_timeout: Duration::from_millis(500),
        ..settings()
    };
    let (owner, mirror) = pair(settings, &network).await;
    let nobody = Node::start(2).await;
    let dead = nobody.address();
    drop(nobody);
    mirror.links.set_peers(vec![meridian_geo_mirror::PeerRegion {
        number: owner.region.number(),
        name: None,
        addresses: vec![dead, owner.address()],
    }]);
    until("a card comes", || !mirror.region.cards.lock().is_empty()).await;
    assert_eq!(mirror.link().address, owner.address());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cards_reach_both_sides_when_they_change() {
    // Only what changes is told in time.
    let settings = Settings {
        card_interval: Duration::from_secs(3600),
        ..settings()
    };
    let (owner, mirror) = pair(settings, &Arc::new(Cuttable::default())).await;
    mirror.follow(&owner, []);
    let has = |node: &Node, from: &Node, card: &'static str| {
        let (node, from) = (node.region.clone(), from.region.number());
        move || node.cards.lock().get(&from).is_some_and(|found| found == card)
    };
    until("the owner's card", has(&mirror, &owner, "card of 0")).await;
    until("the mirror's card", has(&owner, &mirror, "card of 1")).await;
    owner.region.card.send_replace("new card of 0".into());
    mirror.region.card.send_replace("new card of 1".into());
    until("the owner's new card", has(&mirror, &owner, "new card of 0")).await;
    until("the mirror's new card", has(&owner, &mirror, "new card of 1")).await;
}
