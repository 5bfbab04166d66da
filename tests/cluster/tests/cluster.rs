//! Several nodes in the time that a test run has. More: `cargo run -p meridian-cluster -- --help`.

use std::env;

use meridian_cluster::clients::Share;
use meridian_cluster::fault::Kind;
use meridian_cluster::maintain::{self, MaintainOptions, Work, places};
use meridian_cluster::rounds::{self, RoundOptions};
use meridian_cluster::{ClusterOptions, clients, followers, one_cluster_at_a_time, tier_kills, upgrade};
use meridian_compat::{Program, workspace};

/// Whether a client is missing that the load needs.
fn skips() -> bool {
    ["go", "python", "java"]
        .into_iter()
        .any(|client| workspace::skips(workspace::missing(client)))
}

/// `MERIDIAN_TEST_ROUNDS` takes fewer or more, `MERIDIAN_TEST_SEED` others.
#[test]
fn every_acknowledged_record_outlives_60_faults_on_three_nodes() {
    if skips() {
        return;
    }
    let _alone = one_cluster_at_a_time();
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    let seed = number("MERIDIAN_TEST_SEED").unwrap_or(1);
    let rounds = number("MERIDIAN_TEST_ROUNDS").unwrap_or(60);
    let (cluster, kinds, missing) = rounds::what_can_be_done(3, &Kind::ALL);
    for reason in missing {
        println!("left out: {reason}");
    }
    let mut options = RoundOptions::short(rounds, u64::from(seed));
    options.kinds = kinds;
    options.programs = vec![Program::Franz, Program::Confluent, Program::Java];
    let outcome = rounds::run("test-cluster", &cluster, &options).unwrap_or_else(|error| panic!("{error}"));
    println!("{outcome}");
    assert!(
        outcome.report.acknowledged > 100 * u64::from(outcome.rounds),
        "too little was acknowledged for the faults to hit anything: {outcome}"
    );
}

#[test]
fn clients_find_on_three_nodes_what_they_find_on_one() {
    let _alone = one_cluster_at_a_time();
    let outcome = clients::run("test-suite", &ClusterOptions::plain(3), Share::Several)
        .unwrap_or_else(|error| panic!("{error}"));
    println!("{outcome}");
}

#[test]
fn consumers_read_from_the_replica_in_their_rack_and_never_back_in_time() {
    if skips() {
        return;
    }
    let _alone = one_cluster_at_a_time();
    let outcome = followers::run("test-followers", &ClusterOptions::plain(3), 2, 1)
        .unwrap_or_else(|error| panic!("{error}"));
    println!("{outcome}");
}

#[test]
fn a_region_grows_and_its_nodes_are_replaced_while_it_serves() {
    if skips() {
        return;
    }
    let _alone = one_cluster_at_a_time();
    let options = MaintainOptions {
        works: vec![Work::Replace, Work::Lose],
        ..MaintainOptions::each_once(1)
    };
    let cluster = ClusterOptions {
        founders: 1,
        ..ClusterOptions::plain(places(&options))
    };
    let outcome =
        maintain::run("test-maintain", &cluster, &options).unwrap_or_else(|error| panic!("{error}"));
    println!("{outcome}");
}

#[test]
fn two_versions_are_one_region() {
    if skips() {
        return;
    }
    let _alone = one_cluster_at_a_time();
    let outcome =
        upgrade::run("test-upgrade", &ClusterOptions::plain(3)).unwrap_or_else(|error| panic!("{error}"));
    println!("{outcome}");
}

/// One node, so that a death costs less than a second; on three, where others go on meanwhile:
/// `cargo run -p meridian-cluster -- tier-kills`.
#[test]
fn a_node_that_dies_at_every_step_of_the_tier_loses_nothing_and_leaves_nothing() {
    let _alone = one_cluster_at_a_time();
    let steps = tier_kills::STEPS.map(str::to_owned);
    let outcome = tier_kills::run("test-tier-kills", &ClusterOptions::plain(1), &steps)
        .unwrap_or_else(|error| panic!("{error}"));
    println!("{outcome}");
}
