//! A whole region in one process: its nodes as they are, on simulated time, network and disks.
//!
//! Everything follows from a seed: the plan of faults, the clients' choices, what survives a power cut, the order of
//! tasks. A process runs one seed ([`run`]), because some things are drawn once in a process.
//! The clients' history is judged by `meridian-checker`; afterwards all replicas must hold the same.
//!
//! Two seeds of four give the region a bucket ([`bucket`]), small journals and faults of its store; afterwards the bucket
//! must hold what its manifests say, and nothing else ([`tier`]).
//!
//! With several regions ([`RunSettings::regions`]) each follows the one that owns, links between them are slow and are cut,
//! ownership is moved at any moment, and afterwards all regions must hold the same, but for a topic of each that stays there.

pub mod bucket;
pub mod driver;
pub mod faults;
pub mod geo_network;
mod inject;
pub mod many;
pub mod network;
pub mod node;
pub mod regions;
mod settle;
pub mod tier;
pub mod workload;
pub mod world;

pub use world::{RunSettings, Verdict, run};
