//! Named places where a process dies on demand: between two steps that no transaction holds together, so that tests
//! crash it exactly there. `relay`, `worker` and `postbound` name such places; a test picks one by the variable
//! `POSTBOUND_FAILPOINT=worker.sent`, or the third time it is passed by `worker.sent:3`. `worker.drained!` has only the task
//! panic that passes it.
//!
//! There are none in builds without debug assertions: a release passes them at no cost, whatever the variable says.

#[cfg(debug_assertions)]
use std::sync::{
    LazyLock,
    atomic::{AtomicU32, Ordering},
};

/// Ends the process at once, without any cleaning up, if it was started to die at this place.
#[inline]
pub fn pass(place: &str) {
    #[cfg(debug_assertions)]
    if let Some(chosen) = &*CHOSEN
        && chosen.place == place
        && chosen.passes_left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        if chosen.panics {
            std::panic::panic_any(format!("failpoint {place}"));
        }
        std::process::abort();
    }
    #[cfg(not(debug_assertions))]
    let _ = place;
}

#[cfg(debug_assertions)]
static CHOSEN: LazyLock<Option<Chosen>> =
    LazyLock::new(|| Chosen::parse(&std::env::var("POSTBOUND_FAILPOINT").ok()?));

#[cfg(debug_assertions)]
struct Chosen {
    place: String,
    panics: bool,
    passes_left: AtomicU32,
}

#[cfg(debug_assertions)]
impl Chosen {
    fn parse(text: &str) -> Option<Self> {
        let (place, passes) = match text.rsplit_once(':') {
            Some((place, passes)) => (place, passes.parse().ok()?),
            None => (text, 1),
        };
        let (place, panics) = place.strip_suffix('!').map_or((place, false), |place| (place, true));
        Some(Self { place: place.to_owned(), panics, passes_left: AtomicU32::new(passes) })
    }
}
