use super::filter::ChosenLetters;
use crate::{
    closed::why,
    confirm::confirm_many,
    exit::{Exit, failed},
    moment::show_span,
    operate::{self, Pace, Terms},
    output::{lines, print, print_json, table},
};
use postbound_config::{Adapter, Config, RateLimit};
use postbound_store::{
    BreakerRow, ClosedScope, CreatedJob, JobOptions, LetterFilter, ReplayMatches, ReplayShare, Store,
};
use serde::Serialize;
use serde_json::json;
use std::{collections::BTreeMap, time::Duration};

#[derive(Debug, clap::Args)]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    chosen: ChosenLetters,
    /// Send each user's newest state instead of the one that died
    #[arg(long)]
    current: bool,
    /// Send under new idempotency keys also where an attempt ended without anyone knowing how
    #[arg(long)]
    new_key: bool,
    #[command(flatten)]
    pace: Pace,
    #[command(flatten)]
    terms: Terms,
}

/// What a replay would do to one target.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Forecast {
    target: String,
    letters: i64,
    users: i64,
    calls: i64,
    /// At least; None: neither a rate nor a rate limit is set.
    seconds: Option<f64>,
    /// Why nothing would be sent for now.
    held_back: Option<String>,
}

/// `postbound dead-letters replay`
pub(super) async fn run(config: &Config, store: &Store, args: &ReplayArgs) -> Result<(), Exit> {
    let filter = args.chosen.filter()?;
    let limit = args.chosen.limit();
    let matches = store.replay_matches(&filter).await.map_err(failed)?;
    let shares = store.replay_shares(&filter, limit).await.map_err(failed)?;
    let breakers = store.breakers().await.map_err(failed)?;
    let forecasts = forecast(config, &shares, &breakers, args.pace.rate);
    let letters: i64 = forecasts.iter().map(|forecast| forecast.letters).sum();
    if args.current {
        refuse_newest_states(store, &forecasts).await?;
    }
    if args.terms.dry_run || letters == 0 {
        return tell(args, &matches, &forecasts, &[]);
    }
    confirm_many(letters, &format!("replay {letters} letters"), args.terms.yes)?;
    let jobs = create(store, args, &filter, letters).await?;
    tell(args, &matches, &forecasts, &jobs)
}

async fn refuse_newest_states(store: &Store, forecasts: &[Forecast]) -> Result<(), Exit> {
    let targets = operate::targets(store).await?;
    let meant = |name: &str| forecasts.iter().any(|forecast| forecast.target == name && forecast.letters > 0);
    let mut meant = targets.iter().filter(|target| meant(&target.registration.name));
    match meant.find_map(operate::why_no_newest_states) {
        Some(why) => Err(Exit::Usage(format!("--current: {why}; replay its letters without it"))),
        None => Ok(()),
    }
}

/// Sends no more letters than were confirmed, though others may have died since.
async fn create(
    store: &Store,
    args: &ReplayArgs,
    filter: &LetterFilter,
    confirmed: i64,
) -> Result<Vec<CreatedJob>, Exit> {
    let options = JobOptions { use_current: args.current, new_key: args.new_key, ..args.pace.options() };
    let asked = json!({
        "letters": filter, "all": args.chosen.all, "limit": args.chosen.limit(), "current": args.current, "new_key": args.new_key,
        "rate_per_second": args.pace.rate, "stop_after_failures": args.pace.stop_after_failures,
    });
    let operation = args.terms.acting.operation("dead-letters replay", asked);
    store.create_replay_jobs(filter, Some(confirmed), &options, &operation).await.map_err(failed)
}

fn forecast(
    config: &Config,
    shares: &[ReplayShare],
    breakers: &[BreakerRow],
    rate: Option<f64>,
) -> Vec<Forecast> {
    let mut of_targets: BTreeMap<&str, Vec<&ReplayShare>> = BTreeMap::new();
    for share in shares {
        of_targets.entry(&share.target).or_default().push(share);
    }
    let forecast = |(target, shares): (&str, Vec<&ReplayShare>)| {
        let settings = config.targets.get(target);
        let users_per_call = match settings.map(|settings| &settings.adapter) {
            Some(Adapter::CrmBatch(crm)) => i64::try_from(crm.batch_users_max).unwrap_or(i64::MAX),
            _ => 1,
        };
        let calls = shares.iter().map(|share| calls(share, users_per_call)).sum();
        let letters = shares.iter().map(|share| share.letters).sum();
        let limit = settings.and_then(|settings| Some((settings.rate_limit?, 1.0 - settings.live_share)));
        Forecast {
            target: target.to_owned(),
            letters,
            users: shares.iter().map(|share| share.users).sum(),
            calls,
            seconds: seconds(letters, calls, rate, limit),
            held_back: held_back(target, &shares, breakers),
        }
    };
    of_targets.into_iter().map(forecast).collect()
}

/// A request carries users of one tenant, each of them once.
fn calls(share: &ReplayShare, users_per_call: i64) -> i64 {
    match users_per_call {
        0 | 1 => share.letters,
        many => (share.users + many - 1) / many,
    }
}

/// The least time a replay takes: by its own rate, and by the part of the target's rate limit that backfill may use.
fn seconds(letters: i64, calls: i64, rate: Option<f64>, limit: Option<(RateLimit, f64)>) -> Option<f64> {
    let by_rate = rate.map(|rate| letters as f64 / rate);
    let by_limit = limit.map(|(limit, share)| {
        // What fits into the first span goes at once.
        let per_span = (f64::from(limit.requests) * share).max(1.0);
        ((calls as f64 / per_span).ceil() - 1.0).max(0.0) * limit.per.as_secs_f64()
    });
    match (by_rate, by_limit) {
        (Some(by_rate), Some(by_limit)) => Some(by_rate.max(by_limit)),
        (one, other) => one.or(other),
    }
}

fn held_back(target: &str, shares: &[&ReplayShare], breakers: &[BreakerRow]) -> Option<String> {
    let closed = breakers.iter().find(|breaker| {
        breaker.target == target
            && breaker
                .tenant
                .as_ref()
                .is_none_or(|tenant| shares.iter().any(|share| share.tenant_id == *tenant))
    })?;
    let closed = ClosedScope::from(closed.clone());
    let of_tenant = closed.tenant.as_ref().map_or_else(String::new, |tenant| format!("tenant {tenant}: "));
    Some(format!("{of_tenant}{}", why(&closed)))
}

fn tell(
    args: &ReplayArgs,
    matches: &ReplayMatches,
    forecasts: &[Forecast],
    jobs: &[CreatedJob],
) -> Result<(), Exit> {
    if args.terms.json {
        return print_json(
            &json!({ "dry_run": args.terms.dry_run, "letters": matches, "targets": forecasts, "jobs": jobs }),
        );
    }
    print(render(matches, forecasts));
    for job in jobs {
        print(format!(
            "job {}: {} letters to {}; {}",
            job.job_id,
            job.items,
            job.target,
            operate::how_to_watch(job)
        ));
    }
    Ok(())
}

fn render(matches: &ReplayMatches, forecasts: &[Forecast]) -> String {
    let ReplayMatches { matched, superseded, replayed, discarded, unreadable } = matches;
    let sent: i64 = forecasts.iter().map(|forecast| forecast.letters).sum();
    let left_out = matched - superseded - replayed - discarded - unreadable - sent;
    let mut text = format!("{matched} letters match, {sent} to be sent");
    for (count, why) in [
        (*superseded, "superseded by a newer success"),
        (*replayed, "replayed"),
        (*discarded, "discarded"),
        (*unreadable, "that nobody can read"),
        (left_out, "left out (over the limit, in another replay, or of a retired target)"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {why}"));
        }
    }
    if forecasts.is_empty() {
        return text;
    }
    let mut rows = table(["target", "letters", "users", "calls", "takes at least"]);
    for forecast in forecasts {
        let takes = forecast.seconds.map_or_else(
            || "no rate is set".to_owned(),
            |seconds| show_span(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)),
        );
        let Forecast { target, letters, users, calls, .. } = forecast;
        rows.add_row([target.clone(), letters.to_string(), users.to_string(), calls.to_string(), takes]);
    }
    text.push_str(&format!("\n\n{}", lines(&rows)));
    for forecast in forecasts {
        if let Some(why) = &forecast.held_back {
            text.push_str(&format!("\n{}: nothing is sent for now: {why}", forecast.target));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(tenant: &str, letters: i64, users: i64) -> ReplayShare {
        ReplayShare { target: "crm".into(), tenant_id: tenant.into(), letters, users }
    }

    #[test]
    fn a_call_carries_users_of_one_tenant_each_once() {
        assert_eq!(calls(&share("a", 250, 201), 100), 3);
        assert_eq!(calls(&share("a", 250, 200), 100), 2);
        assert_eq!(calls(&share("a", 250, 201), 1), 250);
    }

    #[test]
    fn the_slower_of_rate_and_rate_limit_says_how_long_it_takes() {
        let limit = RateLimit { requests: 100, per: Duration::from_secs(900) };
        let check =
            |rate, limit, expected: Option<f64>| assert_eq!(seconds(40_000, 400, rate, limit), expected);
        check(None, None, None);
        check(Some(100.0), None, Some(400.0));
        // 50 of the 100 requests are for backfill: 8 spans, of which the first begins at once.
        check(None, Some((limit, 0.5)), Some(6300.0));
        check(Some(100.0), Some((limit, 0.5)), Some(6300.0));
        check(Some(1.0), Some((limit, 0.5)), Some(40_000.0));
        assert_eq!(seconds(10, 1, None, Some((limit, 0.5))), Some(0.0));
    }

    #[test]
    fn people_read_how_many_are_sent_in_how_many_calls_and_what_stands_in_the_way() {
        let matches =
            ReplayMatches { matched: 40_020, superseded: 12, replayed: 0, discarded: 3, unreadable: 5 };
        let forecast = Forecast {
            target: "crm".into(),
            letters: 40_000,
            users: 38_500,
            calls: 386,
            seconds: Some(6300.0),
            held_back: Some("paused by ada: migration".into()),
        };
        insta::assert_snapshot!(render(&matches, &[forecast]), @r"
        40020 letters match, 40000 to be sent, 12 superseded by a newer success, 3 discarded, 5 that nobody can read

        target  letters  users  calls  takes at least
        crm     40000    38500  386    1h 45m
        crm: nothing is sent for now: paused by ada: migration
        ");
    }
}
