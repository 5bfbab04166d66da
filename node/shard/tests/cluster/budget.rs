//! A node whose journal is over its budget while nobody else's is.

use meridian_controller::Command as ControlCommand;
use meridian_types::{Partition, TimestampMs};

use crate::harness::{Cluster, SHARDS};

const BUDGET_BYTES: u64 = 16 << 20;

#[test]
fn a_replica_of_idle_shards_gives_back_what_a_deleted_topic_held() {
    let mut cluster = Cluster::new();
    let mut settings: Vec<_> = [1, 2, 3].map(|id| cluster.settings(id, &[1, 2, 3])).into();
    settings[2].journal_bytes_max = BUDGET_BYTES;
    cluster.start_with(settings).expect("the region is founded");
    let topic = cluster.create_topic(1, "gone");
    let value = "x".repeat(900 << 10);
    for index in (0..SHARDS).cycle().take(32) {
        cluster.append(Partition { topic, index }, &value);
    }
    let held = |cluster: &Cluster| cluster.journal_bytes(3);
    // The others commit without it, so it may be behind.
    cluster.until("the journal is over its budget", |cluster| {
        held(cluster) > BUDGET_BYTES
    });
    let delete = ControlCommand::DeleteTopics {
        topics: vec![topic],
        now: TimestampMs(1_000_000),
    };
    cluster
        .wait(cluster.region(1).control(delete))
        .expect("the topic is deleted");
    cluster.until("the journal is within its budget", |cluster| {
        held(cluster) <= BUDGET_BYTES
    });
}
