use crate::{context::TargetContext, gathered::Gathered};
use postbound_event::{Action, Event, UserKey};
use postbound_store::{NewLink, Store};
use postbound_target::ExternalLink;
use std::sync::Arc;

/// The ids an answer told, as the ledger's transaction writes them: the target's own, and those of systems behind it.
pub(crate) fn told_links(own: Option<String>, others: Vec<ExternalLink>) -> Vec<NewLink> {
    // Most answers tell nothing: nothing is allocated then.
    let own = own.map(|external_id| NewLink { system: Arc::from(""), external_id });
    let others = others.into_iter().map(|link| NewLink { system: link.system, external_id: link.id });
    own.into_iter().chain(others).collect()
}

/// Asks which users targets have heard of, and with which version: see [`Store::linked`].
pub(crate) type HeardOf = Gathered<(Arc<str>, UserKey), Option<i64>>;

/// Starts asking, for all lanes of the worker.
pub(crate) fn heard_of(store: Store, batch_max: usize) -> HeardOf {
    Gathered::start(batch_max, "identity links not read", move |users: Vec<(Arc<str>, UserKey)>| {
        let store = store.clone();
        async move { store.linked(&users).await }
    })
}

/// Whether a job's event would tell a target of registrations what it has heard already. Jobs pass over such users when
/// they are sent, but the registration itself may have been on its way then, and nobody is to be welcomed twice.
///
/// A newest state (its place in the log is not known) gives way to any link. A letter does only to one that was told by
/// its own version or a later one: who left and registered again is welcomed again. None: Postgres did not say.
pub(crate) async fn is_registered(context: &TargetContext, event: &Event) -> Option<bool> {
    let registration = &context.plan.registration;
    if event.job.is_none() || registration.fold || registration.actions != [Action::Created] {
        return Some(false);
    }
    let told = context.heard_of.ask((Arc::clone(&context.name), event.key.clone())).await?;
    Some(told.is_some_and(|version| event.log_id == 0 || version >= event.version))
}
