//! Rounds of crashes under load: kill -9 at a random moment, or a power cut.

use std::time::{Duration, Instant};

use meridian_checker::check;
use meridian_compat::image::{Backing, Image};
use meridian_compat::{Load, LoadOptions, Program, Random, Server, ServerOptions, workspace};
use rustix::process::{Pid, Signal, kill_process};

/// How the server goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// SIGKILL: the operating system still writes what it was given.
    Kill,
    /// Everything that was not synced is gone.
    Power,
}

/// What a run of rounds does.
#[derive(Clone, Debug)]
pub struct RoundOptions {
    /// Crashes.
    pub rounds: u32,
    /// Of the moments of the crashes.
    pub seed: u64,
    /// How long the server runs in a round, milliseconds, from the first new acknowledgement.
    pub alive_ms: std::ops::Range<u64>,
    /// How much is written.
    pub load: LoadOptions,
}

impl RoundOptions {
    /// `rounds` crashes at moments drawn from `seed`.
    pub fn new(rounds: u32, seed: u64) -> Self {
        Self {
            rounds,
            seed,
            alive_ms: 5..700,
            load: load_options(),
        }
    }
}

/// What a run has shown, when nothing was wrong.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Crashes.
    pub rounds: u32,
    /// Acknowledged records, each of them found.
    pub acknowledged: u64,
    /// Records in the log.
    pub stored: u64,
    /// Records that the consumer saw while the server crashed.
    pub observed: u64,
    /// Commits of offsets that were answered, none of them undone.
    pub commits: u64,
    /// Longest time from the start of the process until it was ready.
    pub longest_start: Duration,
}

/// Producers of franz-go and, where it is set up, one of librdkafka; one consumer.
fn load_options() -> LoadOptions {
    let mut writers = vec![Program::Franz];
    writers.extend(
        Program::Confluent
            .missing()
            .is_none()
            .then_some(Program::Confluent),
    );
    LoadOptions {
        topic: "crash".to_owned(),
        partitions: 4,
        replicas: 1,
        producers: 5,
        records_per_second: 400,
        writers,
        readers: vec![(Program::Franz, None)],
        final_racks: vec![None],
    }
}

/// How long the server may take until it acknowledges again.
const RECOVERY: Duration = Duration::from_secs(60);

/// Crashes a server again and again under load, then compares everything.
///
/// Errors: the findings, or what went wrong, with the seed and where the logs lie.
pub fn run(
    name: &str,
    server: ServerOptions,
    crash: Crash,
    options: &RoundOptions,
) -> Result<Outcome, String> {
    let directory = workspace::run_directory(&format!("{name}-clients"));
    let mut image = match crash {
        Crash::Kill => None,
        Crash::Power => Some(Image::create(&directory, 4096, Backing::Disk)?),
    };
    let server = match &image {
        Some(image) => server.data(&image.path().join("data")),
        None => server,
    };
    let outcome = rounds(name, server, image.as_mut(), &directory, options);
    outcome.map_err(|reason| {
        format!(
            "{reason}\n(seed {}, logs below {})",
            options.seed,
            directory.display()
        )
    })
}

fn rounds(
    name: &str,
    server: ServerOptions,
    mut image: Option<&mut Image>,
    directory: &std::path::Path,
    options: &RoundOptions,
) -> Result<Outcome, String> {
    let mut random = Random::seeded(options.seed);
    let mut server = Server::try_start(name, server)?;
    if server.is_external() {
        return Err("a server that somebody else started cannot be crashed".to_owned());
    }
    let mut load = Load::start(server.bootstrap(), directory, options.load.clone())?;
    let mut longest_start = Duration::ZERO;
    load.wait_progress(&load.progress(), RECOVERY)?;
    if server.is_kafka()
        && let Some(image) = image.as_deref()
    {
        // Kafka does not sync what `format` writes, and does not start without it.
        image.sync()?;
    }
    for round in 1..=options.rounds {
        std::thread::sleep(Duration::from_millis(random.within(options.alive_ms.clone())));
        if !server.is_alive() {
            return Err(format!(
                "the server ended by itself before crash {round}:\n{}",
                server.log_tail(40)
            ));
        }
        match image.as_deref_mut() {
            None => server.kill(),
            Some(image) => lose_power(&mut server, image)?,
        }
        let progress = load.progress();
        let started = Instant::now();
        server
            .try_start_again()
            .map_err(|e| format!("after crash {round}: {e}"))?;
        longest_start = longest_start.max(started.elapsed());
        load.wait_progress(&progress, RECOVERY).map_err(|e| {
            format!(
                "after crash {round}: {e}\n--- the server\n{}",
                server.log_tail(40)
            )
        })?;
        if round % 20 == 0 {
            println!(
                "{round} of {} crashes, {:?} bytes of acknowledgements",
                options.rounds,
                load.progress()
            );
        }
    }
    let history = load.finish(server.bootstrap())?;
    // The image is unmounted after this: nobody may hold it.
    server.stop(Duration::from_secs(60))?;
    let report = check(&history);
    if !report.is_sound() {
        return Err(report.to_string());
    }
    Ok(Outcome {
        rounds: options.rounds,
        acknowledged: report.acknowledged,
        stored: report.stored,
        observed: report.observed,
        commits: report.commits,
        longest_start,
    })
}

/// All at once: nobody runs, and what was not synced is gone.
fn lose_power(server: &mut Server, image: &mut Image) -> Result<(), String> {
    let pid = server
        .pid()
        .and_then(|pid| Pid::from_raw(pid.cast_signed()))
        .ok_or("the server does not run")?;
    // Stopped first, so that it cannot see the errors of a disk that is going away and act on them.
    kill_process(pid, Signal::STOP).map_err(|e| format!("cannot stop the server: {e}"))?;
    image.cut_power()?;
    server.kill();
    image.unmount()?;
    image.mount()
}
