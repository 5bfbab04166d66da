//! Plans placements, on the controller's leader.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use meridian_controller::plan::{self, PlanSettings, Sight};
use meridian_controller::{Command, Members, Outcome};
use meridian_peer::Lane;
use meridian_types::{NodeId, ShardId};

use crate::message::{LedAnswer, LedShard, kind};
use crate::region::{Inner, Region};

/// Pause between plans.
const ROUND_INTERVAL: Duration = Duration::from_secs(1);

/// How long a node may take to tell what it leads.
const LED_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs until the region stops.
pub(crate) async fn run(inner: Arc<Inner>) {
    loop {
        tokio::select! {
            () = inner.stop.cancelled() => return,
            () = tokio::time::sleep(ROUND_INTERVAL) => {}
        }
        if inner.led_group(ShardId::CONTROLLER).is_none() {
            continue;
        }
        let sight = inner.sight().await;
        let steps = plan::next_steps(&inner.control.controller(), &sight, &inner.plan_settings());
        for step in steps {
            propose(&inner, &step).await;
        }
    }
}

async fn propose(inner: &Inner, step: &Command) {
    match inner.control(step).await {
        Ok(Outcome::PlacementSet(Ok(_))) => {
            if let Command::SetPlacement { shard, replicas, .. } = step {
                tracing::info!(%shard, ?replicas, "a shard is placed anew");
            }
        }
        Ok(Outcome::PlacementSet(Err(refused))) => tracing::info!(%refused, "a plan was overtaken"),
        Ok(other) => tracing::error!(?other, "a placement was answered by something else"),
        Err(error) => tracing::info!(%error, "a placement is left for the next round"),
    }
}

impl Region {
    /// What this node sees of the region: who is silent, and the members of all shards as their leaders tell. What
    /// [`meridian_controller::plan`] decides by.
    pub async fn sight(&self) -> Sight {
        self.inner.sight().await
    }

    /// How placements are planned here.
    pub fn plan_settings(&self) -> PlanSettings {
        self.inner.plan_settings()
    }
}

impl Inner {
    pub(crate) fn plan_settings(&self) -> PlanSettings {
        PlanSettings {
            dead_after: self.settings.dead_after,
            ..PlanSettings::default()
        }
    }

    /// What this node sees of the region: who is silent, and the members of all shards as their leaders tell.
    pub(crate) async fn sight(&self) -> Sight {
        let alive = self.pacing.view().alive.clone();
        let others = alive.into_iter().filter(|node| *node != self.node());
        let asking = others.map(|node| async move {
            let call = self
                .peers
                .call(node, Lane::Urgent, kind::LED, ShardId::CONTROLLER, Vec::new());
            let answer = call.with_timeout(LED_TIMEOUT).await.ok()?;
            match LedAnswer::decode(&answer) {
                Ok(answer) => Some((node, answer)),
                Err(error) => {
                    tracing::warn!(%node, %error, "an unreadable answer about led shards");
                    None
                }
            }
        });
        let answers = futures::future::join_all(asking).await;
        let own = (self.node(), self.led());
        let leaders = self.pacing.view();
        let mut members = BTreeMap::new();
        for (node, answer) in answers.into_iter().flatten().chain([own]) {
            for led in answer.shards {
                // Two may believe that they lead; the one that all believe does.
                if leaders
                    .leaders
                    .get(&led.shard)
                    .is_some_and(|leader| leader.node == node)
                {
                    members.insert(led.shard, told(node, led));
                }
            }
        }
        Sight {
            silent: self.pacing.silent(),
            members,
        }
    }

    /// The shards that are led here, with their voters.
    pub(crate) fn led(&self) -> LedAnswer {
        let led: Vec<_> = self.pacing.view().led.keys().copied().collect();
        let shards = led.into_iter().filter_map(|shard| {
            let members = self.led_group(shard)?.members().borrow().clone();
            Some(LedShard {
                shard,
                is_settled: members.joint.is_none(),
                voters: members.voters.into_iter().collect(),
            })
        });
        LedAnswer {
            shards: shards.collect(),
        }
    }
}

fn told(leader: NodeId, led: LedShard) -> Members {
    Members {
        leader,
        voters: led.voters.into_iter().collect(),
        settled: led.is_settled,
    }
}
