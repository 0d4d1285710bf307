//! What the models show, and what each protection is for.

#![expect(clippy::print_stdout, reason = "the figures are for who asks for them with --nocapture")]

mod delivery;
mod source;

use postbound_model::{Explored, Violation};

/// Prints a row of the table: `cargo test -p postbound-model -- --nocapture`.
fn proved(name: &str, explored: Result<Explored, Violation>) {
    match explored {
        Ok(Explored { states, steps, depth, took }) => {
            println!(
                "| {name:<62} | {states:>9} | {steps:>9} | {depth:>3} | {:>5.1} s |",
                took.as_secs_f64()
            );
        }
        Err(violation) => panic!("{name}\n{violation}"),
    }
}

/// The shortest way to what the checker finds.
fn found(explored: Result<Explored, Violation>) -> String {
    explored.expect_err("nothing was found").to_string()
}
