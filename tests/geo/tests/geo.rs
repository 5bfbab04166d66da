//! Three regions of three nodes in the time that a test run has. More: `cargo run -p meridian-geo-test -- --help`.

use std::time::Duration;

use meridian_cluster::one_cluster_at_a_time;
use meridian_compat::workspace;
use meridian_geo_test::kills::Blow;
use meridian_geo_test::{RegionsOptions, clients, kills, staleness};
use meridian_wan_relay::Conditions;

fn three_regions(nodes: usize) -> RegionsOptions {
    RegionsOptions {
        regions: 3,
        nodes,
        round_trips: [20, 80].map(Duration::from_millis).to_vec(),
        weather: Conditions::default(),
        settings: vec!["region.shards=4".to_owned()],
        have_buckets: false,
        have_places: false,
    }
}

/// Every kind of death in the middle of a switchover once, and a cut; the rest of the time switchovers go through.
#[test]
fn three_regions_of_three_nodes_lose_nothing_while_ownership_moves_and_leaders_die() {
    if workspace::skips(clients::missing()) {
        return;
    }
    let _alone = one_cluster_at_a_time();
    let options = three_regions(3);
    let blows = [
        Blow::OwnerController,
        Blow::TargetShard,
        Blow::ShortCut,
        Blow::OwnerShard,
        Blow::TargetController,
    ];
    let outcome =
        kills::run("test-geo", &options, 100, &blows, 5, 1).unwrap_or_else(|error| panic!("{error}"));
    println!("{outcome}");
    assert!(
        outcome.report.acknowledged > 1000,
        "too little was acknowledged for anything to be shown: {outcome}"
    );
}

/// Each of three libraries reads in a region that is cut off, and in one that owns.
#[test]
fn readers_that_bound_the_age_of_a_copy_go_to_the_owner_and_come_back() {
    if workspace::skips(clients::missing()) {
        return;
    }
    let _alone = one_cluster_at_a_time();
    let outcome =
        staleness::run("test-staleness", &three_regions(1), 100).unwrap_or_else(|error| panic!("{error}"));
    println!("{outcome}");
}
