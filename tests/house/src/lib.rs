//! Tests that hold the house rules: crate arrows, names, file sizes, links.
