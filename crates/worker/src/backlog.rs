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

    /// When the oldest change a partition holds was written; None: it holds none.
    pub(crate) fn report(&self, partition: u16, oldest: Option<OffsetDateTime>) {
        let mut all = self.oldest.lock().unwrap_or_else(PoisonError::into_inner);
        match oldest {
            Some(at) => all.insert(partition, at),
            None => all.remove(&partition),
        };
        let now = OffsetDateTime::now_utc();
        self.seconds.set(all.values().min().map_or(0.0, |at| (now - *at).as_seconds_f64().max(0.0)));
    }
}
