//! Faults on a cluster, as often as asked: see `--help`.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use meridian_cluster::clients::Share;
use meridian_cluster::fault::Kind;
use meridian_cluster::maintain::{MaintainOptions, places};
use meridian_cluster::replay::{self, ReplayOptions};
use meridian_cluster::restore::{self, RestoreOptions};
use meridian_cluster::rounds::{self, RoundOptions, RunError};
use meridian_cluster::tier_faults::{self, TierFaultOptions};
use meridian_cluster::tier_outage::{self, TierOutageOptions};
use meridian_cluster::{ClusterOptions, clients, failover, followers, maintain, scale, tier_kills, upgrade};

/// Nodes as real processes under faults. Exit status: 0 all holds, 1 it cannot run, 3 a check does not hold.
///
/// Needs the clients of tests/compat/setup.sh; partitions, power cuts and full disks need root.
/// MERIDIAN_TEST_SERVER=kafka runs Apache Kafka instead, MERIDIAN_BIN names another binary of ours.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Faults under load, then compares all that clients know: nothing acknowledged may be lost, doubled or moved
    Rounds(RoundArguments),
    /// Time from kill -9 of a leader to the next acknowledged write on each of its partitions
    Failover(FailoverArguments),
    /// The clients of tests/compat with all their checks, against several nodes
    Clients(ClientArguments),
    /// Consumers read from the replica in their rack, and nothing goes back while leaders are killed
    Followers(FollowerArguments),
    /// A region grows from one node to three under load; then nodes are restarted, replaced, lost and balanced
    Maintain(MaintainArguments),
    /// A rolling upgrade: two versions in one region
    Upgrade(UpgradeArguments),
    /// A region on a real S3 server behind a proxy that fails: nothing is lost, produce goes on, the lag falls again
    TierFaults(TierFaultArguments),
    /// A region whose bucket is away until its disks are full: producers wait, consumers do not, and all goes on afterwards
    TierOutage(TierOutageArguments),
    /// Nodes die at every step of what the tier does, one after the other: nothing is lost, nothing is left over
    TierKills(TierKillArguments),
    /// A region is destroyed while it is written to, and rebuilt from its bucket; every record up to the cut is compared
    Restore(RestoreArguments),
    /// History is read out of the bucket and on to the present while leaders die: every record comes exactly once
    Replay(ReplayArguments),
    /// Many partitions: created, written, read, through a failover and a restart
    Scale(ScaleArguments),
}

#[derive(Args)]
struct RoundArguments {
    /// Faults
    #[arg(long, default_value_t = 60)]
    rounds: u32,
    /// Of the choice of faults
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Which faults
    #[arg(long, value_enum, default_value = "mix")]
    fault: FaultName,
    /// Nodes
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Faults of up to 8 s instead of up to 1.5 s
    #[arg(long)]
    long: bool,
    /// Everything is compared after so many rounds
    #[arg(long)]
    check_every: Option<u32>,
    /// Setting of the nodes, SECTION.KEY=VALUE
    #[arg(long = "set")]
    settings: Vec<String>,
}

#[derive(Args)]
struct FailoverArguments {
    /// Leaders to kill
    #[arg(long, default_value_t = 30)]
    rounds: u32,
    /// Seconds of full load without faults in which elections are counted
    #[arg(long, default_value_t = 60)]
    calm_s: u64,
    /// Setting of the nodes, SECTION.KEY=VALUE
    #[arg(long = "set")]
    settings: Vec<String>,
}

#[derive(Args)]
struct ClientArguments {
    /// Nodes
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Only what goes another way on several nodes, as in the tests
    #[arg(long)]
    several: bool,
    /// Setting of the nodes, SECTION.KEY=VALUE
    #[arg(long = "set")]
    settings: Vec<String>,
}

#[derive(Args)]
struct FollowerArguments {
    /// Leaders to kill
    #[arg(long, default_value_t = 10)]
    kills: u32,
    /// Of the choice of leaders and moments
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Setting of the nodes, SECTION.KEY=VALUE
    #[arg(long = "set")]
    settings: Vec<String>,
}

#[derive(Args)]
struct MaintainArguments {
    /// Works; without it, each kind once
    #[arg(long)]
    works: Option<usize>,
    /// Of the choice of works, nodes and moments
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Setting of the nodes, SECTION.KEY=VALUE
    #[arg(long = "set")]
    settings: Vec<String>,
}

#[derive(Args)]
struct UpgradeArguments {
    /// Setting of the nodes, SECTION.KEY=VALUE
    #[arg(long = "set")]
    settings: Vec<String>,
}

#[derive(Args)]
struct TierFaultArguments {
    /// Times that everything is gone through
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Of what goes wrong when
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seconds that each fault is on
    #[arg(long, default_value_t = 10)]
    hold_s: u64,
    /// Seconds without a bucket in each round
    #[arg(long, default_value_t = 60)]
    outage_s: u64,
}

#[derive(Args)]
struct TierOutageArguments {
    /// Of what the proxy draws
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seconds that the disks stay full
    #[arg(long, default_value_t = 30)]
    full_s: u64,
    /// Every node is killed and started again while they are
    #[arg(long)]
    kill: bool,
}

#[derive(Args)]
struct ReplayArguments {
    /// Replays, each from the beginning
    #[arg(long, default_value_t = 10)]
    replays: u32,
    /// Of the choice of leaders and moments
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Args)]
struct TierKillArguments {
    /// Nodes
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Steps, with commas between them; without it, all of them
    #[arg(long, value_delimiter = ',')]
    steps: Vec<String>,
    /// Setting of the nodes, SECTION.KEY=VALUE
    #[arg(long = "set")]
    settings: Vec<String>,
}

#[derive(Args)]
struct RestoreArguments {
    /// Batches for each partition that the bucket has for certain
    #[arg(long, default_value_t = 200)]
    batches: u32,
    /// Seconds that it is written to until it is destroyed
    #[arg(long, default_value_t = 10)]
    hold_s: u64,
    /// The bucket lies on a real S3 server, not in a directory
    #[arg(long)]
    s3: bool,
    /// Setting of the nodes, SECTION.KEY=VALUE
    #[arg(long = "set")]
    settings: Vec<String>,
}

#[derive(Args)]
struct ScaleArguments {
    /// Partitions, in topics of 10,000
    #[arg(long, default_value_t = 1_000_000)]
    partitions: u32,
    /// Setting of the nodes, SECTION.KEY=VALUE
    #[arg(long = "set")]
    settings: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FaultName {
    /// kill -9
    Kill,
    /// SIGSTOP
    Stop,
    /// The network
    Partition,
    /// Power cuts
    Power,
    /// Full disks
    Disk,
    /// Rolling restarts
    Roll,
    /// All that can be done here
    Mix,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Rounds(arguments) => run_rounds(&arguments).map(|outcome| outcome.to_string()),
        Command::Failover(arguments) => {
            // The load would fill the disk otherwise. It is the only setting that is not the default.
            let settings = [
                vec!["journal.bytes_max=2147483648".to_owned()],
                arguments.settings,
            ]
            .concat();
            let cluster = plain_cluster(3, settings);
            failover::run(&cluster, arguments.rounds, arguments.calm_s).map(|outcome| outcome.to_string())
        }
        Command::Clients(arguments) => {
            let share = match arguments.several {
                true => Share::Several,
                false => Share::All,
            };
            let cluster = plain_cluster(arguments.nodes, arguments.settings);
            clients::run("cluster-suite", &cluster, share).map(|outcome| outcome.to_string())
        }
        Command::Followers(arguments) => {
            let cluster = plain_cluster(3, arguments.settings);
            followers::run("cluster-followers", &cluster, arguments.kills, arguments.seed)
                .map(|outcome| outcome.to_string())
        }
        Command::Maintain(arguments) => {
            let options = match arguments.works {
                Some(works) => MaintainOptions::drawn(works, arguments.seed),
                None => MaintainOptions::each_once(arguments.seed),
            };
            let cluster = ClusterOptions {
                founders: 1,
                ..plain_cluster(places(&options), arguments.settings)
            };
            maintain::run("cluster-maintain", &cluster, &options).map(|outcome| outcome.to_string())
        }
        Command::Upgrade(arguments) => {
            let cluster = plain_cluster(3, arguments.settings);
            upgrade::run("cluster-upgrade", &cluster).map(|outcome| outcome.to_string())
        }
        Command::TierFaults(arguments) => {
            let options = TierFaultOptions {
                seed: arguments.seed,
                rounds: arguments.rounds,
                hold: Duration::from_secs(arguments.hold_s),
                outage: Duration::from_secs(arguments.outage_s),
                each: true,
            };
            tier_faults::run("cluster-tier-faults", &options).map(|outcome| outcome.to_string())
        }
        Command::TierOutage(arguments) => {
            let options = TierOutageOptions {
                seed: arguments.seed,
                full_for: Duration::from_secs(arguments.full_s),
                kills: arguments.kill,
            };
            tier_outage::run("cluster-tier-outage", &options).map(|outcome| outcome.to_string())
        }
        Command::Replay(arguments) => {
            let options = ReplayOptions {
                replays: arguments.replays,
                seed: arguments.seed,
            };
            replay::run("cluster-replay", &options).map(|outcome| outcome.to_string())
        }
        Command::TierKills(arguments) => {
            let cluster = plain_cluster(arguments.nodes, arguments.settings);
            let steps = match arguments.steps.is_empty() {
                true => tier_kills::STEPS.map(str::to_owned).into(),
                false => arguments.steps,
            };
            tier_kills::run("cluster-tier-kills", &cluster, &steps).map(|outcome| outcome.to_string())
        }
        Command::Restore(arguments) => {
            let options = RestoreOptions {
                batches: arguments.batches,
                hold: Duration::from_secs(arguments.hold_s),
                on_s3: arguments.s3,
            };
            let cluster = plain_cluster(3, arguments.settings);
            restore::run("cluster-restore", &cluster, &options).map(|outcome| outcome.to_string())
        }
        Command::Scale(arguments) => {
            let cluster = plain_cluster(3, arguments.settings);
            scale::run(&cluster, arguments.partitions).map(|outcome| outcome.to_string())
        }
    };
    match result {
        Ok(shown) => {
            println!("{shown}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            match error {
                RunError::CannotRun(_) => ExitCode::FAILURE,
                RunError::DoesNotHold(_) => ExitCode::from(3),
            }
        }
    }
}

fn run_rounds(arguments: &RoundArguments) -> Result<rounds::Outcome, RunError> {
    let wanted = match arguments.fault {
        FaultName::Kill => vec![Kind::Kill],
        FaultName::Stop => vec![Kind::Stop],
        FaultName::Partition => vec![Kind::Partition],
        FaultName::Power => vec![Kind::Power],
        FaultName::Disk => vec![Kind::Disk],
        FaultName::Roll => vec![Kind::Roll],
        FaultName::Mix => Kind::ALL.to_vec(),
    };
    let (cluster, kinds, missing) = rounds::what_can_be_done(arguments.nodes, &wanted);
    for reason in missing {
        eprintln!("left out: {reason}");
    }
    if kinds.is_empty() {
        return Err(RunError::CannotRun(
            "none of these faults can be made here".to_owned(),
        ));
    }
    let mut options = if arguments.long {
        RoundOptions::long(arguments.rounds, arguments.seed)
    } else {
        RoundOptions::short(arguments.rounds, arguments.seed)
    };
    options.kinds = kinds;
    options.check_every = arguments.check_every.unwrap_or(options.check_every);
    let settings = [cluster.settings, arguments.settings.clone()].concat();
    let cluster = ClusterOptions { settings, ..cluster };
    rounds::run("cluster-rounds", &cluster, &options)
}

/// On the host's network and disk.
fn plain_cluster(nodes: usize, settings: Vec<String>) -> ClusterOptions {
    ClusterOptions {
        settings,
        ..ClusterOptions::plain(nodes)
    }
}
