//! Whose a change is: the sender names users by its own ids, or by ours.

use postbound_config::InboundKind;
use sqlx::PgConnection;

use super::Source;
use super::inbound::InboundChange;
use super::take::tenant_of;

/// Whom a change is of.
pub(super) enum Whom {
    Known {
        tenant_id: String,
        user_id: String,
    },
    /// Nobody, as far as is known.
    Unknown {
        reason: &'static str,
    },
}

/// Finds the user of a change. Where that may be nobody yet, the sender's id is locked until the transaction ends.
pub(super) async fn whom(
    connection: &mut PgConnection,
    source: &Source,
    change: &InboundChange,
) -> Result<Whom, sqlx::Error> {
    if always_known(source) {
        return Ok(of_tenant(tenant_of(change), change));
    }
    lock_id(connection, source.name(), &change.id).await?;
    match (&source.settings.link_target, source.settings.kind) {
        (Some(target), InboundKind::BackendSync) => {
            let system = source.settings.link_system.as_deref().unwrap_or_default();
            linked(connection, target, system, change).await
        }
        _ if change.tenant.is_none() && source.settings.tenant_pointer.is_some() => {
            of_any_tenant(connection, change).await
        }
        (_, InboundKind::Clerk) => Ok(of_tenant(tenant_of(change), change)),
        (None, InboundKind::BackendSync) => known(connection, change).await,
    }
}

/// Whether nothing of the source ever waits: Clerk's users have the same ids here, known or not.
pub(super) fn always_known(source: &Source) -> bool {
    source.settings.kind == InboundKind::Clerk && source.settings.tenant_pointer.is_none()
}

/// Until the transaction ends, nobody else looks up, keeps or applies changes of this id.
pub(super) async fn lock_id(
    connection: &mut PgConnection,
    source: &str,
    external_id: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "-- inbound_lock_id
        select pg_advisory_xact_lock(hashtextextended('postbound.inbound:' || $1 || chr(31) || $2, 0))",
    )
    .bind(source)
    .bind(external_id)
    .execute(connection)
    .await?;
    Ok(())
}

/// The user a target's id is linked to.
async fn linked(
    connection: &mut PgConnection,
    target: &str,
    system: &str,
    change: &InboundChange,
) -> Result<Whom, sqlx::Error> {
    let mut users: Vec<(String, String)> = sqlx::query_as(
        "-- inbound_linked
        select distinct l.tenant_id, l.user_id from postbound.identity_link as l
        where l.target = $1 and l.external_id = $2 and ($3 = '' or l.system = $3)
          and ($4::text is null or l.tenant_id = $4)
        limit 2",
    )
    .bind(target)
    .bind(&change.id)
    .bind(system)
    .bind(&change.tenant)
    .fetch_all(connection)
    .await?;
    Ok(match (users.pop(), users.is_empty()) {
        (Some((tenant_id, user_id)), true) => Whom::Known { tenant_id, user_id },
        (Some(_), false) => Whom::Unknown { reason: "linked to several users" },
        (None, _) => Whom::Unknown { reason: "not linked" },
    })
}

/// The user of that very id, if there is one.
async fn known(connection: &mut PgConnection, change: &InboundChange) -> Result<Whom, sqlx::Error> {
    let tenant_id = tenant_of(change);
    let known: bool = sqlx::query_scalar(
        "-- inbound_known
        select exists (select from postbound.user_head where tenant_id = $1 and user_id = $2 and version > 0)",
    )
    .bind(tenant_id)
    .bind(&change.id)
    .fetch_one(connection)
    .await?;
    Ok(if known { of_tenant(tenant_id, change) } else { Whom::Unknown { reason: "no such user" } })
}

/// The user of that very id in whichever tenant: a delete may bear nothing that names one.
async fn of_any_tenant(connection: &mut PgConnection, change: &InboundChange) -> Result<Whom, sqlx::Error> {
    // From tenant to tenant along the primary key: there is no index by user alone.
    let tenants: Vec<String> = sqlx::query_scalar(
        "-- inbound_tenants
        with recursive tenant(tenant_id) as (
            select min(h.tenant_id) from postbound.user_head as h
            union all
            select (select min(h.tenant_id) from postbound.user_head as h where h.tenant_id > t.tenant_id)
            from tenant as t where t.tenant_id is not null
        )
        select h.tenant_id from tenant as t
        join postbound.user_head as h on h.tenant_id = t.tenant_id and h.user_id = $1 and h.version > 0 limit 2",
    )
    .bind(&change.id)
    .fetch_all(connection)
    .await?;
    Ok(match tenants.as_slice() {
        [tenant_id] => of_tenant(tenant_id, change),
        [] => Whom::Unknown { reason: "no such user" },
        _ => Whom::Unknown { reason: "known in several tenants" },
    })
}

fn of_tenant(tenant_id: &str, change: &InboundChange) -> Whom {
    Whom::Known { tenant_id: tenant_id.to_owned(), user_id: change.id.clone() }
}
