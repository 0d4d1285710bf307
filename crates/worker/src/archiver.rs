use crate::{
    context::TargetContext,
    dead_letters::letter_body,
    links::{LinkWatch, next_link},
    retry::RestartPauses,
};
use futures_util::FutureExt as _;
use postbound_broker::{BrokerError, Link, Message, PartitionConsumer};
use postbound_event::decode_batch;
use postbound_store::{Letter, LetterContent, StoreError, within};
use postbound_telemetry::Component;
use std::{sync::Weak, time::Duration};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::Instant;

/// Letters moved in one transaction at most.
const LETTERS_MAX: u16 = 100;
/// Time for that.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a session of the archiver ended.
#[derive(Debug, thiserror::Error)]
enum Interrupted {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Moves a target's dead letters from RabbitMQ into Postgres, where people can search and replay them, as long as the
/// target is worked for. Several workers may do so side by side: a letter that comes twice is one row.
pub(crate) async fn keep_archiving(context: Weak<TargetContext>, mut links: LinkWatch, component: Component) {
    let mut pauses = RestartPauses::new();
    component.standby("waiting for RabbitMQ");
    loop {
        let Some(link) = next_link(&mut links).await else { break };
        let started = Instant::now();
        match session(&link, &context, &component).await {
            Ok(()) => break,
            Err(error) => {
                tracing::warn!(error = %error, "dead letters not archived; trying again");
                component.not_ready(error.to_string());
                tokio::time::sleep(pauses.after(started.elapsed())).await;
            }
        }
    }
    component.remove();
}

/// Ok: the target is not worked for any more.
async fn session(
    link: &Link,
    context: &Weak<TargetContext>,
    component: &Component,
) -> Result<(), Interrupted> {
    let queue = match context.upgrade() {
        Some(context) => context.names.dead_queue(),
        None => return Ok(()),
    };
    if !link.queue_state(&queue).await?.exists {
        return Err(BrokerError::Missing { what: format!("queue {queue}") }.into());
    }
    let mut consumer = PartitionConsumer::start(link, &queue, LETTERS_MAX).await?;
    component.ready();
    let mut look = tokio::time::interval(Duration::from_secs(1));
    loop {
        let first = tokio::select! {
            message = consumer.next() => message?,
            _ = look.tick() => match context.strong_count() {
                0 => return Ok(()),
                _ => continue,
            },
        };
        let mut messages = vec![first];
        while messages.len() < usize::from(LETTERS_MAX)
            && let Some(next) = consumer.next().now_or_never()
        {
            messages.push(next?);
        }
        let Some(context) = context.upgrade() else { return Ok(()) };
        let letters: Vec<Letter> = messages.iter().flat_map(letters).collect();
        archive(&context, letters).await?;
        postbound_failpoint::pass("worker.archived");
        for message in &messages {
            consumer.ack(message.tag).await?;
        }
        component.progress();
    }
}

/// One letter Postgres refuses holds up no other: it is kept as a message nobody can read.
async fn archive(context: &TargetContext, letters: Vec<Letter>) -> Result<(), StoreError> {
    let store = &context.store;
    match within(WRITE_TIMEOUT, store.archive_letters(&context.name, &letters)).await {
        Err(error) if !error.is_transient() => {
            tracing::warn!(error = %error, target.name = %context.name, "dead letters refused; archiving one by one");
        }
        done => return done.map(drop),
    }
    for letter in letters {
        let alone = std::slice::from_ref(&letter);
        match within(WRITE_TIMEOUT, store.archive_letters(&context.name, alone)).await {
            Err(error) if !error.is_transient() => {
                let LetterContent::Event(event) = &letter.content else { return Err(error) };
                let (content, class) =
                    (LetterContent::Unreadable(letter_body(event)), "unreadable".to_owned());
                let detail = format!("the archive refuses it: {error}");
                let kept = Letter { content, class, detail, ..letter };
                within(WRITE_TIMEOUT, store.archive_letters(&context.name, &[kept])).await?;
            }
            done => drop(done?),
        }
    }
    Ok(())
}

/// The letters of a message: one of our own making has one event, one RabbitMQ dead-lettered has those of a batch.
fn letters(message: &Message) -> Vec<Letter> {
    let text = |name| message.header(name).unwrap_or_default();
    let time = |name| OffsetDateTime::parse(&text(name), &Rfc3339).ok();
    let death = message.broker_death();
    let ours = message.header("postbound-reason");
    let (reason, class) = match (ours, &death) {
        (Some(reason), _) => (reason, text("postbound-class")),
        (None, Some(death)) => (death.clone(), "broker".to_owned()),
        (None, None) => ("unexplained".to_owned(), "broker".to_owned()),
    };
    let letter = |content| Letter {
        content,
        replay: text("postbound-replay").parse().unwrap_or(0),
        reason: reason.clone(),
        class: class.clone(),
        status: text("postbound-status").parse().ok(),
        detail: text("postbound-detail"),
        attempts: text("postbound-attempts").parse().unwrap_or(0),
        unknown_outcome: text("postbound-unknown-outcome") == "true",
        first_failed_at: time("postbound-first-failed-at"),
        last_failed_at: time("postbound-last-failed-at").unwrap_or_else(OffsetDateTime::now_utc),
    };
    match decode_batch(&message.body) {
        Ok(events) => events.into_iter().map(|event| letter(LetterContent::Event(Box::new(event)))).collect(),
        Err(error) => {
            let unreadable = letter(LetterContent::Unreadable(message.body.clone()));
            let (class, detail) = ("unreadable".to_owned(), error.to_string());
            vec![Letter { class, detail, ..unreadable }]
        }
    }
}
