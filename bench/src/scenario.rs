//! The scenarios, by name: each measures one thing and gives rows for the report.

mod alone;
mod backlog;
mod drain;
mod emit;
mod growth;
mod latency;
mod live;
mod resync;
mod sibling;

use anyhow::Result;

use crate::report::Row;
use crate::site::Site;

/// One thing to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Scenario {
    /// One target, a standing backlog of distinct users, one POST each
    #[value(name = "backlog-1")]
    Backlog1,
    /// The same with two targets
    #[value(name = "backlog-2")]
    Backlog2,
    /// A live stream, from commit to the settled delivery
    Live,
    /// The relay alone
    Relay,
    /// The worker alone
    Worker,
    /// Writing to the outbox against a plain insert
    Emit,
    /// From commit to arrival at 50, 500 and half of the most changes a second
    Latency,
    /// Several changes of each user, folded on their way
    Coalesced,
    /// Up to 100 users a request
    CrmBatch,
    /// Backlogs of 10 thousand to a million, history, a transaction held open, memory, idle CPU
    Growth,
    /// A target's latency while another is dead
    Sibling,
    /// Live latency beside a resync
    Resync,
}

impl Scenario {
    /// Its name on the command line.
    pub(crate) fn name(self) -> String {
        use clap::ValueEnum as _;
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Measures it.
    pub(crate) async fn run(self, site: &mut Site) -> Result<Vec<Row>> {
        match self {
            Self::Backlog1 => backlog::one_target(site).await,
            Self::Backlog2 => backlog::two_targets(site).await,
            Self::Coalesced => backlog::coalesced(site).await,
            Self::CrmBatch => backlog::crm_batch(site).await,
            Self::Live => live::run(site).await,
            Self::Relay => alone::relay(site).await,
            Self::Worker => alone::worker(site).await,
            Self::Emit => emit::run(site).await,
            Self::Latency => latency::run(site).await,
            Self::Growth => growth::run(site).await,
            Self::Sibling => sibling::run(site).await,
            Self::Resync => resync::run(site).await,
        }
    }
}
