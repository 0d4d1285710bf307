use super::{Action, Source, USERS};

/// Transactions, the log, and what Postgres keeps of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Postgres {
    transactions: Vec<Transaction>,
    /// By id.
    log: Vec<Row>,
    next_id: u8,
    next_xid: u8,
    /// The newest xid that has ended.
    newest_ended: u8,
    /// Versions drawn by user; only where they are drawn without a lock.
    drawn: [u8; USERS],
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Transaction {
    phase: Phase,
    /// 0: none yet.
    xid: u8,
    /// Place of the next change.
    place: u8,
    /// Drawn for it; 0: not yet.
    version: u8,
    id: u8,
    /// Users whose rows it has locked.
    locked: u8,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
enum Phase {
    #[default]
    Open,
    Committed,
    RolledBack,
}

/// A row of the log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Row {
    pub(super) id: u8,
    pub(super) xid: u8,
    pub(super) user: u8,
    pub(super) version: u8,
}

/// A `pg_snapshot`. Its bound is one past the newest xid that has ended, not the newest there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Snapshot {
    xmax: u8,
    running: u32,
    /// The newest log id at that time, where windows are bounded by it.
    id: u8,
}

impl Snapshot {
    /// Sees nothing.
    pub(super) fn start() -> Self {
        Self { xmax: 1, running: 0, id: 0 }
    }

    pub(super) fn sees(&self, xid: u8) -> bool {
        xid < self.xmax && self.running & 1 << xid == 0
    }
}

impl Postgres {
    pub(super) fn new(transactions: usize) -> Self {
        let transactions = vec![Transaction::default(); transactions];
        Self { transactions, log: Vec::new(), next_id: 1, next_xid: 1, newest_ended: 0, drawn: [0; USERS] }
    }

    pub(super) fn steps(&self, model: &Source, steps: &mut Vec<Action>) {
        for t in self.open() {
            let transaction = &self.transactions[t];
            let Some(user) = model.transactions[t].get(usize::from(transaction.place)) else {
                steps.push(Action::Commit(t));
                continue;
            };
            if transaction.version != 0 {
                steps.push(Action::Insert(t));
            } else if !model.protections.id_under_lock && transaction.id == 0 {
                steps.push(Action::DrawId(t));
            } else if !model.protections.user_row_lock || !self.is_locked(*user, t) {
                steps.push(Action::DrawVersion(t));
            }
        }
    }

    /// Transactions that have not ended.
    pub(super) fn open(&self) -> impl Iterator<Item = usize> {
        (0..self.transactions.len()).filter(|t| self.transactions[*t].phase == Phase::Open)
    }

    fn is_locked(&self, user: u8, by_other_than: usize) -> bool {
        self.open().any(|t| t != by_other_than && self.transactions[t].locked & 1 << user != 0)
    }

    pub(super) fn draw_version(&mut self, model: &Source, t: usize) {
        let user = model.transactions[t][usize::from(self.transactions[t].place)];
        if self.transactions[t].xid == 0 {
            self.transactions[t].xid = self.next_xid;
            self.next_xid += 1;
        }
        let version = if model.protections.user_row_lock {
            let own = self.transactions[t].xid;
            let seen = self
                .log
                .iter()
                .filter(|row| row.user == user && (row.xid == own || self.is_committed(row.xid)));
            seen.map(|row| row.version).max().unwrap_or(0) + 1
        } else {
            self.drawn[usize::from(user)] += 1;
            self.drawn[usize::from(user)]
        };
        let transaction = &mut self.transactions[t];
        transaction.version = version;
        transaction.locked |= 1 << user;
    }

    pub(super) fn draw_id(&mut self, t: usize) {
        self.transactions[t].id = self.next_id;
        self.next_id += 1;
    }

    pub(super) fn insert(&mut self, model: &Source, t: usize) {
        if self.transactions[t].id == 0 {
            self.draw_id(t);
        }
        let transaction = &mut self.transactions[t];
        let user = model.transactions[t][usize::from(transaction.place)];
        let Transaction { id, xid, version, .. } = *transaction;
        (transaction.id, transaction.version) = (0, 0);
        transaction.place += 1;
        let place = self.log.partition_point(|row| row.id < id);
        self.log.insert(place, Row { id, xid, user, version });
    }

    pub(super) fn end(&mut self, t: usize, commits: bool) {
        let transaction = &mut self.transactions[t];
        transaction.phase = if commits { Phase::Committed } else { Phase::RolledBack };
        (transaction.version, transaction.id, transaction.locked) = (0, 0, 0);
        self.newest_ended = self.newest_ended.max(transaction.xid);
    }

    fn is_committed(&self, xid: u8) -> bool {
        self.transactions
            .iter()
            .any(|transaction| transaction.xid == xid && transaction.phase == Phase::Committed)
    }

    pub(super) fn snapshot(&self, model: &Source) -> Snapshot {
        let xmax = self.newest_ended + 1;
        let running = self.open().map(|t| self.transactions[t].xid).filter(|xid| (1..xmax).contains(xid));
        let running = running.fold(0, |running, xid| running | 1 << xid);
        Snapshot { xmax, running, id: if model.protections.windows_by_xid { 0 } else { self.next_id - 1 } }
    }

    /// The ids of a window, as a query finds them: what was rolled back, or still runs, is not there.
    pub(super) fn window(&self, model: &Source, s1: &Snapshot, s2: &Snapshot) -> u32 {
        let by_xid = model.protections.windows_by_xid;
        let fresh = |row: &Row| row.xid >= s1.xmax && (by_xid || row.id > s1.id);
        let late = |row: &Row| s1.running & 1 << row.xid != 0;
        let rows = self.committed_rows().filter(|row| (fresh(row) || late(row)) && s2.sees(row.xid));
        rows.fold(0, |ids, row| ids | 1 << row.id)
    }

    pub(super) fn rows(&self) -> &[Row] {
        &self.log
    }

    pub(super) fn committed_rows(&self) -> impl Iterator<Item = &Row> {
        self.log.iter().filter(|row| self.is_committed(row.xid))
    }

    /// Ids of the committed rows.
    pub(super) fn committed(&self) -> u32 {
        self.committed_rows().fold(0, |ids, row| ids | 1 << row.id)
    }
}
