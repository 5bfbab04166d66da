//! What the process asks of the system, answered by the simulation: time, and randomness.
//!
//! After mad-turmoil 0.2 (MIT) and madsim. Those answer zero for the time before `main`, too, where a library may
//! measure one clock by another: it would never come to an end.

#![expect(unsafe_code, reason = "these stand in for functions of the C library")]

use std::ffi::{c_int, c_long};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use libc::{CLOCK_REALTIME, CLOCK_REALTIME_COARSE, clockid_t, timespec};
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;

/// Answers who asks for randomness; before it is set, the system does.
static RANDOM: Mutex<Option<StdRng>> = Mutex::new(None);
/// Who answers who asks for the time.
static CLOCKS: AtomicU8 = AtomicU8::new(SYSTEM);
const SYSTEM: u8 = 0;
const SIMULATED: u8 = 1;
/// Nobody: time stands still. At the process's end a runtime must not even be asked for.
const OVER: u8 = 2;
/// The moment from which simulated clocks count.
static START: OnceLock<Instant> = OnceLock::new();

/// While it is there, time passes in simulated hosts only. Afterwards it stands still.
pub struct Simulated(());

impl Drop for Simulated {
    fn drop(&mut self) {
        CLOCKS.store(OVER, Ordering::Release);
    }
}

/// From now on everything follows from `random`. Once in a process, outside of any runtime.
pub fn simulate(random: StdRng) -> Simulated {
    *RANDOM.lock() = Some(random);
    CLOCKS.store(SIMULATED, Ordering::Release);
    #[expect(clippy::disallowed_methods, reason = "simulated from here on: it is zero")]
    let start = Instant::now();
    let _ = START.set(start);
    Simulated(())
}

/// What a clock shows in a simulated host, by its runtime. Elsewhere time stands still.
fn simulated(clock: clockid_t) -> Duration {
    if tokio::runtime::Handle::try_current().is_err() {
        return Duration::ZERO;
    }
    match (clock, START.get()) {
        (CLOCK_REALTIME | CLOCK_REALTIME_COARSE, _) | (_, None) => turmoil::sim_elapsed().unwrap_or_default(),
        (_, Some(start)) => {
            let now = tokio::time::Instant::now().into_std();
            now.saturating_duration_since(*start)
        }
    }
}

/// # Safety
/// `to` points to a writable `timespec`.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: clockid_t, to: *mut timespec) -> c_int {
    let time = match CLOCKS.load(Ordering::Acquire) {
        SYSTEM => {
            // SAFETY: the caller's pointer is passed on as it is.
            let outcome = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, to) };
            return outcome as c_int;
        }
        SIMULATED => simulated(clock),
        _ => Duration::ZERO,
    };
    let time = timespec {
        tv_sec: time.as_secs() as libc::time_t,
        tv_nsec: c_long::from(time.subsec_nanos() as i32),
    };
    // SAFETY: the caller gives a place for it.
    unsafe { to.write(time) };
    0
}

/// # Safety
/// `to` points to `bytes` writable bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(to: *mut u8, bytes: usize, flags: u32) -> isize {
    match &mut *RANDOM.lock() {
        // SAFETY: the caller's pointer is passed on as it is.
        None => unsafe { libc::syscall(libc::SYS_getrandom, to, bytes, flags) as isize },
        Some(_) if to.is_null() || bytes == 0 => 0,
        Some(random) => {
            // SAFETY: the caller gives so many bytes.
            random.fill_bytes(unsafe { std::slice::from_raw_parts_mut(to, bytes) });
            bytes as isize
        }
    }
}

/// # Safety
/// `to` points to `bytes` writable bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn getentropy(to: *mut u8, bytes: usize) -> c_int {
    // SAFETY: as the caller's.
    let filled = unsafe { getrandom(to, bytes, 0) };
    if filled < 0 { -1 } else { 0 }
}
