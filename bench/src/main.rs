//! The benchmark: Postbound as real processes, paired with a bare loop on the same servers and the same receiver.
//!
//! `cargo xtask bench` builds and runs it. A run opens a [`site`], measures [`scenario`]s one after the other and ends
//! with a [`report`]. Every side of every pair has a database and a virtual host of its own, gone before the next begins.
//! Never fails for being slow: what the figures should be stands beside them.
//!
//! The program is also its own receiver (`receive`) and bare loop (`publish`, `deliver`), as processes, so that their
//! CPU can be told apart.

#![expect(clippy::print_stderr, reason = "progress belongs there")]

mod arrivals;
mod clients;
mod installation;
mod machine;
mod person;
mod plot;
mod process;
mod receiver;
mod report;
mod run;
mod scenario;
mod site;
mod statements;
mod statistics;
mod usage;
mod yardstick;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// As in `postbound`: what it gains there must not be counted against the bare loop, which is this program too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(name = "postbound-bench", about = "Measures Postbound against a bare loop")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure
    Run(run::Arguments),
    /// Render a report into docs/benchmarks.md and docs/benchmarks.svg
    Render {
        /// What `run --json` wrote
        json: PathBuf,
    },
    /// The receiver, for `run`
    #[command(hide = true)]
    Receive,
    /// The bare loop's publisher, for `run`
    #[command(hide = true)]
    Publish {
        #[arg(long)]
        amqp: String,
        #[arg(long)]
        events: u32,
    },
    /// The bare loop's consumer, for `run`
    #[command(hide = true)]
    Deliver {
        #[arg(long)]
        amqp: String,
        /// A door's number and address: `0=127.0.0.1:8080`
        #[arg(long = "door", value_parser = parse_door)]
        doors: Vec<(usize, SocketAddr)>,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    // reqwest is built without one. It fails when there is one already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match Arguments::parse().command {
        Command::Run(arguments) => return run::run(arguments).await,
        Command::Render { json } => run::render(&json)?,
        Command::Receive => receiver::run().await?,
        Command::Publish { amqp, events } => yardstick::publish(&amqp, events).await?,
        Command::Deliver { amqp, doors } => yardstick::deliver(&amqp, &doors).await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn parse_door(text: &str) -> anyhow::Result<(usize, SocketAddr)> {
    let (door, address) = text.split_once('=').ok_or_else(|| anyhow::anyhow!("expected <door>=<address>"))?;
    Ok((door.parse()?, address.parse()?))
}
