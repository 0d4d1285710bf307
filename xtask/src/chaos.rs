//! `cargo xtask chaos`: builds Postbound and the program that puts it under faults, and starts that.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use tokio::process::Command;

use crate::commands::{self, cargo, target};

/// What goes to the program as it is.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// --seed S, --minutes M, --guarded true|false, --plan, --json; --help says more
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let mut build = cargo();
    build.args(["build", "--quiet", "--bin", "postbound", "--bin", "postbound-chaos"]);
    ensure!(commands::run(build).await?.success(), "postbound or postbound-chaos does not build");
    let mut chaos = Command::new(target().join("debug/postbound-chaos"));
    chaos.args(arguments.args);
    let status = commands::run(chaos).await?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
