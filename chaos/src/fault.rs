//! What the nemesis can do.

use std::fmt;

use serde::Serialize;

use crate::proxy::Way;

/// One fault, with all that was drawn for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "fault", rename_all = "kebab-case")]
pub(crate) enum Fault {
    /// SIGKILL; started again at the end.
    Kill { process: String },
    /// SIGSTOP; SIGCONT at the end.
    Freeze { process: String },
    /// Its wall clock is so far ahead, or behind; right again at the end.
    StepClock { process: String, seconds: i64 },
    /// A worker more, for a while. It goes by SIGTERM, or by SIGKILL.
    AddWorker { process: String, gracefully: bool },
    /// A worker less, for a while, by SIGTERM.
    RemoveWorker { process: String },
    /// Every process of the source's PostgreSQL is killed; started again at the end.
    KillPostgres,
    /// A share of PostgreSQL's client backends is terminated.
    TerminateBackends { percent: u8 },
    /// Every process of RabbitMQ is killed; started again at the end.
    KillRabbitmq,
    /// RabbitMQ closes every connection.
    CloseBrokerConnections,
    /// RabbitMQ's memory alarm: publishers are blocked.
    MemoryAlarm,
    /// No queue takes a message while it holds one, and no worker is handed any.
    FullQueues,
    /// Every connection of a link is reset.
    Cut { link: String },
    /// A link is still, in one direction or both.
    Stall { link: String, ways: Vec<Way> },
    /// The connections a link has stand still; new ones pass.
    Strand { link: String, ways: Vec<Way> },
    /// A link is slow.
    Slow { link: String, ways: Vec<Way>, piece_bytes: usize, pause_ms: u64 },
    /// One direction of every connection of a link ends.
    HalfClose { link: String, way: Way },
    /// A link takes no new connections, and loses those it has.
    Refuse { link: String },
    /// An operator gives an order in the midst of it all.
    Order { order: Order },
    /// A receiver misbehaves.
    Mood { target: &'static str, mood: Mood },
}

/// What an operator may want.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Order {
    /// A target gets all users of a tenant again.
    Resync { target: &'static str, tenant: &'static str },
    /// Dead letters are sent again.
    Replay,
    /// Whoever was left behind is sent.
    Reconcile,
}

/// How a receiver misbehaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mood {
    /// Every request takes so long.
    Slow { delay_ms: u64 },
    /// Some requests take longer than their senders wait; they are executed before the wait, or after it.
    Hangs { times: u32, delay_ms: u64, executes_first: bool },
    /// 500.
    Fails,
    /// 502 of a gateway; behind it the request was executed, or it was not.
    BadGateway { executes: bool },
    /// 503 with `Retry-After`.
    Unavailable { retry_after_s: u64 },
    /// 429 with `Retry-After`.
    TooMany { retry_after_s: u64 },
    /// An answer that is none: executed, and then 500 with bytes of no meaning; from the CRM 200 with them.
    Garbage,
    /// Executed, and the connection ends without an answer.
    Forgets,
    /// 422 for some users.
    Refuses { users: Vec<String> },
    /// The CRM fails some users of a batch.
    FailsUsers { users: Vec<String> },
}

impl Fault {
    /// The kind, as the report counts it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Kill { process } if process.starts_with("receiver") => "receiver killed",
            Self::Kill { process } if process.starts_with("relay") => "relay killed",
            Self::Kill { .. } => "worker killed",
            Self::Freeze { process } if process.starts_with("receiver") => "receiver frozen",
            Self::Freeze { process } if process.starts_with("relay") => "relay frozen",
            Self::Freeze { .. } => "worker frozen",
            Self::StepClock { .. } => "clock stepped",
            Self::AddWorker { .. } => "worker added",
            Self::RemoveWorker { .. } => "worker removed",
            Self::KillPostgres => "postgres killed",
            Self::TerminateBackends { .. } => "backends terminated",
            Self::KillRabbitmq => "rabbitmq killed",
            Self::CloseBrokerConnections => "broker connections closed",
            Self::MemoryAlarm => "memory alarm",
            Self::FullQueues => "queues full",
            Self::Cut { .. } => "link cut",
            Self::Stall { .. } => "link stalled",
            Self::Strand { .. } => "connections stranded",
            Self::Slow { .. } => "link slow",
            Self::HalfClose { .. } => "link half-closed",
            Self::Refuse { .. } => "link refuses",
            Self::Order { order: Order::Resync { .. } } => "resync ordered",
            Self::Order { order: Order::Replay } => "replay ordered",
            Self::Order { order: Order::Reconcile } => "reconcile ordered",
            Self::Mood { mood, .. } => mood.kind(),
        }
    }

    /// What it has hold of: two faults of one thing never overlap.
    pub(crate) fn holds(&self) -> String {
        match self {
            Self::Kill { process }
            | Self::Freeze { process }
            | Self::StepClock { process, .. }
            | Self::AddWorker { process, .. }
            | Self::RemoveWorker { process } => process.clone(),
            Self::KillPostgres | Self::TerminateBackends { .. } => "postgres".to_owned(),
            Self::KillRabbitmq | Self::CloseBrokerConnections | Self::MemoryAlarm | Self::FullQueues => {
                "rabbitmq".to_owned()
            }
            Self::Cut { link }
            | Self::Stall { link, .. }
            | Self::Strand { link, .. }
            | Self::Slow { link, .. }
            | Self::HalfClose { link, .. }
            | Self::Refuse { link } => link.clone(),
            Self::Order { .. } => "operator".to_owned(),
            // A receiver that is started again knows nothing of moods.
            Self::Mood { target, .. } => format!("receiver-{target}"),
        }
    }
}

impl Order {
    /// The command's arguments.
    pub(crate) fn args(&self) -> Vec<&str> {
        match self {
            Self::Resync { target, tenant } => {
                vec!["resync", "--target", target, "--tenant", tenant, "--yes"]
            }
            Self::Replay => vec!["dead-letters", "replay", "--all", "--yes"],
            Self::Reconcile => vec!["reconcile", "--older-than", "10s", "--yes"],
        }
    }
}

impl Mood {
    fn kind(&self) -> &'static str {
        match self {
            Self::Slow { .. } => "target slow",
            Self::Hangs { .. } => "target hangs",
            Self::Fails => "target answers 500",
            Self::BadGateway { .. } => "target answers 502",
            Self::Unavailable { .. } => "target answers 503",
            Self::TooMany { .. } => "target answers 429",
            Self::Garbage => "target answers garbage",
            Self::Forgets => "target drops answers",
            Self::Refuses { .. } => "target refuses users",
            Self::FailsUsers { .. } => "target fails users",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind())?;
        let ways = |ways: &[Way]| if ways.len() > 1 { "both ways".to_owned() } else { format!("{ways:?}") };
        match self {
            Self::Kill { process } | Self::Freeze { process } | Self::RemoveWorker { process } => {
                write!(f, ": {process}")
            }
            Self::StepClock { process, seconds } => write!(f, ": {process}, {seconds:+} s"),
            Self::AddWorker { process, gracefully } => {
                write!(
                    f,
                    ": {process}, {}",
                    if *gracefully { "drains at the end" } else { "killed at the end" }
                )
            }
            Self::TerminateBackends { percent } => write!(f, ": {percent} %"),
            Self::Cut { link } | Self::Refuse { link } => write!(f, ": {link}"),
            Self::Stall { link, ways: some } | Self::Strand { link, ways: some } => {
                write!(f, ": {link}, {}", ways(some))
            }
            Self::Slow { link, ways: some, piece_bytes, pause_ms } => {
                write!(f, ": {link}, {}, {piece_bytes} bytes per {pause_ms} ms", ways(some))
            }
            Self::HalfClose { link, way } => write!(f, ": {link}, {way:?}"),
            Self::Order { order: Order::Resync { target, tenant } } => write!(f, ": {target}, {tenant}"),
            Self::Order { .. } => Ok(()),
            Self::Mood { target, mood } => write!(f, ": {target}, {mood:?}"),
            Self::KillPostgres
            | Self::KillRabbitmq
            | Self::CloseBrokerConnections
            | Self::MemoryAlarm
            | Self::FullQueues => Ok(()),
        }
    }
}
