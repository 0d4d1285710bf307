use crate::{
    args::Common,
    confirm::confirm_many,
    exit::{Exit, failed},
    moment::parse_moment,
    operate::{self, Pace, Terms, parse_name},
    output::{print, print_json},
};
use postbound_store::ResyncFilter;
use serde_json::json;
use time::OffsetDateTime;

#[derive(Debug, clap::Args)]
pub(crate) struct ResyncArgs {
    /// The target to send to
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    target: String,
    /// Users of this tenant
    #[arg(long, value_name = "ID", value_parser = parse_name)]
    tenant: Option<String>,
    /// Users of all tenants
    #[arg(long, conflicts_with = "tenant")]
    all: bool,
    /// Only this user; may be repeated
    #[arg(long = "user", value_name = "ID", requires = "tenant", value_parser = parse_name)]
    users: Vec<String>,
    /// Only users changed at or after this time (2026-11-21T22:00:00Z, 2026-11-21) or since this age (2h, 3d)
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    changed_since: Option<OffsetDateTime>,
    /// Only users the target does not hold in their newest state, as far as the ledger knows
    #[arg(long)]
    only_missing: bool,
    #[command(flatten)]
    pace: Pace,
    #[command(flatten)]
    terms: Terms,
}

/// `postbound resync`
pub(crate) async fn run(common: &Common, args: &ResyncArgs) -> Result<Exit, Exit> {
    if args.tenant.is_none() && !args.all {
        return Err(Exit::Usage("say whose users: --tenant, or --all for those of all tenants".to_owned()));
    }
    let (_, store) = operate::open(common).await?;
    let target = operate::target(&store, &args.target).await?;
    if let Some(why) = operate::why_no_newest_states(&target) {
        return Err(Exit::Usage(why));
    }
    let filter = ResyncFilter {
        target: args.target.clone(),
        tenant: args.tenant.clone(),
        users: args.users.clone(),
        changed_since: args.changed_since,
        only_missing: args.only_missing,
    };
    let (users, skipped) = store.resync_counts(&filter).await.map_err(failed)?;
    let mut job = None;
    if !args.terms.dry_run && users + skipped > 0 {
        confirm_many(users, &format!("send {users} users to {} again", args.target), args.terms.yes)?;
        let mut asked = serde_json::to_value(&filter).map_err(failed)?;
        asked["rate_per_second"] = json!(args.pace.rate);
        asked["stop_after_failures"] = json!(args.pace.stop_after_failures);
        let operation = args.terms.acting.operation("resync", asked);
        job = store.create_resync_job(&filter, &args.pace.options(), &operation).await.map_err(failed)?;
    }
    if args.terms.json {
        print_json(
            &json!({ "dry_run": args.terms.dry_run, "users": users, "skipped": skipped, "job": job }),
        )?;
        return Ok(Exit::Done);
    }
    print(match job {
        Some(job) => format!(
            "job {}: {} users to {} ({} are not for it); {}",
            job.job_id,
            job.items,
            job.target,
            job.skipped,
            operate::how_to_watch(&job)
        ),
        None => format!("{users} users to be sent to {}, {skipped} are not for it", args.target),
    });
    Ok(Exit::Done)
}
