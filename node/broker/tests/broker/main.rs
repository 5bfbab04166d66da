//! A whole broker over loopback: one program, so that it is linked once.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod harness;

mod admin;
mod coordinators;
mod every_api;
mod fetch;
mod groups;
mod hostile;
mod metadata;
mod mirror;
mod nodes;
mod produce;
mod several;
mod staleness;
mod staying;
mod through_mirror;
