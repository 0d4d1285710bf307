//! Functions that take any bytes and panic when something that must hold does not.
//!
//! Each is a target of libFuzzer (`fuzz/fuzz_targets`) and of the stable runner (`tests/main.rs`), which replays the
//! corpus and many inputs made from it.

#![expect(clippy::missing_panics_doc, reason = "to panic is what a target is for")]

pub mod answer;
pub mod envelope;
pub mod signature;
