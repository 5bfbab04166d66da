//! `bench profile`: a workload while `perf record` samples the server.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use meridian_compat::{Process, workspace};
use rustix::process::Signal;

use crate::client;
use crate::compare;
use crate::report;
use crate::space;
use crate::system::{Running, System};
use crate::workload::{self, Length, Workload};

/// Taken in before the workload.
const WARM_BYTES: u64 = 500_000_000;

/// Options of `bench profile`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// What to run.
    #[arg(value_enum)]
    pub workload: Workload,
    /// What to look at.
    #[arg(long, value_enum, default_value = "F")]
    pub system: System,
    /// Its nodes: 1 or 3; samples of all are counted together.
    #[arg(long, default_value_t = 1, value_parser = compare::parse_nodes)]
    pub nodes: usize,
    /// Seconds of the window.
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// Samples per second and core.
    #[arg(long, default_value_t = 499)]
    pub frequency: u32,
    /// Lines of each list.
    #[arg(long, default_value_t = 45)]
    pub lines: usize,
}

/// Samples, folds, prints; the folded stacks and the lists stay in `target/profile`.
///
/// Errors: perf is missing or refused, or the workload failed.
pub fn run(options: &Options) -> Result<(), String> {
    let length = Length {
        seconds: options.seconds,
        ..Length::of(options.nodes, true)
    };
    space::require(&workspace::target(), options.nodes, &length)?;
    let rdkafka = client::build_rdkafka().ok();
    let running = Running::start(options.system, options.nodes, "profile")?;
    workload::warm(&running, WARM_BYTES)?;
    let folder = workspace::target().join("profile");
    std::fs::create_dir_all(&folder).map_err(|e| format!("cannot make {}: {e}", folder.display()))?;
    let data = folder.join("perf.data");
    let pids: Vec<String> = running.pids().iter().map(u32::to_string).collect();
    let mut command = Command::new("perf");
    command
        // No hardware counters in a virtual machine. Frame pointers are not kept, but line tables are.
        .args(["record", "--event", "cpu-clock", "--call-graph", "dwarf,16384"])
        .args(["--freq", &options.frequency.to_string(), "--pid", &pids.join(",")])
        .arg("--output")
        .arg(&data);
    let mut perf = Process::start(
        "perf",
        command,
        &folder.join("perf.out"),
        &folder.join("perf.log"),
    );
    let sample = options.workload.run(&running, 1, &length, rdkafka.as_deref());
    // perf writes its file when it is interrupted.
    perf.signal(Signal::INT)
        .map_err(|e| format!("perf: {e}\n{}", perf.log_tail(20)))?;
    perf.wait(Duration::from_secs(120))
        .ok_or("perf did not end within two minutes")?;
    running.end()?;
    let sample = sample?;

    let stacks = folded(&data)?;
    let name = format!("{}-{}-{}", options.workload, options.system, options.nodes);
    let text: String = stacks
        .iter()
        .map(|(stack, count)| format!("{stack} {count}\n"))
        .collect();
    let path = folder.join(format!("{name}.folded"));
    std::fs::write(&path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    let lists = lists(&stacks, options.lines);
    println!("{}\n\n{lists}", report::line(&sample));
    let summary = folder.join(format!("{name}.txt"));
    std::fs::write(&summary, &lists).map_err(|e| format!("cannot write {}: {e}", summary.display()))?;
    println!("stacks: {}", path.display());
    Ok(())
}

/// Stacks with their counts, outermost first, `thread;function;..`.
fn folded(data: &Path) -> Result<BTreeMap<String, u64>, String> {
    let output = Command::new("perf")
        .args(["script", "--no-inline", "--fields", "comm,ip,sym", "--input"])
        .arg(data)
        .stderr(Stdio::null())
        .output()
        .map_err(|e| format!("cannot run perf: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut stacks = BTreeMap::new();
    for sample in text.split("\n\n") {
        let mut lines = sample.lines().filter(|line| !line.trim().is_empty());
        let Some(thread) = lines.next() else { continue };
        let mut frames: Vec<String> = lines.map(|line| function(line.trim())).collect();
        frames.push(thread.trim().to_owned());
        frames.reverse();
        *stacks.entry(frames.join(";")).or_insert(0) += 1;
    }
    if stacks.is_empty() {
        return Err("perf took no sample".to_owned());
    }
    Ok(stacks)
}

/// `7f00 alloc::vec::push::h0123456789abcdef` without address and hash.
fn function(line: &str) -> String {
    let name = line.split_once(' ').map_or(line, |(_, name)| name);
    let name = match name.rsplit_once("::h") {
        Some((head, hash)) if hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => head,
        _ => name,
    };
    name.replace(';', ":")
}

/// Three lists: by thread, where the time is spent itself, and what it is spent below.
fn lists(stacks: &BTreeMap<String, u64>, lines: usize) -> String {
    let total: u64 = stacks.values().sum();
    let (mut threads, mut own, mut below) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (stack, count) in stacks {
        let frames: Vec<&str> = stack.split(';').collect();
        let Some((thread, functions)) = frames.split_first() else {
            continue;
        };
        *threads.entry((*thread).to_owned()).or_insert(0) += count;
        if let Some(last) = functions.last() {
            *own.entry((*last).to_owned()).or_insert(0) += count;
        }
        let mut seen: Vec<&str> = functions.to_vec();
        seen.sort_unstable();
        seen.dedup();
        for function in seen {
            *below.entry(function.to_owned()).or_insert(0) += count;
        }
    }
    let mut text = String::new();
    for (title, counts) in [("threads", threads), ("own time", own), ("time below", below)] {
        let mut sorted: Vec<(String, u64)> = counts.into_iter().collect();
        sorted.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        writeln!(text, "-- {title}, share of {total} samples").expect("a string takes all");
        for (name, count) in sorted.into_iter().take(lines) {
            let name: String = name.chars().take(150).collect();
            writeln!(text, "{:>6.2} %  {name}", count as f64 * 100.0 / total as f64)
                .expect("a string takes all");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_cut_off_and_recursion_counts_once() {
        assert_eq!(function("7f00 a::b::h0123456789abcdef"), "a::b");
        assert_eq!(function("7f00 a::hello"), "a::hello");
        let stacks = BTreeMap::from([("t;a;b;a".to_owned(), 3), ("t;a;c".to_owned(), 1)]);
        let text = lists(&stacks, 10);
        assert!(text.contains("100.00 %  a\n"));
        assert!(text.contains(" 75.00 %  a\n"));
        assert!(text.contains(" 25.00 %  c\n"));
    }
}
