//! Carries out the plan.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sqlx::Connection as _;
use sqlx::PgConnection;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::clock::{MomentUs, now_us};
use crate::fault::{Fault, Mood, Order};
use crate::plan::{Plan, Planned, RELAYS, WORKERS, http_link};
use crate::proxy::{Flow, Way};
use crate::stage::Stage;

/// The policy that makes queues full.
const FULL: &str = "chaos-full";
/// The queues it is for: those that refuse what they cannot take. Any other would drop what it has.
const PARTITION_QUEUES: &str = r"^postbound\..+\.g[0-9]+\.";
/// What a relay counts refused publishes by.
const REFUSED_METRIC: &str = "postbound_relay_nacked_total";
/// How long a worker that is to go may take for it.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);

/// A fault that was injected.
#[derive(Clone, Debug)]
pub(crate) struct Injected {
    /// What it was.
    pub(crate) fault: Fault,
    /// When it took effect.
    pub(crate) from_us: MomentUs,
    /// When it had ended.
    pub(crate) to_us: MomentUs,
    /// Publishes that queues refused meanwhile, at least; asked only of a fault that is to bring that about.
    pub(crate) refused: u64,
}

/// Injects all faults of the plan, each at its time, and returns when all are over.
///
/// # Errors
/// If the stage cannot be put back in order after a fault.
pub(crate) async fn carry_out(stage: &Arc<Stage>, plan: &Plan) -> Result<Vec<Injected>> {
    let begun = Instant::now();
    let mut faults = JoinSet::new();
    // A server may take longer to come back than was planned: what comes next for it waits.
    let mut holds: BTreeMap<String, Arc<Mutex<()>>> = BTreeMap::new();
    for planned in plan.faults.clone() {
        let stage = Arc::clone(stage);
        let hold = Arc::clone(holds.entry(planned.fault.holds()).or_default());
        faults.spawn(async move {
            sleep_until(begun + Duration::from_millis(planned.at_ms)).await;
            let _held = hold.lock().await;
            let told = format!("{:.1} s: {}", begun.elapsed().as_secs_f64(), planned.fault);
            inject(&stage, planned).await.with_context(|| told)
        });
    }
    let mut injected = Vec::new();
    while let Some(fault) = faults.join_next().await {
        injected.push(fault??);
    }
    sleep_until(begun + plan.duration()).await;
    injected.sort_by_key(|injected| injected.from_us);
    Ok(injected)
}

/// Ends what faults may have left, so that nothing stands in the way any more.
pub(crate) async fn calm(stage: &Stage) -> Result<()> {
    for link in stage.links.values() {
        link.calm();
    }
    for (name, process) in &stage.processes {
        if name != crate::plan::EXTRA_WORKER {
            process.lock().await.thaw()?;
            stage.start(name).await?;
        }
    }
    for target in &crate::target::TARGETS {
        set_mood(stage, target.name, None).await?;
    }
    // What was given up for a fault's sake can be delivered now.
    stage.order(&Order::Replay).await
}

async fn inject(stage: &Stage, planned: Planned) -> Result<Injected> {
    let Planned { lasts_ms, fault, .. } = planned;
    let lasts = Duration::from_millis(lasts_ms);
    let from_us = begin(stage, &fault).await?;
    sleep(lasts).await;
    let refused = if fault == Fault::FullQueues { refused_publishes(stage).await } else { 0 };
    end(stage, &fault).await?;
    Ok(Injected { fault, from_us, to_us: now_us(), refused })
}

/// Publishes that queues have refused, as the relays that live count them; one that does not answer counts none.
async fn refused_publishes(stage: &Stage) -> u64 {
    let mut refused = 0;
    for name in RELAYS {
        let Ok(process) = stage.process(name) else { continue };
        // One that is being killed or started is not waited for.
        let Ok(mut process) = process.try_lock() else { continue };
        let Ok(address) = process.address("serving /healthz").await else { continue };
        let answer = stage.http.get(format!("http://{address}/metrics")).send().await;
        let Ok(answer) = answer else { continue };
        let text = answer.text().await.unwrap_or_default();
        let counts = text.lines().filter(|line| line.starts_with(REFUSED_METRIC));
        refused += counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>();
    }
    refused
}

/// Begins a fault; gives when it took effect.
async fn begin(stage: &Stage, fault: &Fault) -> Result<MomentUs> {
    let from_us = now_us();
    match fault {
        Fault::Kill { process } => stage.process(process)?.lock().await.kill_9().await?,
        Fault::Freeze { process } => stage.process(process)?.lock().await.freeze()?,
        Fault::StepClock { process, seconds } => stage.faketime.step(process, *seconds)?,
        Fault::AddWorker { process, .. } => stage.start(process).await?,
        Fault::RemoveWorker { process } => {
            stage.process(process)?.lock().await.terminate(DRAIN_PATIENCE).await?;
        }
        Fault::KillPostgres => {
            let postgres = stage.postgres.clone();
            tokio::task::spawn_blocking(move || postgres.kill_9()).await??;
        }
        Fault::TerminateBackends { percent } => terminate_backends(stage, *percent).await?,
        Fault::KillRabbitmq => {
            let rabbitmq = stage.rabbitmq.clone();
            tokio::task::spawn_blocking(move || rabbitmq.kill_9()).await??;
        }
        Fault::CloseBrokerConnections => stage.rabbitmq.close_all_connections(stage.vhost()).await?,
        Fault::MemoryAlarm => stage.rabbitmq.set_memory_alarm(true).await?,
        Fault::FullQueues => {
            let args =
                ["set_policy", "--vhost", stage.vhost(), "--apply-to", "queues", FULL, PARTITION_QUEUES];
            stage.rabbitmq.rabbitmqctl(&[&args[..], &[r#"{"max-length": 0}"#]].concat()).await?;
        }
        Fault::Cut { link } => stage.link(link)?.cut(),
        Fault::Stall { link, ways } => set_flow(stage, link, ways, Flow::Stalled)?,
        Fault::Strand { link, ways } => {
            let link = stage.link(link)?;
            ways.iter().for_each(|way| link.strand(*way));
        }
        Fault::Slow { link, ways, piece_bytes, pause_ms } => {
            set_flow(stage, link, ways, Flow::Slow { piece_bytes: *piece_bytes, pause_ms: *pause_ms })?;
        }
        Fault::HalfClose { link, way } => stage.link(link)?.half_close(*way),
        Fault::Refuse { link } => {
            stage.link(link)?.refuse(true);
            stage.link(link)?.cut();
        }
        Fault::Order { order } => stage.order(order).await?,
        Fault::Mood { target, mood } => set_mood(stage, target, Some(mood)).await?,
    }
    Ok(from_us)
}

async fn end(stage: &Stage, fault: &Fault) -> Result<()> {
    match fault {
        Fault::Kill { process } | Fault::RemoveWorker { process } => stage.start(process).await,
        Fault::Freeze { process } => stage.process(process)?.lock().await.thaw(),
        Fault::StepClock { process, .. } => stage.faketime.step(process, 0),
        Fault::AddWorker { process, gracefully: true } => {
            stage.process(process)?.lock().await.terminate(DRAIN_PATIENCE).await
        }
        Fault::AddWorker { process, gracefully: false } => {
            stage.process(process)?.lock().await.kill_9().await
        }
        Fault::KillPostgres => stage.postgres.start_again().await,
        Fault::KillRabbitmq => stage.rabbitmq.start_again().await,
        Fault::MemoryAlarm => stage.rabbitmq.set_memory_alarm(false).await,
        Fault::FullQueues => {
            stall_workers(stage, Flow::Free)?;
            stage.rabbitmq.rabbitmqctl(&["clear_policy", "--vhost", stage.vhost(), FULL]).await.map(drop)
        }
        Fault::Stall { link, ways } | Fault::Strand { link, ways } | Fault::Slow { link, ways, .. } => {
            set_flow(stage, link, ways, Flow::Free)
        }
        Fault::Refuse { link } => {
            stage.link(link)?.refuse(false);
            Ok(())
        }
        Fault::Mood { target, .. } => set_mood(stage, target, None).await,
        Fault::TerminateBackends { .. }
        | Fault::CloseBrokerConnections
        | Fault::Cut { .. }
        | Fault::HalfClose { .. }
        | Fault::Order { .. } => Ok(()),
    }
}

fn stall_workers(stage: &Stage, flow: Flow) -> Result<()> {
    WORKERS.iter().try_for_each(|name| set_flow(stage, &format!("{name}/rabbitmq"), &[Way::Down], flow))
}

fn set_flow(stage: &Stage, link: &str, ways: &[Way], flow: Flow) -> Result<()> {
    let link = stage.link(link)?;
    ways.iter().for_each(|way| link.set_flow(*way, flow));
    Ok(())
}

async fn terminate_backends(stage: &Stage, percent: u8) -> Result<()> {
    let mut owner = PgConnection::connect(&stage.postgres.url_for("postgres")).await?;
    sqlx::query(
        "-- chaos_terminate_backends
        select count(pg_terminate_backend(pid)) from pg_stat_activity
        where backend_type = 'client backend' and pid <> pg_backend_pid() and random() * 100 < $1",
    )
    .bind(f64::from(percent))
    .execute(&mut owner)
    .await?;
    Ok(owner.close().await?)
}

async fn set_mood(stage: &Stage, target: &str, mood: Option<&Mood>) -> Result<()> {
    let faults = mood.map_or_else(|| json!([]), |mood| faults(mood, target));
    let address = stage.receiver_address(target).await?;
    let answer = stage.http.put(format!("http://{address}/_faults")).json(&faults).send().await;
    let answer = answer.with_context(|| http_link(target))?;
    ensure!(answer.status().is_success(), "{target} does not take the fault: {answer:?}");
    Ok(())
}

/// A mood in the words of the receiver.
fn faults(mood: &Mood, target: &str) -> Value {
    let answer = |status: u16| json!({"status": status});
    let fault = match mood {
        Mood::Slow { delay_ms } => json!({"delay_ms": delay_ms}),
        Mood::Hangs { times, delay_ms, executes_first } => {
            json!({"times": times, "delay_ms": delay_ms, "apply": executes_first})
        }
        Mood::Fails => json!({"respond": answer(500)}),
        Mood::BadGateway { executes } => json!({"respond": answer(502), "apply": executes}),
        Mood::Unavailable { retry_after_s } => retry_after(503, *retry_after_s),
        Mood::TooMany { retry_after_s } => retry_after(429, *retry_after_s),
        // To the backend's contract any 2xx is a success, so bytes of no meaning come with a 500 there.
        Mood::Garbage => {
            let status = if target == "crm" { 200 } else { 500 };
            json!({"respond": {"status": status, "body": "\u{1}{]<garbage"}, "apply": true})
        }
        Mood::Forgets => json!({"drop_connection": true, "apply": true}),
        Mood::Refuses { users } => json!({"for_users": users, "respond": answer(422)}),
        Mood::FailsUsers { users } => json!({"per_user_fail": users}),
    };
    json!([fault])
}

fn retry_after(status: u16, seconds: u64) -> Value {
    json!({"respond": {"status": status, "headers": {"Retry-After": seconds.to_string()}}})
}
