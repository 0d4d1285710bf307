//! `cargo xtask bench`: builds Postbound and its benchmark in release, then runs it.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;

use crate::commands::{self, cargo, target};
use crate::test::exit_code;

/// What goes to `postbound-bench run` as it is.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// Arguments for `postbound-bench run`; `--help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let mut build = cargo();
    build.args(["build", "--release", "--bin", "postbound", "--bin", "postbound-bench"]);
    let built = commands::run(build).await?;
    if !built.success() {
        return Ok(exit_code(built));
    }
    let release = target().join("release");
    let mut bench = tokio::process::Command::new(release.join("postbound-bench"));
    bench.arg("run").arg("--postbound").arg(release.join("postbound")).args(&arguments.args);
    commands::run(bench).await.map(exit_code)
}
