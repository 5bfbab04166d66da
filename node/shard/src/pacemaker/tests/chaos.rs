use meridian_types::NodeId;

use super::world::{Network, World, ms, s};

/// Any faults, in any order: afterwards the region settles, and then nothing moves any more.
#[test]
fn after_any_faults_the_region_settles_and_stays_so() {
    for seed in 0..40 {
        let nodes = 3 + u32::try_from(seed % 3).expect("small");
        let mut world = World::settled(seed, nodes, 6, 3);
        for _ in 0..60 {
            disturb(&mut world);
            let pause = world.random_below(1500);
            world.run(ms(pause));
        }
        world.heal();
        world.network = super::world::GOOD;
        for node in world.node_ids() {
            world.resume(node);
            if !world.is_running(node) {
                world.restart(node);
            }
        }
        let took = world.run_until(s(10), World::is_settled);
        assert!(took.is_some(), "seed {seed}: not settled after ten seconds");
        world.run(s(30));
        assert!(world.is_settled(), "seed {seed}");
        world.reset_counts();
        world.run(s(120));
        assert_eq!(world.counts.elections, 0, "seed {seed}");
        assert_eq!(world.counts.transfers, 0, "seed {seed}");
        assert_eq!(world.counts.heartbeats, 0, "seed {seed}");
        for shard in world.shards() {
            assert_eq!(
                world.leader(shard),
                world.replicas(shard).first().copied(),
                "seed {seed}"
            );
        }
    }
}

fn disturb(world: &mut World) {
    let nodes = world.node_ids();
    let mut any = || {
        let at = world.random_below(nodes.len() as u64);
        nodes[usize::try_from(at).expect("small")]
    };
    let (a, b): (NodeId, NodeId) = (any(), any());
    match world.random_below(9) {
        0 => world.kill(a),
        1 => world.power_off(a),
        2 => world.restart(a),
        3 => world.pause(a),
        4 => world.resume(a),
        5 => world.cut(a, b),
        6 => world.cut_both(a, b),
        7 => world.heal(),
        _ => {
            let worst = world.random_below(300);
            world.network = Network {
                loss_percent: world.random_below(10),
                delay_min: ms(0),
                delay_max: ms(1 + worst),
            };
        }
    }
    for shard in world.shards() {
        if let Some(leader) = world.leader(shard)
            && world.random_below(3) == 0
        {
            world.propose(leader, shard);
        }
    }
}
