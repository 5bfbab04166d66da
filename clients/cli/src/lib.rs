//! The command line: `meridian NOUN VERB`, one file per noun.
//!
//! Every command ends with status 0 (done), 1 (failed), 2 (wrong usage) or 3 (a check does not hold), and says with
//! `--output json` the same as in tables: one document with a `schema`, or one object per line where it streams.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

mod bench;
mod bucket;
mod cert;
mod cluster;
mod completions;
mod config;
mod consume;
mod context;
mod debug;
mod demo;
mod error;
mod failover;
mod group;
mod journal;
mod link;
mod mirror;
mod output;
mod parse;
mod produce;
mod region;
mod replay;
mod serve;
mod text_format;
mod tier;
mod topic;

pub use context::GlobalArgs;
pub use error::CliError;

/// Meridian: a geo-replicated event log that Kafka clients write to and read from.
#[derive(Debug, Parser)]
#[command(
    name = "meridian",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
#[command(after_help = "Exit status: 0 done, 1 failed, 2 wrong usage, 3 a check does not hold.")]
pub struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create, list, describe, change and delete topics
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    Produce(produce::ProduceArgs),
    Consume(consume::ConsumeArgs),
    /// List, describe, move and delete consumer groups
    #[command(subcommand)]
    Group(group::GroupCommand),
    /// Look at the cluster
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Serve Kafka clients: one node of a region
    Serve(Box<serve::ServeArgs>),
    Demo(Box<demo::DemoArgs>),
    /// Check and explain the configuration
    #[command(subcommand)]
    Config(Box<config::ConfigCommand>),
    /// Make certificates for nodes and regions
    #[command(subcommand)]
    Cert(cert::CertCommand),
    /// Look at a node's log on disk
    #[command(subcommand)]
    Journal(journal::JournalCommand),
    /// Look at a bucket, without brokers
    #[command(subcommand)]
    Tier(Box<tier::TierCommand>),
    Replay(Box<replay::ReplayArgs>),
    /// List and change the regions of a cluster, and rebuild one
    #[command(subcommand)]
    Region(Box<region::RegionCommand>),
    /// Look at what carries content between regions, and bound it
    #[command(subcommand)]
    Link(link::LinkCommand),
    /// Look how far the regions are, and prove that they hold the same
    #[command(subcommand)]
    Mirror(mirror::MirrorCommand),
    /// Move ownership between regions
    #[command(subcommand)]
    Failover(failover::FailoverCommand),
    /// Put load on a server and measure it
    #[command(subcommand)]
    Bench(Box<bench::BenchCommand>),
    /// Tools for those who work on Meridian
    #[command(subcommand, hide = true)]
    Debug(Box<debug::DebugCommand>),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
}

/// The whole grammar, for help texts and completions.
pub fn grammar() -> clap::Command {
    Cli::command()
}

/// Runs the command that `arguments` name (the first is the program), and gives the process's status.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too, with status 0.
            drop(error.print());
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match execute(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.print();
            error.status.into()
        }
    }
}

fn execute(cli: Cli) -> Result<(), CliError> {
    let context = cli.global.context()?;
    let mut builder = match &cli.command {
        // One thread costs less than two that wake each other, and prepared load needs no more.
        Command::Bench(command) if command.is_prepared() => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|error| CliError::failed(format!("cannot start the runtime: {error}")))?;
    match cli.command {
        Command::Topic(command) => runtime.block_on(command.run(&context)),
        Command::Produce(args) => runtime.block_on(args.run(&context)),
        Command::Consume(args) => runtime.block_on(args.run(&context)),
        Command::Group(command) => runtime.block_on(command.run(&context)),
        Command::Cluster(command) => runtime.block_on(command.run(&context)),
        Command::Serve(args) => runtime.block_on(args.run(&context)),
        Command::Demo(args) => runtime.block_on(args.run(&context)),
        Command::Config(command) => command.run(&context),
        Command::Cert(command) => command.run(&context),
        Command::Journal(command) => command.run(&context),
        Command::Tier(command) => runtime.block_on(command.run(&context)),
        Command::Replay(args) => runtime.block_on(args.run(&context)),
        Command::Region(command) => runtime.block_on(command.run(&context)),
        Command::Link(command) => runtime.block_on(command.run(&context)),
        Command::Mirror(command) => runtime.block_on(command.run(&context)),
        Command::Failover(command) => runtime.block_on(command.run(&context)),
        Command::Bench(command) => runtime.block_on(command.run(&context)),
        Command::Debug(command) => runtime.block_on(command.run(&context)),
        Command::Completions(args) => args.run(),
    }
}
