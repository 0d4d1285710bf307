use metrics::Gauge;
use postbound_telemetry::names;
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};
use time::OffsetDateTime;

/// Age of the oldest live change in a worker's hands at one target. Queues keep their order, so what waits behind it is
/// younger: it says how far behind the target is, and whether another worker would help.
pub(crate) struct Backlog {
    /// By partition.
    oldest: Mutex<HashMap<u16, OffsetDateTime>>,
    seconds: Gauge,
}

impl Backlog {
    pub(crate) fn of(target: &str) -> Self {
        let seconds = metrics::gauge!(names::OLDEST_UNDELIVERED_SECONDS, "target" => target.to_owned());
        Self { oldest: Mutex::default(), seconds }
    }

    /// A partition's part of it, for as long as it is worked on.
    pub(crate) fn partition(&self, number: u16) -> PartitionBacklog<'_> {
        PartitionBacklog { backlog: self, number }
    }

    fn report(&self, partition: u16, oldest: Option<OffsetDateTime>) {
        let mut all = self.oldest.lock().unwrap_or_else(PoisonError::into_inner);
        match oldest {
            Some(at) => all.insert(partition, at),
            None => all.remove(&partition),
        };
        let now = OffsetDateTime::now_utc();
        self.seconds.set(all.values().min().map_or(0.0, |at| (now - *at).as_seconds_f64().max(0.0)));
    }
}

/// What one partition holds; dropped, it holds nothing, whichever way its work ended: others have it now.
pub(crate) struct PartitionBacklog<'a> {
    backlog: &'a Backlog,
    number: u16,
}

impl PartitionBacklog<'_> {
    /// When the oldest change the partition holds was written; None: it holds none.
    pub(crate) fn report(&self, oldest: Option<OffsetDateTime>) {
        self.backlog.report(self.number, oldest);
    }
}

impl Drop for PartitionBacklog<'_> {
    fn drop(&mut self) {
        self.report(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_that_is_left_holds_nothing_any_more() {
        let backlog = Backlog::of("crm");
        let (left, kept) = (backlog.partition(0), backlog.partition(1));
        left.report(Some(OffsetDateTime::UNIX_EPOCH));
        kept.report(Some(OffsetDateTime::now_utc()));
        drop(left);
        let held: Vec<u16> = backlog.oldest.lock().unwrap().keys().copied().collect();
        assert_eq!(held, [1]);
    }
}
