use super::Delivering;
use postbound_event::Event;
use postbound_store::{Doubt, ParkedState, Unknown};
use std::time::Duration;

impl Delivering {
    /// What a success leaves of doubt, at a target that does not check versions itself: an older state may still be on
    /// its way there in a request nobody knows the outcome of.
    pub(super) fn doubt(&self) -> Option<Doubt> {
        if !self.context.plan.has_doubts() {
            return None;
        }
        let event = &self.next.event;
        let is_resend = event.resend > 0 && event.job.is_none();
        let in_doubt = self.held.doubt_until.is_some();
        let late =
            late(event.version, self.tries.unknown, in_doubt, is_resend, self.context.plan.doubt_after);
        match late {
            None => is_resend.then_some(Doubt::Cleared { resend: event.resend }),
            Some(_) => Some(Doubt::Raised { state: self.once_more(), late }),
        }
    }

    /// What is dead may have been sent without anyone knowing the outcome, and be executed after what comes next. It is
    /// never sent itself, as nothing older than itself is in doubt: whatever is newer finds the doubt and is sent again.
    /// If there was an older doubt, that stays: what was delivered last is sent again, once the dead one is late no more.
    pub(super) fn doubt_of_the_dead(&self) -> Option<Doubt> {
        if !self.context.plan.has_doubts() || self.tries.unknown.is_none() {
            return None;
        }
        let late = Some((self.context.plan.doubt_after, self.next.event.version));
        Some(Doubt::Raised { state: self.once_more(), late })
    }

    /// The state as the doubt has it sent again: under a key of its own.
    fn once_more(&self) -> Box<ParkedState> {
        let event = &self.next.event;
        let newest = Event { resend: event.resend + 1, job: None, ..event.clone() };
        Box::new(ParkedState { event: newest, send_as: Some(self.next.action) })
    }
}

/// How long a request may take that could be executed over the version just delivered, and the oldest version it may
/// carry; None: there is no such request. `in_doubt`: there was one before; `is_resend`: this delivery was the answer to it.
fn late(
    delivered: i64,
    unknown: Unknown,
    in_doubt: bool,
    is_resend: bool,
    after: Duration,
) -> Option<(Duration, i64)> {
    // Of newer ones their own delivery says.
    let older = if unknown.oldest > delivered { 0 } else { unknown.oldest };
    match (older, in_doubt) {
        // The doubt there was is about something older, whatever is known of it by now, and as urgent as before.
        (0, true) if !is_resend => Some((Duration::ZERO, 1)),
        (0, _) => None,
        (_, true) => Some((after, 1)),
        (older, false) => Some((after, older)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubt_is_about_the_oldest_version_on_its_way_and_about_any_where_there_was_doubt_before() {
        const AFTER: Duration = Duration::from_secs(9);
        let check = |what: &str, (oldest, newest), in_doubt, is_resend, expected| {
            let late = late(2, Unknown { oldest, newest }, in_doubt, is_resend, AFTER);
            assert_eq!(late, expected, "{what}");
        };
        check("none is on its way", (0, 0), false, false, None);
        check("an older doubt stays, and when it is due", (0, 0), true, false, Some((Duration::ZERO, 1)));
        check("what the doubt asked for", (0, 0), true, true, None);
        check("an older one, and itself", (1, 2), false, false, Some((AFTER, 1)));
        check("only itself", (2, 2), false, false, Some((AFTER, 2)));
        check("only itself, while there is an older doubt", (2, 2), true, false, Some((AFTER, 1)));
        check("what the doubt asked for ended unknown itself", (2, 2), true, true, Some((AFTER, 1)));
        check("only newer ones", (3, 3), false, false, None);
        check(
            "only newer ones, while there is an older doubt",
            (3, 3),
            true,
            false,
            Some((Duration::ZERO, 1)),
        );
    }
}
