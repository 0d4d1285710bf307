//! One inbound change, one transaction: the message's id, the directory's row, the change in the outbox.

use serde_json::Value;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::Source;
use super::inbound::InboundChange;
use super::waiting;
use super::whom::{Whom, always_known, whom};
use crate::Ingress;
use crate::directory::{Applied, DirectoryError, UserChange, Word, apply};
use crate::problem::{Problem, of_emit};

/// How often a transaction is run that another one got in the way of.
const ATTEMPTS_MAX: u32 = 4;
/// The tenant of sources that name none.
const DEFAULT_TENANT: &str = postbound_client::DEFAULT_TENANT;

/// A verified message.
pub(super) struct Message<'m> {
    pub(super) id: String,
    /// Whether the id tells a repetition at any time, or only for five minutes.
    pub(super) lasting: bool,
    /// sha256 of the raw body.
    pub(super) digest: [u8; 32],
    pub(super) body: &'m Value,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// There is a new version.
    Applied { version: i64, event_id: Uuid },
    /// The state was known.
    Echo,
    /// A newer one is held.
    Older,
    /// The user is gone for good.
    Deleted,
    /// Nobody knows the user yet: it is kept and tried again.
    Waiting,
    /// The message had been taken before.
    Repeated,
}

impl Taken {
    /// A word for the sender, for metrics and for `inbound_message`.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Applied { .. } => "applied",
            Self::Echo => "echo",
            Self::Older => "older",
            Self::Deleted => "deleted",
            Self::Waiting => "waiting",
            Self::Repeated => "repeated",
        }
    }
}

/// Why a message was not taken. The transaction is gone with all of it.
#[derive(Debug, thiserror::Error)]
pub(super) enum TakeError {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error("too many changes wait for their users")]
    Full,
}

impl TakeError {
    /// Whether the same transaction, run again at once, may well succeed.
    fn is_retryable(&self) -> bool {
        let database = match self {
            Self::Database(error) | Self::Directory(DirectoryError::Database(error)) => error,
            Self::Directory(DirectoryError::Emit(error)) => return error.is_retryable(),
            Self::Full => return false,
        };
        let code = database.as_database_error().and_then(|error| error.code());
        code.is_some_and(|code| ["40P01", "40001"].contains(&&*code))
    }

    /// The SQLSTATE or kind, for `inbound_waiting`; never the words, which may quote content.
    pub(super) fn class(&self) -> &'static str {
        match self {
            Self::Directory(DirectoryError::Emit(error)) if error.refusal().is_some() => "refused",
            Self::Full => "full",
            _ => "failed",
        }
    }
}

impl From<TakeError> for Problem {
    fn from(error: TakeError) -> Self {
        match error {
            TakeError::Database(error) | TakeError::Directory(DirectoryError::Database(error)) => {
                error.into()
            }
            TakeError::Directory(DirectoryError::Emit(error)) => of_emit(error),
            TakeError::Full => Self::unavailable(),
        }
    }
}

/// Takes a message in; returns when it is committed.
pub(super) async fn take(
    ingress: &Ingress,
    source: &Source,
    message: &Message<'_>,
    change: &InboundChange,
) -> Result<Taken, Problem> {
    let mut attempt = 1;
    loop {
        match take_once(&ingress.pool, source, message, change).await {
            Ok(taken) => return Ok(taken),
            Err(error) if error.is_retryable() && attempt < ATTEMPTS_MAX => attempt += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

async fn take_once(
    pool: &PgPool,
    source: &Source,
    message: &Message<'_>,
    change: &InboundChange,
) -> Result<Taken, TakeError> {
    let mut transaction = pool.begin().await?;
    if !remember(&mut transaction, source.name(), message).await? {
        transaction.rollback().await?;
        return Ok(Taken::Repeated);
    }
    let taken = match whom(&mut transaction, source, change).await? {
        Whom::Known { tenant_id, user_id } => {
            let user = (tenant_id.as_str(), user_id.as_str());
            // What waited for this very user is older. Where there is too much of it, this change waits, too.
            let behind = !always_known(source)
                && waiting::apply_waiting(&mut transaction, source, &change.id, user).await?.more;
            if behind {
                waiting::keep(&mut transaction, source, message, change, waiting::BEHIND).await?;
                Taken::Waiting
            } else {
                apply_to(&mut transaction, source, change, user).await?
            }
        }
        Whom::Unknown { reason } => {
            waiting::keep(&mut transaction, source, message, change, reason).await?;
            Taken::Waiting
        }
    };
    record(&mut transaction, source.name(), &message.id, taken).await?;
    postbound_failpoint::pass("ingress.applied");
    transaction.commit().await?;
    Ok(taken)
}

/// Applies a change to a user of ours.
pub(super) async fn apply_to(
    connection: &mut PgConnection,
    source: &Source,
    change: &InboundChange,
    user: (&str, &str),
) -> Result<Taken, TakeError> {
    let (tenant_id, user_id) = user;
    if let Some(ordered_at) = change.ordered_at
        && !advance(connection, source.name(), user, ordered_at).await?
        // A delete is final, whenever it comes: its time may be that of the last change before it.
        && !matches!(change.word, Word::Delete { .. })
    {
        return Ok(Taken::Older);
    }
    let change = UserChange {
        tenant_id,
        user_id,
        word: change.word.clone(),
        says: change.says,
        origin: Some(source.settings.origin()),
        traceparent: change.traceparent.as_deref(),
    };
    Ok(match apply(connection, &change).await? {
        Applied::Stored { version, event_id, .. } => Taken::Applied { version, event_id },
        Applied::Older => Taken::Older,
        Applied::Echo => Taken::Echo,
        Applied::Deleted => Taken::Deleted,
    })
}

/// The tenant of a source without one.
pub(super) fn tenant_of(change: &InboundChange) -> &str {
    change.tenant.as_deref().unwrap_or(DEFAULT_TENANT)
}

/// Whether the message is a new one. Two at once: the second waits for what becomes of the first.
async fn remember(
    connection: &mut PgConnection,
    source: &str,
    message: &Message<'_>,
) -> Result<bool, sqlx::Error> {
    let is_new: Option<bool> = sqlx::query_scalar(
        "-- inbound_remember
        insert into postbound.inbound_message as m (source, message_id, digest, outcome)
        values ($1, $2, $3, 'applied')
        on conflict on constraint inbound_message_pk do update
            set received_at = excluded.received_at, outcome = excluded.outcome
            where not $4 and m.received_at < clock_timestamp() - interval '5 minutes'
        returning true",
    )
    .bind(source)
    .bind(&message.id)
    .bind(message.digest.as_slice())
    .bind(message.lasting)
    .fetch_optional(connection)
    .await?;
    Ok(is_new.is_some())
}

/// Writes down what became of a message.
pub(super) async fn record(
    connection: &mut PgConnection,
    source: &str,
    message_id: &str,
    taken: Taken,
) -> Result<(), sqlx::Error> {
    if matches!(taken, Taken::Applied { .. }) {
        return Ok(());
    }
    sqlx::query(
        "-- inbound_record
        update postbound.inbound_message set outcome = $3 where source = $1 and message_id = $2",
    )
    .bind(source)
    .bind(message_id)
    .bind(taken.as_str())
    .execute(connection)
    .await?;
    Ok(())
}

/// Moves the sender's own order of a user on; false: it has told of something newer. The user is locked first, as by an
/// erasure.
async fn advance(
    connection: &mut PgConnection,
    source: &str,
    (tenant_id, user_id): (&str, &str),
    ordered_at: time::OffsetDateTime,
) -> Result<bool, sqlx::Error> {
    sqlx::query("-- inbound_lock_user\nselect postbound.lock_user($1, $2)")
        .bind(tenant_id)
        .bind(user_id)
        .execute(&mut *connection)
        .await?;
    let moved: Option<bool> = sqlx::query_scalar(
        "-- inbound_advance
        insert into postbound.inbound_order as o (source, tenant_id, user_id, ordered_at) values ($1, $2, $3, $4)
        on conflict on constraint inbound_order_pk do update set ordered_at = excluded.ordered_at
            where o.ordered_at <= excluded.ordered_at
        returning true",
    )
    .bind(source)
    .bind(tenant_id)
    .bind(user_id)
    .bind(ordered_at)
    .fetch_optional(connection)
    .await?;
    Ok(moved.is_some())
}
