//! `meridian cluster balance`.

use clap::Args;
use meridian_client::admin::{RegionDescription, RegionShard, ShardMove};
use serde_json::json;

use super::wait::until_done;
use super::{ids_json, ids_text};
use crate::context::Context;
use crate::error::CliError;
use crate::output::{Rows, count};

#[derive(Debug, Args)]
pub(crate) struct BalanceArgs {
    /// Only show what would be moved
    #[arg(long)]
    dry_run: bool,
    /// Return as soon as it is decided, and let it go on
    #[arg(long, conflicts_with = "dry_run")]
    no_wait: bool,
}

impl BalanceArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let admin = context.admin().await?;
        let moves = admin.balance_region(self.dry_run).await?;
        let is_waiting = !self.dry_run && !self.no_wait;
        if is_waiting {
            // What belongs on a node that is away has to wait for it.
            let is_left = |region: &RegionDescription, shard: &RegionShard| {
                region.can_settle(shard) && !shard.is_settled()
            };
            until_done(context, &admin, "settled", is_left, |_| None).await?;
        }
        let fields = json!({
            "is_dry_run": self.dry_run,
            "is_done": is_waiting,
            "moves": moves.iter().map(move_json).collect::<Vec<_>>(),
        });
        context
            .output
            .document("cluster.balance", fields, || self.text(&moves))
    }

    fn text(&self, moves: &[ShardMove]) -> String {
        let end = match (self.dry_run, self.no_wait) {
            (true, _) => "nothing is done yet: leave out --dry-run to move them",
            (false, true) => {
                "they are on their way; `meridian cluster status --watch` shows how far they are"
            }
            (false, false) => "every shard whose nodes are up is where it should be",
        };
        if moves.is_empty() {
            return match self.dry_run {
                true => "replicas and leaders are even: nothing to move".to_owned(),
                false => format!("replicas and leaders are even; {end}"),
            };
        }
        let mut rows = Rows::new(&["SHARD", "FROM", "TO", "NOTE"]);
        for it in moves {
            rows.push([
                super::status::shard_text(it.shard),
                ids_text(it.before.iter().copied()),
                ids_text(it.after.iter().copied()),
                it.refusal.clone().unwrap_or_default(),
            ]);
        }
        let moved = count(moves.len(), "shard");
        format!("{}\n\n{moved} placed anew (leader first); {end}", rows.render())
    }
}

fn move_json(it: &ShardMove) -> serde_json::Value {
    json!({
        "shard": super::status::shard_json(it.shard),
        "before": ids_json(it.before.iter().copied()),
        "after": ids_json(it.after.iter().copied()),
        "refusal": it.refusal,
    })
}
