//! Deals faults: every kind comes before any comes again, each with what else is drawn for it.

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};

use crate::fault::{Fault, Mood, Order};
use crate::plan::{APP_LINK, EXTRA_WORKER, RELAYS, SERVERS, WORKERS, http_link};
use crate::population::{Population, TENANTS};
use crate::proxy::Way;
use crate::target::TARGETS;

/// Faults begin this long apart, at the mean.
const MEAN_GAP_MS: f64 = 2_200.0;
/// The kinds in the deck; each is dealt before any comes again.
#[derive(Clone, Copy)]
enum Card {
    KillRelay,
    KillWorker,
    KillReceiver,
    FreezeRelay,
    FreezeWorker,
    FreezeReceiver,
    StepClock,
    AddWorker,
    RemoveWorker,
    KillPostgres,
    TerminateBackends,
    KillRabbitmq,
    CloseBrokerConnections,
    MemoryAlarm,
    FullQueues,
    Cut,
    Stall,
    StallHttp,
    StrandHttp,
    Strand,
    Slow,
    HalfClose,
    Refuse,
    RefuseHttp,
    OrderResync,
    OrderReplay,
    OrderReconcile,
    MoodSlow,
    MoodHangs,
    MoodFails,
    MoodBadGateway,
    MoodUnavailable,
    MoodTooMany,
    MoodGarbage,
    MoodForgets,
    MoodRefuses,
    MoodFailsUsers,
}

const DECK: [Card; 45] = [
    Card::KillRelay,
    Card::KillRelay,
    Card::KillWorker,
    Card::KillWorker,
    Card::KillWorker,
    Card::KillReceiver,
    Card::FreezeRelay,
    Card::FreezeWorker,
    Card::FreezeWorker,
    Card::FreezeReceiver,
    Card::StepClock,
    Card::StepClock,
    Card::AddWorker,
    Card::RemoveWorker,
    Card::KillPostgres,
    Card::TerminateBackends,
    Card::KillRabbitmq,
    Card::CloseBrokerConnections,
    Card::MemoryAlarm,
    Card::FullQueues,
    Card::Cut,
    Card::Stall,
    Card::Stall,
    Card::StallHttp,
    Card::StrandHttp,
    Card::StrandHttp,
    Card::Strand,
    Card::Slow,
    Card::HalfClose,
    Card::Refuse,
    Card::RefuseHttp,
    Card::OrderResync,
    Card::OrderReplay,
    Card::OrderReconcile,
    Card::MoodSlow,
    Card::MoodHangs,
    Card::MoodHangs,
    Card::MoodFails,
    Card::MoodBadGateway,
    Card::MoodUnavailable,
    Card::MoodTooMany,
    Card::MoodGarbage,
    Card::MoodForgets,
    Card::MoodRefuses,
    Card::MoodFailsUsers,
];

/// Deals from a deck that it shuffles anew when it is empty.
pub(crate) struct Dealer {
    rng: StdRng,
    deck: Vec<Card>,
}

impl Dealer {
    pub(crate) fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), deck: Vec::new() }
    }

    /// How long after this fault the next one begins.
    pub(crate) fn gap_ms(&mut self) -> u64 {
        let uniform: f64 = self.rng.random_range(0.02..1.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 9 thousand")]
        let gap_ms = (-uniform.ln() * MEAN_GAP_MS) as u64;
        gap_ms
    }

    /// The next fault, and how long it lasts.
    pub(crate) fn deal(&mut self) -> (Fault, u64) {
        if self.deck.is_empty() {
            self.deck = DECK.to_vec();
            self.deck.shuffle(&mut self.rng);
        }
        let card = self.deck.pop().unwrap_or(Card::Cut);
        let fault = self.fault(card);
        let lasts_ms = match card {
            Card::TerminateBackends
            | Card::CloseBrokerConnections
            | Card::Cut
            | Card::HalfClose
            | Card::OrderResync
            | Card::OrderReplay
            | Card::OrderReconcile => 0,
            Card::KillRelay | Card::KillWorker | Card::KillReceiver => self.rng.random_range(200..7_000),
            Card::FreezeRelay | Card::FreezeWorker => self.rng.random_range(500..9_000),
            Card::KillPostgres | Card::KillRabbitmq => self.rng.random_range(100..3_000),
            Card::AddWorker | Card::RemoveWorker => self.rng.random_range(6_000..15_000),
            Card::StallHttp | Card::StrandHttp | Card::FreezeReceiver => self.rng.random_range(500..6_000),
            _ => self.rng.random_range(1_000..8_000),
        };
        (fault, lasts_ms)
    }

    fn fault(&mut self, card: Card) -> Fault {
        match card {
            Card::KillRelay => Fault::Kill { process: self.one_of(&RELAYS) },
            Card::KillWorker => Fault::Kill { process: self.one_of(&WORKERS) },
            Card::KillReceiver => Fault::Kill { process: self.receiver() },
            Card::FreezeRelay => Fault::Freeze { process: self.one_of(&RELAYS) },
            Card::FreezeWorker => Fault::Freeze { process: self.one_of(&WORKERS) },
            Card::FreezeReceiver => Fault::Freeze { process: self.receiver() },
            Card::StepClock => {
                let processes = [&RELAYS[..], &WORKERS[..]].concat();
                let seconds = [-7_200, -300, -10, 10, 300, 7_200][self.rng.random_range(0..6)];
                Fault::StepClock { process: self.one_of(&processes), seconds }
            }
            Card::AddWorker => {
                Fault::AddWorker { process: EXTRA_WORKER.to_owned(), gracefully: self.rng.random() }
            }
            Card::RemoveWorker => Fault::RemoveWorker { process: self.one_of(&WORKERS) },
            Card::KillPostgres => Fault::KillPostgres,
            Card::TerminateBackends => {
                Fault::TerminateBackends { percent: self.rng.random_range(2..=10) * 10 }
            }
            Card::KillRabbitmq => Fault::KillRabbitmq,
            Card::CloseBrokerConnections => Fault::CloseBrokerConnections,
            Card::MemoryAlarm => Fault::MemoryAlarm,
            Card::FullQueues => Fault::FullQueues,
            Card::Cut => Fault::Cut { link: self.any_link() },
            Card::Stall => Fault::Stall { link: self.server_link(), ways: self.ways() },
            Card::StallHttp => Fault::Stall { link: self.http_link(), ways: self.ways() },
            Card::StrandHttp => Fault::Strand { link: self.http_link(), ways: self.ways() },
            Card::Strand => Fault::Strand { link: self.server_link(), ways: self.ways() },
            Card::Slow => Fault::Slow {
                link: self.any_link(),
                ways: self.ways(),
                piece_bytes: self.rng.random_range(100..2_000),
                pause_ms: self.rng.random_range(5..60),
            },
            Card::HalfClose => Fault::HalfClose { link: self.any_link(), way: self.way() },
            Card::Refuse => Fault::Refuse { link: self.server_link() },
            Card::RefuseHttp => Fault::Refuse { link: self.http_link() },
            Card::OrderResync => {
                let target = ["backend", "crm"][self.rng.random_range(0..2)];
                let tenant = TENANTS[self.rng.random_range(0..TENANTS.len())];
                Fault::Order { order: Order::Resync { target, tenant } }
            }
            Card::OrderReplay => Fault::Order { order: Order::Replay },
            Card::OrderReconcile => Fault::Order { order: Order::Reconcile },
            mood => self.mood(mood),
        }
    }

    fn mood(&mut self, card: Card) -> Fault {
        let mut target = TARGETS[self.rng.random_range(0..TARGETS.len())].name;
        let mood = match card {
            Card::MoodSlow => Mood::Slow { delay_ms: self.rng.random_range(200..1_500) },
            Card::MoodHangs => Mood::Hangs {
                times: self.rng.random_range(3..40),
                delay_ms: self.rng.random_range(2_500..8_000),
                executes_first: self.rng.random(),
            },
            Card::MoodBadGateway => Mood::BadGateway { executes: self.rng.random() },
            Card::MoodUnavailable => Mood::Unavailable { retry_after_s: self.rng.random_range(1..4) },
            Card::MoodTooMany => Mood::TooMany { retry_after_s: self.rng.random_range(1..4) },
            Card::MoodGarbage => Mood::Garbage,
            Card::MoodForgets => Mood::Forgets,
            Card::MoodRefuses => Mood::Refuses { users: self.users() },
            Card::MoodFailsUsers => {
                target = "crm";
                Mood::FailsUsers { users: self.users() }
            }
            _ => Mood::Fails,
        };
        Fault::Mood { target, mood }
    }

    fn one_of(&mut self, names: &[&str]) -> String {
        names[self.rng.random_range(0..names.len())].to_owned()
    }

    fn receiver(&mut self) -> String {
        TARGETS[self.rng.random_range(0..TARGETS.len())].receiver()
    }

    fn any_link(&mut self) -> String {
        match self.rng.random_range(0..10) {
            0 => APP_LINK.to_owned(),
            1..=3 => self.http_link(),
            _ => self.server_link(),
        }
    }

    fn server_link(&mut self) -> String {
        let processes = [&RELAYS[..], &WORKERS[..]].concat();
        let server = self.one_of(&SERVERS);
        format!("{}/{server}", self.one_of(&processes))
    }

    fn http_link(&mut self) -> String {
        http_link(TARGETS[self.rng.random_range(0..TARGETS.len())].name)
    }

    fn way(&mut self) -> Way {
        if self.rng.random() { Way::Up } else { Way::Down }
    }

    fn ways(&mut self) -> Vec<Way> {
        match self.rng.random_range(0..3) {
            0 => vec![Way::Up],
            1 => vec![Way::Down],
            _ => vec![Way::Up, Way::Down],
        }
    }

    /// A few hot users and a few cold ones.
    fn users(&mut self) -> Vec<String> {
        (0..6).map(|place| Population::draw_id(&mut self.rng, place % 2 == 0)).collect()
    }
}
