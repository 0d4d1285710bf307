//! `cargo xtask services`: both servers for a developer's shell.

use std::process::ExitCode;

use anyhow::Result;
use postbound_testbed::{ENDPOINTS_VARIABLE, Options, Services};

use crate::commands::asked_to_stop;

/// How the servers are to run.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Do not wait for the disk at a commit: faster, and no measure of anything
    #[arg(long)]
    no_fsync: bool,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let options = Options { fsync: !arguments.no_fsync, ..Options::default() };
    let services = tokio::select! {
        services = Services::start(options) => services?,
        signal = asked_to_stop() => return signal.map(|_| ExitCode::FAILURE),
    };
    println!("export {ENDPOINTS_VARIABLE}='{}'", services.endpoints_file().display());
    println!("export DATABASE_URL='{}'", services.postgres.superuser_url());
    println!("export RABBITMQ_URL='{}'", services.rabbitmq.amqp_url("/"));
    println!("export RABBITMQ_MANAGEMENT_URL='{}'", services.rabbitmq.management_url());
    println!("export RABBITMQ_MANAGEMENT_USER='{}'", services.rabbitmq.user());
    println!("export RABBITMQ_MANAGEMENT_PASSWORD='{}'", services.rabbitmq.password());
    eprintln!("both servers run until Ctrl-C");
    let signal = asked_to_stop().await;
    services.stop().await;
    signal.map(|_| ExitCode::SUCCESS)
}
