//! Seed 003, the request: up to 100 users of one tenant, in the order of their ids.

use crate::canonical_user::{CanonicalUser, Field, filled};
use crate::{Delivery, TenantInfo};
use postbound_event::Action;
use serde::Serialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::StaticFormatDescription;
use time::macros::{format_description, offset};

/// Most users one request may carry (seed 003: "Process users in batches of 50-100").
pub(crate) const USERS_MAX: usize = 100;

/// As JavaScript's `toISOString()` writes it.
const MILLISECONDS: StaticFormatDescription =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// What a body holds beside its users.
pub(crate) struct Envelope<'a> {
    pub(crate) tenant: &'a TenantInfo,
    pub(crate) synced_by: &'a str,
    pub(crate) application_code: &'a str,
    pub(crate) send_versions: bool,
}

#[derive(Serialize)]
struct Body<'a> {
    operation: &'static str,
    tenant: Tenant<'a>,
    users: Vec<CrmUser<'a>>,
    metadata: Metadata<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Tenant<'a> {
    id: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subdomain: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kinde_org_id: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    sync_time: String,
    synced_by: &'a str,
    sync_type: &'static str,
    application_code: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CrmUser<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kinde_user_id: Option<&'a RawValue>,
    /// Left out, never "", where unknown: the seed's receiver looks users up by e-mail and would create one with an
    /// empty address, which every further such user would then overwrite. Without the field it reports a failure, and
    /// a receiver that goes by the id deletes by the id.
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<Field<'a>>,
    name: Field<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar: Option<Field<'a>>,
    /// Always there, or a user who comes back after a delete would stay inactive.
    is_active: Field<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_admin: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    department: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_active_at: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    roles: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    permissions: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed_applications: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscription_tier: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted: Option<bool>,
}

/// Renders the body: equal sets of states give equal bytes, in whatever order they come.
pub(crate) fn render(envelope: &Envelope<'_>, states: &[(&Delivery, CanonicalUser<'_>)]) -> Vec<u8> {
    let mut users: Vec<CrmUser<'_>> =
        states.iter().map(|(delivery, user)| crm_user(delivery, user, envelope.send_versions)).collect();
    users.sort_unstable_by_key(|user| user.id);
    let tenant = envelope.tenant;
    let body = Body {
        operation: "user_sync",
        tenant: Tenant {
            id: &tenant.id,
            name: known(tenant.name.as_deref()).unwrap_or(&tenant.id),
            subdomain: known(tenant.subdomain.as_deref()),
            kinde_org_id: known(tenant.kinde_org_id.as_deref()),
        },
        metadata: Metadata {
            sync_time: sync_time(states.iter().map(|(delivery, _)| delivery.logged_at)),
            synced_by: envelope.synced_by,
            sync_type: match states.iter().all(|(delivery, _)| delivery.full_sync) {
                true => "full",
                false if users.len() == 1 => "single_user",
                false => "incremental",
            },
            application_code: envelope.application_code,
        },
        users,
    };
    serde_json::to_vec(&body).expect("strings and raw JSON always serialize")
}

fn crm_user<'a>(delivery: &'a Delivery, user: &CanonicalUser<'a>, send_versions: bool) -> CrmUser<'a> {
    let deleted = delivery.action == Action::Deleted;
    let name = filled(user.name)
        .or_else(|| filled(user.display_name))
        .or_else(|| user.full_name())
        .or_else(|| filled(user.username))
        .or_else(|| filled(user.email))
        .unwrap_or(Field::text(&delivery.key.user));
    CrmUser {
        id: &delivery.key.user,
        kinde_user_id: user.kinde_user_id,
        email: filled(user.email),
        name,
        avatar: user.picture(),
        is_active: match user.is_active {
            _ if deleted => Field::Flag(false),
            Some(given) => Field::Raw(given),
            None => Field::Flag(true),
        },
        is_admin: user.is_admin,
        department: user.department,
        title: user.title,
        last_active_at: user.last_active_at,
        roles: user.roles,
        permissions: user.permissions,
        allowed_applications: user.allowed_applications,
        subscription_tier: user.subscription_tier,
        version: send_versions.then_some(delivery.version),
        deleted: (send_versions && deleted).then_some(true),
    }
}

fn known(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.trim().is_empty())
}

/// The time of the newest change in the batch, never that of the attempt: a retry sends the same bytes.
fn sync_time(times: impl Iterator<Item = OffsetDateTime>) -> String {
    let newest = times.max().unwrap_or(OffsetDateTime::UNIX_EPOCH).to_offset(offset!(UTC));
    newest.format(MILLISECONDS).expect("a UTC time has every part of the format")
}
