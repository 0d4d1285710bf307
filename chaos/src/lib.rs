//! `cargo xtask chaos`: Postbound under faults, and a checker of what came of it.
//!
//! Real processes run as an operator would run them (`stage`): PostgreSQL, RabbitMQ, two relays, three workers that
//! serve every target, three receivers. A seeded application changes users (`crowd`, `producer`), a seeded nemesis breaks
//! what can break (`plan`, `fault`, `nemesis`, `proxy`). Then faults end, things settle (`settle`), and the checker
//! (`checker`, `order`) holds what the receivers saw and the ledger says against what was committed.
//!
//! It uses Postbound only from outside: its program, its configuration, its outbox and its tables.

mod checker;
mod clock;
mod crowd;
mod dealer;
mod faketime;
mod fault;
mod history;
mod http;
mod load;
mod mark;
mod nemesis;
mod order;
mod parts;
mod plan;
mod population;
mod process;
mod producer;
mod proxy;
mod report;
mod run;
mod settings;
mod settle;
mod stage;
mod story;
mod target;
mod watch;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};

use plan::{Outline, Plan};
use run::Run;
use target::Guards;

/// What a run is to be.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// What happens when; the same seed makes the same plan [default: drawn]
    #[arg(long)]
    pub seed: Option<u64>,
    /// How long faults are injected
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=240))]
    pub minutes: u64,
    /// Receivers with version guards or without [default: without for even seeds, with for odd ones]
    #[arg(long)]
    pub guarded: Option<bool>,
    /// Print the plan and end
    #[arg(long)]
    pub plan: bool,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

/// Where things are.
#[derive(Debug)]
pub struct Places {
    /// The `postbound` program under test.
    pub program: PathBuf,
    /// The folder that gets a run's logs when a promise was broken.
    pub kept_logs: PathBuf,
}

/// Carries out a run and prints what came of it. Success means that every promise was kept.
///
/// # Errors
/// If the run cannot be carried out; then nothing is said of promises.
#[expect(clippy::print_stdout, reason = "the report is what the command is for")]
#[expect(clippy::print_stderr, reason = "and its progress is told beside it")]
pub async fn run(arguments: Arguments, places: Places) -> Result<ExitCode> {
    let seed = arguments.seed.unwrap_or_else(|| u64::from(rand::random::<u16>()));
    let guarded = arguments.guarded.unwrap_or(seed % 2 == 1);
    let guards = if guarded { Guards::Versions } else { Guards::Nothing };
    let plan = Plan::draw(Outline { seed, duration_ms: arguments.minutes * 60_000, guards });
    match (arguments.plan, arguments.json) {
        (true, true) => println!("{}", serde_json::to_string_pretty(&plan)?),
        (true, false) => println!("{plan}"),
        (false, _) => eprintln!("{plan}"),
    }
    if arguments.plan {
        return Ok(ExitCode::SUCCESS);
    }
    let Places { program, kept_logs } = places;
    ensure!(program.is_file(), "there is no {}: cargo build --bin postbound", program.display());
    let kept = kept_logs.join(format!("seed-{seed}"));
    let begun = std::time::Instant::now();
    let say = |text: &str| eprintln!("chaos: {:>6.1} s  {text}", begun.elapsed().as_secs_f64());
    let verdict = Run { outline: plan.outline, program, kept }.carry_out(&plan, say).await?;
    eprint!("{}", verdict.stories);
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&verdict.report)?);
    } else {
        println!("{}", verdict.report);
    }
    Ok(if verdict.report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
