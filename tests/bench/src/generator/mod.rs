//! The one load generator of our own: precise timing for latencies. Throughput is measured with `meridian bench`, whose
//! timers are those of its runtime, a millisecond coarse.

pub mod connection;
pub mod outcome;
pub mod paced;
