//! Region epochs that come to mirrors though nothing is written.

use std::time::Duration;

use meridian_lineage::Role;
use meridian_types::Partition;

use crate::harness::{World, idempotent, logs};
use crate::switchover::{switch, until_mirrors};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_learns_every_region_epoch_though_nothing_is_written() {
    let mut world = World::new();
    world.maintenance_interval = Duration::from_secs(3600);
    world.start(0, &[]).await;
    world.start(1, &[0]).await;
    world.start(2, &[0]).await;
    let topic = world.topic(0, "t").await;
    let partition = Partition { topic, index: 2 };
    world
        .append(0, partition, &idempotent(1, 0, "0"))
        .await
        .expect("it is taken");
    for mirror in [1, 2] {
        world.until_equal(0, mirror).await;
        until_mirrors(&world, mirror, 0).await;
    }
    for (from, to, epoch) in [(0, 1, 1), (1, 0, 2), (0, 2, 3)] {
        let before: Vec<_> = logs().skip(1).map(|shard| world.place(from, shard)).collect();
        switch(&world, from, to, epoch).await;
        for mirror in (0..3).filter(|number| *number != to) {
            until_mirrors(&world, mirror, epoch).await;
            world.until_equal(to, mirror).await;
        }
        // Not by content.
        let after: Vec<_> = logs().skip(1).map(|shard| world.place(to, shard)).collect();
        assert_eq!(before, after);
    }
    // Under an epoch that came without content, content comes.
    world
        .append_until_taken(2, partition, &idempotent(1, 1, "1"))
        .await;
    // One that was away meanwhile hears of it when it asks.
    world.stop(1).await;
    switch(&world, 2, 0, 4).await;
    world.start(1, &[0]).await;
    for mirror in [1, 2] {
        until_mirrors(&world, mirror, 4).await;
        world.until_equal(0, mirror).await;
        assert_eq!(
            world.batches(0, partition).await,
            world.batches(mirror, partition).await
        );
        let status = world.region(mirror).mirror_status();
        assert!(
            status
                .shards
                .iter()
                .all(|shard| shard.role == Role::Mirror && shard.diverged_at.is_none())
        );
    }
    for number in [0, 1, 2] {
        world.stop(number).await;
    }
}
