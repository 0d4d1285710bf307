//! Messages in RabbitMQ.

use postbound_event::{BatchBuilder, Event, EventHeader, decode_batch};

/// What is read can be written, and is the same when it is read again.
pub fn target(data: &[u8]) {
    let Ok(events) = decode_batch(data) else { return };
    let mut batch = BatchBuilder::default();
    for event in &events {
        // Times beyond RFC 3339's four digits are not written; no row of the log has one.
        let Ok(rendered) = BatchBuilder::render(&header(event), event.data.get()) else { return };
        batch.push(&rendered);
    }
    let again = decode_batch(&batch.finish()).expect("what was written can be read");
    assert_eq!(format!("{again:?}"), format!("{events:?}"));
}

fn header(event: &Event) -> EventHeader<'_> {
    EventHeader {
        id: event.id,
        log_id: event.log_id,
        tenant: &event.key.tenant,
        user: &event.key.user,
        version: event.version,
        action: event.action,
        origin: event.origin.as_deref(),
        traceparent: event.traceparent.as_deref(),
        logged_at: event.logged_at,
        resend: event.resend,
        job: event.job,
    }
}
