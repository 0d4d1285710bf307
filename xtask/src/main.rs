//! The workspace's chores, as `cargo xtask <chore>`: everything a developer or CI runs that is not the product.
//!
//! Each chore is a file. They rely on `postbound-testbed` for servers and on nothing that a bare machine with a Rust
//! toolchain does not have or cannot install.

#![expect(clippy::print_stdout, reason = "a command line's answer belongs on stdout")]
#![expect(clippy::print_stderr, reason = "and its progress on stderr")]

mod bench;
mod chaos;
mod check;
mod commands;
mod demo;
mod deploy;
mod services;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Chores of the Postbound workspace")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Measure speed, latency and growth, paired with a bare loop; prints a table
    Bench(bench::Arguments),
    /// Put Postbound under faults and check what came of it
    Chaos(chaos::Arguments),
    /// Format, lints, docs, dependency policy and what is under deploy/: what CI demands besides tests
    Check(check::Arguments),
    /// Show Postbound at work: private servers, users that change, and proof that all of it arrives
    Demo(demo::Arguments),
    /// Start a private PostgreSQL and RabbitMQ and keep them until Ctrl-C
    Services(services::Arguments),
    /// Run the whole test suite against a private PostgreSQL and RabbitMQ
    Test(test::Arguments),
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    match Arguments::parse().chore {
        Chore::Bench(arguments) => bench::run(arguments).await,
        Chore::Chaos(arguments) => chaos::run(arguments).await,
        Chore::Check(arguments) => check::run(arguments).await,
        Chore::Demo(arguments) => demo::run(arguments).await,
        Chore::Services(arguments) => services::run(arguments).await,
        Chore::Test(arguments) => test::run(arguments).await,
    }
}
