use crate::retry::RestartPauses;
use postbound_broker::{Broker, BrokerError, Headers, OutgoingMessage, Publisher, TargetNames, Verdict};
use postbound_event::{BATCH_CONTENT_TYPE, BatchBuilder, Event, EventHeader};
use std::{collections::HashMap, sync::Arc};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

/// The worker's way into the dead-letter queues: confirmed, on a connection of its own.
#[derive(Clone)]
pub(crate) struct DeadLetters {
    letters: mpsc::Sender<Letter>,
}

struct Letter {
    names: TargetNames,
    headers: Headers,
    body: Arc<[u8]>,
    confirmed: oneshot::Sender<()>,
}

/// The letter is not in its queue, and will not be: the worker ends.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the dead letter was not confirmed")]
pub(crate) struct NotConfirmed;

impl DeadLetters {
    /// Starts the publisher; it connects when the first letter comes and ends with the last handle.
    pub(crate) fn start(broker: Broker) -> Self {
        let (letters, queue) = mpsc::channel(256);
        tokio::spawn(serve(broker, queue));
        Self { letters }
    }

    /// Puts a letter into the target's dead-letter queue; Ok: it is on disk there.
    pub(crate) async fn publish(
        &self,
        names: &TargetNames,
        headers: Headers,
        body: Vec<u8>,
    ) -> Result<(), NotConfirmed> {
        let (confirmed, wait) = oneshot::channel();
        let letter = Letter { names: names.clone(), headers, body: body.into(), confirmed };
        self.letters.send(letter).await.map_err(|_| NotConfirmed)?;
        wait.await.map_err(|_| NotConfirmed)
    }
}

/// The body of a letter: a batch of the one event, as it came.
pub(crate) fn letter_body(event: &Event) -> Vec<u8> {
    let header = EventHeader {
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
    };
    let mut batch = BatchBuilder::default();
    let rendered =
        BatchBuilder::render(&header, event.data.get()).expect("the event was read from such a rendering");
    batch.push(&rendered);
    batch.finish()
}

async fn serve(broker: Broker, mut queue: mpsc::Receiver<Letter>) {
    let mut waiting: HashMap<u64, Letter> = HashMap::new();
    let mut pauses = RestartPauses::new();
    loop {
        if waiting.is_empty() {
            let Some(letter) = queue.recv().await else { return };
            waiting.insert(0, letter);
        }
        let started = Instant::now();
        match session(&broker, &mut queue, &mut waiting).await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(error = %error, "dead letters not published; trying again");
                tokio::time::sleep(pauses.after(started.elapsed())).await;
            }
        }
    }
}

/// Publishes what waits and what comes, until the queue ends or the connection does.
async fn session(
    broker: &Broker,
    queue: &mut mpsc::Receiver<Letter>,
    waiting: &mut HashMap<u64, Letter>,
) -> Result<(), BrokerError> {
    let link = broker.connect("postbound dead letters").await?;
    let mut publisher = Publisher::open(&link).await?;
    let mut next_id = waiting.keys().max().map_or(0, |id| id + 1);
    for (id, letter) in waiting.iter() {
        publish(&mut publisher, *id, letter);
    }
    loop {
        tokio::select! {
            letter = queue.recv() => {
                let Some(letter) = letter else { return Ok(()) };
                publish(&mut publisher, next_id, &letter);
                waiting.insert(next_id, letter);
                next_id += 1;
            }
            settled = publisher.next() => {
                let (id, verdict) = settled?;
                if verdict == Verdict::Confirmed {
                    if let Some(letter) = waiting.remove(&id) {
                        let _ = letter.confirmed.send(());
                    }
                } else {
                    let what = waiting.get(&id).map(|letter| letter.names.dead_queue()).unwrap_or_default();
                    return Err(BrokerError::Missing { what: format!("queue {what}") });
                }
            }
            () = link.lost() => return Err(BrokerError::Amqp("the connection was lost".to_owned())),
        }
    }
}

fn publish(publisher: &mut Publisher, id: u64, letter: &Letter) {
    publisher.publish(OutgoingMessage {
        exchange: TargetNames::dead_exchange().to_owned(),
        routing_key: letter.names.dead_routing_key().to_owned(),
        content_type: BATCH_CONTENT_TYPE,
        id,
        headers: letter.headers.clone(),
        body: Arc::clone(&letter.body),
    });
}
