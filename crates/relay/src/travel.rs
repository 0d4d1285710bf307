//! Time travel: telling a Postgres or a RabbitMQ that has gone back to an older state of its own from one that has not.

use postbound_broker::{BrokerError, BrokerWitness, Link, WitnessRow};
use postbound_store::{DatabaseWitness, PublishedRow, Store, StoreError, within};
use std::{collections::HashSet, time::Duration};
use time::OffsetDateTime;
use uuid::Uuid;

/// How long one question to either side may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// Beats RabbitMQ may be behind: one is written to Postgres first, and one may be of the relay before, written while this one
/// looked. No relay writes another before RabbitMQ has the last it knows of.
const BEATS_ON_THEIR_WAY: i64 = 2;

/// Both sides, as they were found.
#[derive(Debug, Clone)]
pub struct Sides {
    /// Postgres.
    pub database: DatabaseWitness,
    /// RabbitMQ; None: it holds no witness.
    pub broker: Option<BrokerWitness>,
    /// Rows that were published and that the log does not have.
    pub missing_rows: Vec<i64>,
}

/// What went back in time. Its text says what was found on each side, what it means, and which command mends it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Travel {
    /// Commits are gone whose changes were published.
    #[error(
        "Postgres has gone back in time: {found}. Changes were published that it no longer has (a replica promoted too \
         early, a restored backup), and targets may hold newer states than it knows. Nothing is published until: postbound \
         rebase"
    )]
    Database {
        /// On each side.
        found: String,
    },
    /// The database was restored into another cluster.
    #[error(
        "Postgres is another cluster: its system identifier is {now}, the cursors are of {before}. A dump was restored into a \
         new cluster, or pg_upgrade was run; transaction ids in cursors mean nothing here. Nothing is published until: \
         postbound rebase"
    )]
    Cluster {
        /// The cluster of the cursors.
        before: i64,
        /// The one this is.
        now: i64,
    },
    /// Messages are gone that were confirmed.
    #[error(
        "RabbitMQ has lost messages: {found}. Its virtual host was made anew, or its disk was restored; what waited in its \
         queues is still in the log. Nothing is published until: postbound topology apply (if queues are missing), or \
         postbound rebase"
    )]
    Broker {
        /// On each side.
        found: String,
    },
}

/// Why the sides could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// RabbitMQ did not tell.
    #[error("RabbitMQ's witness cannot be read: {0}")]
    Broker(#[from] BrokerError),
    /// Postgres did not tell.
    #[error("Postgres' witness cannot be read: {0}")]
    Store(#[from] StoreError),
    /// Nobody answered in time.
    #[error("no answer from RabbitMQ within {0:?}")]
    Timeout(Duration),
}

impl Sides {
    /// Looks at both sides. `published` are rows the caller knows to have been published.
    ///
    /// # Errors
    /// When one of them cannot be asked.
    pub async fn look(store: &Store, link: &Link, published: &[PublishedRow]) -> Result<Self, LookError> {
        let sides = Self::look_once(store, link, published).await?;
        match sides.judge() {
            // Postgres was asked second: a history may have begun since RabbitMQ answered, or several beats been written.
            Err(Travel::Broker { .. }) => Self::look_once(store, link, published).await,
            _ => Ok(sides),
        }
    }

    async fn look_once(store: &Store, link: &Link, published: &[PublishedRow]) -> Result<Self, LookError> {
        let broker = tokio::time::timeout(LOOK_TIMEOUT, link.witness())
            .await
            .map_err(|_| LookError::Timeout(LOOK_TIMEOUT))??;
        // Postgres second: beats are written to it first, so that it is never behind without a reason.
        let database = within(LOOK_TIMEOUT, store.database_witness()).await?;
        let of_broker = broker.iter().filter(|witness| witness.lineage == database.lineage.to_string());
        let of_broker = of_broker.flat_map(|witness| &witness.rows).filter_map(row_of_witness);
        let rows: HashSet<PublishedRow> = of_broker.chain(published.iter().copied()).collect();
        let rows: Vec<_> = rows.into_iter().collect();
        let missing_rows = within(LOOK_TIMEOUT, store.missing_rows(&rows)).await?;
        Ok(Self { database, broker, missing_rows })
    }

    /// RabbitMQ's witness, if it is of the history Postgres is in.
    pub(crate) fn broker_of_this_history(&self) -> Option<&BrokerWitness> {
        self.broker.as_ref().filter(|broker| broker.lineage == self.database.lineage.to_string())
    }

    /// What went back in time, if anything did.
    ///
    /// Beats are exact: only a relay that has looked writes one, Postgres' before RabbitMQ's, and a commit that is lost
    /// takes all later ones with it. A history's name RabbitMQ is given before Postgres has its first beat. Rows are for
    /// what was published since the last beat, and for a log that was tampered with. The timeline alone proves nothing: a
    /// promotion that lost nothing moves it too.
    ///
    /// # Errors
    /// With what did.
    pub fn judge(&self) -> Result<(), Travel> {
        let Self { database, broker, missing_rows } = self;
        if let Some(before) = database.system_identifier
            && database.is_of_another_cluster()
        {
            return Err(Travel::Cluster { before, now: database.server.system_identifier });
        }
        match broker {
            None if database.beat == 0 => {}
            None => {
                let found = format!("its witness is gone, Postgres is at {}", told(database));
                return Err(Travel::Broker { found });
            }
            Some(broker) if broker.lineage != database.lineage.to_string() => {
                self.judge_histories(broker)?;
            }
            Some(broker) if broker.beat > database.beat => {
                return Err(Travel::Database { found: self.found(broker) });
            }
            Some(broker) if broker.beat + BEATS_ON_THEIR_WAY < database.beat => {
                return Err(Travel::Broker { found: self.found(broker) });
            }
            Some(_) => {}
        }
        if let Some(first) = missing_rows.first() {
            let (rows, timeline) = (missing_rows.len(), database.server.timeline);
            let before = database.timeline.unwrap_or(timeline);
            let found = format!(
                "of the last rows published {rows} are not in its log, or are other events there now (the first one has id \
                 {first}); its timeline is {timeline}, it was {before}"
            );
            return Err(Travel::Database { found });
        }
        Ok(())
    }

    /// Two names: one side has missed a rebase, or they never belonged together. RabbitMQ's is of before it until a relay
    /// gives it the new one, at beat 0.
    fn judge_histories(&self, broker: &BrokerWitness) -> Result<(), Travel> {
        let database = &self.database;
        match broker.epoch < database.epoch {
            true if database.beat == 0 => Ok(()),
            true => Err(Travel::Broker { found: self.found(broker) }),
            false => Err(Travel::Database { found: self.found(broker) }),
        }
    }

    fn found(&self, broker: &BrokerWitness) -> String {
        let lineage = broker.lineage.get(..8).unwrap_or(&broker.lineage);
        format!(
            "RabbitMQ is at beat {} of history {lineage} (epoch {}, timeline {}), Postgres at {}",
            broker.beat,
            broker.epoch,
            broker.timeline,
            told(&self.database)
        )
    }
}

fn told(database: &DatabaseWitness) -> String {
    let lineage = database.lineage.to_string();
    let (lineage, timeline) = (lineage.get(..8).unwrap_or_default(), database.server.timeline);
    format!("beat {} of history {lineage} (epoch {}, timeline {timeline})", database.beat, database.epoch)
}

/// One that cannot be read is none: the beats still count.
fn row_of_witness(row: &WitnessRow) -> Option<PublishedRow> {
    let logged_at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(row.logged_at_us) * 1000).ok()?;
    Some(PublishedRow { id: row.id, logged_at, event_id: Uuid::parse_str(&row.event_id).ok()? })
}

pub(crate) fn witness_of_row(row: &PublishedRow) -> WitnessRow {
    WitnessRow {
        id: row.id,
        logged_at_us: (row.logged_at.unix_timestamp_nanos() / 1000) as i64,
        event_id: row.event_id.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postbound_store::DatabaseServer;

    const LINEAGE: Uuid = Uuid::from_u128(7);

    fn database(epoch: i64, beat: i64) -> DatabaseWitness {
        let server =
            DatabaseServer { system_identifier: 1, timeline: 2, started: OffsetDateTime::UNIX_EPOCH };
        DatabaseWitness {
            epoch,
            lineage: LINEAGE,
            beat,
            version_max: 9,
            system_identifier: Some(1),
            timeline: Some(1),
            server,
        }
    }

    fn broker(lineage: Uuid, epoch: i64, beat: i64) -> Option<BrokerWitness> {
        let lineage = lineage.to_string();
        let rows = Vec::new();
        Some(BrokerWitness { epoch, lineage, beat, version_max: 9, system_identifier: 1, timeline: 1, rows })
    }

    #[test]
    fn a_side_that_is_older_than_the_other_has_gone_back() {
        const OTHER: Uuid = Uuid::from_u128(8);
        let check = |case: &str, database, broker, missing_rows: &[i64], expected: &str| {
            let sides = Sides { database, broker, missing_rows: missing_rows.to_vec() };
            let judged = sides.judge();
            let kind = match &judged {
                Ok(()) => "nothing",
                Err(Travel::Database { .. }) => "database",
                Err(Travel::Cluster { .. }) => "cluster",
                Err(Travel::Broker { .. }) => "broker",
            };
            assert_eq!(kind, expected, "{case}: {judged:?}");
        };
        check("before the first beat", database(1, 0), None, &[], "nothing");
        check("in step, though promoted", database(1, 5), broker(LINEAGE, 1, 5), &[], "nothing");
        check("a beat is on its way", database(1, 5), broker(LINEAGE, 1, 4), &[], "nothing");
        check("so is another, of a dead relay", database(1, 5), broker(LINEAGE, 1, 3), &[], "nothing");
        check("an old RabbitMQ", database(1, 6), broker(LINEAGE, 1, 3), &[], "broker");
        check("a new RabbitMQ", database(1, 1), None, &[], "broker");
        check("one beat is lost", database(1, 4), broker(LINEAGE, 1, 5), &[], "database");
        check("rows are lost, no beat is", database(1, 5), broker(LINEAGE, 1, 5), &[17], "database");
        check(
            "a database from before the first beat",
            database(1, 0),
            broker(LINEAGE, 1, 5),
            &[],
            "database",
        );
        check("two that never met", database(1, 0), broker(OTHER, 1, 5), &[], "database");
        check("a rebase has just been", database(2, 0), broker(OTHER, 1, 5), &[], "nothing");
        check("RabbitMQ has its name", database(2, 0), broker(LINEAGE, 2, 0), &[], "nothing");
        check("its first beat is on its way", database(2, 1), broker(LINEAGE, 2, 0), &[], "nothing");
        check("RabbitMQ from before a rebase", database(2, 1), broker(OTHER, 1, 5), &[], "broker");
        check("a database from before a rebase", database(1, 5), broker(OTHER, 2, 0), &[], "database");
        let restored = DatabaseWitness { system_identifier: Some(99), ..database(1, 5) };
        check("a dump in another cluster", restored, broker(LINEAGE, 1, 5), &[], "cluster");
    }
}
