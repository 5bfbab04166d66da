//! The journal from outside, on disks that fail as told.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;
mod crash;
mod damage;
mod disk;
mod fixture;
mod hostile;
mod limits;
mod log;
mod rounds;
mod threads;
mod watched;
