use crate::context::TargetContext;
use postbound_event::{Action, Event};
use postbound_store::{NewLink, StoreError};
use postbound_target::ExternalLink;
use std::sync::Arc;

/// The ids an answer told, as the ledger's transaction writes them: the target's own, and those of systems behind it.
pub(crate) fn told_links(own: Option<String>, others: Vec<ExternalLink>) -> Vec<NewLink> {
    // Most answers tell nothing: nothing is allocated then.
    let own = own.map(|external_id| NewLink { system: Arc::from(""), external_id });
    let others = others.into_iter().map(|link| NewLink { system: link.system, external_id: link.id });
    own.into_iter().chain(others).collect()
}

/// Whether a job's event would tell a target of registrations what it has heard already. Jobs pass over such users when
/// they are sent, but the registration itself may have been on its way then, and nobody is to be welcomed twice.
///
/// A newest state (its place in the log is not known) gives way to any link. A letter does only to one that was told by
/// its own version or a later one: who left and registered again is welcomed again.
pub(crate) async fn is_registered(context: &TargetContext, event: &Event) -> Result<bool, StoreError> {
    let registration = &context.plan.registration;
    if event.job.is_none() || registration.fold || registration.actions != [Action::Created] {
        return Ok(false);
    }
    let linked = context.store.linked(&context.name, std::slice::from_ref(&event.key)).await?;
    Ok(linked.into_iter().flatten().any(|version| event.log_id == 0 || version >= event.version))
}
