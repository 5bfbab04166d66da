//! Kafka in, Kafka out: listener, handlers, coordinators, waiting fetches.

pub mod coordinator;
