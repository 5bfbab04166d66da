//! Hostile input against a real process: whatever arrives on a socket costs its sender a clean close or an error, and
//! nobody else anything. The process lives, its memory stays under [`memory::BUDGET_MIB`], and a well-behaved client
//! ([`probe`]) notices nothing.
#![expect(
    clippy::disallowed_methods,
    reason = "a test harness drives real sockets and clocks"
)]

pub mod attack;
pub mod bomb;
pub mod memory;
pub mod probe;
pub mod siege;

pub use siege::Siege;
