use sqlx::postgres::PgDatabaseError;

/// What the database said when it refused a change. Never repeats the change's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong.
    pub message: String,
    /// Particulars, such as a size.
    pub detail: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.message)?;
        self.detail.iter().try_for_each(|detail| write!(formatter, ": {detail}"))
    }
}

impl From<&PgDatabaseError> for Refusal {
    fn from(error: &PgDatabaseError) -> Self {
        let said = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
        Self { message: error.message().to_owned(), detail: said(error.detail()), hint: said(error.hint()) }
    }
}

/// Why a change was not written. The transaction it was to be part of is aborted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmitError {
    /// PB001: the action is none of created, updated and deleted.
    #[error("{0}")]
    UnknownAction(Refusal),
    /// PB002: the user id, tenant id or origin is empty.
    #[error("{0}")]
    EmptyId(Refusal),
    /// PB003: the user id, tenant id or origin has more than 256 bytes.
    #[error("{0}")]
    LongId(Refusal),
    /// PB004: the user id, tenant id or origin contains a control character.
    #[error("{0}")]
    UnprintableId(Refusal),
    /// PB005: the data is not a JSON object.
    #[error("{0}")]
    DataNotObject(Refusal),
    /// PB006: the data is over 256 KiB.
    #[error("{0}")]
    DataTooLarge(Refusal),
    /// PB007: the target list names a target that is not registered.
    #[error("{0}")]
    UnknownTarget(Refusal),
    /// PB008: an update of a deleted user.
    #[error("{0}")]
    UserDeleted(Refusal),
    /// PB009: the event id was used before, with other content.
    #[error("{0}")]
    EventIdReused(Refusal),
    /// PB010: an argument of `emit_many` has the wrong shape.
    #[error("{0}")]
    Malformed(Refusal),
    /// 40P01: this transaction and another one waited for each other. Run it again as a whole.
    #[error("deadlock with another transaction")]
    Deadlock(#[source] sqlx::Error),
    /// 40001: under repeatable read or serializable, the user changed meanwhile. Run the transaction again as a whole.
    #[error("the user was changed by a concurrent transaction")]
    Serialization(#[source] sqlx::Error),
    /// Anything else Postgres or the connection can fail with.
    #[error(transparent)]
    Database(sqlx::Error),
}

impl EmitError {
    /// Whether the same transaction, run again from its beginning, may well succeed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Deadlock(_) | Self::Serialization(_))
    }

    /// What the database said, for an error of class PB.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::UnknownAction(refusal)
            | Self::EmptyId(refusal)
            | Self::LongId(refusal)
            | Self::UnprintableId(refusal)
            | Self::DataNotObject(refusal)
            | Self::DataTooLarge(refusal)
            | Self::UnknownTarget(refusal)
            | Self::UserDeleted(refusal)
            | Self::EventIdReused(refusal)
            | Self::Malformed(refusal) => Some(refusal),
            Self::Deadlock(_) | Self::Serialization(_) | Self::Database(_) => None,
        }
    }
}

impl From<sqlx::Error> for EmitError {
    fn from(error: sqlx::Error) -> Self {
        let Some(said) = error.as_database_error().and_then(|db| db.try_downcast_ref::<PgDatabaseError>())
        else {
            return Self::Database(error);
        };
        match said.code() {
            "PB001" => Self::UnknownAction(said.into()),
            "PB002" => Self::EmptyId(said.into()),
            "PB003" => Self::LongId(said.into()),
            "PB004" => Self::UnprintableId(said.into()),
            "PB005" => Self::DataNotObject(said.into()),
            "PB006" => Self::DataTooLarge(said.into()),
            "PB007" => Self::UnknownTarget(said.into()),
            "PB008" => Self::UserDeleted(said.into()),
            "PB009" => Self::EventIdReused(said.into()),
            "PB010" => Self::Malformed(said.into()),
            "40P01" => Self::Deadlock(error),
            "40001" => Self::Serialization(error),
            _ => Self::Database(error),
        }
    }
}
