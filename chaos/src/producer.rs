//! One client of the application: it changes users, transaction after transaction, loses its connection now and then, and
//! always knows which of its transactions are committed for sure, rolled back for sure, or in doubt.

use std::time::Duration;

use rand::Rng as _;
use rand::rngs::StdRng;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use tokio::time::{sleep, timeout};

use crate::mark::AVATARS;
use crate::population::{Population, User};

/// How long a client waits for any answer.
const PATIENCE: Duration = Duration::from_secs(4);

/// How a transaction ended, as far as its client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The server said so.
    Committed,
    /// No commit was ever sent, or the server refused it before.
    RolledBack,
    /// The connection was lost with the commit on its way.
    InDoubt,
}

/// A transaction that ended.
#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    /// The users it changed, with the mark of each state.
    pub(crate) changes: Vec<(User, String)>,
    /// How.
    pub(crate) outcome: Outcome,
}

/// What a transaction is to do.
struct Deed {
    /// Users in the order of their keys, each once.
    users: Vec<User>,
    deletes: Vec<bool>,
    bare: bool,
    commits: bool,
    hold: Duration,
}

/// A client with its own part of the seed.
pub(crate) struct Producer {
    number: usize,
    rng: StdRng,
    options: PgConnectOptions,
    /// Whether deletes may say no more than who is gone.
    bare_deletes: bool,
    connection: Option<PgConnection>,
    transactions: u64,
}

impl Producer {
    pub(crate) fn new(number: usize, rng: StdRng, options: PgConnectOptions, bare_deletes: bool) -> Self {
        Self { number, rng, options, bare_deletes, connection: None, transactions: 0 }
    }

    /// Draws the next transaction and goes through with it, as far as the servers let it.
    pub(crate) async fn transact(&mut self) -> Transaction {
        let deed = self.draw();
        self.transactions += 1;
        let prefix = format!("{}-{}", self.number, self.transactions);
        let marks: Vec<String> = (0..deed.users.len()).map(|place| format!("{prefix}-{place}")).collect();
        let outcome = self.go_through_with(&deed, &marks).await;
        Transaction { changes: deed.users.into_iter().zip(marks).collect(), outcome }
    }

    /// A pause between two transactions; a busy client makes short ones.
    pub(crate) async fn think(&mut self, is_busy: bool) {
        let longest_ms = if is_busy { 40 } else { 350 };
        sleep(Duration::from_millis(self.rng.random_range(0..longest_ms))).await;
    }

    fn draw(&mut self) -> Deed {
        let rng = &mut self.rng;
        let (count, hold) = match rng.random_range(0..100) {
            0..=3 => (1, rng.random_range(1_000..12_000)),
            4..=9 => (rng.random_range(20..120), 0),
            10..=24 => (rng.random_range(2..5), 0),
            25..=39 => (1, rng.random_range(0..60)),
            _ => (1, 0),
        };
        let mut users: Vec<User> = (0..count).map(|_| Population::draw(rng)).collect();
        users.sort();
        users.dedup();
        Deed {
            deletes: users.iter().map(|_| rng.random_bool(0.12)).collect(),
            users,
            bare: self.bare_deletes && rng.random_bool(0.5),
            commits: !rng.random_bool(0.12),
            hold: Duration::from_millis(hold),
        }
    }

    async fn go_through_with(&mut self, deed: &Deed, marks: &[String]) -> Outcome {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => match timeout(PATIENCE, self.options.connect()).await {
                Ok(Ok(connection)) => connection,
                Ok(Err(_)) | Err(_) => {
                    sleep(Duration::from_millis(200)).await;
                    return Outcome::RolledBack;
                }
            },
        };
        let Ok(Ok(mut tx)) = timeout(PATIENCE, connection.begin()).await else { return Outcome::RolledBack };
        // A connection that is given up is dropped with its transaction: no commit was sent.
        let Ok(changed) = timeout(PATIENCE, change(&mut tx, deed, marks)).await else {
            return Outcome::RolledBack;
        };
        sleep(deed.hold).await;
        let outcome = if changed.is_ok() && deed.commits {
            match timeout(PATIENCE, tx.commit()).await {
                Ok(Ok(())) => Outcome::Committed,
                // Whatever the error says, the server may have committed before it.
                Ok(Err(_)) | Err(_) => return Outcome::InDoubt,
            }
        } else {
            match timeout(PATIENCE, tx.rollback()).await {
                Ok(Ok(())) => Outcome::RolledBack,
                Ok(Err(_)) | Err(_) => return Outcome::RolledBack,
            }
        };
        self.connection = Some(connection);
        outcome
    }
}

/// Changes the users and tells Postbound, in one statement: a user that is not there is created, one that is is updated
/// or deleted.
async fn change(tx: &mut PgConnection, deed: &Deed, marks: &[String]) -> sqlx::Result<()> {
    sqlx::query(
        "-- chaos_change
        with wanted as (
            select * from unnest($1::text[], $2::text[], $3::boolean[], $4::text[]) as w (tenant_id, user_id, deletes, mark)
        ), saved as (
            insert into app.users as u (tenant_id, user_id, version, action, mark, bare, deletes)
            select tenant_id, user_id, 1, 'created', mark, false, deletes from wanted order by tenant_id, user_id
            on conflict (tenant_id, user_id) do update set
                version = u.version + 1, mark = excluded.mark, deletes = excluded.deletes,
                action = case when u.action = 'deleted' then 'created' when excluded.deletes then 'deleted'
                              else 'updated' end,
                bare = $5 and u.action <> 'deleted' and excluded.deletes
            returning u.*
        ), noted as (
            insert into app.changes (tenant_id, user_id, version, action, mark, bare)
            select tenant_id, user_id, version, action, mark, bare from saved
        )
        insert into postbound.outbox (tenant_id, user_id, action, data)
        select tenant_id, user_id, action,
               case when bare then '{}' else jsonb_build_object(
                   'email', user_id || '@' || tenant_id || '.example.com', 'username', user_id,
                   'displayName', 'v' || version, 'name', 'v' || version, 'avatar', $6 || mark,
                   'role', 'user', 'roles', jsonb_build_array('user'), 'isActive', true) end
        from saved order by tenant_id, user_id",
    )
    .bind(deed.users.iter().map(|user| user.tenant.as_str()).collect::<Vec<_>>())
    .bind(deed.users.iter().map(|user| user.id.as_str()).collect::<Vec<_>>())
    .bind(&deed.deletes)
    .bind(marks)
    .bind(deed.bare)
    .bind(AVATARS)
    .execute(tx)
    .await
    .map(drop)
}
