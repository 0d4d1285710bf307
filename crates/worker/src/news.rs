//! Whether a state is news to its target: the tenants it wants, and the fields it watches.
//!
//! Asked where a delivery begins, on whichever way its state came. What is no news is settled as held, without a request.

use crate::{context::TargetContext, lane::Next};
use postbound_event::{Action, Event};
use postbound_store::{Held, within};
use std::time::Duration;

/// How long Postgres may take to tell, or to keep, what the target holds.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

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
    let known = context.store.held_fields(&context.name, &event.key, held.delivered_version);
    match within(ASK_TIMEOUT, known).await {
        Ok(known) => known.is_none_or(|known| known != digest),
        Err(error) => {
            tracing::warn!(error = %error, "watched fields not read; the update is sent");
            true
        }
    }
}

/// Keeps what the target holds of the watched fields, once the ledger has the version.
pub(crate) async fn keep(context: &TargetContext, event: &Event) {
    let client = &context.plan.client;
    if !client.watches_fields() || !client.wants_tenant(&event.key.tenant) {
        return;
    }
    let Some(digest) = client.fingerprint(&event.data) else { return };
    let kept = context.store.keep_held_fields(&context.name, &event.key, event.version, &digest);
    if let Err(error) = within(ASK_TIMEOUT, kept).await {
        tracing::warn!(error = %error, "watched fields not kept; the next update is sent whatever it changes");
    }
}
