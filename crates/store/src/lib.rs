//! All SQL of Postbound but the producers' own: cursors, leases, the ledger, the registry of targets, status.
//!
//! `relay`, `worker` and the command line call it. It knows Postgres and the schema in `migrations/`, and neither
//! RabbitMQ nor HTTP. Each query stands in the one function that runs it and opens with a comment naming it.

mod archive;
mod audit;
mod breaker;
mod breaker_change;
mod connect;
mod cursor;
mod dead_letter;
mod doubt;
mod generation;
mod held_fields;
mod inbound;
mod job;
mod job_create;
mod job_items;
mod job_run;
mod job_standing;
mod job_upkeep;
mod ledger;
mod letter_filter;
mod link;
mod log;
mod log_partition;
mod migrate;
mod news;
mod notice;
mod parked;
mod parking;
mod rate_window;
mod rebase;
mod registration;
mod relay_lease;
mod replay;
mod standing;
mod state;
mod status;
mod target;
mod tls;
mod unknown;
mod user;
mod user_retry;
mod users_import;
mod witness;
mod worker_lease;

pub use archive::{Letter, LetterContent};
pub use audit::{AuditRow, Operation};
pub use breaker::{BreakerCause, BreakerListener, BreakerRow};
pub use breaker_change::{BreakerOpened, BreakerOpening, ProbePauses, Resumed};
pub use connect::{Store, StoreError, StoreOptions, within};
pub use cursor::{Cursor, OpenWindow, Saved, USER_STATE_STREAM};
pub use dead_letter::{LetterCause, LetterData, LetterDetail, LetterRow, LetterState, TargetBacklog};
pub use doubt::Doubt;
pub use generation::{DrainingTarget, Generation, PastPartition};
pub use held_fields::HeldVersion;
pub use inbound::InboundWaiting;
pub use job::{ItemCounts, JobCommand, JobItemRow, JobRow, Steered};
pub use job_create::{CreatedJob, JobOptions, ResyncFilter};
pub use job_items::{ItemMark, JobItem, JobLetter, JobState, MarkedItem};
pub use job_run::{JobKind, RunningJob, TargetJobs};
pub use job_standing::JobStanding;
pub use ledger::{Aftermath, Held, HeldRow, ItemOutcome, Settlement, Verdict};
pub use letter_filter::LetterFilter;
pub use link::{LinkCheckFilter, LinkFault, LinkFinding, LinkRow, NewLink};
pub use log::{LogRow, Page, PageLimits, WindowBounds};
pub use log_partition::{Dropping, LogPartition, Maintained};
pub use migrate::MigrationStatus;
pub use news::News;
pub use notice::{Notice, NoticeBacklog, NoticeRow, Told};
pub use parked::{DueFilter, NextAttempt, ParkedSchedule, ParkedState, ParkedUser};
pub use parking::{Parking, ParkingCause, StateWrites};
pub use rate_window::{RateAnswer, RateGrant, RateSpan, RateWindow};
pub use rebase::{LostUser, RebaseOptions, Rebased};
pub use registration::Registration;
pub use relay_lease::RelayLease;
pub use replay::{ReplayMatches, ReplayShare};
pub use standing::Standing;
pub use status::{
    ClosedScope, OpenDelivery, PartitionOwner, RelayStatus, Snapshot, StreamLag, TargetCounts, TargetStatus,
    WorkerRow,
};
pub use target::{RegisteredTarget, Tenant};
pub use unknown::Unknown;
pub use user::{Erasure, MissingTarget, UserAtTarget, UserChange, UserHead, UserLetter};
pub use user_retry::Retried;
pub use users_import::{ImportOutcome, ImportPlan, ImportedUser, UsersImport};
pub use witness::{DatabaseServer, DatabaseWitness, PublishedRow, RelayHalt};
pub use worker_lease::{Lease, LeaseChange, WorkerId};
