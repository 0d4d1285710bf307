use crate::{job_page::JobMessage, slot::Refusal};
use postbound_store::MarkedItem;
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};
use tokio::time::Instant;

/// The messages of one page on their way to RabbitMQ: at most one unconfirmed per partition, so that a refusal cannot
/// swap two.
#[derive(Debug, Default)]
pub(crate) struct PageFlight {
    lines: BTreeMap<u16, Line>,
    confirmed: Vec<MarkedItem>,
}

#[derive(Debug)]
struct Line {
    messages: VecDeque<JobMessage>,
    front: Front,
    refusal: Option<Refusal>,
}

/// What the first message of a line is doing.
#[derive(Debug, Clone, Copy)]
enum Front {
    Due { refusals: u32 },
    Unconfirmed { since: Instant, refusals: u32 },
    Refused { until: Instant, refusals: u32 },
}

impl PageFlight {
    pub(crate) fn new(messages: Vec<JobMessage>) -> Self {
        let mut flight = Self::default();
        for message in messages {
            let line = flight.lines.entry(message.partition).or_insert_with(|| Line {
                messages: VecDeque::new(),
                front: Front::Due { refusals: 0 },
                refusal: None,
            });
            line.messages.push_back(message);
        }
        flight
    }

    /// Every message is confirmed.
    pub(crate) fn is_over(&self) -> bool {
        self.lines.is_empty()
    }

    /// The messages to publish now; they count as published.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<&JobMessage> {
        let mut due = Vec::new();
        for line in self.lines.values_mut() {
            let refusals = match line.front {
                Front::Due { refusals } => refusals,
                Front::Refused { until, refusals } if until <= now => refusals,
                _ => continue,
            };
            line.front = Front::Unconfirmed { since: now, refusals };
            due.extend(line.messages.front());
        }
        due
    }

    /// A partition's message is in its queue. Gives how many items it held.
    pub(crate) fn confirmed(&mut self, partition: u16) -> usize {
        let Some(line) = self.lines.get_mut(&partition) else { return 0 };
        let message = line.messages.pop_front();
        (line.front, line.refusal) = (Front::Due { refusals: 0 }, None);
        if line.messages.is_empty() {
            self.lines.remove(&partition);
        }
        let items = message.map(|message| message.items).unwrap_or_default();
        let count = items.len();
        self.confirmed.extend(items);
        count
    }

    /// A partition's message was refused or returned: the same one again, later each time.
    pub(crate) fn refused(&mut self, partition: u16, now: Instant, why: Refusal) {
        let Some(line) = self.lines.get_mut(&partition) else { return };
        if let Front::Unconfirmed { refusals, .. } = line.front {
            let until = now + retry_pause(refusals);
            line.front = Front::Refused { until, refusals: refusals + 1 };
            line.refusal = Some(why);
        }
    }

    /// The items whose messages are confirmed, once.
    pub(crate) fn take_confirmed(&mut self) -> Vec<MarkedItem> {
        std::mem::take(&mut self.confirmed)
    }

    /// When a refused message is due again.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        let times = self.lines.values().filter_map(|line| match line.front {
            Front::Refused { until, .. } => Some(until),
            _ => None,
        });
        times.min()
    }

    /// Since when a message is out without a word from RabbitMQ.
    pub(crate) fn unconfirmed_since(&self) -> Option<Instant> {
        let times = self.lines.values().filter_map(|line| match line.front {
            Front::Unconfirmed { since, .. } => Some(since),
            _ => None,
        });
        times.min()
    }

    /// A partition whose message was not taken for this reason.
    pub(crate) fn refusing(&self, why: Refusal) -> Option<u16> {
        self.lines.iter().find(|(_, line)| line.refusal == Some(why)).map(|(partition, _)| *partition)
    }
}

/// 50 ms, doubling, 2 s at most, as for live messages.
fn retry_pause(refusals: u32) -> Duration {
    Duration::from_millis(50 << refusals.min(6)).min(Duration::from_secs(2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use postbound_store::ItemMark;

    fn message(partition: u16, item: i64) -> JobMessage {
        let items = vec![MarkedItem { item, version: Some(1), mark: ItemMark::Sent }];
        JobMessage { partition, body: vec![item as u8].into(), items }
    }

    fn due(flight: &mut PageFlight, now: Instant) -> Vec<u8> {
        flight.take_due(now).iter().map(|message| message.body[0]).collect()
    }

    #[test]
    fn a_refused_message_goes_out_again_before_the_next_of_its_partition_and_holds_up_no_other() {
        let now = Instant::now();
        let mut flight = PageFlight::new(vec![message(0, 1), message(0, 2), message(1, 3)]);
        assert_eq!(due(&mut flight, now), [1, 3]);
        flight.refused(0, now, Refusal::Full);
        assert_eq!(flight.confirmed(1), 1);
        assert!(due(&mut flight, now).is_empty(), "it waits a little");
        assert_eq!(flight.refusing(Refusal::Full), Some(0));
        let retry_at = flight.retry_at().unwrap();
        assert_eq!(due(&mut flight, retry_at), [1]);
        flight.confirmed(0);
        assert_eq!(flight.refusing(Refusal::Full), None);
        assert_eq!(due(&mut flight, now), [2]);
        assert!(!flight.is_over());
        flight.confirmed(0);
        assert!(flight.is_over());
        let confirmed: Vec<_> = flight.take_confirmed().iter().map(|marked| marked.item).collect();
        assert_eq!(confirmed, [3, 1, 2]);
    }
}
