//! Whole regions of pacemakers, simulated: every test is a run of [`world::World`] from a seed.

mod chaos;
mod detection;
mod elections;
mod engine;
mod handover;
mod hibernation;
mod raft;
mod solo;
mod world;
