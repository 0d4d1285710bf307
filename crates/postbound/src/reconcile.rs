use crate::{
    args::Common,
    confirm::confirm_many,
    exit::{Exit, failed},
    moment::parse_span,
    operate::{self, Terms, parse_name},
    output::{print, print_json},
};
use postbound_store::{CreatedJob, RegisteredTarget, Store, StreamLag};
use serde::Serialize;
use serde_json::json;
use std::time::Duration;

/// Changes still to be published above which a target's users are late, and not stale.
const LAG_ROWS_MAX: i64 = 1000;

#[derive(Debug, clap::Args)]
pub(crate) struct ReconcileArgs {
    /// This target only [default: all]
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    target: Option<String>,
    /// Only users whose newest change is older than this
    #[arg(long, value_name = "SPAN", value_parser = parse_span, default_value = "15m")]
    older_than: Duration,
    #[command(flatten)]
    terms: Terms,
}

/// What was found at one target, and made of it.
#[derive(Debug, Serialize)]
struct Reconciled {
    target: String,
    stale_users: i64,
    /// Why it was left out.
    left_out: Option<String>,
    job: Option<CreatedJob>,
}

/// `postbound reconcile`
pub(crate) async fn run(common: &Common, args: &ReconcileArgs) -> Result<Exit, Exit> {
    let (_, store) = operate::open(common).await?;
    let targets = match &args.target {
        Some(name) => {
            let target = operate::target(&store, name).await?;
            if let Some(why) = operate::why_no_newest_states(&target) {
                return Err(Exit::Usage(why));
            }
            vec![target]
        }
        None => operate::targets(&store).await?,
    };
    let lags = store.stream_lags().await.map_err(failed)?;
    let mut found = Vec::new();
    for target in &targets {
        found.push(look(&store, &lags, target, args).await?);
    }
    let stale: i64 = found.iter().map(|target| target.stale_users).sum();
    if !args.terms.dry_run {
        confirm_many(stale, &format!("send {stale} newest states again"), args.terms.yes)?;
        for target in found.iter_mut().filter(|target| target.stale_users > 0) {
            let filter = json!({ "target": target.target, "older_than_s": args.older_than.as_secs() });
            let operation = args.terms.acting.operation("reconcile", filter);
            target.job =
                store.reconcile(&target.target, args.older_than, &operation).await.map_err(failed)?;
        }
    }
    match args.terms.json {
        true => print_json(&found)?,
        false => found.iter().for_each(|target| print(render(target))),
    }
    Ok(Exit::Done)
}

async fn look(
    store: &Store,
    lags: &[StreamLag],
    target: &RegisteredTarget,
    args: &ReconcileArgs,
) -> Result<Reconciled, Exit> {
    let every_event = operate::why_no_newest_states(target).or_else(|| {
        // It may be new, and would be told of everybody who ever registered.
        (!target.registration.fold && args.target.is_none()).then(|| {
            "it hears of registrations alone; name it with --target to tell it of users it has not heard of".to_owned()
        })
    });
    let target = target.registration.name.clone();
    let lag = lags.iter().find(|lag| lag.stream == target).map_or(0, |lag| lag.rows);
    let left_out = if every_event.is_some() {
        every_event
    } else if lag > LAG_ROWS_MAX {
        Some(format!("{lag} changes are still to be published to it"))
    } else if store.may_reconcile(&target).await.map_err(failed)? {
        None
    } else {
        Some(
            "its breaker is open, or another reconcile, a resync or an import of it is unfinished".to_owned(),
        )
    };
    let stale_users = match left_out {
        Some(_) => 0,
        None => store.stale_users(&target, args.older_than).await.map_err(failed)?,
    };
    Ok(Reconciled { target, stale_users, left_out, job: None })
}

fn render(found: &Reconciled) -> String {
    let Reconciled { target, stale_users, left_out, job } = found;
    match (left_out, job) {
        (Some(why), _) => format!("{target}: left out: {why}"),
        (None, Some(job)) => {
            format!("{target}: {} stale users, job {}; {}", job.items, job.job_id, operate::how_to_watch(job))
        }
        (None, None) => format!("{target}: {stale_users} stale users"),
    }
}
