use crate::{
    flight::{Flight, Refusal},
    job_page::JobMessage,
};
use postbound_store::MarkedItem;
use std::collections::{BTreeMap, VecDeque};
use tokio::time::Instant;

/// The messages of one page on their way to RabbitMQ: at most one unconfirmed per partition, so that a refusal cannot
/// swap two.
#[derive(Debug, Default)]
pub(crate) struct PageFlight {
    lines: BTreeMap<u16, Line>,
    confirmed: Vec<MarkedItem>,
}

/// The messages of one partition.
#[derive(Debug)]
struct Line {
    pending: VecDeque<JobMessage>,
    flight: Flight<JobMessage>,
}

impl PageFlight {
    pub(crate) fn new(messages: Vec<JobMessage>) -> Self {
        let mut page = Self::default();
        for message in messages {
            let empty = || Line { pending: VecDeque::new(), flight: Flight::new() };
            page.lines.entry(message.partition).or_insert_with(empty).pending.push_back(message);
        }
        page
    }

    /// Every message is confirmed.
    pub(crate) fn is_over(&self) -> bool {
        self.lines.is_empty()
    }

    /// The messages to publish now; each counts as published once it is taken from the iterator.
    pub(crate) fn take_due(&mut self, now: Instant) -> impl Iterator<Item = &JobMessage> {
        self.lines.values_mut().filter_map(move |line| {
            let Line { pending, flight } = line;
            flight.take_due(now, || pending.pop_front())
        })
    }

    /// A partition's message is in its queue. Gives how many items it held.
    pub(crate) fn confirmed(&mut self, partition: u16) -> usize {
        let Some(line) = self.lines.get_mut(&partition) else { return 0 };
        let Some(message) = line.flight.confirmed() else { return 0 };
        if line.pending.is_empty() {
            self.lines.remove(&partition);
        }
        let count = message.items.len();
        self.confirmed.extend(message.items);
        count
    }

    /// A partition's message was refused or returned: the same one again, later each time.
    pub(crate) fn refused(&mut self, partition: u16, now: Instant, why: Refusal) {
        if let Some(line) = self.lines.get_mut(&partition) {
            line.flight.refused(now, why);
        }
    }

    /// The items whose messages are confirmed, once.
    pub(crate) fn take_confirmed(&mut self) -> Vec<MarkedItem> {
        std::mem::take(&mut self.confirmed)
    }

    /// When a refused message is due again.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        self.lines.values().filter_map(|line| line.flight.retry_at()).min()
    }

    /// Since when a message is out without a word from RabbitMQ.
    pub(crate) fn unconfirmed_since(&self) -> Option<Instant> {
        self.lines.values().filter_map(|line| line.flight.unconfirmed_since()).min()
    }

    /// A partition whose message was not taken for this reason.
    pub(crate) fn refusing(&self, why: Refusal) -> Option<u16> {
        self.lines
            .iter()
            .find(|(_, line)| line.flight.refusal() == Some(why))
            .map(|(partition, _)| *partition)
    }
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
        flight.take_due(now).map(|message| message.body[0]).collect()
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
