//! BalanceRegion: replicas and leaders evened out at once. Meridian's own.

use meridian_controller::{Command, Outcome, plan};
use meridian_types::{NodeId, ShardId};
use meridian_wire::balance_region::ShardMove;
use meridian_wire::{BalanceRegionRequest, BalanceRegionResponse};

use crate::context::Caller;

pub(crate) async fn handle(caller: &Caller, request: &BalanceRegionRequest) -> BalanceRegionResponse {
    let region = &caller.context.region;
    let sight = region.sight().await;
    let steps = plan::balance(&region.controller(), &sight, &region.plan_settings());
    let mut moves = Vec::with_capacity(steps.len());
    for step in steps {
        let Command::SetPlacement { shard, replicas, .. } = &step else {
            continue;
        };
        let (shard, after) = (*shard, replicas.clone());
        let before = caller.context.region.controller().replicas_of(shard).to_vec();
        let refusal = match request.dry_run {
            true => None,
            false => propose(caller, shard, &after, step).await.err(),
        };
        moves.push(ShardMove {
            shard: shard.0.cast_signed(),
            before: ids(&before),
            after: ids(&after),
            refusal: refusal.map(Into::into),
        });
    }
    BalanceRegionResponse {
        moves,
        ..Default::default()
    }
}

/// Each step stands for itself: one that was overtaken by another opinion is left out.
async fn propose(caller: &Caller, shard: ShardId, after: &[NodeId], step: Command) -> Result<(), String> {
    match caller.context.region.control(step).await {
        Ok(Outcome::PlacementSet(Ok(_))) => {
            tracing::info!(%shard, replicas = ?after, peer = %caller.peer.address, "shard placed anew");
            Ok(())
        }
        Ok(Outcome::PlacementSet(Err(error))) => Err(error.to_string()),
        Ok(other) => Err(format!("the controller answered {other:?}")),
        Err(error) => Err(error.to_string()),
    }
}

fn ids(nodes: &[NodeId]) -> Vec<i32> {
    nodes.iter().map(|node| node.0.cast_signed()).collect()
}
