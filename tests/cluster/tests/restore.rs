//! A region that is destroyed and rebuilt from its bucket, in the time that a test run has. More: `cluster restore --help`.

use std::time::Duration;

use meridian_cluster::restore::{self, RestoreOptions};
use meridian_cluster::{ClusterOptions, one_cluster_at_a_time};
use meridian_compat::s3::Gateway;
use meridian_compat::workspace;

fn run(name: &str, on_s3: bool) {
    let _alone = one_cluster_at_a_time();
    let options = RestoreOptions {
        batches: 10,
        hold: Duration::from_secs(1),
        on_s3,
    };
    let outcome =
        restore::run(name, &ClusterOptions::plain(3), &options).unwrap_or_else(|error| panic!("{error}"));
    println!("{outcome}");
    assert!(
        outcome.restored > 0 && outcome.restored <= outcome.acknowledged,
        "{outcome}"
    );
}

#[test]
fn a_region_is_rebuilt_from_a_directory_and_two_nodes_join_it() {
    run("test-restore", false);
}

#[test]
fn a_region_is_rebuilt_from_a_real_s3_server() {
    if workspace::skips(Gateway::missing()) {
        return;
    }
    run("test-restore-s3", true);
}
