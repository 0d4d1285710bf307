use crate::{Event, EventHeader, JobPart, UserKey, event::CloudEvent};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Content type of a message: the JSON batch format of CloudEvents 1.0.
pub const BATCH_CONTENT_TYPE: &str = "application/cloudevents-batch+json";

/// CloudEvents `source` of every event: the outbox the relay reads.
const SOURCE: &str = "/postbound/outbox";

/// The body of a message in the making: a JSON array of events.
///
/// Each event is rendered once, when its row is read; its data goes in as it came out of Postgres.
#[derive(Debug, Clone, Default)]
pub struct BatchBuilder {
    body: Vec<u8>,
    events: usize,
}

impl BatchBuilder {
    /// Number of events so far.
    pub fn len(&self) -> usize {
        self.events
    }

    /// Whether there is no event yet.
    pub fn is_empty(&self) -> bool {
        self.events == 0
    }

    /// Size of the finished body in bytes.
    pub fn bytes(&self) -> usize {
        self.body.len() + 1
    }

    /// Renders one event by itself, to be added with [`BatchBuilder::push`].
    ///
    /// # Errors
    /// When `data` is not JSON, which Postgres' jsonb rules out.
    pub fn render(header: &EventHeader<'_>, data: &str) -> Result<Vec<u8>, serde_json::Error> {
        let event = CloudEvent {
            specversion: Cow::Borrowed("1.0"),
            id: header.id,
            source: Cow::Borrowed(SOURCE),
            event_type: Cow::Borrowed(header.action.event_type()),
            subject: Cow::Borrowed(header.user),
            time: header.logged_at,
            tenantid: Cow::Borrowed(header.tenant),
            userversion: Cow::Owned(header.version.to_string()),
            logid: Cow::Owned(header.log_id.to_string()),
            origin: header.origin.map(Cow::Borrowed),
            traceparent: header.traceparent.map(Cow::Borrowed),
            resend: header.resend,
            jobid: header.job.map(|part| Cow::Owned(part.job.to_string())),
            jobitem: header.job.map(|part| Cow::Owned(part.item.to_string())),
            jobrepeats: header.job.is_some_and(|part| part.repeats),
            jobfull: header.job.is_some_and(|part| part.full),
            data: serde_json::from_str::<&RawValue>(data)?,
        };
        let mut rendered = Vec::with_capacity(data.len() + 384);
        serde_json::to_writer(&mut rendered, &event)?;
        Ok(rendered)
    }

    /// Adds a rendered event.
    pub fn push(&mut self, rendered: &[u8]) {
        self.body.push(if self.events == 0 { b'[' } else { b',' });
        self.body.extend_from_slice(rendered);
        self.events += 1;
    }

    /// The finished body.
    pub fn finish(mut self) -> Vec<u8> {
        if self.events == 0 {
            self.body.push(b'[');
        }
        self.body.push(b']');
        self.body
    }
}

/// A message that is not a batch of user changes.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not a JSON array of CloudEvents with our attributes.
    #[error("not a batch of user changes: {0}")]
    Shape(#[from] serde_json::Error),
    /// An attribute that does not hold what it must; the value is not repeated, it may be personal.
    #[error("attribute {attribute} of event {place} does not hold {expected}")]
    Attribute {
        /// Name of the attribute.
        attribute: &'static str,
        /// What it should hold.
        expected: &'static str,
        /// Place of the event in the batch, from 1.
        place: usize,
    },
}

/// Reads the events of a message, in order.
///
/// # Errors
/// When the body is not what [`BatchBuilder`] makes, in this version's form or an earlier one's.
pub fn decode_batch(body: &[u8]) -> Result<Vec<Event>, DecodeError> {
    let raw: Vec<CloudEvent<'_>> = serde_json::from_slice(body)?;
    raw.into_iter().enumerate().map(|(index, event)| to_event(event, index + 1)).collect()
}

fn to_event(raw: CloudEvent<'_>, place: usize) -> Result<Event, DecodeError> {
    let wrong = |attribute, expected| DecodeError::Attribute { attribute, expected, place };
    Ok(Event {
        id: raw.id,
        log_id: raw.logid.parse().map_err(|_| wrong("logid", "a number"))?,
        version: raw.userversion.parse().map_err(|_| wrong("userversion", "a number"))?,
        action: raw
            .event_type
            .parse()
            .map_err(|_| wrong("type", "user.created, user.updated or user.deleted"))?,
        key: UserKey { tenant: raw.tenantid.into_owned(), user: raw.subject.into_owned() },
        origin: raw.origin.map(Cow::into_owned),
        traceparent: raw.traceparent.map(Cow::into_owned),
        logged_at: raw.time,
        data: raw.data.to_owned(),
        resend: raw.resend,
        job: match (raw.jobid, raw.jobitem) {
            (Some(job), Some(item)) => Some(JobPart {
                job: job.parse().map_err(|_| wrong("jobid", "a number"))?,
                item: item.parse().map_err(|_| wrong("jobitem", "a number"))?,
                repeats: raw.jobrepeats,
                full: raw.jobfull,
            }),
            _ => None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Action;
    use time::macros::datetime;
    use uuid::Uuid;

    fn header(user: &str, version: i64) -> EventHeader<'_> {
        EventHeader {
            id: Uuid::from_u128(7),
            log_id: 1 << 40,
            tenant: "acme",
            user,
            version,
            action: Action::Updated,
            origin: None,
            traceparent: None,
            logged_at: datetime!(2026-01-02 03:04:05.678901 UTC),
            resend: 0,
            job: None,
        }
    }

    #[test]
    fn what_goes_in_comes_out_and_data_is_not_touched() {
        let mut batch = BatchBuilder::default();
        let odd = r#"{"b": 1.50, "a":"\u00e9\"", "n": 123456789012345678901234567890}"#;
        batch.push(&BatchBuilder::render(&header("u\"1", 3), odd).unwrap());
        batch.push(&BatchBuilder::render(&header("ü", 4), "{}").unwrap());
        assert_eq!(batch.len(), 2);
        let bytes = batch.bytes();
        let body = batch.finish();
        assert_eq!(bytes, body.len());
        let events = decode_batch(&body).unwrap();
        assert_eq!(events[0].data.get(), odd);
        assert_eq!((events[0].key.user.as_str(), events[0].version, events[0].log_id), ("u\"1", 3, 1 << 40));
        assert_eq!(events[1].key, UserKey::new("acme", "ü"));
        assert_eq!(events[1].logged_at, datetime!(2026-01-02 03:04:05.678901 UTC));
    }

    #[test]
    fn an_item_of_a_job_keeps_its_place() {
        let job = Some(JobPart { job: 3, item: 1 << 40, repeats: true, full: true });
        let mut batch = BatchBuilder::default();
        batch.push(&BatchBuilder::render(&EventHeader { job, resend: 2, ..header("u", 1) }, "{}").unwrap());
        let events = decode_batch(&batch.finish()).unwrap();
        assert_eq!((events[0].job, events[0].resend), (job, 2));
    }

    #[test]
    fn a_body_that_is_no_batch_is_refused_with_the_reason() {
        let check = |body: &str, reason: &str| {
            let error = decode_batch(body.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(reason), "{error:?} does not say {reason:?}");
        };
        check("", "not a batch");
        check("{}", "not a batch");
        check(r#"[{"specversion":"1.0"}]"#, "missing field");
        let good = BatchBuilder::render(&header("u", 1), "{}").unwrap();
        let good = String::from_utf8(good).unwrap();
        check(&format!("[{good},{}]", good.replace("user.updated", "user.exploded")), "type of event 2");
        check(
            &format!("[{}]", good.replace(r#""userversion":"1""#, r#""userversion":"x""#)),
            "userversion of event 1",
        );
    }
}
