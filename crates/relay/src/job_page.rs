use crate::slot::MessageLimits;
use postbound_event::{Action, BatchBuilder, EventHeader, JobPart};
use postbound_store::{ItemMark, JobItem, JobKind, JobState, MarkedItem, RunningJob};
use std::sync::Arc;

/// Items of a job as they go out: what needs no sending, and messages per partition, in order.
#[derive(Debug, Default)]
pub(crate) struct JobPage {
    pub(crate) settled: Vec<MarkedItem>,
    pub(crate) messages: Vec<JobMessage>,
}

/// One message, and the items in it.
#[derive(Debug)]
pub(crate) struct JobMessage {
    pub(crate) partition: u16,
    pub(crate) body: Arc<[u8]>,
    pub(crate) items: Vec<MarkedItem>,
}

/// A partition's message in the making.
#[derive(Default)]
struct Gathering {
    batch: BatchBuilder,
    items: Vec<MarkedItem>,
}

impl JobPage {
    /// Decides on each item and gathers what is to be sent.
    pub(crate) fn render(
        job: &RunningJob,
        items: &[JobItem],
        partitions: u16,
        limits: MessageLimits,
    ) -> Self {
        let mut page = Self::default();
        let mut gathering: Vec<Gathering> = (0..partitions).map(|_| Gathering::default()).collect();
        for item in items {
            let rendered = to_send(item).and_then(|state| render(job, item, state));
            let version = item.state.as_ref().map(|state| state.version);
            let marked = |mark| MarkedItem { item: item.item, version, mark };
            let rendered = match rendered {
                Ok(rendered) => rendered,
                Err(mark) => {
                    page.settled.push(marked(mark));
                    continue;
                }
            };
            let partition = item.key.partition(partitions);
            let gathered = &mut gathering[usize::from(partition)];
            let full = gathered.batch.len() >= limits.events
                || gathered.batch.bytes() + rendered.len() + 1 > limits.bytes;
            if full && !gathered.batch.is_empty() {
                page.messages.push(std::mem::take(gathered).finish(partition));
            }
            gathered.batch.push(&rendered);
            gathered.items.push(marked(ItemMark::Sent));
        }
        let rest = (0..partitions).zip(gathering).filter(|(_, gathered)| !gathered.batch.is_empty());
        page.messages.extend(rest.map(|(partition, gathered)| gathered.finish(partition)));
        page
    }

    /// Number of items that are to be sent.
    pub(crate) fn to_send(&self) -> usize {
        self.messages.iter().map(|message| message.items.len()).sum()
    }
}

impl Gathering {
    fn finish(self, partition: u16) -> JobMessage {
        JobMessage { partition, body: self.batch.finish().into(), items: self.items }
    }
}

/// The state to send for an item, or why there is none.
fn to_send(item: &JobItem) -> Result<&JobState, ItemMark> {
    if item.letter.is_some_and(|letter| !letter.open) {
        return Err(ItemMark::Superseded("letter_closed"));
    }
    let missing = if item.letter.is_some() { "unreadable" } else { "no_state" };
    let state = item.state.as_ref().ok_or(ItemMark::Skipped(missing))?;
    if !state.wanted {
        return Err(ItemMark::Skipped("not_wanted"));
    }
    // A delete goes by the ids alone: it is what takes the user out of a target that still has them.
    if state.erased && state.action != Action::Deleted {
        return Err(ItemMark::Skipped("erased"));
    }
    Ok(state)
}

fn render(job: &RunningJob, item: &JobItem, state: &JobState) -> Result<Vec<u8>, ItemMark> {
    let header = EventHeader {
        id: state.event_id,
        log_id: state.log_id,
        tenant: &item.key.tenant,
        user: &item.key.user,
        version: state.version,
        action: state.action,
        origin: state.origin.as_deref(),
        traceparent: state.traceparent.as_deref(),
        logged_at: state.logged_at,
        resend: resend(job, item),
        job: Some(JobPart { job: job.id, item: item.item, repeats: repeats(job.kind), full: job.full }),
    };
    let data = if state.erased { "{}" } else { &state.data };
    BatchBuilder::render(&header, data).map_err(|_| ItemMark::Skipped("unreadable"))
}

/// Whether states go out that the ledger says the target holds: it lost them (resync), or had them before there was a
/// ledger, in some form or other (import).
fn repeats(kind: JobKind) -> bool {
    match kind {
        JobKind::Resync | JobKind::Import => true,
        JobKind::Replay | JobKind::Reconcile => false,
    }
}

/// Which idempotency key a state goes out under: 0 the first one's, else a new one.
///
/// A replay after an unknown outcome keeps the last attempt's key, so that a request that had been executed is not
/// executed twice; else it takes the one after it, which no attempt has had. A resync never keeps one: a target that lost its users may have kept its answers, and would only repeat them.
fn resend(job: &RunningJob, item: &JobItem) -> u32 {
    match (job.kind, item.letter) {
        (JobKind::Replay, Some(letter)) => {
            let last = u32::try_from(letter.resend).unwrap_or(0);
            if letter.unknown_outcome && !job.new_key { last } else { last + 1 }
        }
        (JobKind::Resync, _) => resend_of_job(job.id),
        _ if job.new_key => resend_of_job(job.id),
        _ => 0,
    }
}

/// Far above what replays and doubts count up to, with room for theirs after it: below 2^31, 1024 apart, and the same
/// again only after a million jobs.
fn resend_of_job(job: i64) -> u32 {
    let number = u32::try_from(job.rem_euclid(1 << 20)).unwrap_or(0);
    (1 << 30) | (number << 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use postbound_event::{UserKey, decode_batch};
    use postbound_store::JobLetter;
    use time::OffsetDateTime;
    use uuid::Uuid;

    const LIMITS: MessageLimits = MessageLimits { events: 2, bytes: 10_000 };

    fn job(kind: JobKind, new_key: bool) -> RunningJob {
        RunningJob {
            id: 7,
            kind,
            full: false,
            new_key,
            rate_per_second: None,
            stop_after_failures: None,
            failing: 0,
            in_flight: false,
        }
    }

    fn item(number: i64) -> JobItem {
        let state = JobState {
            version: 3,
            event_id: Uuid::nil(),
            log_id: 0,
            action: Action::Updated,
            origin: None,
            traceparent: None,
            logged_at: OffsetDateTime::UNIX_EPOCH,
            data: r#"{"name": "v3"}"#.into(),
            wanted: true,
            erased: false,
        };
        JobItem { item: number, key: UserKey::new("t", "u"), letter: None, state: Some(state) }
    }

    fn letter(resend: i32, unknown_outcome: bool) -> Option<JobLetter> {
        Some(JobLetter { resend, unknown_outcome, open: true })
    }

    #[test]
    fn what_needs_no_sending_is_settled_with_the_reason() {
        let check = |change: fn(&mut JobItem), mark: ItemMark| {
            let mut changed = item(1);
            change(&mut changed);
            let page = JobPage::render(&job(JobKind::Resync, false), &[changed], 4, LIMITS);
            let marks: Vec<_> = page.settled.iter().map(|marked| marked.mark).collect();
            assert_eq!((marks, page.to_send()), (vec![mark], 0));
        };
        check(|item| item.state = None, ItemMark::Skipped("no_state"));
        check(
            |item| {
                item.state = None;
                item.letter = letter(0, false);
            },
            ItemMark::Skipped("unreadable"),
        );
        check(|item| item.state.as_mut().unwrap().wanted = false, ItemMark::Skipped("not_wanted"));
        check(|item| item.state.as_mut().unwrap().erased = true, ItemMark::Skipped("erased"));
        check(
            |item| item.letter = Some(JobLetter { resend: 0, unknown_outcome: true, open: false }),
            ItemMark::Superseded("letter_closed"),
        );
    }

    #[test]
    fn the_delete_of_an_erased_user_goes_out_by_its_ids_alone() {
        let mut erased = item(1);
        let state = erased.state.as_mut().unwrap();
        (state.erased, state.action) = (true, Action::Deleted);
        let page = JobPage::render(&job(JobKind::Resync, false), &[erased], 4, LIMITS);
        let events = decode_batch(&page.messages[0].body).unwrap();
        assert_eq!((events[0].action, events[0].data.get()), (Action::Deleted, "{}"));
    }

    #[test]
    fn a_replay_keeps_its_key_only_after_an_unknown_outcome_and_a_resync_never() {
        let check = |job: &RunningJob, letter: Option<JobLetter>, expected: u32, repeats: bool| {
            let page = JobPage::render(job, &[JobItem { letter, ..item(1) }], 4, LIMITS);
            let event = decode_batch(&page.messages[0].body).unwrap().remove(0);
            assert_eq!(event.resend, expected, "{job:?} {letter:?}");
            assert_eq!(event.job, Some(JobPart { job: 7, item: 1, repeats, full: false }));
        };
        let of_job = (1 << 30) + 7 * 1024;
        check(&job(JobKind::Replay, false), letter(0, true), 0, false);
        check(&job(JobKind::Replay, true), letter(0, true), 1, false);
        check(&job(JobKind::Replay, false), letter(0, false), 1, false);
        check(&job(JobKind::Replay, false), letter(4, false), 5, false);
        check(&job(JobKind::Replay, false), letter(4, true), 4, false);
        check(&job(JobKind::Replay, true), letter(4, true), 5, false);
        check(&job(JobKind::Resync, false), None, of_job, true);
        check(&job(JobKind::Reconcile, false), None, 0, false);
        check(&job(JobKind::Reconcile, true), None, of_job, false);
        check(&job(JobKind::Import, false), None, 0, true);
    }

    #[test]
    fn a_job_s_key_number_fits_a_signed_column_and_differs_from_its_neighbour_s() {
        for job in [0, 1, (1 << 20) - 1, 1 << 20, i64::MAX] {
            let number = resend_of_job(job);
            assert!(i32::try_from(number + 1023).is_ok(), "{job}");
            assert_ne!(number, resend_of_job(job.wrapping_add(1)), "{job}");
        }
    }

    #[test]
    fn a_partition_s_items_stay_in_order_and_messages_keep_to_their_limits() {
        let items: Vec<_> = (1..=5).map(item).collect();
        let page = JobPage::render(&job(JobKind::Resync, false), &items, 1, LIMITS);
        let sizes: Vec<_> = page.messages.iter().map(|message| message.items.len()).collect();
        assert_eq!(sizes, [2, 2, 1]);
        let order = page.messages.iter().flat_map(|message| decode_batch(&message.body).unwrap());
        let order: Vec<_> = order.map(|event| event.job.unwrap().item).collect();
        assert_eq!(order, [1, 2, 3, 4, 5]);
    }
}
