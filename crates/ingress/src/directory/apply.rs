use postbound_client::{Change, EmitError, emit};
use postbound_event::Action;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::merge::{Says, Verdict, Word, judge, remember};
use super::rows::{self, NewRow};

/// A change of one user, to be merged into what is known and told to all targets.
#[derive(Debug, Clone)]
pub(crate) struct UserChange<'a> {
    /// Tenant of the user.
    pub(crate) tenant_id: &'a str,
    /// The user's id, ours.
    pub(crate) user_id: &'a str,
    /// What is said of the user.
    pub(crate) word: Word,
    /// Who says it, and how it is ordered.
    pub(crate) says: Says,
    /// The system it came from, for the outbox: a target of that origin does not get it back.
    pub(crate) origin: Option<&'a str>,
    /// W3C trace context to carry on.
    pub(crate) traceparent: Option<&'a str>,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Applied {
    /// There is a new version, emitted already.
    Stored {
        /// What it was emitted as.
        action: Action,
        /// The user's new version.
        version: i64,
        /// The event.
        event_id: Uuid,
    },
    /// Clerk has told of something newer: nothing was changed.
    Older,
    /// Nothing new was said: nothing was emitted.
    Echo,
    /// The user is deleted, and stays so: nothing was emitted.
    Deleted,
}

/// Why a change was not applied. The transaction is aborted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DirectoryError {
    /// Postgres or the connection failed.
    #[error("the directory cannot be written: {0}")]
    Database(#[from] sqlx::Error),
    /// The outbox refused the change.
    #[error("the outbox refuses the change: {0}")]
    Emit(#[from] EmitError),
}

/// Applies a change in the transaction that `connection` is in: locks the user, merges, writes the directory's row, ends
/// sessions of a user who may no longer have any, and emits the whole state. The caller commits; nothing else is to be
/// emitted for this change. The user stays locked until then, so one transaction should change one user.
///
/// # Errors
/// When Postgres refuses.
pub(crate) async fn apply(
    connection: &mut PgConnection,
    change: &UserChange<'_>,
) -> Result<Applied, DirectoryError> {
    let UserChange { tenant_id, user_id, .. } = *change;
    let now = OffsetDateTime::now_utc();
    // It refuses ids as the outbox does.
    let mut held = rows::lock(connection, tenant_id, user_id).await.map_err(EmitError::from)?;
    let mut verdict = judge(&held, &change.word, change.says, change.origin, now);
    // Before a system's word is taken for a change: may it be an echo of what others wrote past the directory?
    if let (Verdict::Store { .. }, Word::Set(_), Says::Peer { version }) =
        (&verdict, &change.word, change.says)
        && held.lacks_states(version, now)
    {
        held.learn(rows::logged(connection, (tenant_id, user_id), held.version, version).await?);
        verdict = judge(&held, &change.word, change.says, change.origin, now);
    }
    let (action, state, clerk) = match verdict {
        Verdict::Older => return Ok(Applied::Older),
        Verdict::Echo => return Ok(Applied::Echo),
        Verdict::Deleted => return Ok(Applied::Deleted),
        Verdict::Remember(word) => {
            rows::remember(connection, (tenant_id, user_id), &held, word.as_ref()).await?;
            return Ok(Applied::Echo);
        }
        Verdict::Bury => {
            rows::bury(connection, (tenant_id, user_id), &held, change.word.reason()).await?;
            return Ok(Applied::Deleted);
        }
        Verdict::Store { action, state, clerk } => (action, state, clerk),
    };
    let emitted = emit(connection, &outgoing(change, action, &state)?).await?;
    let row = NewRow {
        key: (tenant_id, user_id),
        version: emitted.version,
        recent: &remember(&held, emitted.version, &state, change.origin, now),
        state: &state,
        deleted: (action == Action::Deleted).then(|| change.word.reason()),
        clerk: clerk.as_ref(),
    };
    rows::store(connection, &row).await?;
    Ok(Applied::Stored { action, version: emitted.version, event_id: emitted.event_id })
}

fn outgoing(
    change: &UserChange<'_>,
    action: Action,
    state: &serde_json::Map<String, serde_json::Value>,
) -> Result<Change, DirectoryError> {
    let (tenant, user) = (change.tenant_id, change.user_id);
    let outgoing = match action {
        Action::Created => Change::created(tenant, user),
        Action::Updated => Change::updated(tenant, user),
        Action::Deleted => Change::deleted(tenant, user),
    };
    let mut outgoing =
        outgoing.data(state).map_err(|error| DirectoryError::Database(sqlx::Error::Encode(error.into())))?;
    if let Some(origin) = change.origin {
        outgoing = outgoing.origin(origin);
    }
    if let Some(traceparent) = change.traceparent {
        outgoing = outgoing.traceparent(traceparent);
    }
    Ok(outgoing)
}

impl Word {
    fn reason(&self) -> Option<&str> {
        match self {
            Self::Set(_) => None,
            Self::Delete { reason } => reason.as_deref(),
        }
    }
}
