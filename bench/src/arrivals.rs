//! What a receiver took, and when: recorded by the receiver's process, read by the bench's.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};

use crate::person::Person;
use crate::statistics::Latency;

/// Doors of the receiver: one listener per target.
pub(crate) const DOORS: usize = 3;

/// Microseconds of the wall clock, the same in all processes of the machine.
pub(crate) fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// One user's state that was answered with success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// When the whole request was there, see [`now_us`].
    pub(crate) at_us: u64,
    /// Whose state.
    pub(crate) person: Person,
    /// Which one; 0 where the request did not say.
    pub(crate) version: u32,
    /// Which door it came through.
    pub(crate) door: u8,
}

impl Arrival {
    const BYTES: usize = 17;

    fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.at_us.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.person.0.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.version.to_le_bytes());
        bytes[16] = self.door;
        bytes
    }

    fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let word = |from: usize| u32::from_le_bytes(std::array::from_fn(|place| bytes[from + place]));
        Self {
            at_us: u64::from_le_bytes(std::array::from_fn(|place| bytes[place])),
            person: Person(word(8)),
            version: word(12),
            door: bytes[16],
        }
    }
}

/// The receiver's side: shards, so that connections do not wait for one another.
pub(crate) struct Recorder {
    shards: [Mutex<Vec<Arrival>>; 32],
    taken: [AtomicU64; DOORS],
    requests: [AtomicU64; DOORS],
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::new(Vec::new())),
            taken: std::array::from_fn(|_| AtomicU64::new(0)),
            requests: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Counts a request, whatever becomes of it.
    pub(crate) fn request(&self, door: usize) {
        self.requests[door].fetch_add(1, Ordering::Relaxed);
    }

    /// Records arrivals of one request; `connection` picks the shard.
    pub(crate) fn record(&self, connection: usize, arrivals: &[Arrival]) {
        let Some(first) = arrivals.first() else { return };
        let shard = &self.shards[connection % self.shards.len()];
        shard.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend_from_slice(arrivals);
        self.taken[usize::from(first.door)].fetch_add(arrivals.len() as u64, Ordering::Relaxed);
    }

    /// Users' states taken per door, and requests, since the last [`Self::take`].
    pub(crate) fn counts(&self) -> [[u64; DOORS]; 2] {
        [&self.taken, &self.requests]
            .map(|counts| counts.each_ref().map(|count| count.load(Ordering::Relaxed)))
    }

    /// Writes all arrivals to a file and forgets them and the counts.
    pub(crate) fn take(&self, path: &Path) -> Result<()> {
        let mut bytes = Vec::new();
        for shard in &self.shards {
            let arrivals =
                std::mem::take(&mut *shard.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
            bytes.extend(arrivals.into_iter().flat_map(Arrival::to_bytes));
        }
        for count in self.taken.iter().chain(&self.requests) {
            count.store(0, Ordering::Relaxed);
        }
        std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// The bench's side: all arrivals of a measurement.
pub(crate) struct Arrivals(Vec<Arrival>);

impl Arrivals {
    /// Reads what [`Recorder::take`] wrote.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let (chunks, rest) = bytes.as_chunks::<{ Arrival::BYTES }>();
        ensure!(rest.is_empty(), "{} is cut", path.display());
        let mut arrivals: Vec<Arrival> = chunks.iter().map(Arrival::from_bytes).collect();
        arrivals.sort_unstable_by_key(|arrival| arrival.at_us);
        Ok(Self(arrivals))
    }

    /// Those of one door.
    pub(crate) fn of(&self, door: usize) -> Self {
        Self(self.0.iter().copied().filter(|arrival| usize::from(arrival.door) == door).collect())
    }

    /// Those within a time, by [`now_us`].
    pub(crate) fn within(&self, from_us: u64, to_us: u64) -> usize {
        self.0.iter().filter(|arrival| (from_us..to_us).contains(&arrival.at_us)).count()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// When the first came, and the last.
    pub(crate) fn span_us(&self) -> Option<(u64, u64)> {
        Some((self.0.first()?.at_us, self.0.last()?.at_us))
    }

    /// How many there are beyond the first of each user's version at each door.
    pub(crate) fn duplicates(&self) -> usize {
        let distinct: std::collections::HashSet<_> =
            self.0.iter().map(|arrival| (arrival.door, arrival.person, arrival.version)).collect();
        self.0.len() - distinct.len()
    }

    /// Arrivals a second between the first and the last tenth: neither start nor tail.
    pub(crate) fn steady_rate(&self) -> Option<f64> {
        self.rate(self.0.len() / 10, self.0.len() * 9 / 10)
    }

    /// Arrivals a second in each tenth of them; 0 where a tenth took no time.
    pub(crate) fn rate_by_tenth(&self) -> Vec<f64> {
        let border = |tenth: usize| (self.0.len() * tenth / 10).min(self.0.len().saturating_sub(1));
        (0..10).map(|tenth| self.rate(border(tenth), border(tenth + 1)).unwrap_or_default()).collect()
    }

    /// Arrivals a second from one to another of them.
    fn rate(&self, from: usize, to: usize) -> Option<f64> {
        let micros = self.0.get(to)?.at_us.saturating_sub(self.0.get(from)?.at_us);
        (micros > 0).then(|| (to - from) as f64 * 1e6 / micros as f64)
    }

    /// How long each commit took to arrive; a change that a newer one replaced arrived with that one. The second number
    /// is how many have not arrived.
    pub(crate) fn latency(&self, commits: &[Commit]) -> (Option<Latency>, usize) {
        let mut by_person: HashMap<Person, Vec<Arrival>> = HashMap::new();
        for arrival in &self.0 {
            by_person.entry(arrival.person).or_default().push(*arrival);
        }
        let mut missing = 0;
        let mut micros = Vec::with_capacity(commits.len());
        for commit in commits {
            let arrivals = by_person.get(&commit.person).map(Vec::as_slice).unwrap_or_default();
            match arrivals.iter().find(|arrival| arrival.version >= commit.version) {
                // It can arrive before the client has heard of its own commit.
                Some(arrival) => micros.push(arrival.at_us.saturating_sub(commit.at_us)),
                None => missing += 1,
            }
        }
        (Latency::of(micros), missing)
    }
}

/// A change as its producer saw it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Commit {
    /// Whose.
    pub(crate) person: Person,
    /// The version it led to.
    pub(crate) version: u32,
    /// When the commit had returned.
    pub(crate) at_us: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(at_us: u64, person: u32, version: u32) -> Arrival {
        Arrival { at_us, person: Person(person), version, door: 1 }
    }

    #[test]
    fn what_the_receiver_records_the_bench_reads() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let recorder = Recorder::new();
        recorder.record(3, &[arrival(20, 1, 1), arrival(20, 2, 1)]);
        recorder.record(4, &[arrival(10, u32::MAX, 7)]);
        recorder.request(1);
        assert_eq!(recorder.counts(), [[0, 3, 0], [0, 1, 0]]);
        recorder.take(file.path()).unwrap();
        assert_eq!(recorder.counts(), [[0; DOORS]; 2]);
        let arrivals = Arrivals::read(file.path()).unwrap();
        assert_eq!(arrivals.0[0], arrival(10, u32::MAX, 7));
        assert_eq!((arrivals.len(), arrivals.span_us(), arrivals.of(0).len()), (3, Some((10, 20)), 0));
    }

    #[test]
    fn a_replaced_change_arrives_with_the_one_that_replaced_it() {
        let arrivals = Arrivals(vec![arrival(1_000, 1, 1), arrival(9_000, 1, 3)]);
        let commit = |person, version, at_us| Commit { person: Person(person), version, at_us };
        let commits = [commit(1, 1, 500), commit(1, 2, 5_000), commit(1, 3, 8_000), commit(2, 1, 1)];
        let (latency, missing) = arrivals.latency(&commits);
        let latency = latency.unwrap();
        assert_eq!((latency.count, latency.p50_ms, latency.max_ms, missing), (3, 1.0, 4.0, 1));
    }

    #[test]
    fn each_tenth_has_a_rate_of_its_own() {
        // 40 arrivals: 1 ms apart in the first half, then 2 ms.
        let at_us = |place: u64| 1_000 * (place + place.saturating_sub(20));
        let arrivals = Arrivals((0..40).map(|place| arrival(at_us(place), place as u32, 1)).collect());
        let rates = arrivals.rate_by_tenth();
        assert_eq!(rates, [&[1000.0; 5][..], &[500.0; 5][..]].concat());
        assert_eq!(Arrivals(Vec::new()).rate_by_tenth(), [0.0; 10]);
    }

    #[test]
    fn the_same_version_twice_is_a_duplicate() {
        let arrivals = Arrivals(vec![arrival(1, 1, 1), arrival(2, 1, 2), arrival(3, 1, 2)]);
        assert_eq!(arrivals.duplicates(), 1);
    }
}
