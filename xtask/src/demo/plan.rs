//! What happens to which user, drawn from a seed.
//!
//! The plan hands out one change after another and is told how each ended. It does no IO and keeps no clock.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// In the avatar of whatever a transaction wrote that then rolled back: seen at a target, it is a ghost.
pub(crate) const ROLLED_BACK: &str = "/rolled-back/";

const TENANTS: [&str; 4] = ["acme", "globex", "initech", "umbrella"];
/// So many users get a share of the changes that has several connections at them at once.
const HOT_USERS: usize = 10;
const HOT_SHARE: f64 = 0.2;
const ROLLBACK_SHARE: f64 = 0.1;
const DELETE_SHARE: f64 = 0.05;
const RETURN_SHARE: f64 = 0.025;

/// A user of the application. The same id means another user in another tenant.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) tenant: &'static str,
    pub(crate) id: String,
}

/// What happens to a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Register,
    Edit,
    Delete,
    Return,
}

/// What an edit makes of a user besides its name.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    pub(crate) is_admin: bool,
    pub(crate) is_active: bool,
    pub(crate) department: Option<&'static str>,
    pub(crate) subscription_tier: Option<&'static str>,
}

/// One transaction.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) user: User,
    pub(crate) step: Step,
    /// The new name, if it changes; a registration always has one.
    pub(crate) name: Option<String>,
    pub(crate) avatar: String,
    pub(crate) profile: Profile,
    /// Whether the transaction is to commit.
    pub(crate) commits: bool,
    /// How long it stays open after its last statement.
    pub(crate) hold: Duration,
}

/// What to do now.
#[derive(Debug)]
pub(crate) enum Next {
    Make(Box<Change>),
    /// All that could be changed is being changed: ask again.
    Wait,
    Done,
}

/// The demo's users by what can happen to them, and what still has to.
pub(crate) struct Plan {
    rng: StdRng,
    unborn: Vec<User>,
    live: Vec<User>,
    gone: Vec<User>,
    changes_left: u32,
}

impl Plan {
    /// Registers `users` and then, or meanwhile, makes `changes`; what rolls back comes on top.
    pub(crate) fn new(users: u32, changes: u32, seed: u64) -> Self {
        let user = |number: u32| {
            let tenant = TENANTS[number as usize % TENANTS.len()];
            User { tenant, id: format!("user-{:05}", number as usize / TENANTS.len() + 1) }
        };
        Self {
            rng: StdRng::seed_from_u64(seed),
            unborn: (0..users).rev().map(user).collect(),
            live: Vec::new(),
            gone: Vec::new(),
            changes_left: changes,
        }
    }

    /// Draws what to do now. Whoever gets a change says by [`Self::end`] how it went.
    pub(crate) fn next(&mut self) -> Next {
        let Some(step) = self.next_step() else {
            return if self.unborn.is_empty() && self.changes_left == 0 { Next::Done } else { Next::Wait };
        };
        let user = match step {
            Step::Register => self.unborn.pop(),
            Step::Edit => self.draw_live().map(|at| self.live[at].clone()),
            // In hand until its end is known, so that nobody plans the same for it.
            Step::Delete => self.draw_live().map(|at| self.live.swap_remove(at)),
            Step::Return => Some(self.gone.swap_remove(self.rng.random_range(0..self.gone.len()))),
        };
        let Some(user) = user else { return Next::Wait };
        let commits = !self.rng.random_bool(ROLLBACK_SHARE);
        if step != Step::Register && commits {
            self.changes_left -= 1;
        }
        Next::Make(Box::new(self.change(user, step, commits)))
    }

    /// Takes back a change: it committed, or it left everything as it was.
    pub(crate) fn end(&mut self, change: Change, committed: bool) {
        if change.commits && !committed && change.step != Step::Register {
            self.changes_left += 1;
        }
        match (change.step, committed) {
            (Step::Edit, _) => {}
            (Step::Register | Step::Return, true) | (Step::Delete, false) => self.live.push(change.user),
            (Step::Delete, true) | (Step::Return, false) => self.gone.push(change.user),
            (Step::Register, false) => self.unborn.push(change.user),
        }
    }

    fn next_step(&mut self) -> Option<Step> {
        let registrations = u32::try_from(self.unborn.len()).unwrap_or(u32::MAX);
        let all = registrations.saturating_add(self.changes_left);
        if all == 0 {
            return None;
        }
        if self.rng.random_range(0..all) < registrations {
            return Some(Step::Register);
        }
        let dice: f64 = self.rng.random();
        match (self.live.is_empty(), self.gone.is_empty()) {
            (true, true) if registrations > 0 => Some(Step::Register),
            (true, true) => None,
            (true, false) => Some(Step::Return),
            (false, false) if dice < RETURN_SHARE => Some(Step::Return),
            (false, _) if dice > 1.0 - DELETE_SHARE => Some(Step::Delete),
            (false, _) => Some(Step::Edit),
        }
    }

    fn draw_live(&mut self) -> Option<usize> {
        let users = match self.live.len() {
            0 => return None,
            many if self.rng.random_bool(HOT_SHARE) => many.min(HOT_USERS),
            many => many,
        };
        Some(self.rng.random_range(0..users))
    }

    fn change(&mut self, user: User, step: Step, commits: bool) -> Change {
        const FIRST: [&str; 8] = ["Ada", "Zoë", "Grace", "Ludwig", "Barbara", "Edsger", "Anita", "Muḥammad"];
        const LAST: [&str; 6] = ["Lovelace", "O'Hara", "Hopper", "Müller", "Liskov", "\"Quote\" Borg"];
        const DEPARTMENTS: [Option<&str>; 4] = [None, Some("Sales"), Some("R&D"), Some("Support")];
        const TIERS: [Option<&str>; 3] = [None, Some("basic"), Some("premium")];
        let rng = &mut self.rng;
        let name = format!("{} {}", FIRST[rng.random_range(0..8)], LAST[rng.random_range(0..6)]);
        let folder = if commits { "/avatars/" } else { ROLLED_BACK };
        let hold = if rng.random_bool(0.25) { rng.random_range(0..8_000) } else { 0 };
        Change {
            user,
            step,
            name: (step == Step::Register || rng.random_bool(0.5)).then_some(name),
            avatar: format!("https://cdn.example.com{folder}{:016x}.png", rng.random::<u64>()),
            profile: Profile {
                is_admin: rng.random_bool(0.1),
                is_active: rng.random_bool(0.95),
                department: DEPARTMENTS[rng.random_range(0..4)],
                subscription_tier: TIERS[rng.random_range(0..3)],
            },
            commits,
            hold: Duration::from_micros(hold),
        }
    }
}
