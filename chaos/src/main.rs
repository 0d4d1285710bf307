//! The program behind `cargo xtask chaos`, which builds and starts it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use postbound_chaos::{Arguments, Places};

#[derive(Parser)]
#[command(name = "postbound-chaos", about = "Postbound under faults, and a checker of what came of it")]
struct CommandLine {
    #[command(flatten)]
    arguments: Arguments,
    /// The program under test [default: the one beside this program]
    #[arg(long)]
    program: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let CommandLine { arguments, program } = CommandLine::parse();
    let own = std::env::current_exe()?;
    let beside = own.parent().context("every program is in a folder")?;
    let places = Places {
        program: program.unwrap_or_else(|| beside.join("postbound")),
        // target/debug/postbound-chaos: next to what it was built into.
        kept_logs: beside.parent().unwrap_or(beside).join("chaos-logs"),
    };
    postbound_chaos::run(arguments, places).await
}
