use super::{Scope, window::FailureWindow};
use crate::settings::BreakerSettings;
use postbound_store::{BreakerCause, BreakerRow};
use std::{collections::HashMap, time::Duration};
use time::OffsetDateTime;
use tokio::time::Instant;

/// Tenants open at most; when more fail, it is the target.
const TENANTS_OPEN_MAX: usize = 1000;
/// Time until the table is surely read again after a probe went to somebody else.
const LOST_PROBE: Duration = Duration::from_millis(200);
/// While nobody knows; a reading wakes whoever waits.
const UNKNOWN: Duration = Duration::from_secs(3600);

/// What this worker knows of one target's breakers. It does no IO.
#[derive(Debug)]
pub(super) struct State {
    fold_after: Duration,
    /// Whether the table was read at all; before, nothing is sent.
    known: bool,
    whole: Option<Open>,
    tenants: HashMap<String, Open>,
    whole_openings: Openings,
    tenant_openings: HashMap<String, Openings>,
    pub(super) window: FailureWindow,
    /// Grows with every change made here: a reading begun before is out of date.
    pub(super) epoch: u64,
}

/// How often a breaker opened.
#[derive(Debug, Default)]
struct Openings {
    count: u64,
    /// The last time it did because most deliveries failed.
    failing_since: Option<OffsetDateTime>,
}

/// One open breaker.
#[derive(Debug, Clone)]
pub(super) struct Open {
    pub(super) cause: BreakerCause,
    pub(super) reason: String,
    /// By the table; None: opened here, and not read from there since.
    opened_at: Option<OffsetDateTime>,
    /// Whether the table has it.
    is_saved: bool,
    /// From then on nobody waits for it any more; users are parked.
    folds_at: Instant,
    /// None: only paused.
    retry_at: Option<Instant>,
    is_paused: bool,
    /// Somebody's probe is out until then.
    probe_until: Option<Instant>,
    /// A request here is on its way to be the probe.
    is_reserved: bool,
}

/// Whether a request may be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Yes.
    Closed,
    /// One, to see.
    Due,
    /// Not now; ask again then.
    Wait(Instant),
    /// Not for a while.
    Held,
}

/// What a probe shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProbeResult {
    Closes,
    Fails,
    /// Nothing: it was not sent.
    SaysNothing,
}

impl State {
    pub(super) fn new(settings: &BreakerSettings) -> Self {
        let seconds = settings.window.as_secs();
        Self {
            fold_after: settings.fold_after,
            known: false,
            whole: None,
            tenants: HashMap::new(),
            whole_openings: Openings::default(),
            tenant_openings: HashMap::new(),
            window: FailureWindow::new(seconds, settings.calls_min, settings.failing_share),
            epoch: 0,
        }
    }

    /// Nothing is open, and that is known.
    pub(super) fn all_closed(&self) -> bool {
        self.known && self.whole.is_none() && self.tenants.is_empty()
    }

    /// Where a tenant's requests stand. `own`: what the asking request probes itself.
    pub(super) fn standing(&self, tenant: &str, own: &[Scope], now: Instant) -> Standing {
        if !self.known {
            return Standing::Wait(now + UNKNOWN);
        }
        let whole = self.whole.as_ref().filter(|_| !own.contains(&None));
        let tenant =
            self.tenants.get(tenant).filter(|_| !own.iter().any(|own| own.as_deref() == Some(tenant)));
        let of = |open: Option<&Open>| open.map_or(Standing::Closed, |open| open.standing(now));
        match (of(whole), of(tenant)) {
            (Standing::Held, _) | (_, Standing::Held) => Standing::Held,
            (Standing::Wait(one), Standing::Wait(other)) => Standing::Wait(one.min(other)),
            (Standing::Wait(at), _) | (_, Standing::Wait(at)) => Standing::Wait(at),
            (Standing::Due, _) | (_, Standing::Due) => Standing::Due,
            (Standing::Closed, Standing::Closed) => Standing::Closed,
        }
    }

    /// What of these is open; a breaker is closed when its scope is not found.
    pub(super) fn open(&self, scope: &Scope) -> Option<&Open> {
        match scope {
            None => self.whole.as_ref(),
            Some(tenant) => self.tenants.get(tenant),
        }
    }

    fn open_mut(&mut self, scope: &Scope) -> Option<&mut Open> {
        match scope {
            None => self.whole.as_mut(),
            Some(tenant) => self.tenants.get_mut(tenant),
        }
    }

    /// Sets aside the probes of a tenant's request: nobody else here goes for them meanwhile.
    pub(super) fn reserve(&mut self, tenant: &str) -> Vec<Scope> {
        let scopes = [None, Some(tenant.to_owned())];
        let mut reserved = Vec::new();
        for scope in scopes {
            if let Some(open) = self.open_mut(&scope) {
                open.is_reserved = true;
                reserved.push(scope);
            }
        }
        reserved
    }

    pub(super) fn unreserve(&mut self, scope: &Scope) {
        if let Some(open) = self.open_mut(scope) {
            open.is_reserved = false;
        }
    }

    /// The probe is claimed here.
    pub(super) fn probe_claimed(&mut self, scope: &Scope, until: Instant) {
        self.epoch += 1;
        if let Some(open) = self.open_mut(scope) {
            open.probe_until = Some(until);
        }
    }

    /// The table knows better whether there is a probe to make; it is read at once.
    pub(super) fn probe_lost(&mut self, scope: &Scope, now: Instant) {
        if let Some(open) = self.open_mut(scope) {
            open.probe_until = open.probe_until.max(Some(now + LOST_PROBE));
        }
    }

    /// Opens for a failure seen here, before the table knows.
    pub(super) fn open_here(
        &mut self,
        scope: &Scope,
        cause: BreakerCause,
        reason: &str,
        now: Instant,
        wait: Duration,
    ) {
        self.epoch += 1;
        self.window.clear();
        let failing_since = (cause == BreakerCause::FailingShare).then(OffsetDateTime::now_utc);
        self.count_opening(scope, failing_since);
        let open = Open {
            cause,
            reason: reason.to_owned(),
            opened_at: None,
            is_saved: false,
            folds_at: now + self.fold_after,
            retry_at: Some(now + wait),
            is_paused: false,
            probe_until: None,
            is_reserved: false,
        };
        match scope {
            None => self.whole = Some(open),
            Some(tenant) => drop(self.tenants.insert(tenant.clone(), open)),
        }
    }

    /// Whether it is open for less long than a wish of the target.
    pub(super) fn waits_less(&self, scope: &Scope, until: Instant) -> bool {
        self.open(scope).is_some_and(|open| open.retry_at.is_none_or(|at| at < until))
    }

    /// A longer wish of the target.
    pub(super) fn prolong(&mut self, scope: &Scope, until: Instant) {
        self.epoch += 1;
        if let Some(open) = self.open_mut(scope) {
            open.retry_at = Some(until);
        }
    }

    /// What opened here is in the table now.
    pub(super) fn saved(&mut self, scope: &Scope) {
        self.epoch += 1;
        if let Some(open) = self.open_mut(scope) {
            open.is_saved = true;
        }
    }

    /// Takes over what the table holds. Of what was opened here and is not yet there, this worker knows better.
    pub(super) fn apply(&mut self, rows: &[&BreakerRow], now: Instant) {
        self.known = true;
        let is_there = |scope: Option<&str>| rows.iter().any(|row| row.tenant.as_deref() == scope);
        self.whole = self.whole.take().filter(|open| !open.is_saved || is_there(None));
        self.tenants.retain(|tenant, open| !open.is_saved || is_there(Some(tenant)));
        for row in rows {
            let known = self.open(&row.tenant);
            if known.is_some_and(|open| !open.is_saved) {
                continue;
            }
            let mut open = Open::from_row(row, self.fold_after, now);
            open.is_reserved = known.is_some_and(|known| known.is_reserved);
            let is_news = known.is_none_or(|known| {
                let is_another = known.opened_at.is_some_and(|at| at != row.opened_at);
                is_another || (known.retry_at.is_none() && open.retry_at.is_some())
            });
            if is_news {
                self.window.clear();
                let failing_since = (row.cause == BreakerCause::FailingShare).then_some(row.opened_at);
                self.count_opening(&row.tenant, failing_since);
            }
            match &row.tenant {
                None => self.whole = Some(open),
                Some(tenant) => drop(self.tenants.insert(tenant.clone(), open)),
            }
        }
    }

    /// Grows whenever the tenant's breaker opens, or that of the whole target.
    pub(super) fn openings(&self, tenant: &str) -> u64 {
        self.whole_openings.count + self.tenant_openings.get(tenant).map_or(0, |openings| openings.count)
    }

    /// When a breaker of the tenant last opened because most deliveries failed, or that of the whole target.
    pub(super) fn failing_since(&self, tenant: &str) -> Option<OffsetDateTime> {
        let of_tenant = self.tenant_openings.get(tenant).and_then(|openings| openings.failing_since);
        self.whole_openings.failing_since.max(of_tenant)
    }

    fn count_opening(&mut self, scope: &Scope, failing_since: Option<OffsetDateTime>) {
        let openings = match scope {
            // Of more tenants than that, an opening counts for all: some get a try back that is their own fault.
            Some(tenant)
                if self.tenant_openings.len() < TENANTS_OPEN_MAX
                    || self.tenant_openings.contains_key(tenant) =>
            {
                self.tenant_openings.entry(tenant.clone()).or_default()
            }
            _ => &mut self.whole_openings,
        };
        openings.count += 1;
        openings.failing_since = failing_since.or(openings.failing_since);
    }

    /// Whether what one tenant meets is the whole target's doing: another tenant is open for the same already, and
    /// nobody else is well.
    pub(super) fn is_spreading(
        &self,
        tenant: &str,
        cause: BreakerCause,
        reason: Option<&str>,
        second: u64,
    ) -> bool {
        let same = |(other, open): (&String, &Open)| {
            other != tenant && open.cause == cause && reason.is_none_or(|reason| open.reason == reason)
        };
        let is_other = |other: &str| other != tenant && !self.tenants.contains_key(other);
        self.tenants.len() >= TENANTS_OPEN_MAX
            || (self.tenants.iter().any(same) && !self.window.others_succeed(second, is_other))
    }

    /// Open, and with what standing: the whole target, and tenants.
    pub(super) fn closed_off(&self, now: Instant) -> (Option<Standing>, Vec<(&String, Standing)>) {
        let whole = match self.known {
            true => self.whole.as_ref().map(|open| open.standing(now)),
            false => Some(Standing::Wait(now + UNKNOWN)),
        };
        (whole, self.tenants.iter().map(|(tenant, open)| (tenant, open.standing(now))).collect())
    }

    #[cfg(test)]
    pub(super) fn due_at(&self, scope: &Scope) -> Option<Instant> {
        self.open(scope)?.retry_at
    }

    /// How many are open: of the whole target, and tenants.
    pub(super) fn count(&self) -> (usize, usize) {
        (usize::from(self.whole.is_some()), self.tenants.len())
    }
}

impl Open {
    fn from_row(row: &BreakerRow, fold_after: Duration, now: Instant) -> Self {
        Self {
            cause: row.cause,
            reason: row.reason.clone(),
            opened_at: Some(row.opened_at),
            is_saved: true,
            folds_at: now + fold_after.saturating_sub(row.open_for),
            retry_at: row.retry_in.map(|wait| now + wait),
            is_paused: row.paused_by.is_some(),
            probe_until: row.probe_for.map(|wait| now + wait),
            is_reserved: false,
        }
    }

    fn standing(&self, now: Instant) -> Standing {
        // What the table does not know yet cannot be claimed from it.
        let can_probe = !self.is_paused && !self.is_reserved && self.is_saved;
        let due_at = self.retry_at.filter(|_| can_probe).map(|at| at.max(self.probe_until.unwrap_or(at)));
        match due_at {
            Some(at) if at <= now => Standing::Due,
            _ if self.folds_at <= now => Standing::Held,
            Some(at) => Standing::Wait(at.min(self.folds_at)),
            None => Standing::Wait(self.folds_at),
        }
    }
}
