//! `postbound jobs`: what the relay sends on operators' behalf, and how it gets on.

mod hindrance;
mod watch;

use crate::{
    args::Common,
    confirm::confirm,
    exit::{Exit, failed},
    moment::{show as show_moment, show_if},
    operate::{self, Acting, parse_name},
    output::{lines, or_dash, print, print_json, table},
};
use hindrance::JobReport;
use postbound_store::{ItemCounts, JobCommand, JobItemRow, JobRow, Steered, Store};
use serde_json::json;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum JobsCommand {
    /// List jobs, the newest first
    List {
        /// Of this target
        #[arg(long, value_name = "NAME", value_parser = parse_name)]
        target: Option<String>,
        /// So many at most
        #[arg(long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// How a job gets on, and what it waits for (exit 4: it ended with failures, or was stopped)
    Status {
        /// The job
        job: i64,
        /// Follow it until it ends
        #[arg(long, conflicts_with = "items")]
        watch: bool,
        /// What became of each user or letter
        #[arg(long)]
        items: bool,
        /// Only items in this state
        #[arg(long, requires = "items", value_parser = ["waiting", "sent", "delivered", "superseded", "dead", "skipped"])]
        state: Option<String>,
        /// Only items after this place
        #[arg(long, requires = "items", value_name = "ITEM", default_value_t = 0)]
        after: i64,
        /// So many items at most
        #[arg(long, requires = "items", value_name = "COUNT", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Send nothing more of a job for now
    Pause(SteerArgs),
    /// Go on with a job that is paused, or was stopped after failures
    Resume(SteerArgs),
    /// End a job; what is out already is still settled
    Cancel {
        #[command(flatten)]
        steer: SteerArgs,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct SteerArgs {
    /// The job
    job: i64,
    /// Why, for those who look at the job
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    acting: Acting,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// `postbound jobs list|status|pause|resume|cancel`
pub(crate) async fn run(common: &Common, command: &JobsCommand) -> Result<Exit, Exit> {
    let (_, store) = operate::open(common).await?;
    match command {
        JobsCommand::List { target, limit, json } => {
            let jobs = store.jobs(target.as_deref(), i64::from(*limit)).await.map_err(failed)?;
            match json {
                true => print_json(&jobs)?,
                false => print(render_list(&jobs)),
            }
            Ok(Exit::Done)
        }
        JobsCommand::Status { job, items: true, state, after, limit, json, .. } => {
            let known = existing(&store, *job).await?;
            let items =
                store.job_items(*job, state.as_deref(), *after, i64::from(*limit)).await.map_err(failed)?;
            match json {
                true => print_json(&items)?,
                false => print(render_items(&items, i64::from(*limit))),
            }
            Ok(exit(&known))
        }
        JobsCommand::Status { job, watch, json, .. } => {
            let mut shown = existing(&store, *job).await?;
            if *watch {
                shown = watch::until_ended(&store, shown).await?;
            }
            let report = JobReport::of(&store, shown).await?;
            match json {
                true => print_json(&report)?,
                false => print(render(&report)),
            }
            Ok(exit(&report.job))
        }
        JobsCommand::Pause(args) => steer(&store, JobCommand::Pause, "jobs pause", args).await,
        JobsCommand::Resume(args) => steer(&store, JobCommand::Resume, "jobs resume", args).await,
        JobsCommand::Cancel { steer: args, yes } => {
            let known = existing(&store, args.job).await?;
            if JobCommand::Cancel.allowed_in().contains(&known.state.as_str()) {
                let waiting = known.items.waiting;
                confirm(&format!("end job {} for good, with {waiting} items not sent", args.job), *yes)?;
            }
            steer(&store, JobCommand::Cancel, "jobs cancel", args).await
        }
    }
}

/// A job by its number.
async fn existing(store: &Store, job: i64) -> Result<JobRow, Exit> {
    let found = store.job(job).await.map_err(failed)?;
    found.ok_or_else(|| Exit::failed(format!("there is no job {job}; see: postbound jobs list")))
}

/// A job that ended with failures needs somebody to look.
fn exit(job: &JobRow) -> Exit {
    let failed = job.state == "stopped" || (job.has_ended() && job.items.dead > 0);
    if failed { Exit::Findings } else { Exit::Done }
}

async fn steer(
    store: &Store,
    command: JobCommand,
    name: &'static str,
    args: &SteerArgs,
) -> Result<Exit, Exit> {
    let job = args.job;
    let operation = args.acting.operation(name, json!({ "job": job, "reason": args.reason }));
    match store.steer_job(job, command, args.reason.as_deref(), &operation).await.map_err(failed)? {
        Steered::Unknown => Err(Exit::failed(format!("there is no job {job}; see: postbound jobs list"))),
        Steered::Refused { state } => Err(Exit::failed(format!(
            "job {job} is {state}; {name} takes one that is {}{}",
            command.allowed_in().join(" or "),
            match (command, state.as_str()) {
                (JobCommand::Resume, "filling") => ": run the import again, it goes on where it ended",
                _ => "",
            }
        ))),
        Steered::Done { .. } => {
            let now = existing(store, job).await?;
            match args.json {
                true => print_json(&now)?,
                false => print(format!("job {job} is {}: {}", now.state, counted(&now.items))),
            }
            Ok(Exit::Done)
        }
    }
}

fn render_list(jobs: &[JobRow]) -> String {
    if jobs.is_empty() {
        return "no jobs".to_owned();
    }
    let mut rows = table(["job", "kind", "target", "state", "settled", "dead", "made", "by"]);
    for job in jobs {
        rows.add_row([
            job.job_id.to_string(),
            job.kind.clone(),
            job.target.clone(),
            job.state.clone(),
            format!("{}/{}", job.items.settled(), job.items.total()),
            job.items.dead.to_string(),
            show_moment(job.created_at),
            job.created_as.clone().unwrap_or_else(|| job.created_by.clone()),
        ]);
    }
    lines(&rows)
}

fn render(report: &JobReport) -> String {
    let job = &report.job;
    let reason = job.state_reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    let mut rows = table(["job", &job.job_id.to_string()]);
    let mut row = |name: &str, value: String| {
        rows.add_row([name, &value]);
    };
    row("state", format!("{}{reason}", job.state));
    row("items", counted(&job.items));
    if !report.waits_for.is_empty() {
        row("waits for", report.lines().join("\n"));
    }
    row("sends", format!("{} to {}", job.kind, job.target));
    row("asked for", job.filter.to_string());
    row("rate", job.rate_per_second.map_or_else(|| "-".to_owned(), |rate| format!("{rate} users/s")));
    row(
        "stops after",
        job.stop_after_failures.map_or_else(|| "-".to_owned(), |dead| format!("{dead} failures")),
    );
    row(
        "made",
        format!(
            "{} by {} ({})",
            show_moment(job.created_at),
            or_dash(job.created_as.as_ref()),
            job.created_by
        ),
    );
    row("ended", show_if(job.finished_at));
    lines(&rows)
}

fn render_items(items: &[JobItemRow], limit: i64) -> String {
    if items.is_empty() {
        return "no items".to_owned();
    }
    let mut rows = table(["item", "tenant", "user", "letter", "version", "state", "reason", "settled"]);
    for item in items {
        rows.add_row([
            item.item.to_string(),
            item.tenant_id.clone(),
            item.user_id.clone(),
            or_dash(item.letter_id),
            or_dash(item.version),
            item.state.clone(),
            or_dash(item.reason.as_ref()),
            show_if(item.settled_at),
        ]);
    }
    let mut text = lines(&rows);
    if items.len() as i64 == limit
        && let Some(last) = items.last()
    {
        text.push_str(&format!("\n\nthe next page: --after {}", last.item));
    }
    text
}

/// The counts that are not zero.
fn counted(items: &ItemCounts) -> String {
    let counts = [
        (items.delivered, "delivered"),
        (items.superseded, "superseded"),
        (items.dead, "dead"),
        (items.skipped, "skipped"),
        (items.sent, "sent"),
        (items.waiting, "waiting"),
    ];
    let named: Vec<_> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, name)| format!("{count} {name}"))
        .collect();
    match named.is_empty() {
        true => "no items".to_owned(),
        false => format!("{} ({} in all)", named.join(", "), items.total()),
    }
}

#[cfg(test)]
mod tests {
    use super::{hindrance::Hindrance, *};
    use postbound_store::ClosedScope;
    use time::macros::datetime;

    fn job(state: &str, dead: i64) -> JobRow {
        JobRow {
            job_id: 7,
            kind: "replay".into(),
            target: "crm".into(),
            state: state.into(),
            state_reason: (state == "stopped").then(|| "5 failures".into()),
            filter: json!({ "letters": { "target": "crm" } }),
            use_current: false,
            new_key: false,
            rate_per_second: Some(50.0),
            stop_after_failures: Some(5),
            created_by: "ops".into(),
            created_as: Some("ada".into()),
            created_at: datetime!(2026-11-21 22:00 UTC),
            finished_at: (state == "done").then_some(datetime!(2026-11-21 23:00 UTC)),
            items: ItemCounts { waiting: 0, sent: 2, delivered: 990, superseded: 3, dead, skipped: 0 },
        }
    }

    #[test]
    fn people_read_where_a_job_stands() {
        let closed = ClosedScope {
            tenant: None,
            since: datetime!(2026-11-21 22:00 UTC),
            reason: "http_503".into(),
            paused_by: None,
            pause_reason: None,
            next_probe_at: Some(datetime!(2026-11-21 22:05 UTC)),
        };
        let waits_for = vec![
            Hindrance::Closed { target: "crm".into(), scope: closed },
            Hindrance::NoRelay,
            Hindrance::NoWorker { target: "crm".into() },
            Hindrance::Parked { items: 2, next_attempt_at: Some(datetime!(2026-11-21 22:10 UTC)) },
            Hindrance::Rate { waiting: 12, users_per_second: 0.5 },
        ];
        let report = JobReport { job: job("stopped", 5), waits_for };
        assert_eq!(
            report.briefly(),
            "; waits for: crm (breaker open (http_503)); a relay; a worker of crm; 2 parked items; its rate of 0.5 users/s"
        );
        insta::assert_snapshot!(render(&report), @r#"
        job          7
        state        stopped: 5 failures
        items        990 delivered, 3 superseded, 5 dead, 2 sent (1000 in all)
        waits for    crm: breaker open (http_503) since 2026-11-21 22:00:00Z, next probe 2026-11-21 22:05:00Z
                     a relay: none is active; start one with: postbound relay
                     a worker: none serves crm; start one with: postbound worker
                     parked users: 2 items; the next try is due 2026-11-21 22:10:00Z
                     its rate: 12 items at 0.5 users/s
        sends        replay to crm
        asked for    {"letters":{"target":"crm"}}
        rate         50 users/s
        stops after  5 failures
        made         2026-11-21 22:00:00Z by ada (ops)
        ended        -
        "#);
        insta::assert_snapshot!(render_list(&[job("running", 0), job("done", 5)]), @r"
        job  kind    target  state    settled   dead  made                  by
        7    replay  crm     running  993/995   0     2026-11-21 22:00:00Z  ada
        7    replay  crm     done     998/1000  5     2026-11-21 22:00:00Z  ada
        ");
    }

    #[test]
    fn only_a_job_that_ended_badly_exits_with_4() {
        let check = |state, dead, bad| {
            assert_eq!(matches!(exit(&job(state, dead)), Exit::Findings), bad, "{state}, {dead} dead");
        };
        check("running", 5, false);
        check("paused", 5, false);
        check("done", 0, false);
        check("done", 1, true);
        check("cancelled", 1, true);
        check("stopped", 0, true);
    }
}
