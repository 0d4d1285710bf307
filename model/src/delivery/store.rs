use super::{Change, Delivery, Event, JobPart};

/// Postgres, as far as it is about the user at the target.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Store {
    pub(super) ledger: Ledger,
    pub(super) parked_user: Option<ParkedUser>,
    /// By version.
    pub(super) parked_states: Vec<ParkedState>,
    pub(super) doubt: Option<Doubt>,
    pub(super) item: ItemState,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Ledger {
    pub(super) delivered: u8,
    pub(super) dead: u8,
    present: bool,
}

/// What is read of it all at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Held {
    pub(super) delivered: u8,
    pub(super) dead: u8,
    pub(super) present: bool,
    pub(super) parked: bool,
    pub(super) doubt: bool,
}

/// Versions that may be on their way in requests nobody knows the outcome of; zeros: none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Unknown {
    pub(super) oldest: u8,
    pub(super) newest: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ParkedUser {
    pub(super) due: bool,
    pub(super) unknown: Unknown,
    /// Whether the last try was refused for the content.
    pub(super) refused: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ParkedState {
    pub(super) event: Event,
    pub(super) send_as: Option<Change>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Doubt {
    pub(super) event: Event,
    pub(super) late: u8,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) enum ItemState {
    #[default]
    None,
    Sent,
    Settled,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Write {
    Settle(Settlement),
    Park(Parking),
    Unpark(u8),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Parking {
    /// All that waits.
    pub(super) states: Vec<ParkedState>,
    /// Versions that are not stored yet.
    pub(super) news: Vec<u8>,
    /// All take the place of what is stored; else only the news do.
    pub(super) replaces: bool,
    pub(super) cause: ParkingCause,
    pub(super) unknown: Unknown,
    pub(super) refused: bool,
    /// The item's state gave way to a newer one.
    pub(super) superseded: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum ParkingCause {
    Failed,
    NotTried,
    Folded,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Settlement {
    pub(super) version: u8,
    pub(super) verdict: Verdict,
    pub(super) unparks: bool,
    pub(super) doubt: Option<DoubtChange>,
    pub(super) item: Option<JobPart>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Verdict {
    Delivered { present: bool },
    Dead,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum DoubtChange {
    Cleared { resend: u8 },
    Raised { event: Event, late: Option<u8> },
}

impl Unknown {
    pub(super) fn of(version: u8) -> Self {
        Self { oldest: version, newest: version }
    }

    /// What is left when the doubt about all up to a version is written down.
    pub(super) fn after(self, version: u8, knows_oldest: bool) -> Self {
        match self {
            Self { newest, .. } if newest <= version => Self::default(),
            Self { oldest, newest } if knows_oldest => Self { oldest: oldest.max(version + 1), newest },
            unknown => unknown,
        }
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self { oldest: older(self.oldest, other.oldest), newest: self.newest.max(other.newest) }
    }
}

/// The older of two versions, of which 0 is none.
fn older(one: u8, other: u8) -> u8 {
    if one == 0 || other == 0 { one.max(other) } else { one.min(other) }
}

impl Ledger {
    pub(super) fn settled(&self) -> u8 {
        self.delivered.max(self.dead)
    }

    /// Whether only a job may send it again.
    pub(super) fn is_given_up(&self, event: &Event) -> bool {
        let is_resend = event.resend > 0 && event.job.is_none();
        is_resend && event.version == self.dead && self.dead > self.delivered
    }
}

impl Held {
    pub(super) fn settled(&self) -> u8 {
        self.delivered.max(self.dead)
    }
}

impl Store {
    pub(super) fn held(&self, model: &Delivery) -> Held {
        let Ledger { delivered, dead, present } = self.ledger;
        let (parked, doubt) = (self.parked_user.is_some(), self.doubt.is_some());
        match model.protections.version_gate {
            true => Held { delivered, dead, present, parked, doubt },
            false => Held { present, parked, doubt, ..Held::default() },
        }
    }

    pub(super) fn parked(&self) -> Option<(ParkedUser, Vec<ParkedState>)> {
        Some((self.parked_user?, self.parked_states.clone()))
    }

    pub(super) fn apply(&mut self, model: &Delivery, write: &Write) {
        match write {
            Write::Settle(settlement) => self.settle(model, settlement),
            Write::Park(parking) => self.park(parking),
            Write::Unpark(version) => self.unpark(model, *version),
        }
    }

    fn settle(&mut self, model: &Delivery, settlement: &Settlement) {
        let Settlement { version, verdict, unparks, doubt, item } = settlement;
        let ledger = &mut self.ledger;
        match verdict {
            Verdict::Delivered { present } if *version > ledger.delivered => {
                (ledger.delivered, ledger.present) = (*version, *present);
            }
            Verdict::Delivered { .. } => {}
            Verdict::Dead => ledger.dead = ledger.dead.max(*version),
        }
        if *unparks {
            self.unpark(model, *version);
        }
        match doubt {
            Some(DoubtChange::Cleared { resend }) => {
                let by_version = !model.protections.resends_clear_their_own;
                let stays = |doubt: &Doubt| {
                    doubt.event.version > *version
                        || !by_version && doubt.event.version == *version && doubt.event.resend > *resend
                };
                self.doubt = self.doubt.filter(stays);
            }
            Some(DoubtChange::Raised { event, late }) => {
                let late = late.unwrap_or(0);
                match &mut self.doubt {
                    None => self.doubt = Some(Doubt { event: *event, late }),
                    Some(_) if *verdict == Verdict::Dead && model.protections.letters_keep_older_doubt => {}
                    Some(doubt) if doubt.event.version <= event.version => {
                        let late = match model.protections.doubt_knows_oldest {
                            true => older(late, doubt.late),
                            false => late.max(doubt.late),
                        };
                        *doubt = Doubt { event: *event, late };
                    }
                    Some(_) => {}
                }
            }
            None => {}
        }
        if item.is_some() {
            self.settle_item();
        }
    }

    /// What is left of the user is due at once, with a clean slate.
    fn unpark(&mut self, model: &Delivery, version: u8) {
        let stays =
            |state: &ParkedState| model.protections.unparks_by_version && state.event.version > version;
        self.parked_states.retain(stays);
        if self.parked_states.is_empty() {
            self.parked_user = None;
        } else if let Some(user) = &mut self.parked_user {
            *user = ParkedUser { due: true, unknown: Unknown::default(), ..*user };
        }
    }

    fn park(&mut self, parking: &Parking) {
        let Parking { states, news, replaces, cause, unknown, refused, superseded } = parking;
        if !news.is_empty() {
            let newest = states.iter().map(|state| state.event.version).max().unwrap_or(0);
            let writes = |version: u8| if *replaces { version <= newest } else { news.contains(&version) };
            self.parked_states.retain(|state| !writes(state.event.version));
            states
                .iter()
                .filter(|state| writes(state.event.version))
                .for_each(|state| self.store_state(state));
        }
        if !self.parked_states.is_empty() {
            let new =
                ParkedUser { due: *cause == ParkingCause::NotTried, unknown: *unknown, refused: *refused };
            self.parked_user = Some(match (self.parked_user, cause) {
                (None, _) | (_, ParkingCause::Failed) => new,
                (Some(old), ParkingCause::NotTried) => ParkedUser { due: true, unknown: *unknown, ..old },
                (Some(old), ParkingCause::Folded) => ParkedUser { unknown: old.unknown.and(*unknown), ..old },
            });
        }
        if *superseded {
            self.settle_item();
        }
    }

    fn store_state(&mut self, state: &ParkedState) {
        let Event { version, resend, job, .. } = state.event;
        let is_there = self.parked_states.iter().any(|other| other.event.version == version);
        if !is_there && (job.is_some() || resend > 0 || self.ledger.delivered < version) {
            self.parked_states.push(*state);
            self.parked_states.sort_by_key(|state| state.event.version);
        }
    }

    pub(super) fn settle_item(&mut self) {
        if self.item == ItemState::Sent {
            self.item = ItemState::Settled;
        }
    }
}
