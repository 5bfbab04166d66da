//! Many seeds, each in a process of its own: what a process draws at its start (the keys of hash maps, say) then
//! follows from the seed as well.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Which seeds, and how.
#[derive(Clone, Debug)]
pub struct Many {
    /// The first seed.
    pub first: u64,
    /// How many.
    pub seeds: u64,
    /// Processes at the same time.
    pub jobs: usize,
    /// Further arguments of `replay`.
    pub arguments: Vec<String>,
}

/// Runs `PROGRAM replay SEED --quiet` for each seed, and tells every verdict in the seeds' order. Returns the broken ones.
///
/// Errors: a process cannot be started.
pub fn run(program: &Path, many: &Many, tell: &mut dyn FnMut(&str)) -> io::Result<Vec<u64>> {
    let mut under_way: VecDeque<(u64, Child)> = VecDeque::new();
    let mut broken = Vec::new();
    for seed in many.first..many.first.saturating_add(many.seeds) {
        if under_way.len() >= many.jobs.max(1) {
            broken.extend(finish(&mut under_way, tell)?);
        }
        let child = Command::new(program)
            .args(["replay", &seed.to_string(), "--quiet"])
            .args(&many.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // A run that panics is broken; what it says then is for `replay`.
            .stderr(Stdio::null())
            .spawn()?;
        under_way.push_back((seed, child));
    }
    while !under_way.is_empty() {
        broken.extend(finish(&mut under_way, tell)?);
    }
    Ok(broken)
}

/// The first of the seeds whose run is broken, which a deliberate defect must have.
///
/// Errors: a process cannot be started.
pub fn first_broken(program: &Path, many: &Many) -> io::Result<Option<u64>> {
    let step = many.jobs.max(1) as u64;
    let mut first = many.first;
    let end = many.first.saturating_add(many.seeds);
    while first < end {
        let part = Many {
            first,
            seeds: step.min(end - first),
            ..many.clone()
        };
        if let Some(broken) = run(program, &part, &mut |_| {})?.first() {
            return Ok(Some(*broken));
        }
        first += step;
    }
    Ok(None)
}

/// Waits for the oldest one.
fn finish(under_way: &mut VecDeque<(u64, Child)>, tell: &mut dyn FnMut(&str)) -> io::Result<Option<u64>> {
    let Some((seed, mut child)) = under_way.pop_front() else {
        return Ok(None);
    };
    let mut verdict = String::new();
    if let Some(mut output) = child.stdout.take() {
        output.read_to_string(&mut verdict)?;
    }
    let status = child.wait()?;
    if status.success() {
        tell(&verdict);
        return Ok(None);
    }
    if verdict.trim().is_empty() {
        verdict = format!("seed {seed}: BROKEN; the process ended with {status}");
    }
    tell(&verdict);
    Ok(Some(seed))
}
