//! Tests that hold the house rules. The rules are in `docs/HACKING.md`; nothing lives here but tests.
