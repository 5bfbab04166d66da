//! Resident memory of a process.

/// What the server may take under any attack here, MiB: its node-wide budget for buffers, with room for the program.
pub const BUDGET_MIB: u64 = 1024;

/// What a JVM with the heap that the harness gives it may take, MiB: for proving the tests on a real Kafka.
pub const KAFKA_BUDGET_MIB: u64 = 2048;

/// Resident set of `pid` now and at its highest, KiB: `VmRSS` and `VmHWM` of `/proc/PID/status`.
///
/// `None` when the process is gone.
pub fn resident_kib(pid: u32) -> Option<(u64, u64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches(" kB").trim().parse().ok()
    };
    Some((field("VmRSS:")?, field("VmHWM:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_memory_is_read() {
        let (now, highest) = resident_kib(std::process::id()).unwrap();
        assert!(now > 0 && highest >= now);
        assert_eq!(resident_kib(u32::MAX), None);
    }
}
