//! A region of three whose records lie on a real S3 server, or are replayed. More: `cluster tier-faults`, `tier-outage`, `replay`.

use meridian_cluster::replay::{self, ReplayOptions};
use meridian_cluster::tier_faults::{self, TierFaultOptions};
use meridian_cluster::{Cluster, ClusterOptions, System, one_cluster_at_a_time};
use meridian_compat::s3::Gateway;
use meridian_compat::suite::{every_client_reads_what_only_the_bucket_has, local_settings};
use meridian_compat::workspace::{self, skips};
use meridian_compat::{Program, Site};

#[test]
fn clients_read_from_an_s3_server_what_no_node_of_a_region_has() {
    if skips(Gateway::missing()) {
        return;
    }
    let _alone = one_cluster_at_a_time();
    let directory = workspace::run_directory("test-tier-store");
    let gateway = Gateway::start(&directory).unwrap_or_else(|error| panic!("{error}"));
    let settings = gateway.bucket("region").settings();
    let options = ClusterOptions {
        system: System::Meridian,
        settings: settings.into_iter().chain(local_settings()).collect(),
        ..ClusterOptions::plain(3)
    };
    let cluster = Cluster::start("test-tier", &options).unwrap_or_else(|error| panic!("{error}"));
    let site = Site {
        directory: cluster.directory().to_path_buf(),
        nodes: cluster.kafka_addresses(),
        replicas: 3,
        is_kafka: false,
        only: String::new(),
    };
    every_client_reads_what_only_the_bucket_has(&site, &[Program::Franz, Program::Confluent]);
}

#[test]
fn a_region_outlives_every_fault_of_its_bucket() {
    let missing = [Program::Franz, Program::Confluent]
        .into_iter()
        .find_map(Program::missing);
    if skips(Gateway::missing().or(missing)) {
        return;
    }
    let _alone = one_cluster_at_a_time();
    let outcome = tier_faults::run("test-tier-faults", &TierFaultOptions::short(1))
        .unwrap_or_else(|error| panic!("{error}"));
    println!("{outcome}");
}

#[test]
fn a_replay_gets_every_record_once_though_leaders_die_while_it_reads() {
    let missing = [Program::Franz, Program::Confluent]
        .into_iter()
        .find_map(Program::missing);
    if skips(missing) {
        return;
    }
    let _alone = one_cluster_at_a_time();
    let options = ReplayOptions { replays: 3, seed: 1 };
    let outcome = replay::run("test-replay", &options).unwrap_or_else(|error| panic!("{error}"));
    println!("{outcome}");
}
