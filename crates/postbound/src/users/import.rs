//! `postbound users import`: existing users, from a file or a query, in batches of one transaction each.

mod reader;

use crate::{
    confirm::{HANDFUL, confirm, unconfirmed},
    exit::{Exit, failed},
    operate::{self, Pace, Terms},
    output::{aside, print, print_json},
};
use indicatif::{ProgressBar, ProgressStyle};
use postbound_store::{CreatedJob, ImportOutcome, ImportPlan, ImportedUser, Store, UsersImport};
use reader::{Source, check_id};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::{
    io::IsTerminal as _,
    path::{Path, PathBuf},
};

/// Users per transaction.
const BATCH_USERS: usize = 1000;

/// Bytes of states per transaction, but for the user that crosses the limit.
const BATCH_BYTES: usize = 8 << 20;

/// Refused users that are named; more are only counted.
const REFUSALS_SHOWN: usize = 100;

#[derive(Debug, clap::Args)]
pub(crate) struct ImportArgs {
    /// Tenant of the users
    #[arg(long, value_name = "ID")]
    tenant: String,
    /// Targets the users are for, separated by commas [default: all; those that get every event only if named]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    targets: Option<Vec<String>>,
    /// A file with one user per line: {"user_id": "...", "data": {...}}; - for standard input
    #[arg(required_unless_present = "query", conflicts_with = "query")]
    file: Option<PathBuf>,
    /// A query that gives the columns user_id and data, run as this login, read-only
    #[arg(long, value_name = "SQL")]
    query: Option<String>,
    #[command(flatten)]
    pace: Pace,
    #[command(flatten)]
    terms: Terms,
}

/// What came of it.
#[derive(Debug, Default, Serialize)]
struct Report {
    dry_run: bool,
    imported: i64,
    /// Written before, by a producer or another import, or named twice.
    known: i64,
    refused: u64,
    /// The first of them.
    refusals: Vec<Refusal>,
    jobs: Vec<CreatedJob>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Refusal {
    /// Line of the file, or row of the query, from 1.
    line: u64,
    reason: String,
}

impl Report {
    fn refuse(&mut self, line: u64, reason: impl Into<String>) {
        self.refused += 1;
        if self.refusals.len() < REFUSALS_SHOWN {
            self.refusals.push(Refusal { line, reason: reason.into() });
        }
    }
}

/// `postbound users import`
pub(super) async fn run(store: &Store, args: &ImportArgs) -> Result<Exit, Exit> {
    check_id("--tenant", &args.tenant).map_err(Exit::Usage)?;
    for target in args.targets.iter().flatten() {
        operate::target(store, target).await?;
    }
    let mut source = match (&args.query, &args.file) {
        (Some(query), _) => Source::query(store, query).await?,
        (None, Some(file)) => Source::file(file)?,
        (None, None) => return Err(Exit::Usage("give a file, or --query".to_owned())),
    };
    let import = match args.terms.dry_run {
        true => None,
        false => {
            ask(args, &mut source).await?;
            Some(begin(store, args).await?)
        }
    };
    let mut report = Report { dry_run: args.terms.dry_run, ..Report::default() };
    let import = feed(store, args, &mut source, import, &mut report).await?;
    if let Some(import) = import {
        report.jobs = import.finish().await.map_err(failed)?;
    }
    tell(args, &report)?;
    Ok(if report.refused > 0 { Exit::Findings } else { Exit::Done })
}

/// Asks where there are more than a handful of users: how many is known only at the end.
async fn ask(args: &ImportArgs, source: &mut Source) -> Result<(), Exit> {
    if args.terms.yes || !source.has_more_than(HANDFUL as usize).await? {
        return Ok(());
    }
    let what = format!("import more than {HANDFUL} users of tenant {}", args.tenant);
    match args.file.as_deref() == Some(Path::new("-")) {
        // The answer would be read from among the users.
        true => Err(unconfirmed(&what)),
        false => confirm(&what, false),
    }
}

async fn begin(store: &Store, args: &ImportArgs) -> Result<UsersImport, Exit> {
    let asked = json!({
        "tenant": args.tenant, "targets": args.targets, "file": args.file,
        "query": args.query.as_deref().map(fingerprint),
        "rate_per_second": args.pace.rate, "stop_after_failures": args.pace.stop_after_failures,
    });
    let plan = ImportPlan {
        tenant: args.tenant.clone(),
        targets: args.targets.clone(),
        options: args.pace.options(),
        operation: args.terms.acting.operation("users import", asked),
    };
    let import = store.begin_import(plan).await.map_err(failed)?;
    import.ok_or_else(|| Exit::failed(format!("another import of tenant {} is under way", args.tenant)))
}

/// Reads to the end, and imports batch by batch.
async fn feed(
    store: &Store,
    args: &ImportArgs,
    source: &mut Source,
    mut import: Option<UsersImport>,
    report: &mut Report,
) -> Result<Option<UsersImport>, Exit> {
    let bar = std::io::stderr().is_terminal().then(|| progress_bar(source));
    let mut lines = Vec::new();
    let mut users: Vec<ImportedUser> = Vec::new();
    let mut bytes = 0;
    loop {
        let read = source.next().await?;
        let ended = read.is_none();
        match read {
            Some((line, Ok(user))) => {
                bytes += user.data.len();
                lines.push(line);
                users.push(user);
            }
            Some((line, Err(reason))) => report.refuse(line, reason),
            None => {}
        }
        if !users.is_empty() && (ended || users.len() >= BATCH_USERS || bytes >= BATCH_BYTES) {
            match &mut import {
                Some(import) => add(import, report, &lines, &users).await?,
                None => {
                    let ids: Vec<_> = users.iter().map(|user| user.user_id.as_str()).collect();
                    let known = store.known_users(&args.tenant, &ids).await.map_err(failed)?;
                    report.known += known;
                    report.imported += users.len() as i64 - known;
                }
            }
            lines.clear();
            users.clear();
            bytes = 0;
            if let Some(bar) = &bar {
                bar.set_position(source.position());
                bar.set_message(format!(
                    "{} imported, {} known, {} refused",
                    report.imported, report.known, report.refused
                ));
            }
        }
        if ended {
            return Ok(import);
        }
    }
}

/// Imports a batch; one that Postgres refuses for what is in it, user by user, so that the bad one is told.
async fn add(
    import: &mut UsersImport,
    report: &mut Report,
    lines: &[u64],
    users: &[ImportedUser],
) -> Result<(), Exit> {
    match import.add(users).await {
        Ok(outcomes) => {
            account(report, lines, &outcomes);
            return Ok(());
        }
        Err(error) if error.refused_value().is_none() => return Err(failed(error)),
        Err(_) => {}
    }
    for (line, user) in lines.iter().zip(users) {
        match import.add(std::slice::from_ref(user)).await {
            Ok(outcomes) => account(report, &[*line], &outcomes),
            Err(error) => match error.refused_value() {
                // Its message may quote the user's data.
                Some(code) => report.refuse(*line, format!("Postgres refuses it (SQLSTATE {code})")),
                None => return Err(failed(error)),
            },
        }
    }
    Ok(())
}

/// Names a query without its text, which may hold personal data: what the audit trail keeps stays for good.
fn fingerprint(query: &str) -> Value {
    let digest: String = Sha256::digest(query).iter().map(|byte| format!("{byte:02x}")).collect();
    json!({ "sha256": digest, "length": query.len() })
}

fn account(report: &mut Report, lines: &[u64], outcomes: &[ImportOutcome]) {
    for (line, outcome) in lines.iter().zip(outcomes) {
        match outcome {
            ImportOutcome::Imported => report.imported += 1,
            ImportOutcome::Known => report.known += 1,
            ImportOutcome::TooLarge => report.refuse(*line, "data is larger than 262144 bytes"),
            ImportOutcome::NotAnObject => report.refuse(*line, "data is no JSON object"),
        }
    }
}

fn tell(args: &ImportArgs, report: &Report) -> Result<(), Exit> {
    if args.terms.json {
        return print_json(report);
    }
    let unit = if args.query.is_some() { "row" } else { "line" };
    for refusal in &report.refusals {
        aside(format!("{unit} {}: {}", refusal.line, refusal.reason));
    }
    if report.refused > report.refusals.len() as u64 {
        aside(format!("... and {} more", report.refused - report.refusals.len() as u64));
    }
    let verb = if report.dry_run { "would be imported" } else { "imported" };
    print(format!(
        "{} users {verb}, {} known already, {} refused",
        report.imported, report.known, report.refused
    ));
    for job in &report.jobs {
        print(format!(
            "job {}: {} users to {}; {}",
            job.job_id,
            job.items,
            job.target,
            operate::how_to_watch(job)
        ));
    }
    Ok(())
}

fn progress_bar(source: &Source) -> ProgressBar {
    let (bar, template) = match source.length() {
        Some(length) => (ProgressBar::new(length), "{bar:30} {bytes}/{total_bytes} {eta} left  {msg}"),
        None => (ProgressBar::no_length(), "{spinner} {pos} read  {msg}"),
    };
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}
