//! One run, from the first server to the verdict.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};

use crate::checker;
use crate::clock::{MomentUs, now_us};
use crate::crowd::Crowd;
use crate::fault::Fault;
use crate::history::{History, Standstill};
use crate::load;
use crate::nemesis::{self, Injected};
use crate::plan::{Outline, Plan};
use crate::producer::Transaction;
use crate::report::Report;
use crate::settle::settle;
use crate::stage::Stage;
use crate::story;
use crate::target::{Guards, TARGETS};
use crate::watch::Watch;

/// Violations whose story is told.
const STORIES_MAX: usize = 10;

/// What to do.
pub(crate) struct Run {
    pub(crate) outline: Outline,
    /// The program under test.
    pub(crate) program: PathBuf,
    /// Where logs go if a promise is broken.
    pub(crate) kept: PathBuf,
}

/// What came of it.
pub(crate) struct Verdict {
    pub(crate) report: Report,
    /// The stories of those whose promise was broken.
    pub(crate) stories: String,
}

impl Run {
    /// Starts everything, injects all faults, lets things settle, checks, and leaves nothing running.
    pub(crate) async fn carry_out(&self, plan: &Plan, say: impl Fn(&str)) -> Result<Verdict> {
        let mut stop = std::pin::pin!(asked_to_stop());
        say("starting PostgreSQL twice, RabbitMQ, three receivers, two relays, three workers");
        let stage = tokio::select! {
            stage = Stage::set(&self.program, self.outline.guards) => Arc::new(stage?),
            signal = &mut stop => bail!("stopped by {}", signal?),
        };
        let verdict = tokio::select! {
            verdict = self.perform(&stage, plan, &say) => verdict,
            signal = &mut stop => signal.and_then(|signal| bail!("stopped by {signal}")),
        };
        if verdict.as_ref().map_or(true, |verdict| !verdict.report.is_good()) {
            stage.keep_logs(&self.kept)?;
            say(&format!("the logs are kept in {}", self.kept.display()));
        }
        say("stopping");
        // Tasks that were stopped let go of it in a moment.
        let mut stage = Some(stage);
        for _ in 0..100 {
            match stage.take().map(Arc::try_unwrap) {
                Some(Ok(stage)) => {
                    stage.clear().await;
                    break;
                }
                Some(Err(shared)) => stage = Some(shared),
                None => break,
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        verdict
    }

    async fn perform(&self, stage: &Arc<Stage>, plan: &Plan, say: &impl Fn(&str)) -> Result<Verdict> {
        let watch = Watch::start(stage)?;
        let bare_deletes = self.outline.guards == Guards::Versions;
        let crowd = Crowd::start(self.outline.seed, &stage.app_options()?, bare_deletes);
        let begun_us = now_us();
        if !stage.faketime.is_there() {
            say("clocks are not stepped: there is no libfaketime, and it cannot be installed");
        }
        say("faults begin");
        let injected = nemesis::carry_out(stage, plan).await?;
        say(&format!("{} faults are over, {} transactions have ended", injected.len(), crowd.transactions()));
        nemesis::calm(stage).await?;
        let transactions = crowd.end().await?;
        let pool = stage.source()?;
        let (left, took) = settle(&pool, say).await;
        let history = read(stage, transactions, &injected).await?;
        let violations = checker::check(&history);
        let stories = stories(&history, &injected, begun_us, &violations);
        let takeovers = watch.takeovers(stage, &injected).await?;
        let mut surprises = Vec::new();
        for process in stage.processes.values() {
            surprises.extend_from_slice(process.lock().await.surprises());
        }
        let settled = (left, took.as_secs_f64());
        let report =
            Report::new(self.outline, &injected, &history, &takeovers, settled, &surprises, violations);
        Ok(Verdict { report, stories })
    }
}

/// Everything the checker needs.
async fn read(stage: &Stage, transactions: Vec<Transaction>, injected: &[Injected]) -> Result<History> {
    let (source, receivers) = (stage.source()?, stage.receivers()?);
    let mut targets = Vec::new();
    for target in &TARGETS {
        let observer = stage.observers.get(target.name).context("every target has an observer")?;
        targets.push(load::target(target, stage.guards, (&source, &receivers), observer).await?);
    }
    Ok(History {
        source: load::source(&source).await?,
        jobs: load::jobs(&source).await?,
        projected: load::projected(&source).await?,
        transactions,
        targets,
        standstills: standstills(stage, injected).await,
    })
}

async fn standstills(stage: &Stage, injected: &[Injected]) -> BTreeMap<String, Vec<Standstill>> {
    let mut standstills: BTreeMap<String, Vec<Standstill>> = BTreeMap::new();
    for (name, process) in &stage.processes {
        let freezes = process.lock().await.freezes();
        let frozen = freezes.into_iter().map(|(from_us, to_us)| Standstill { from_us, to_us });
        standstills.entry(name.clone()).or_default().extend(frozen);
    }
    for fault in injected {
        if let Fault::Kill { process } = &fault.fault {
            let dead = Standstill { from_us: fault.from_us, to_us: fault.to_us };
            standstills.entry(process.clone()).or_default().push(dead);
        }
    }
    standstills
}

fn stories(
    history: &History,
    injected: &[Injected],
    begun_us: MomentUs,
    violations: &[checker::Violation],
) -> String {
    let mut told = Vec::new();
    let mut text = String::new();
    for violation in violations {
        text.push_str(&format!("{violation}\n"));
        let Some(user) = &violation.user else { continue };
        let targets: Vec<&str> = match violation.target {
            Some(target) => vec![target],
            None => TARGETS.iter().map(|target| target.name).collect(),
        };
        for target in targets {
            if told.len() < STORIES_MAX && !told.contains(&(target, user)) {
                text.push_str(&story::tell(history, injected, begun_us, (target, user), violation.at_us));
                told.push((target, user));
            }
        }
    }
    text
}

/// Waits for Ctrl-C, SIGTERM or a closed terminal.
async fn asked_to_stop() -> Result<Signal> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(tokio::select! {
        _ = interrupt.recv() => Signal::SIGINT,
        _ = terminate.recv() => Signal::SIGTERM,
        _ = hangup.recv() => Signal::SIGHUP,
    })
}
