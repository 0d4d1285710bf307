use super::{Change, Delivery};

/// The target, and requests on their way to it and back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Target {
    pub(super) version: u8,
    pub(super) present: bool,
    /// Versions it has taken.
    pub(super) executed: u16,
    pub(super) wire: Vec<Request>,
    /// What it was told of each version, without and with a resend.
    told: Vec<(u8, u8, Change)>,
    /// An older state was put over a newer one that the ledger had, by a request somebody waited for. What the ledger
    /// does not have nobody knows: after a crash between the two an older state may go over it, and it comes again.
    pub(super) regressed: bool,
    /// An event came before one that is older and was not given up.
    pub(super) skipped: bool,
    pub(super) told_otherwise: bool,
    /// It was told once more of what the ledger had as dead, by no job.
    pub(super) told_the_dead: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Request {
    pub(super) version: u8,
    pub(super) told: Change,
    of_job: bool,
    /// The worker that waits for the answer.
    pub(super) waiter: Option<usize>,
    pub(super) answer: Option<Answer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Answer {
    Taken,
    /// It holds a newer version.
    Stale(u8),
}

impl Target {
    pub(super) fn send(&mut self, event: super::Event, told: Change, waiter: usize) {
        let key = (event.version, event.resend);
        match self.told.iter().find(|(version, resend, _)| (*version, *resend) == key) {
            Some((.., before)) => self.told_otherwise |= *before != told,
            None => {
                self.told.push((event.version, event.resend, told));
                self.told.sort_by_key(|(version, resend, _)| (*version, *resend));
            }
        }
        let of_job = event.job.is_some();
        self.wire.push(Request { version: event.version, told, of_job, waiter: Some(waiter), answer: None });
    }

    pub(super) fn execute(&mut self, model: &Delivery, at: usize, delivered: u8, letters: u16) {
        let Request { version, told, of_job, waiter, .. } = self.wire[at];
        let answer = if version < self.version && model.guards_versions {
            Answer::Stale(self.version)
        } else {
            self.regressed |= model.folds && version < self.version.min(delivered) && waiter.is_some();
            let older = (1_u16 << version) - 2;
            self.skipped |= !model.folds && !of_job && older & !(self.executed | letters) != 0;
            self.executed |= 1 << version;
            (self.version, self.present) = (version, told != Change::Deleted);
            Answer::Taken
        };
        if waiter.is_some() {
            self.wire[at].answer = Some(answer);
        } else {
            self.wire.remove(at);
        }
    }

    /// Whether it was told of a state under a second key.
    pub(super) fn was_told_again(&self) -> bool {
        self.told.iter().any(|(_, resend, _)| *resend > 0)
    }

    /// The request a worker waits for.
    pub(super) fn awaited(&self, worker: usize) -> Option<usize> {
        self.wire.iter().position(|request| request.waiter == Some(worker))
    }

    /// Nobody waits for it any more; if it was not executed yet, it may still be.
    pub(super) fn give_up_waiting(&mut self, worker: usize) {
        if let Some(at) = self.awaited(worker) {
            match self.wire[at].answer {
                Some(_) => drop(self.wire.remove(at)),
                None => self.wire[at].waiter = None,
            }
        }
    }
}
