use super::{NamedUser, fresh, named_user, unknown_user};
use crate::{
    Ingress,
    problem::{Problem, of_store},
};
use axum::{extract::State, http::HeaderMap, response::Response};
use postbound_config::IngressScope;
use postbound_store::{Standing, UserAtTarget, UserHead};
use serde::Serialize;
use std::{collections::BTreeMap, sync::Arc};
use time::OffsetDateTime;
use utoipa::ToSchema;

/// Where a user stands, as a front end needs it for its banner and its button.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct UserSync {
    tenant: String,
    user: String,
    /// Version of the newest change.
    version: i64,
    deleted: bool,
    /// The worst of the targets' states.
    state: SyncState,
    targets: Vec<TargetSync>,
}

/// Where a user stands at one target.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct TargetSync {
    target: String,
    state: SyncState,
    /// Newest version the target took; 0: none.
    version: i64,
    /// The target's own id of the user.
    external_id: Option<String>,
    /// Its ids in systems behind the target, by system.
    ids: BTreeMap<String, String>,
    /// When the target last took a state.
    #[serde(with = "time::serde::rfc3339::option")]
    last_synced_at: Option<OffsetDateTime>,
    /// Why it is not synced: a word of a closed set. None: it is, or is on its way.
    reason: Option<String>,
    /// Attempts that failed, while it is tried again.
    attempts: Option<i32>,
    #[serde(with = "time::serde::rfc3339::option")]
    last_failed_at: Option<OffsetDateTime>,
    /// When it is tried again by itself.
    #[serde(with = "time::serde::rfc3339::option")]
    next_attempt_at: Option<OffsetDateTime>,
    /// Whether a retry may do something.
    retriable: bool,
}

/// Where a user stands, in the words of seed 001.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum SyncState {
    /// The target has all that is for it.
    Synced,
    /// It is on its way, or is tried again by itself.
    Pending,
    /// It was given up: somebody has to do something.
    Failed,
}

/// `GET /v1/users/{tenant}/{user}/sync`
pub(super) async fn show(
    State(ingress): State<Arc<Ingress>>,
    named: NamedUser,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (tenant, user) = named_user(named)?;
    ingress.tokens.authorize(&headers, IngressScope::Status)?.check_tenant(&tenant)?;
    let head = ingress.store.user_head(&tenant, &user).await.map_err(of_store)?;
    let head = head.filter(|head| head.version > 0).ok_or_else(unknown_user)?;
    let rows = ingress.store.user_at_targets(&tenant, &user).await.map_err(of_store)?;
    Ok(fresh(UserSync::of((tenant, user), &head, rows)))
}

impl UserSync {
    fn of((tenant, user): (String, String), head: &UserHead, rows: Vec<UserAtTarget>) -> Self {
        let targets: Vec<_> = rows.into_iter().map(TargetSync::of).collect();
        let worst = targets.iter().map(|target| target.state).max();
        let state = worst.unwrap_or(SyncState::Synced);
        Self { tenant, user, version: head.version, deleted: head.deleted, state, targets }
    }
}

impl TargetSync {
    fn of(row: UserAtTarget) -> Self {
        let standing = Standing::of(&row);
        let state = match standing {
            Standing::InSync | Standing::NotForThisTarget => SyncState::Synced,
            Standing::OnItsWay | Standing::Parked | Standing::HeldBack => SyncState::Pending,
            Standing::Dead => SyncState::Failed,
        };
        let reason = match standing {
            Standing::InSync | Standing::NotForThisTarget | Standing::OnItsWay => None,
            Standing::Parked => row.parked_reason,
            Standing::HeldBack => row.closed_reason.or(row.parked_reason).or(Some("paused".to_owned())),
            Standing::Dead => row.letter_reason,
        };
        let waits = state != SyncState::Synced;
        Self {
            target: row.target,
            state,
            version: row.held_version,
            external_id: row.external_id,
            ids: row.links.0,
            last_synced_at: row.held_since,
            reason,
            attempts: row.attempts.filter(|_| waits),
            last_failed_at: row.last_failed_at.filter(|_| waits),
            next_attempt_at: row.next_attempt_at.filter(|_| waits),
            retriable: row.attempts.is_some() || row.open_letter.is_some(),
        }
    }
}
