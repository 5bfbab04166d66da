//! What `/proc` says: CPU time of processes, memory, and what else the machine was doing.

use std::fs;
use std::process::Command;

/// Clock ticks per second in `/proc`: 100 on every Linux that Rust runs on.
const TICKS_PER_S: f64 = 100.0;

/// CPU seconds, user and system, of a process with all its threads; `None` when it has ended.
pub fn process_cpu_s(pid: u32) -> Option<f64> {
    let stat = Stat::read(&format!("/proc/{pid}/stat"))?;
    // An ended process that nobody waited for still has its counts.
    (stat.field(2)? != "Z").then(|| stat.seconds([13, 14]))
}

/// CPU seconds of all children that have ended and were waited for.
pub fn ended_children_cpu_s() -> f64 {
    Stat::read("/proc/self/stat").map_or(0.0, |stat| stat.seconds([15, 16]))
}

/// A `stat` file from field 2 on, counted from 0 as in proc(5) minus one.
struct Stat(String);

impl Stat {
    fn read(path: &str) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        // The name of the program may hold spaces and brackets; it is field 1.
        let (_, rest) = text.rsplit_once(") ")?;
        Some(Self(rest.to_owned()))
    }

    fn field(&self, number: usize) -> Option<&str> {
        self.0.split(' ').nth(number - 2)
    }

    /// The sum of two fields in seconds.
    fn seconds(&self, fields: [usize; 2]) -> f64 {
        let ticks = |field: &usize| self.field(*field)?.parse::<f64>().ok();
        fields.iter().filter_map(ticks).sum::<f64>() / TICKS_PER_S
    }
}

/// Resident memory of a process, and the most it ever had, in bytes.
pub fn resident_bytes(pid: u32) -> (u64, u64) {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| {
        text.lines()
            .find_map(|line| {
                line.strip_prefix(name)?
                    .trim()
                    .split(' ')
                    .next()?
                    .parse::<u64>()
                    .ok()
            })
            .unwrap_or(0)
            * 1024
    };
    (field("VmRSS:"), field("VmHWM:"))
}

/// CPU seconds of the whole machine since its start.
#[derive(Clone, Copy, Debug, Default)]
pub struct MachineCpu {
    /// Busy with anything.
    pub busy_s: f64,
    /// Taken by the hypervisor.
    pub steal_s: f64,
}

impl MachineCpu {
    /// As of now.
    pub fn now() -> Self {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        let values: Vec<f64> = text
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .filter_map(|value| value.parse().ok())
            .collect();
        let at = |index: usize| values.get(index).copied().unwrap_or(0.0) / TICKS_PER_S;
        Self {
            // user, nice, system, irq, softirq
            busy_s: at(0) + at(1) + at(2) + at(5) + at(6),
            steal_s: at(7),
        }
    }
}

/// Cores this machine has.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The load averages over 1, 5 and 15 minutes, as text.
pub fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// What the kernel's TCP does about loss; `unknown` where it does not say.
pub fn tcp_congestion_control() -> String {
    let name = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control");
    name.map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}

/// One line: processor, cores, memory, kernel.
pub fn description() -> String {
    let first = |path: &str, name: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_default();
        line.split_once(':')
            .map_or("", |(_, value)| value)
            .trim()
            .to_owned()
    };
    let memory_kb: u64 = first("/proc/meminfo", "MemTotal")
        .split(' ')
        .next()
        .and_then(|value| value.parse().ok())
        .unwrap_or(0);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{} cores of {}, {} GiB, Linux {}",
        cores(),
        first("/proc/cpuinfo", "model name"),
        (memory_kb + (1 << 19)) >> 20,
        kernel.trim().split(['-', '+']).next().unwrap_or_default(),
    )
}

/// Today, `2026-11-21`.
pub fn date() -> String {
    words("date", &["-u", "+%Y-%m-%d"])
}

/// The commit that is checked out, and whether files differ from it.
pub fn commit() -> String {
    words("git", &["describe", "--always", "--dirty"])
}

fn words(program: &str, arguments: &[&str]) -> String {
    Command::new(program)
        .args(arguments)
        .current_dir(meridian_compat::workspace::root())
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_time_of_this_process_grows_as_it_works() {
        let pid = std::process::id();
        let cpu_s = || process_cpu_s(pid).expect("this process runs");
        let before = cpu_s();
        let start = std::time::Instant::now();
        let mut sum = 0_u64;
        while cpu_s() < before + 0.03 {
            sum = std::hint::black_box(sum.wrapping_add(1));
            assert!(start.elapsed().as_secs() < 20, "no CPU time was counted");
        }
        assert!(resident_bytes(pid).0 > 0);
        assert!(MachineCpu::now().busy_s > 0.0);
    }

    #[test]
    fn a_process_that_has_ended_has_no_cpu_time_whether_it_was_waited_for_or_not() {
        let mut child = Command::new("true").spawn().expect("true runs");
        let start = std::time::Instant::now();
        while process_cpu_s(child.id()).is_some() {
            assert!(
                start.elapsed().as_secs() < 20,
                "an ended process counts as running"
            );
        }
        child.wait().expect("it is ours");
        assert_eq!(process_cpu_s(child.id()), None);
    }
}
