//! Crashes in the time that a test run has. More rounds: `cargo run -p meridian-crash -- --mode power --rounds 100`.

use std::env;
use std::sync::{Mutex, MutexGuard, PoisonError};

use meridian_compat::{Program, ServerOptions, image, workspace};
use meridian_crash::faults::{self, DiskFault};
use meridian_crash::rounds::{self, Crash, RoundOptions};

/// Each of these tests wants the disk for itself.
fn alone() -> MutexGuard<'static, ()> {
    static DISK: Mutex<()> = Mutex::new(());
    DISK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether to skip; prints why.
fn skips(missing: Option<String>) -> bool {
    let Some(reason) = missing else { return false };
    assert!(
        env::var_os("MERIDIAN_TEST_REQUIRE_CLIENTS").is_none(),
        "nothing may be skipped, and this would be: {reason}"
    );
    println!("SKIPPED: {reason}");
    true
}

/// `MERIDIAN_TEST_ROUNDS` takes fewer or more.
fn options(rounds: u32) -> RoundOptions {
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    let seed = number("MERIDIAN_TEST_SEED").unwrap_or(1);
    RoundOptions::new(number("MERIDIAN_TEST_ROUNDS").unwrap_or(rounds), u64::from(seed))
}

fn nothing_is_lost(name: &str, crash: Crash, rounds: u32) {
    if skips(Program::Franz.missing()) || (crash == Crash::Power && skips(image::unavailable())) {
        return;
    }
    let _alone = alone();
    let outcome = rounds::run(name, ServerOptions::from_environment(), crash, &options(rounds))
        .unwrap_or_else(|message| panic!("{message}"));
    println!("{outcome:?}");
    assert!(
        outcome.acknowledged > 100 * u64::from(outcome.rounds),
        "too little was acknowledged for the crashes to hit anything: {outcome:?}"
    );
}

#[test]
fn every_acknowledged_record_outlives_200_kills() {
    nothing_is_lost("test-kill", Crash::Kill, 200);
}

#[test]
fn every_acknowledged_record_outlives_20_power_cuts() {
    nothing_is_lost("test-power", Crash::Power, 20);
}

fn bad_disk(name: &str, fault: DiskFault) {
    if skips(image::unavailable()) {
        return;
    }
    let _alone = alone();
    let outcome = faults::run(name, ServerOptions::from_environment(), fault)
        .unwrap_or_else(|message| panic!("{message}"));
    println!("{outcome:?}");
}

#[test]
fn a_full_disk_is_a_clear_error_and_loses_nothing() {
    bad_disk("test-disk-full", DiskFault::Full);
}

#[test]
fn a_disk_that_fails_below_the_file_system_loses_nothing_acknowledged() {
    bad_disk("test-write-back", DiskFault::WriteBack);
}

#[test]
fn after_a_failed_fsync_nothing_is_acknowledged_until_a_restart() {
    if !skips(workspace::missing("strace")) {
        bad_disk("test-fsync-error", DiskFault::FsyncError);
    }
}
