//! Whether a state is news to its target: the tenants it wants, and the fields it watches.
//!
//! Asked where a delivery begins, on whichever way its state came. What is no news is settled as held, without a request.

use crate::{context::TargetContext, lane::Next};
use postbound_event::{Action, Event};
use postbound_store::{Held, HeldVersion};
use std::sync::Arc;

/// Whether the state has to be sent. In doubt it has: where it is not known what the target holds of the watched fields,
/// where an older state may still be put over that, where an operator asked for it.
pub(crate) async fn concerns(context: &TargetContext, next: &Next, held: Held) -> bool {
    let (client, event) = (&context.plan.client, &next.event);
    if !client.wants_tenant(&event.key.tenant) {
        return false;
    }
    let is_plain_update = event.action == Action::Updated
        && next.action == Action::Updated
        && held.present
        && held.delivered_version < event.version
        && held.doubt_until.is_none()
        && !held.parked
        && next.schedule.is_none()
        && next.unknown.is_none()
        && event.job.is_none()
        && next.items.is_empty()
        && event.resend == 0;
    if !is_plain_update || !client.watches_fields() {
        return true;
    }
    let Some(digest) = client.fingerprint(&event.data) else { return true };
    let known = context.held_fields.of(version_of(context, event, held.delivered_version)).await;
    known.is_none_or(|known| known != digest)
}

/// Keeps what the target holds of the watched fields, once the ledger has the version.
pub(crate) async fn keep(context: &TargetContext, event: &Event) {
    let client = &context.plan.client;
    if !client.watches_fields() || !client.wants_tenant(&event.key.tenant) {
        return;
    }
    let Some(digest) = client.fingerprint(&event.data) else { return };
    context.held_fields.keep(version_of(context, event, event.version), digest.to_vec()).await;
}

fn version_of(context: &TargetContext, event: &Event, version: i64) -> HeldVersion {
    HeldVersion { target: Arc::clone(&context.name), key: event.key.clone(), version }
}
