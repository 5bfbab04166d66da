//! Who is let in, and who is believed.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use meridian_geo_mirror::{GeoListener, GeoTls, OsNetwork, Settings, StartError, TlsFiles, TransportSetting};
use meridian_types::{RegionNumber, ShardId};

use crate::authority::Authority;
use crate::harness::{Node, Region, Sides, commands, settings, until};

async fn start(number: u16, tls: GeoTls, transport: TransportSetting) -> Node {
    let settings = Settings {
        transport,
        ..settings()
    };
    Node::start_with(number, settings, tls, Arc::new(OsNetwork)).await
}

/// The mirror does not get its link, and says why. It tries again and again: a connection that is reset may take the reason
/// of one attempt with it.
async fn trouble(owner: &Node, mirror: &Node, says: &str) {
    owner.region.append(ShardId(0), commands(1, 3, 10, true));
    mirror.follow(owner, [0]);
    until(&format!("the attempt fails and says {says:?}"), || {
        let trouble = mirror.link().trouble;
        trouble.is_some_and(|trouble| trouble.contains(says))
    })
    .await;
    assert_eq!(mirror.region.sequence(ShardId(0)), 0);
    // The owner may have let it in before the mirror turned away.
    until("the owner has no link either", || {
        owner.listener.status().is_empty()
    })
    .await;
}

const BOTH: [TransportSetting; 2] = [TransportSetting::Quic, TransportSetting::Tcp];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_one_authority_make_a_link_that_says_so() {
    let authority = Authority::new("all regions");
    for transport in BOTH {
        let owner = start(0, authority.tls("node-1.region-0"), transport).await;
        let mirror = start(1, authority.tls("node-100001.region-1"), transport).await;
        owner.region.append(ShardId(0), commands(1, 3, 10, true));
        mirror.follow(&owner, [0]);
        mirror.caught_up(&owner, 0).await;
        until("the status is there", || mirror.link().transport.is_some()).await;
        assert!(mirror.link().transport.expect("connected").is_authenticated);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_authority_is_refused_on_both_sides() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    for transport in BOTH {
        let owner = start(0, ours.tls("node-1.region-0"), transport).await;
        let mirror = start(1, theirs.tls("node-100001.region-1"), transport).await;
        trouble(&owner, &mirror, "TLS").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_speaks_for_the_node_that_it_names_only() {
    let authority = Authority::new("all regions");
    for (of_owner, of_mirror) in [
        // The mirror's is that of another region, of another node, of none.
        ("node-1.region-0", "node-100001.region-2"),
        ("node-1.region-0", "node-100002.region-1"),
        ("node-1.region-0", "mirror"),
        // The owner's is.
        ("node-2.region-0", "node-100001.region-1"),
    ] {
        let owner = start(0, authority.tls(of_owner), TransportSetting::Auto).await;
        let mirror = start(1, authority.tls(of_mirror), TransportSetting::Auto).await;
        trouble(&owner, &mirror, "certificate").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_certificate_is_not_let_in_and_nobody_listens_to_the_world_without() {
    let authority = Authority::new("all regions");
    for transport in BOTH {
        let owner = start(0, authority.tls("node-1.region-0"), transport).await;
        let mirror = start(1, GeoTls::ephemeral().expect("TLS"), transport).await;
        trouble(&owner, &mirror, "").await;
    }
    let sides = Arc::new(Sides(Region::new(3)));
    let refused = GeoListener::start(
        settings(),
        GeoTls::ephemeral().expect("TLS"),
        Arc::new(OsNetwork),
        "0.0.0.0:0".parse().expect("an address"),
        sides.clone(),
        sides,
        Arc::default(),
    )
    .await;
    assert!(matches!(refused, Err(StartError::Insecure { .. })));
    // Nor does anybody dial it.
    let mirror = Node::start(1).await;
    mirror.know(RegionNumber(0), "192.0.2.1:9".to_owned());
    until("it is refused", || {
        let trouble = mirror.link().trouble;
        trouble.is_some_and(|trouble| trouble.contains("geo.tls_cert"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_files_are_taken_without_a_restart_and_wrong_ones_change_nothing() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let folder = tempfile::tempdir().expect("a folder");
    let files = TlsFiles {
        certificate: folder.path().join("cert.pem"),
        key: folder.path().join("key.pem"),
        ca: folder.path().join("ca.pem"),
    };
    let write = |authority: &Authority, ca: &str| {
        let (certificate, key) = authority.issue("node-1.region-0");
        fs::write(&files.certificate, certificate).expect("written");
        fs::write(&files.key, key).expect("written");
        fs::write(&files.ca, ca).expect("written");
    };
    write(&old, &old.pem());
    let settings = Settings {
        tls_reload_interval: Duration::from_millis(30),
        ..settings()
    };
    let tls = GeoTls::load(files.clone()).expect("TLS");
    let owner = Node::start_with(0, settings, tls.clone(), Arc::new(OsNetwork)).await;
    let before = start(1, old.tls("node-100001.region-1"), TransportSetting::Auto).await;
    before.follow(&owner, [0]);
    owner.region.append(ShardId(0), commands(1, 3, 10, true));
    before.caught_up(&owner, 0).await;

    fs::write(&files.certificate, "no certificate").expect("written");
    let failed = || owner.counters.tls_reloads_failed.load(Ordering::Relaxed) > 0;
    until("the wrong file is noticed", failed).await;
    write(&new, &new.pem());
    until("the files are taken", || {
        owner.counters.tls_reloads.load(Ordering::Relaxed) > 0 && !tls.reload().unwrap_or(true)
    })
    .await;
    let after = start(2, new.tls("node-200001.region-2"), TransportSetting::Auto).await;
    after.follow(&owner, [0]);
    after.caught_up(&owner, 0).await;
    // The link from before goes on.
    owner.region.append(ShardId(0), commands(2, 3, 10, true));
    before.caught_up(&owner, 0).await;
    assert_eq!(before.counters.connects.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cluster_and_a_region_number_taken_are_told_so() {
    let owner = Node::start(0).await;
    let mirror = Node::start(1).await;
    mirror.region.hello.lock().cluster_id = "other".to_owned();
    trouble(&owner, &mirror, "cluster `cluster`").await;

    let (owner, mirror) = (Node::start(0).await, Node::start(1).await);
    mirror.follow(&owner, []);
    until("it is linked", || !owner.listener.status().is_empty()).await;
    let twin = Node::start(1).await;
    twin.region.hello.lock().region = "twin".to_owned();
    twin.follow(&owner, []);
    until("the twin is refused", || {
        let trouble = twin.link().trouble;
        trouble.is_some_and(|trouble| trouble.contains("region number 1"))
    })
    .await;
    assert_eq!(owner.listener.status().len(), 1);
    // And a node that dials its own number.
    let same = Node::start(0).await;
    same.follow(&owner, []);
    until("it is refused", || same.link().trouble.is_some()).await;
}
