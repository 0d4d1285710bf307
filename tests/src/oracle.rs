use postbound_receiver::Mode;
use sqlx::PgPool;

/// What the receivers saw, held against what was committed. Contracts are `s2` (backend) and `s3` (crm).
///
/// Producers of the tests write states that say which version they are of and bear a mark nobody else has
/// ([`crate::emit_states`]), so that a state's origin shows even where a receiver is told no versions.
pub struct Oracle<'a> {
    pool: &'a PgPool,
    mode: Mode,
}

/// Requests as a receiver took them, per user and in order of their effect: the version of each.
const SEEN: &str = "
    select r.id, r.contract, r.tenant_id, r.user_id, r.outcome, r.event_id, r.content, r.action,
           coalesce(r.version, substring(coalesce(r.content->>'displayName', r.content->>'name') from '^v(\\d+)$')::bigint)
               as version
    from receiver.request_log as r
    where r.outcome in ('applied', 'duplicate', 'stale', 'replayed', 'ignored')";

/// Requests, of those that are `chosen`, with an older version of the user than the one before.
fn going_back(chosen: &str) -> String {
    format!(
        "select contract, user_id, version::text, before::text from (
            select *, lag(version) over (partition by contract, tenant_id, user_id order by id) as before
            from ({SEEN}) as seen where {chosen}) as pair
         where version < before or version is null"
    )
}

impl<'a> Oracle<'a> {
    pub(crate) fn new(pool: &'a PgPool, mode: Mode) -> Self {
        Self { pool, mode }
    }

    /// No ghost, nothing out of order, one body per idempotency key.
    ///
    /// # Panics
    /// When a promise is broken.
    pub async fn assert_sound(&self) {
        self.assert_none(
            "a state was sent after a newer one, and refused",
            "select contract, user_id, version::text, null::text from receiver.request_log where outcome = 'stale'",
        )
        .await;
        self.assert_none("a state was sent again after a newer one", &going_back("outcome <> 'stale'")).await;
        self.assert_sound_though_late().await;
    }

    /// The same where a sender may have been frozen with a request in its hands: what arrives late is refused, or known
    /// by its idempotency key and answered as it was then.
    ///
    /// # Panics
    /// When a promise is broken.
    pub async fn assert_sound_though_late(&self) {
        self.assert_order().await;
        self.assert_no_ghost().await;
        self.assert_one_body_per_key().await;
    }

    /// A user's versions never go back; applied ones strictly grow, where the receiver could tell a repetition.
    ///
    /// # Panics
    /// When they do not.
    pub async fn assert_order(&self) {
        let repeated = if self.mode == Mode::Guarded { "<=" } else { "<" };
        self.assert_none("a version went back", &going_back("outcome not in ('stale', 'replayed')")).await;
        self.assert_none(
            "a version was applied twice",
            &format!(
                "select contract, user_id, version::text, before::text from (
                    select *, lag(version) over (partition by contract, tenant_id, user_id order by id) as before
                    from ({SEEN}) as seen where outcome = 'applied') as pair
                 where version {repeated} before"
            ),
        )
        .await;
    }

    /// Every state that was sent was committed, under that version and event.
    ///
    /// # Panics
    /// When one was not.
    pub async fn assert_no_ghost(&self) {
        self.assert_none(
            "a state was sent that was never committed",
            &format!(
                "select contract, user_id, version::text, event_id from ({SEEN}) as seen
                 where not exists (
                    select from postbound.change_log as c
                    where c.tenant_id = seen.tenant_id collate \"C\" and c.user_id = seen.user_id collate \"C\"
                      and c.version = seen.version and (seen.event_id is null or c.event_id::text = seen.event_id)
                      and (c.action = 'deleted' and c.data = '{{}}' or c.data->>'avatar' = seen.content->>'avatar'))"
            ),
        )
        .await;
    }

    /// Every version of every user was applied.
    ///
    /// # Panics
    /// When one is missing.
    pub async fn assert_no_gap(&self, contract: &str) {
        self.assert_none(
            "versions are missing",
            &format!(
                "select c.tenant_id, c.user_id, c.version::text, c.action from postbound.change_log as c
                 where not exists (
                    select from ({SEEN}) as seen
                    where seen.contract = '{contract}' and c.tenant_id = seen.tenant_id collate \"C\"
                      and c.user_id = seen.user_id collate \"C\" and c.version = seen.version)"
            ),
        )
        .await;
    }

    /// The same idempotency key always came with the same body.
    ///
    /// # Panics
    /// When it did not.
    pub async fn assert_one_body_per_key(&self) {
        self.assert_none(
            "an idempotency key came with several bodies, or a request without one",
            "select contract, idempotency_key, count(*)::text, count(distinct body_sha256)::text
             from receiver.request_log group by contract, idempotency_key
             having count(distinct body_sha256) > 1 or idempotency_key is null",
        )
        .await;
    }

    /// The receiver's users are those of the source, in their newest state.
    ///
    /// # Panics
    /// When they are not.
    pub async fn assert_equal_to_source(&self, contract: &str) {
        let guarded = self.mode == Mode::Guarded;
        let held = match (contract, guarded) {
            ("s2", _) => {
                "select tenant_id, user_id, email, display_name as name, avatar, is_active, version from receiver.backend_users"
            }
            (_, true) => {
                "select tenant_id, user_id, email, name, avatar, is_active, version from receiver.crm_users"
            }
            // Found by e-mail; it keeps neither picture nor version of an update.
            (_, false) => {
                "select tenant_id, user_id, email, name, null::text as avatar, is_active, null::bigint as version from receiver.crm_users"
            }
        };
        self.assert_none(
            &format!("{contract} differs from the source"),
            &format!(
                "select coalesce(s.user_id, h.user_id), s.version::text, h.version::text, h.name
                 from postbound.user_state as s
                 full join ({held}) as h
                   on h.tenant_id = s.tenant_id collate \"C\" and h.user_id = s.user_id collate \"C\"
                 where s.user_id is null
                    or h.user_id is not null and (h.version <> s.version or h.is_active <> (s.action <> 'deleted'))
                    or s.action <> 'deleted' and (
                        h.user_id is null or h.email is distinct from s.data->>'email'
                        or h.name is distinct from s.data->>'name' or h.avatar <> s.data->>'avatar')
                    or {guarded} and h.version is distinct from s.version"
            ),
        )
        .await;
    }

    /// `user_state` holds every user's newest version, with its data; a bare delete keeps the last known.
    ///
    /// # Panics
    /// When it does not.
    pub async fn assert_user_state_is_newest(&self) {
        self.assert_none(
            "user_state is not the newest state",
            "select coalesce(s.user_id, c.user_id), s.version::text, c.version::text, c.action
             from postbound.user_state as s
             full join (
                select distinct on (tenant_id, user_id) * from postbound.change_log
                order by tenant_id, user_id, version desc) as c
               on c.tenant_id = s.tenant_id and c.user_id = s.user_id
             where s.version is distinct from c.version or s.event_id is distinct from c.event_id
                or s.action is distinct from c.action or c.data <> '{}' and s.data <> c.data",
        )
        .await;
    }

    /// Users in requests of a contract, by outcome; in all where none is given.
    ///
    /// # Panics
    /// When Postgres cannot be asked.
    pub async fn count(&self, contract: &str, outcome: Option<&str>) -> i64 {
        sqlx::query_scalar(
            "select count(*) from receiver.request_log where contract = $1 and ($2::text is null or outcome = $2)",
        )
        .bind(contract)
        .bind(outcome)
        .fetch_one(self.pool)
        .await
        .unwrap()
    }

    /// The versions and actions of a user that a receiver took, in order.
    ///
    /// # Panics
    /// When Postgres cannot be asked.
    pub async fn taken(&self, contract: &str, user: &str) -> Vec<(i64, String)> {
        let query = format!(
            "select version, action from ({SEEN}) as seen where contract = $1 and user_id = $2 order by id"
        );
        let query = sqlx::query_as(sqlx::AssertSqlSafe(query));
        query.bind(contract).bind(user).fetch_all(self.pool).await.unwrap()
    }

    /// The query gives nothing; else its first rows are told.
    async fn assert_none(&self, what: &str, query: &str) {
        type Row = (Option<String>, Option<String>, Option<String>, Option<String>);
        let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(query)).fetch_all(self.pool).await.unwrap();
        let first: Vec<_> = rows.iter().take(10).collect();
        assert!(rows.is_empty(), "{what}, {} times: {first:#?}", rows.len());
    }
}
