//! Meridian beside Apache Kafka on the same machine, with the same clients. A program, not a timed test: see
//! `docs/benchmarks/README.md` for the method, and `bench --help`.
//!
//! - [`compare`]: blocks of systems and workloads, alternating; ratios and a report. One node, or a region of three.
//! - [`partitions`]: 100,000 partitions on one node.
//! - [`profile`]: where a server spends its time under a workload.
//! - [`tier`]: what tiering costs producers, and how fast history comes back.
//! - [`wan`]: what arrives over a link that is far and loses packets, beside MirrorMaker 2.
//! - [`space`]: room on the disk, before and between workloads.
//! - [`generator`]: a client of our own for latencies. Every client is a process of its own; most are others' programs.
#![expect(
    clippy::disallowed_methods,
    reason = "a benchmark drives real processes, sockets and clocks"
)]

pub mod aim;
pub mod client;
pub mod compare;
pub mod generator;
pub mod machine;
pub mod partitions;
pub mod profile;
pub mod report;
pub mod sample;
pub mod space;
pub mod statistics;
pub mod system;
pub mod tier;
pub mod wan;
pub mod workload;
