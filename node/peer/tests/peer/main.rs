//! Nodes that talk to one another, over TCP on loopback and in memory.

mod calls;
mod greeting;
mod harness;
mod hostile;
mod lanes;
mod links;
mod tls;
