//! `cargo xtask demo`: the whole of Postbound at work on this machine, and proof that what arrived is what was committed.
//!
//! The story: build, start private servers ([`stage`]), run a made-up application whose users change ([`plan`],
//! [`crowd`], [`app`]), show how its changes travel ([`live`], [`tally`]), compare targets with source ([`verdict`]), and
//! follow single users through directory, workflow and webhooks ([`flows`]).
//! Postbound itself is only ever used from outside: as processes, by their configuration, SQL and logs.

mod app;
mod clock;
mod crowd;
mod flows;
mod live;
mod plan;
mod settings;
mod stage;
mod tally;
mod verdict;

use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use postbound_testbed::{Options, Services};

use crate::commands::{self, asked_to_stop, cargo, target};
use clock::Clock;
use crowd::Crowd;
use live::Live;
use plan::Plan;
use stage::{Stage, play_until_one_ends};
use tally::Tally;
use verdict::Verdict;

/// What the demo is to show.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// End when every target equals the source; the exit code says whether it does
    #[arg(long)]
    once: bool,
    /// How many users register
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    users: u32,
    /// How many profile changes, deletions and returns follow [default: three per user]
    #[arg(long, value_parser = clap::value_parser!(u32).range(..=10_000_000))]
    changes: Option<u32>,
    /// What happens to whom: the same seed makes the same plan [default: drawn]
    #[arg(long)]
    seed: Option<u64>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let clock = Clock::of_this_command();
    eprintln!("demo: building postbound, and starting a private PostgreSQL and RabbitMQ under .testbed/");
    let (built, services) = tokio::join!(build(), start_services());
    let services = match (built, services) {
        (Ok(()), Ok(Some(services))) => services,
        (Err(error), Ok(Some(services))) => {
            services.stop().await;
            return Err(error);
        }
        (built, services) => {
            services?;
            return built.map(|()| ExitCode::FAILURE);
        }
    };
    let mut stage = Stage::new(services)?;
    let outcome = perform(&mut stage, &arguments, &clock).await;
    if matches!(outcome, Ok(Ending::Unequal) | Err(_)) {
        stage.keep_logs()?;
    }
    eprintln!("demo: stopping");
    let drained = stage.clear().await;
    let ending = outcome?;
    drained?;
    Ok(if ending == Ending::Equal { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a demo came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Every target equals the source.
    Equal,
    /// Some target does not.
    Unequal,
    /// It was stopped before that was known.
    Stopped,
}

/// The dev profile: it shares its dependencies with this program, and is there minutes before an optimised one.
async fn build() -> Result<()> {
    let mut build = cargo();
    build.args(["build", "--bin", "postbound"]);
    ensure!(commands::run(build).await?.success(), "postbound does not build");
    Ok(())
}

async fn start_services() -> Result<Option<Services>> {
    tokio::select! {
        services = Services::start(Options::default()) => services.map(Some),
        signal = asked_to_stop() => signal.map(|_| None),
    }
}

/// Everything between the start of the servers and their end.
async fn perform(stage: &mut Stage, arguments: &Arguments, clock: &Clock) -> Result<Ending> {
    let mut stop = pin!(asked_to_stop());
    let shown = tokio::select! {
        shown = show(stage, arguments, clock) => shown?,
        signal = &mut stop => return signal.map(|_| Ending::Stopped),
    };
    if !arguments.once {
        println!("\n{}", stage.invitation());
        tokio::select! {
            ended = play_until_one_ends(&mut stage.processes) => return Err(ended),
            signal = &mut stop => drop::<Signal>(signal?),
        }
    }
    Ok(shown)
}

/// Starts Postbound, lets users change and waits until that has arrived; says whether it has.
async fn show(stage: &mut Stage, arguments: &Arguments, clock: &Clock) -> Result<Ending> {
    let site = stage.set(&target().join("debug/postbound")).await?;
    eprintln!(
        "demo: up after {:.1} s: a relay, 2 workers, an ingress, 2 receivers",
        clock.elapsed().as_secs_f64()
    );
    let changes = arguments.changes.unwrap_or(arguments.users.saturating_mul(3));
    let seed = arguments.seed.unwrap_or_else(rand::random);
    eprintln!(
        "demo: {} users register, {changes} changes follow, over {} connections; a tenth of the transactions rolls back \
         (--seed {seed})",
        arguments.users,
        crowd::CONNECTIONS
    );
    let goal = i64::from(arguments.users) + i64::from(changes);
    let pool = site.pool().await?;
    let story = async {
        let crowd = Crowd::start(&site.app_url, Plan::new(arguments.users, changes, seed)).await?;
        let counts = watch(&pool, crowd, goal).await?;
        let verdict = Verdict::reach(&pool, counts).await?;
        println!("\n{verdict}\n{}", clock.report(&pool).await?);
        if verdict.has_pending() {
            println!("\n{}", site.status().await?);
        }
        flows::play(&site.systems, &pool).await?;
        anyhow::Ok(if verdict.is_good() { Ending::Equal } else { Ending::Unequal })
    };
    tokio::select! {
        ending = story => ending,
        ended = play_until_one_ends(&mut stage.processes) => Err(ended),
    }
}

/// Shows the changes on their way until all have arrived, or have been given the time to.
async fn watch(pool: &sqlx::PgPool, mut crowd: Crowd, goal: i64) -> Result<crowd::Counts> {
    const GLANCE: Duration = Duration::from_millis(300);
    const PATIENCE: Duration = Duration::from_secs(120);
    let mut live = Live::new(goal);
    let mut glances = tokio::time::interval(GLANCE);
    glances.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut give_up = None;
    loop {
        glances.tick().await;
        // Asked before the tally is taken: only a tally taken after the last commit can say that all has arrived.
        let over = crowd.is_over()?;
        let tally = Tally::take(pool).await?;
        live.show(&tally, crowd.counts());
        if over {
            let give_up = *give_up.get_or_insert_with(|| tokio::time::Instant::now() + PATIENCE);
            if tally.is_settled() || tokio::time::Instant::now() >= give_up {
                return Ok(crowd.counts());
            }
        }
    }
}
