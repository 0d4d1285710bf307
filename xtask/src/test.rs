//! `cargo xtask test`: the whole suite, with the servers it needs.

use std::ffi::OsString;
use std::path::Path;
use std::process::{ExitCode, ExitStatus};

use anyhow::Result;
use postbound_testbed::{ENDPOINTS_VARIABLE, Options, Services};

use crate::commands::{self, asked_to_stop, cargo, target};

/// The environment variable that holds the path of the `postbound` program under test.
const BINARY_VARIABLE: &str = "POSTBOUND_BIN";
/// The environment variable that says how many tests run at a time.
const THREADS_VARIABLE: &str = "RUST_TEST_THREADS";

/// What goes to `cargo test` as it is.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Arguments for `cargo test`; with any of `-p`, `--package` or `--workspace` they choose the packages
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let mut build = cargo();
    build.args(["build", "--bin", "postbound"]);
    let built = commands::run(build).await?;
    if !built.success() {
        return Ok(exit_code(built));
    }
    let services = tokio::select! {
        services = Services::start(Options::default()) => services?,
        signal = asked_to_stop() => return signal.map(|_| ExitCode::FAILURE),
    };
    let mut test = cargo();
    test.arg("test");
    if !chooses_packages(&arguments.args) {
        test.arg("--workspace");
    }
    if std::env::var_os(THREADS_VARIABLE).is_none() {
        // Tests wait for the processes they start more than they compute.
        let threads = std::thread::available_parallelism().map_or(2, |cores| cores.get() + 1);
        test.env(THREADS_VARIABLE, threads.to_string());
    }
    test.args(&arguments.args)
        .env(ENDPOINTS_VARIABLE, services.endpoints_file())
        .env(BINARY_VARIABLE, target().join("debug/postbound"));
    let tested = commands::run(test).await;
    if !tested.as_ref().is_ok_and(ExitStatus::success) {
        tell_of_crashes(services.postgres.log());
    }
    services.stop().await;
    tested.map(exit_code)
}

/// Tests that fail because PostgreSQL went down under them do not say so themselves; its log does.
fn tell_of_crashes(log: &Path) {
    let Ok(log) = std::fs::read_to_string(log) else { return };
    let signs = ["PANIC", "terminated by signal", "exited with exit code", "all server processes terminated"];
    for line in log.lines().filter(|line| signs.iter().any(|sign| line.contains(sign))).take(20) {
        eprintln!("test: PostgreSQL: {line}");
    }
}

fn chooses_packages(args: &[OsString]) -> bool {
    args.iter()
        .filter_map(|arg| arg.to_str())
        .take_while(|arg| *arg != "--")
        .any(|arg| ["-p", "--package", "--workspace"].iter().any(|choice| arg.starts_with(choice)))
}

/// The exit code of a command, for ours.
pub(crate) fn exit_code(status: ExitStatus) -> ExitCode {
    // A status without a code is a death by signal, which shells tell as 128 and more.
    let code = status.code().unwrap_or(130);
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}
