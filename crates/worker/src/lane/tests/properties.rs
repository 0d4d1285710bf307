//! Random lives of one user's lane, with a store and a target that only do what they are told.

use super::*;
use postbound_store::{NextAttempt, ParkingCause, StateWrites};
use proptest::prelude::*;
use std::{collections::BTreeMap, time::Duration};

/// What may come next; what cannot be done then is passed over.
#[derive(Debug, Clone, Copy)]
enum Move {
    /// A version arrives, for the first time or again: the next one where the number is beyond them.
    Arrive(usize),
    Start {
        closed: bool,
    },
    End(Ending),
    /// The feeder finds the parked user due.
    Wake,
}

#[derive(Debug, Clone, Copy)]
enum Ending {
    Delivered,
    Dead,
    Parked { refused: bool },
}

/// What is under way.
enum Work {
    Delivery(Box<Next>),
    Parking(Box<Park>),
    Reading { after: i64 },
}

/// States read at once, where every event is delivered.
const PAGE: usize = 2;

struct World {
    actions: Vec<Action>,
    folds: bool,
    lane: Lane,
    held: Held,
    stored: BTreeMap<i64, ParkedState>,
    is_parked: bool,
    arrived: usize,
    work: Option<Work>,
    tags: u64,
    unsettled: Vec<Tag>,
    delivered: Vec<(i64, Action)>,
    dead: Vec<i64>,
}

fn schedule(class: &str) -> ParkedSchedule {
    let next_attempt = NextAttempt::In(Duration::from_secs(1));
    ParkedSchedule { attempts: 1, repeats: 1, class: class.to_owned(), next_attempt, ..held_back(None) }
}

impl World {
    fn new(actions: Vec<Action>, folds: bool) -> Self {
        Self {
            actions,
            folds,
            lane: Lane::new(Held::default(), folds),
            held: Held::default(),
            stored: BTreeMap::new(),
            is_parked: false,
            arrived: 0,
            work: None,
            tags: 0,
            unsettled: Vec::new(),
            delivered: Vec::new(),
            dead: Vec::new(),
        }
    }

    fn step(&mut self, step: Move) {
        match step {
            Move::Arrive(number) => self.arrive(number),
            Move::Start { closed } => self.start(closed),
            Move::End(ending) => self.end(ending),
            Move::Wake => self.wake(),
        }
        // An idle lane goes away, and comes back by what is stored.
        if self.work.is_none() && self.lane.is_idle() {
            let held = Held { parked: self.is_parked, ..self.held };
            self.lane = match self.is_parked {
                true => Lane::parked(held, self.folds, self.parked_user(), false),
                false => Lane::new(held, self.folds),
            };
        }
    }

    fn arrive(&mut self, number: usize) {
        let place = if number < self.arrived { number } else { self.arrived };
        let Some(action) = self.actions.get(place) else { return };
        self.arrived = self.arrived.max(place + 1);
        self.tags += 1;
        let tag = Tag { source: Source::Live, number: self.tags };
        let event = event(place as i64 + 1, *action);
        self.unsettled.push(tag);
        let arrival = Arrival { event, tag: Some(tag), maybe_sent: false, from_target: false };
        if self.lane.enter(arrival) == Entered::Settled {
            self.settle(vec![tag]);
        }
    }

    fn start(&mut self, closed: bool) {
        let step = self.lane.start(closed);
        assert!(step.is_none() || self.work.is_none(), "two things are under way");
        match step {
            None => {}
            Some(Step::Deliver(next)) => self.work = Some(Work::Delivery(Box::new(next))),
            Some(Step::Park(park)) => self.work = Some(Work::Parking(Box::new(park))),
            Some(Step::Read { after }) => self.work = Some(Work::Reading { after }),
            Some(Step::Echo(_)) => panic!("nothing came from the target"),
        }
    }

    fn end(&mut self, ending: Ending) {
        match self.work.take() {
            None => {}
            Some(Work::Parking(park)) => self.park(*park),
            Some(Work::Reading { after }) => {
                self.read(after);
                // Nothing comes between the two.
                self.start(false);
            }
            Some(Work::Delivery(next)) => match ending {
                Ending::Delivered => {
                    let version = next.event.version;
                    self.delivered.push((version, next.action));
                    let present = next.action != Action::Deleted;
                    self.held = Held { delivered_version: version, present, ..self.held };
                    self.settled(next.event, ItemOutcome::Delivered);
                }
                Ending::Dead => {
                    let version = next.event.version;
                    self.dead.push(version);
                    self.held.dead_version = self.held.dead_version.max(version);
                    self.settled(next.event, ItemOutcome::Dead { reason: "http_422" });
                }
                Ending::Parked { refused } => {
                    let class = if refused { "permanent" } else { "transient" };
                    let parked = self.lane.park_failed(*next, schedule(class), ParkingCause::Failed);
                    self.work = parked.map(|park| Work::Parking(Box::new(park)));
                }
            },
        }
    }

    fn settled(&mut self, event: Event, outcome: ItemOutcome) {
        self.stored.retain(|stored, _| *stored > event.version);
        self.is_parked = !self.stored.is_empty();
        let (tags, _) = self.lane.settled(event, Held { parked: false, ..self.held }, outcome);
        self.settle(tags);
    }

    fn park(&mut self, park: Park) {
        let states = || park.states.iter().map(|state| (state.event.version, state.clone()));
        match &park.writes {
            StateWrites::Nothing => {}
            StateWrites::Only(versions) => {
                self.stored.extend(states().filter(|(version, _)| versions.contains(version)));
            }
            StateWrites::All => {
                let newest = states().map(|(version, _)| version).max().unwrap_or(0);
                self.stored.retain(|version, _| *version > newest);
                self.stored.extend(states());
            }
        }
        let mut versions = states().map(|(version, _)| version);
        match self.folds {
            true => assert!(self.stored.keys().copied().eq(versions), "the lane holds all that is stored"),
            false => assert!(versions.all(|version| self.stored.contains_key(&version)), "or adds to it"),
        }
        self.is_parked = !self.stored.is_empty();
        let (tags, _) = self.lane.parked_now(park.states);
        self.settle(tags);
    }

    fn read(&mut self, after: i64) {
        let page: Vec<_> =
            self.stored.range(after + 1..).map(|(_, state)| state.clone()).take(PAGE).collect();
        let all = page.len() < PAGE;
        if self.lane.read(page, all) == Read::NothingLeft {
            self.stored.retain(|version, _| *version > self.held.settled_version());
            self.is_parked = !self.stored.is_empty();
        }
    }

    fn wake(&mut self) {
        if self.is_parked {
            self.lane.wake(self.parked_user());
        }
    }

    fn parked_user(&self) -> ParkedUser {
        let (states, unread_up_to) = match self.folds {
            true => (self.stored.values().cloned().collect(), 0),
            false => (Vec::new(), self.stored.keys().last().copied().unwrap_or(0)),
        };
        let (schedule, unknown_stored) = (schedule("transient"), Unknown::default());
        ParkedUser { key: UserKey::new("t", "u"), schedule, states, unread_up_to, unknown_stored }
    }

    /// Each is settled once, and only when all it stands for is delivered, dead, stored or taken by something newer.
    fn settle(&mut self, tags: Vec<Tag>) {
        for tag in tags {
            let place = self.unsettled.iter().position(|unsettled| *unsettled == tag);
            self.unsettled.swap_remove(place.expect("a message is settled twice"));
        }
    }

    /// Everything arrives, the target is well, and all comes to its end.
    fn finish(&mut self) {
        for number in 0..self.actions.len() {
            self.step(Move::Arrive(number));
        }
        for _ in 0..20 * self.actions.len() + 20 {
            for step in [Move::End(Ending::Delivered), Move::Wake, Move::Start { closed: false }] {
                self.step(step);
            }
        }
    }

    fn check(&self) {
        let World { actions, folds, delivered, dead, .. } = self;
        assert_eq!(self.unsettled, [], "messages that were never settled");
        assert!(self.stored.is_empty() && !self.is_parked && self.work.is_none() && self.lane.is_idle());
        assert!(delivered.is_sorted_by(|(one, _), (next, _)| one < next), "{delivered:?}");
        let has =
            |version: i64| dead.contains(&version) || delivered.iter().any(|(other, _)| *other == version);
        let newest = actions.len() as i64;
        assert!(has(newest), "version {newest} came to nothing: {delivered:?}, dead {dead:?}");
        for (place, action) in actions.iter().enumerate() {
            let version = place as i64 + 1;
            let must_have = !folds || *action == Action::Deleted;
            assert!(
                !must_have || has(version),
                "version {version} was passed over: {delivered:?}, dead {dead:?}"
            );
        }
    }
}

fn moves() -> impl Strategy<Value = Move> {
    let ending = prop_oneof![
        4 => Just(Ending::Delivered),
        1 => Just(Ending::Dead),
        2 => any::<bool>().prop_map(|refused| Ending::Parked { refused }),
    ];
    prop_oneof![
        4 => (0_usize..16).prop_map(Move::Arrive),
        4 => prop::bool::weighted(0.2).prop_map(|closed| Move::Start { closed }),
        4 => ending.prop_map(Move::End),
        1 => Just(Move::Wake),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_and_fails_nothing_older_follows_no_delete_is_lost_and_each_message_is_settled_once(
        actions in prop::collection::vec(prop_oneof![Just(Action::Created), Just(Action::Updated), Just(Action::Deleted)], 1..9),
        folds in any::<bool>(),
        moves in prop::collection::vec(moves(), 0..60),
    ) {
        let mut world = World::new(actions, folds);
        for step in moves {
            world.step(step);
        }
        world.finish();
        world.check();
    }
}
