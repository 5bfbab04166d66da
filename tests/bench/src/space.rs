//! Room on the disk: a run must neither fill it nor measure what a full disk does.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::workload::{Length, WARM_PORTION_S};

/// A system gives up the data of deleted topics within this time.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(180);

/// Copies of a record in a system of so many nodes.
pub fn copies(nodes: usize) -> usize {
    nodes.min(3)
}

/// What a node of ours keeps of deleted topics before it gives files up (`journal.bytes_max`).
pub fn journal_bytes_max(nodes: usize) -> u64 {
    if nodes == 1 { 8 << 30 } else { 2 << 30 }
}

/// More than all nodes of a settled system hold: that budget, and the files in work.
fn settled_bytes_max(nodes: usize) -> u64 {
    nodes as u64 * journal_bytes_max(nodes) / 4 * 5
}

/// 10^9 bytes per second, faster than all copies of anything here.
fn gb_per_s_max(nodes: usize) -> f64 {
    if copies(nodes) == 1 { 2.0 } else { 1.5 }
}

/// Refuses to begin a block that may not have room for what its longest workload writes.
///
/// Errors: how much is free, and how much is needed.
pub fn require(directory: &Path, nodes: usize, length: &Length) -> Result<(), String> {
    let stat = rustix::fs::statvfs(directory)
        .map_err(|e| format!("cannot tell the free space of {}: {e}", directory.display()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    check(free, needed(nodes, length)).map_err(|reason| format!("{}: {reason}", directory.display()))
}

fn needed(nodes: usize, length: &Length) -> u64 {
    let longest_s = (length.seconds + length.warm_s).max(WARM_PORTION_S);
    settled_bytes_max(nodes) + (longest_s * gb_per_s_max(nodes) * 1e9) as u64
}

fn check(free: u64, needed: u64) -> Result<(), String> {
    if free >= needed {
        return Ok(());
    }
    Err(format!(
        "{:.1} GB are free, a block may need {:.1} GB: make room, or take fewer --seconds",
        free as f64 / 1e9,
        needed as f64 / 1e9
    ))
}

/// Waits until the data of deleted topics is gone; `data` are the directories of all nodes. Errors: it stays.
pub fn settle(data: &[&Path]) -> Result<(), String> {
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    loop {
        let held: u64 = data.iter().map(|directory| held_bytes(directory)).sum();
        if held <= settled_bytes_max(data.len()) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!(
                "{:.1} GB are still held {} s after the topics were deleted",
                held as f64 / 1e9,
                SETTLE_TIMEOUT.as_secs()
            ));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Bytes on the disk of all files below `directory`. What goes while this looks counts as nothing.
fn held_bytes(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => held_bytes(&entry.path()),
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_without_room_is_refused_with_both_numbers() {
        let needed = needed(1, &Length::of(1, false));
        assert!((34_000_000_000..36_000_000_000).contains(&needed), "{needed}");
        assert!(check(needed, needed).is_ok());
        let refusal = check(20_000_000_000, needed).unwrap_err();
        assert!(
            refusal.starts_with("20.0 GB are free, a block may need 34.7 GB"),
            "{refusal}"
        );
    }

    #[test]
    fn a_block_of_three_nodes_needs_less_than_20_gb() {
        let needed = needed(3, &Length::of(3, false));
        assert!((15_000_000_000..20_000_000_000).contains(&needed), "{needed}");
    }

    #[test]
    fn held_bytes_are_those_of_all_files_below() {
        let directory = std::env::temp_dir().join(format!("meridian-bench-space.{}", std::process::id()));
        fs::create_dir_all(directory.join("deep")).unwrap();
        fs::write(directory.join("deep/file"), vec![1; 100_000]).unwrap();
        fs::write(directory.join("file"), vec![1; 50_000]).unwrap();
        let held = held_bytes(&directory);
        fs::remove_dir_all(&directory).unwrap();
        assert!((150_000..200_000).contains(&held), "{held}");
    }
}
