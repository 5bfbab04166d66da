//! Hostile input against a real process.
