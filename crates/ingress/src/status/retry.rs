use super::{NamedUser, fresh, named_user, unknown_user};
use crate::{
    Ingress,
    problem::{Problem, of_store},
};
use axum::{
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
};
use postbound_config::IngressScope;
use postbound_store::{Operation, UserAtTarget};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// At this target only; without it at all.
    target: Option<String>,
}

/// What is tried again.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Retried {
    /// The targets; none: there was nothing to retry.
    targets: Vec<String>,
}

/// `POST /v1/users/{tenant}/{user}/sync/retry`: what `postbound users retry` does. 202 with the targets; an empty list:
/// there was nothing to retry.
pub(super) async fn run(
    State(ingress): State<Arc<Ingress>>,
    named: NamedUser,
    asked: Result<Query<Asked>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (tenant, user) = named_user(named)?;
    let caller = ingress.tokens.authorize(&headers, IngressScope::Status)?;
    caller.check_tenant(&tenant)?;
    let Query(Asked { target }) = asked.map_err(|_| Problem::malformed("the query takes `target` alone"))?;
    let target = target.as_deref();
    let rows = ingress.store.user_at_targets(&tenant, &user).await.map_err(of_store)?;
    if rows.is_empty() {
        return Err(unknown_user());
    }
    if target.is_some_and(|target| rows.iter().all(|row| row.target != target)) {
        return Err(Problem::not_found("there is no such target"));
    }
    if let Some(wait) =
        too_early(&rows, target, ingress.settings.status.retry_pause, OffsetDateTime::now_utc())
    {
        return Err(Problem::rate_limited(wait));
    }
    let operation = Operation {
        command: "users retry",
        acting_as: Some(format!("ingress token {}", caller.name)),
        filter: json!({ "tenant": tenant, "user": user, "target": target }),
    };
    let retried = ingress.store.retry_user((&tenant, &user), &rows, target, &operation).await;
    let retried = retried.map_err(of_store)?;
    let targets = retried.retried.into_iter().chain(retried.jobs.into_iter().map(|job| job.target)).collect();
    Ok((StatusCode::ACCEPTED, fresh(Retried { targets })).into_response())
}

/// How long is left of the pause since the last failure; a button that is pressed again and again would else use up the
/// attempts a user has.
fn too_early(
    rows: &[UserAtTarget],
    target: Option<&str>,
    pause: Duration,
    now: OffsetDateTime,
) -> Option<Duration> {
    let meant = rows.iter().filter(|row| target.is_none_or(|target| target == row.target));
    let waiting = meant.filter(|row| row.attempts.is_some() || row.open_letter.is_some());
    let failed_at = waiting.filter_map(|row| row.last_failed_at).max()?;
    Duration::try_from(failed_at + pause - now).ok().filter(|wait| !wait.is_zero())
}
