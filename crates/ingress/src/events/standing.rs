use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::body::EventAction;
use super::write::Written;
use crate::Ingress;
use crate::problem::Problem;

/// Pauses between looks at the ledger while somebody waits: each twice as long as the last.
const FIRST_PAUSE: Duration = Duration::from_millis(15);
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// How far a change has got.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Targets that want it and have not got it.
    pub(super) pending: Vec<String>,
    /// The user's ids, by target and system; the target's own id is called `id`.
    pub(super) links: BTreeMap<String, BTreeMap<String, String>>,
}

/// Waits until all targets that want the change have it, or the time is up.
pub(super) async fn until_synced(
    ingress: &Ingress,
    written: &Written,
    patience: Duration,
) -> Result<Standing, Problem> {
    let until = Instant::now() + patience;
    let mut pause = FIRST_PAUSE;
    let pending = loop {
        let pending = pending(ingress, written).await?;
        if pending.is_empty() || Instant::now() >= until {
            break pending;
        }
        sleep(pause).await;
        pause = PAUSE_MAX.min(pause * 2);
    };
    Ok(Standing { pending, links: links(ingress, written).await? })
}

async fn pending(ingress: &Ingress, written: &Written) -> Result<Vec<String>, sqlx::Error> {
    let action = match written.action {
        EventAction::Created => "created",
        EventAction::Updated => "updated",
        EventAction::Deleted => "deleted",
    };
    sqlx::query_scalar(
        "-- events_pending
        select t.name from postbound.target as t
        left join postbound.delivery_ledger as l on l.target = t.name and l.tenant_id = $1 and l.user_id = $2
        where t.retired_at is null and postbound.admits(t.actions, t.tenants, t.name, $1, $3, $4)
          and coalesce(l.delivered_version, 0) < $5
        order by t.name",
    )
    .bind(&written.tenant_id)
    .bind(&written.user_id)
    .bind(action)
    .bind(&written.targets)
    .bind(written.version)
    .fetch_all(&ingress.pool)
    .await
}

async fn links(
    ingress: &Ingress,
    written: &Written,
) -> Result<BTreeMap<String, BTreeMap<String, String>>, sqlx::Error> {
    let rows: Vec<(String, String, String)> = sqlx::query_as(
        "-- events_links
        select l.target, l.system, l.external_id from postbound.target as t
        join postbound.identity_link as l on l.target = t.name and l.tenant_id = $1 and l.user_id = $2
        where t.retired_at is null",
    )
    .bind(&written.tenant_id)
    .bind(&written.user_id)
    .fetch_all(&ingress.pool)
    .await?;
    let mut links = BTreeMap::<_, BTreeMap<_, _>>::new();
    for (target, system, external_id) in rows {
        let system = if system.is_empty() { "id".to_owned() } else { system };
        links.entry(target).or_default().insert(system, external_id);
    }
    Ok(links)
}
