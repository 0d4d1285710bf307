//! `postbound`: one binary, many roles. Each subcommand is a file of its own; what they do is in the crates they call.

mod args;
mod audit;
mod closed;
mod config_check;
mod confirm;
mod dead_letters;
mod doctor;
mod exit;
mod inbound;
mod ingress;
mod jobs;
mod links;
mod migrate;
mod moment;
mod notices;
mod operate;
mod output;
mod rebase;
mod receiver;
mod reconcile;
mod relay;
mod resync;
mod roles;
mod shutdown;
mod status;
mod targets;
mod topology;
mod users;
mod worker;

use args::{Args, Command};
use clap::Parser as _;
use exit::Exit;

/// Many small allocations of one thread are freed by another here, which the system's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Exit::failed(format!("no runtime: {error}")).report(),
    };
    runtime.block_on(run(args)).report()
}

async fn run(args: Args) -> Exit {
    // One TLS provider for Postgres, RabbitMQ and HTTP alike; a second call would find it there.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let outcome = match args.command {
        Command::Migrate => migrate::run(&args.common).await,
        Command::Topology { command } => topology::run(&args.common, &command).await,
        Command::Relay => relay::run(&args.common).await,
        Command::Worker { targets } => worker::run(&args.common, &targets).await,
        Command::Ingress => ingress::run(&args.common).await,
        Command::Receiver { command: Some(command), .. } => {
            Box::pin(receiver::run_command(&args.common, &command)).await
        }
        Command::Receiver { command: None, only, guardless } => {
            receiver::run(&args.common, only, guardless).await
        }
        Command::Config { command } => config_check::run(&args.common, &command),
        Command::Doctor { json } => doctor::run(&args.common, json).await,
        Command::Status { json } => status::run(&args.common, json).await,
        Command::DeadLetters { command } => dead_letters::run(&args.common, &command).await,
        Command::Inbound { command } => inbound::run(&args.common, &command).await,
        Command::Jobs { command } => jobs::run(&args.common, &command).await,
        Command::Notices { command } => notices::run(&args.common, &command).await,
        Command::Links { command } => links::run(&args.common, &command).await,
        Command::Targets { command } => targets::run(&args.common, &command).await,
        Command::Users { command } => users::run(&args.common, &command).await,
        Command::Resync(asked) => resync::run(&args.common, &asked).await,
        Command::Reconcile(asked) => reconcile::run(&args.common, &asked).await,
        Command::Rebase(asked) => rebase::run(&args.common, &asked).await,
        Command::Audit { command } => audit::run(&args.common, &command).await,
    };
    outcome.unwrap_or_else(|exit| exit)
}
