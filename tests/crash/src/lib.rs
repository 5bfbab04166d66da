//! Nothing acknowledged is lost: a server is killed, loses its power, its disk fills up or fails, while idempotent
//! producers write and a consumer reads. A checker ([`meridian_checker`]) then compares what was acknowledged, what was seen and
//! what is there.
#![expect(
    clippy::disallowed_methods,
    reason = "a test harness drives real processes, disks and clocks"
)]

pub mod faults;
pub mod rounds;
