//! What the errors below mean to callers.

use postbound_client::EmitError;
pub(crate) use postbound_http::Problem;
use postbound_store::StoreError;

/// A database that is away is 503, what a later try would meet again 500.
pub(crate) fn of_store(error: StoreError) -> Problem {
    if let StoreError::Database(error) = error {
        return error.into();
    }
    let passing = error.is_transient();
    tracing::error!(transient = passing, "ingress.store.failed");
    if passing { Problem::unavailable() } else { Problem::internal() }
}

/// What the outbox refuses is 409 or 422.
pub(crate) fn of_emit(error: EmitError) -> Problem {
    match error {
        EmitError::UserDeleted(refusal) => Problem::conflict("user-deleted", refusal.to_string()),
        EmitError::EventIdReused(refusal) => Problem::conflict("event-id-reused", refusal.to_string()),
        EmitError::Deadlock(_) | EmitError::Serialization(_) => Problem::unavailable(),
        EmitError::Database(error) => error.into(),
        refused => match refused.refusal() {
            Some(refusal) => Problem::unacceptable(refusal.to_string()),
            None => Problem::internal(),
        },
    }
}
