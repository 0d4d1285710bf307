//! `postbound rebase`: goes on after Postgres or RabbitMQ went back to an older state of its own.

use crate::{
    args::Common,
    confirm::confirm,
    exit::{Exit, failed},
    operate::{self, Terms},
    output::{print, print_json},
    roles, topology,
};
use postbound_broker::{Link, TargetNames};
use postbound_config::Config;
use postbound_relay::{Sides, Travel};
use postbound_store::{
    CreatedJob, Generation, PastPartition, RebaseOptions, Rebased, RegisteredTarget, Store,
};
use serde::Serialize;
use serde_json::json;

#[derive(Debug, clap::Args)]
pub(crate) struct RebaseArgs {
    /// Postgres has lost commits, whatever the witnesses say: after RabbitMQ was made anew too, say
    #[arg(long)]
    database: bool,
    /// Raise all versions above this one, if targets may hold greater ones than anybody here knows
    #[arg(long, value_name = "VERSION", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..=1_000_000_000_000_000))]
    version_floor: i64,
    /// Delete, at the targets, users of whom only the delivery ledger knows
    #[arg(long)]
    delete_lost: bool,
    #[command(flatten)]
    terms: Terms,
}

/// What there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Mending {
    /// Both sides agree.
    Nothing,
    /// RabbitMQ lost messages: the log is published again.
    RepublishLog,
    /// Postgres lost commits, or is another cluster: another history begins.
    BeginHistory,
}

/// What was found, and done.
#[derive(Debug, Serialize)]
struct Report {
    dry_run: bool,
    mending: Mending,
    /// What was found; None: both sides agree.
    found: Option<String>,
    /// Users whose version is raised, and who are sent to the targets again.
    users: i64,
    /// Users the ledger knows and the database does not.
    lost_users: i64,
    /// Targets that are sent everybody's newest state.
    resynced: Vec<String>,
    /// Targets that get every event, and thus no newest state.
    not_resynced: Vec<String>,
    /// What was done.
    rebased: Option<Rebased>,
    jobs: Vec<CreatedJob>,
    deleted_queues: usize,
    /// Why something was left in RabbitMQ that a `topology apply --prune` does.
    left_undone: Option<String>,
}

/// `postbound rebase`
pub(crate) async fn run(common: &Common, args: &RebaseArgs) -> Result<Exit, Exit> {
    let (config, store) = operate::open(common).await?;
    let link = roles::broker(&config)?.connect("postbound rebase").await.map_err(failed)?;
    let done = Rebase { config, store, link, args }.run().await;
    let report = done?;
    match args.terms.json {
        true => print_json(&report)?,
        false => print(render(&report)),
    }
    Ok(Exit::Done)
}

struct Rebase<'a> {
    config: Config,
    store: Store,
    link: Link,
    args: &'a RebaseArgs,
}

impl Rebase<'_> {
    async fn run(self) -> Result<Report, Exit> {
        let sides = Sides::look(&self.store, &self.link, &[]).await.map_err(failed)?;
        // What the active relay found, it may have found from rows that only it remembers.
        let halt = self.store.relay_halt().await.map_err(failed)?;
        let travel = sides.judge().err();
        let found = travel.as_ref().map(ToString::to_string).or(halt.map(|halt| halt.reason));
        let mending = match (&travel, &found) {
            _ if self.args.database => Mending::BeginHistory,
            (Some(Travel::Broker { .. }), _) => Mending::RepublishLog,
            (None, None) => Mending::Nothing,
            _ => Mending::BeginHistory,
        };
        let mut report = self.plan(mending, found).await?;
        if self.args.terms.dry_run || mending == Mending::Nothing {
            return Ok(report);
        }
        confirm(&self.question(&report), self.args.terms.yes)?;
        let broker_epoch = sides.broker.as_ref().map_or(0, |witness| witness.epoch);
        let epoch = sides.database.epoch.max(broker_epoch);
        match mending {
            Mending::Nothing => {}
            Mending::RepublishLog => {
                let operation = self.args.terms.acting.operation("rebase", json!({ "mending": mending }));
                self.store.republish_log(epoch, &operation).await.map_err(failed)?;
            }
            Mending::BeginHistory => {
                let version_max = sides.broker.as_ref().map_or(0, |witness| witness.version_max);
                let options = RebaseOptions {
                    version_floor: self.args.version_floor.max(version_max),
                    foreign_cursors: sides.database.is_of_another_cluster(),
                    delete_lost: self.args.delete_lost,
                    epoch,
                };
                self.begin_history(options, &mut report).await?;
            }
        }
        if let Err(error) = self.link.declare_witness().await {
            report.left_undone.get_or_insert(error.to_string());
        }
        self.link.close().await;
        Ok(report)
    }

    async fn plan(&self, mending: Mending, found: Option<String>) -> Result<Report, Exit> {
        let (users, lost_users) = match mending {
            Mending::BeginHistory => self.store.rebase_counts().await.map_err(failed)?,
            _ => (0, 0),
        };
        let targets = operate::targets(&self.store).await?;
        let (folding, every_event): (Vec<_>, Vec<_>) =
            targets.iter().partition(|target| target.registration.fold);
        let names = |targets: Vec<&RegisteredTarget>| {
            targets.into_iter().map(|target| target.registration.name.clone()).collect()
        };
        Ok(Report {
            dry_run: self.args.terms.dry_run,
            mending,
            found,
            users,
            lost_users,
            resynced: names(folding),
            not_resynced: names(every_event),
            rebased: None,
            jobs: Vec::new(),
            deleted_queues: 0,
            left_undone: None,
        })
    }

    fn question(&self, report: &Report) -> String {
        match report.mending {
            Mending::BeginHistory => format!(
                "raise the versions of {} users while producers wait, throw away what is in the targets' queues, and send all \
                 users to {} again",
                report.users,
                list(&report.resynced)
            ),
            _ => "publish the log again from its oldest row (what targets hold already is not sent again)"
                .to_owned(),
        }
    }

    async fn begin_history(&self, options: RebaseOptions, report: &mut Report) -> Result<(), Exit> {
        let targets = operate::targets(&self.store).await?;
        // Queues first: the relay publishes to them as soon as the database says so.
        for target in &targets {
            let next = TargetNames::new(target.registration.name.clone(), target.generation + 1);
            let bounds = topology::bounds(&self.config);
            let declared = self.link.declare_target(&next, target.registration.partitions, bounds).await;
            declared.map_err(failed)?;
        }
        let asked = json!({
            "mending": Mending::BeginHistory, "database": self.args.database, "delete_lost": options.delete_lost,
            "foreign_cursors": options.foreign_cursors, "version_floor": options.version_floor,
        });
        let operation = self.args.terms.acting.operation("rebase", asked);
        let (rebased, jobs) = self.store.rebase(options, &operation).await.map_err(failed)?;
        postbound_failpoint::pass("rebase.committed");
        (report.rebased, report.jobs) = (Some(rebased), jobs);
        for target in &targets {
            for generation in target.draining.into_iter().chain([target.current()]) {
                match self.delete_generation(target, generation).await {
                    Ok(queues) => report.deleted_queues += queues,
                    Err(error) => {
                        report.left_undone = Some(error);
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Deletes the queues of a generation with all that is in them: messages of the lost future, and of what the log has,
    /// which reaches its targets with the newest states, or is published again. Nobody reads them any more.
    async fn delete_generation(
        &self,
        target: &RegisteredTarget,
        generation: Generation,
    ) -> Result<usize, String> {
        let name = &target.registration.name;
        let names = TargetNames::new(name.clone(), generation.number);
        for partition in 0..generation.partitions {
            for queue in [names.queue(partition), names.backfill_queue(partition)] {
                self.link.delete_queue(&queue).await.map_err(|error| error.to_string())?;
            }
            let past = PastPartition { generation: generation.number, partition };
            let forgotten = self.store.forget_past_partition(name, &past).await;
            forgotten.map_err(|error| error.to_string())?;
        }
        Ok(usize::from(generation.partitions) * 2)
    }
}

fn render(report: &Report) -> String {
    let Some(found) = &report.found else {
        if report.mending == Mending::Nothing {
            return "Postgres and RabbitMQ agree on what was published; there is nothing to mend".to_owned();
        }
        return render_mending(report);
    };
    format!("{found}\n\n{}", render_mending(report))
}

fn render_mending(report: &Report) -> String {
    let mut lines = Vec::new();
    match (&report.rebased, report.mending) {
        (_, Mending::Nothing) => {}
        (_, Mending::RepublishLog) => lines.push(match report.dry_run {
            true => "would publish the log again from its oldest row; what targets hold already is not sent again".to_owned(),
            false => "the log is published again from its oldest row; what targets hold already is not sent again".to_owned(),
        }),
        (None, Mending::BeginHistory) => lines.push(format!(
            "would raise the versions of {} users, give the targets new queues and delete the old ones with what is in them, \
             and send all users to {} again",
            report.users,
            list(&report.resynced)
        )),
        (Some(done), Mending::BeginHistory) => {
            lines.push(format!(
                "the versions of {} users, and of {} changes still to be published, were raised by {}; new users begin above it",
                done.users, done.changes, done.version_floor
            ));
            lines.push(format!("{} queues deleted with what was in them", report.deleted_queues));
            lines.push(format!(
                "thrown away of the lost future: {} parked states, {} dead letters",
                done.parked_states, done.letters
            ));
            lines.extend(report.jobs.iter().map(|job| {
                format!("job {}: {} users to {}; {}", job.job_id, job.items, job.target, operate::how_to_watch(job))
            }));
        }
    }
    if report.mending == Mending::BeginHistory {
        lines.push(told_of_lost(report));
        lines.extend(report.not_resynced.iter().map(|target| {
            format!(
                "{target} gets every event: it is sent those it has not settled, and nothing again; what it got of the lost \
                 future stays there"
            )
        }));
    }
    lines.extend(
        report
            .left_undone
            .iter()
            .map(|why| format!("not all is done in RabbitMQ ({why}); run: postbound topology apply --prune")),
    );
    lines.join("\n")
}

/// Users nobody here can name are said to be possible, or they would be forgotten.
fn told_of_lost(report: &Report) -> String {
    let shown: Vec<_> = report.rebased.iter().flat_map(|done| &done.lost_users_shown).collect();
    let shown: Vec<_> = shown.iter().map(|lost| format!("{}/{}", lost.tenant, lost.user)).collect();
    let shown = if shown.is_empty() { String::new() } else { format!(": {}", shown.join(", ")) };
    format!(
        "{} users are known to the ledger and not to this database{shown}. Users created in the lost future and delivered \
         before Postgres went back are known to the targets alone: compare their lists with postbound's",
        report.lost_users
    )
}

fn list(targets: &[String]) -> String {
    if targets.is_empty() { "no target".to_owned() } else { targets.join(", ") }
}
