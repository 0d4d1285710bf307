use super::fresh;
use crate::{
    Ingress,
    problem::{Problem, of_store},
};
use axum::{
    extract::{Query, State, rejection::QueryRejection},
    http::HeaderMap,
    response::Response,
};
use postbound_config::IngressScope;
use postbound_store::LinkRow;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

/// An id that more users have than this is no id.
const USERS_MAX: i64 = 100;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Asked {
    /// The target that gave the id.
    target: String,
    /// The id.
    external_id: String,
    /// Only in this of the systems behind the target.
    system: Option<String>,
    /// Only users of this tenant.
    tenant: Option<String>,
}

/// The users an id is of; none: an empty list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Links {
    links: Vec<Link>,
}

/// Whose an id is.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Link {
    tenant: String,
    user: String,
    target: String,
    /// Which of the systems behind the target the id is of; None: the target itself.
    system: Option<String>,
    external_id: String,
    #[serde(with = "time::serde::rfc3339")]
    linked_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    last_synced_at: Option<OffsetDateTime>,
    deleted: bool,
}

/// `GET /v1/links?target=&externalId=`: the users that have the id, of tenants the token is for; none: an empty list.
pub(super) async fn find(
    State(ingress): State<Arc<Ingress>>,
    asked: Result<Query<Asked>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let caller = ingress.tokens.authorize(&headers, IngressScope::Status)?;
    let Query(asked) = asked.map_err(|_| {
        Problem::malformed("the query takes `target` and `externalId`, and may take `system` and `tenant`")
    })?;
    let Asked { target, external_id, system, tenant } = asked;
    if let Some(tenant) = &tenant {
        caller.check_tenant(tenant)?;
    }
    let tenants = tenant.map(|tenant| vec![tenant]).or_else(|| caller.tenants());
    let found = ingress
        .store
        .users_of_link((&target, &external_id), system.as_deref(), tenants.as_deref(), USERS_MAX)
        .await
        .map_err(of_store)?;
    Ok(fresh(Links { links: found.into_iter().map(Link::from).collect() }))
}

impl From<LinkRow> for Link {
    fn from(row: LinkRow) -> Self {
        Self {
            tenant: row.tenant_id,
            user: row.user_id,
            target: row.target,
            system: Some(row.system).filter(|system| !system.is_empty()),
            external_id: row.external_id,
            linked_at: row.linked_at,
            last_synced_at: row.last_synced_at,
            deleted: row.deleted,
        }
    }
}
