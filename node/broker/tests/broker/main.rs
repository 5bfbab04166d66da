//! A whole broker over loopback: one program, so that it is linked once.

mod harness;

mod admin;
mod every_api;
mod groups;
mod hostile;
mod produce_fetch;
