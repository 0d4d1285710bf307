//! What the relay does by itself: it finds users a target was left behind with, and throws away what is old.

use super::{SOON, execute, queued, seed_states, until_job_is};
use postbound_client::{Change, emit};
use postbound_tests::{Installation, Options, Role, eventually};
use serde_json::json;

fn often() -> Options {
    Options::default().with("relay.reconcile_every", "3s").with("relay.reconcile_after", "1m")
}

async fn reconciles(installation: &Installation, target: &str) -> Vec<(i64, i64)> {
    sqlx::query_as(
        "select j.job_id, (select count(*) from postbound.job_item as i where i.job_id = j.job_id)
         from postbound.job as j where j.kind = 'reconcile' and j.target = $1 order by j.job_id",
    )
    .bind(target)
    .fetch_all(installation.database.superuser())
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_left_behind_are_found_and_sent_by_themselves_and_only_once() {
    let installation = Installation::start(often()).await;
    seed_states(&installation, 10).await;
    // The backend has half of them; the CRM is down, so that nobody counts as forgotten there.
    execute(
        &installation,
        "insert into postbound.delivery_ledger (target, tenant_id, user_id, delivered_version)
         select 'backend', 't0', 'user-' || n, 3 from generate_series(1, 5) as n;
         insert into postbound.breaker (target, cause, reason, retry_at) values ('crm', 'whole_target', 'http_503', now())",
    )
    .await;
    let _relay = installation.relay();
    let found = eventually("they are found", SOON, async || {
        Some(reconciles(&installation, "backend").await).filter(|jobs| !jobs.is_empty())
    })
    .await;
    let [(job, 5)] = found[..] else { panic!("{found:?}") };
    let events = eventually("they are sent", SOON, async || {
        Some(queued(&installation, "backend").await).filter(|events| events.len() == 5)
    })
    .await;
    assert!(events.iter().all(|event| event.get("resend").is_none() && event.get("jobrepeats").is_none()));

    // What a worker does: ledger and item.
    execute(
        &installation,
        &format!(
            "insert into postbound.delivery_ledger (target, tenant_id, user_id, delivered_version)
             select 'backend', 't0', 'user-' || n, 3 from generate_series(6, 10) as n;
             update postbound.job_item set state = 'delivered', settled_at = now() where job_id = {job};
             delete from postbound.breaker"
        ),
    )
    .await;
    until_job_is(&installation, job, "done").await;
    let found = eventually("those of the CRM are found once it is back", SOON, async || {
        Some(reconciles(&installation, "crm").await).filter(|jobs| !jobs.is_empty())
    })
    .await;
    assert!(matches!(found[..], [(_, 10)]), "{found:?}");
    assert_eq!(reconciles(&installation, "backend").await, [(job, 5)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_left_behind_while_a_change_is_on_its_way() {
    let installation = Installation::start(often().partitions(1)).await;
    let mut producer = installation.database.connect(Role::Producer).await;
    let state = json!({"email": "user@example.com"});
    emit(&mut producer, &Change::created("t0", "new").targets(["backend"]).data(&state).unwrap())
        .await
        .unwrap();
    let relay = installation.relay();
    // The backend's queue holds a message nobody takes; the CRM's is empty. (To peek would take it out for a moment.)
    eventually("the change is on its way", SOON, async || {
        let published = relay.metric("postbound_relay_published_total", &[r#"target="backend""#]).await;
        (published >= 1.0).then_some(())
    })
    .await;
    seed_states(&installation, 3).await;
    eventually("the CRM is searched", SOON, async || {
        (!reconciles(&installation, "crm").await.is_empty()).then_some(())
    })
    .await;
    assert!(reconciles(&installation, "backend").await.is_empty());
    let targets: Vec<String> =
        sqlx::query_scalar("select unnest(targets) from postbound.user_state where user_id = 'new'")
            .fetch_all(installation.database.superuser())
            .await
            .unwrap();
    assert_eq!(targets, ["backend"], "user_state knows whom its change was for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_cannot_be_searched_holds_up_no_other() {
    let installation = Installation::start(often()).await;
    seed_states(&installation, 3).await;
    execute(
        &installation,
        "create function public.refuse() returns trigger language plpgsql as $$ begin raise 'not today'; end $$;
         create trigger refuse before insert on postbound.job for each row when (new.target = 'backend')
         execute function public.refuse()",
    )
    .await;
    let _relay = installation.relay();
    let found = eventually("the CRM is searched", SOON, async || {
        Some(reconciles(&installation, "crm").await).filter(|jobs| !jobs.is_empty())
    })
    .await;
    assert!(matches!(found[..], [(_, 3)]), "{found:?}");
    assert!(reconciles(&installation, "backend").await.is_empty());
    execute(&installation, "drop trigger refuse on postbound.job").await;
    eventually("the backend is searched again by and by", SOON, async || {
        (!reconciles(&installation, "backend").await.is_empty()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_and_outages_that_are_long_over_are_thrown_away_and_nothing_else() {
    let installation = Installation::start(Options::default()).await;
    execute(
        &installation,
        "insert into postbound.job (kind, target, filter, state, finished_at) values
             ('resync', 'backend', '{\"age\": \"old\"}', 'done', now() - interval '31 days'),
             ('resync', 'backend', '{\"age\": \"young\"}', 'cancelled', now() - interval '29 days'),
             ('resync', 'backend', '{\"age\": \"paused\"}', 'paused', null);
         update postbound.job set created_at = now() - interval '40 days';
         insert into postbound.job_item (job_id, item, tenant_id, user_id, state, settled_at)
         select job_id, n, 't0', 'user-' || n, 'delivered', now() from postbound.job, generate_series(1, 6000) as n;
         insert into postbound.outage values
             ('backend', '', now() - interval '92 days', now() - interval '91 days', 'whole_target', 'http_503'),
             ('backend', '', now() - interval '92 days 1 hour', now() - interval '89 days', 'whole_target', 'http_503')",
    )
    .await;
    let _relay = installation.relay();
    eventually("the old is gone", SOON, async || {
        let kept: Vec<(String, i64)> = sqlx::query_as(
            "select filter->>'age', (select count(*) from postbound.job_item as i where i.job_id = j.job_id)
             from postbound.job as j order by job_id",
        )
        .fetch_all(installation.database.superuser())
        .await
        .unwrap();
        let outages: i64 = sqlx::query_scalar("select count(*) from postbound.outage")
            .fetch_one(installation.database.superuser())
            .await
            .unwrap();
        let kept: Vec<_> = kept.iter().map(|(age, items)| (age.as_str(), *items)).collect();
        (kept == [("young", 6000), ("paused", 6000)] && outages == 1).then_some(())
    })
    .await;
}
