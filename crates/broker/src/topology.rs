use crate::{BrokerError, Link, TargetNames};
use lapin::{
    Channel, ErrorKind, ExchangeKind,
    options::{
        BasicGetOptions, BasicNackOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
        QueueDeleteOptions,
    },
    protocol::{AMQPErrorKind, AMQPSoftError},
    types::{AMQPValue, FieldTable},
};
use std::time::{Duration, Instant};

/// RabbitMQ gives a quorum queue 250 ms to say what it holds (`rabbit_quorum_queue:stat/1`, 3.10 and 4.x), and says that it
/// holds nothing and has no consumer where it did not. What came sooner is the queue's own word, or RabbitMQ found at once
/// that the queue's leader is not there.
const OWN_WORD_WITHIN: Duration = Duration::from_millis(200);

/// Bounds of a partition queue, live or backfill. RabbitMQ cannot change them on an existing queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueBounds {
    /// Messages at most; more are refused to the relay, which waits.
    pub messages_max: u32,
    /// Bytes at most, likewise.
    pub bytes_max: u64,
    /// Deliveries of one message before RabbitMQ itself dead-letters it. Large: a lost connection counts one for
    /// every message that was prefetched.
    pub delivery_limit: u32,
}

/// What declaring a target's topology found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Declared {
    /// Queues that were not there before.
    pub created: Vec<String>,
    /// Queues that were.
    pub existing: usize,
}

/// A queue as RabbitMQ sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueState {
    /// The queue.
    pub name: String,
    /// Whether it is there at all.
    pub exists: bool,
    /// Messages ready for delivery.
    pub messages: u32,
    /// Consumers.
    pub consumers: u32,
    /// Whether the queue seems to have said so itself. Nothing ready and no consumer is also what RabbitMQ says of a queue that
    /// does not answer in time, and, for the moments without a leader, of one that cannot: ask more than once.
    pub answered: bool,
}

impl QueueState {
    /// Whether nothing is ready in it, as it says itself.
    pub fn is_empty(&self) -> bool {
        self.answered && self.messages == 0
    }

    /// Whether nobody consumes from it, as it says itself.
    pub fn is_unused(&self) -> bool {
        self.answered && self.consumers == 0
    }
}

impl Link {
    /// Declares the exchange, each partition's live and backfill queue, the dead-letter exchange and the dead-letter
    /// queue of a target, with the same arguments on RabbitMQ 3.10 and 4.x. What is there already stays as it is.
    ///
    /// # Errors
    /// [`BrokerError::Mismatch`] when something is there with other arguments.
    pub async fn declare_target(
        &self,
        names: &TargetNames,
        partitions: u16,
        bounds: QueueBounds,
    ) -> Result<Declared, BrokerError> {
        let mut declared = Declared::default();
        self.declare_exchange(TargetNames::dead_exchange()).await?;
        self.declare_exchange(&names.exchange()).await?;
        let dead = names.dead_queue();
        self.declare_queue(&dead, dead_queue_arguments(bounds), &mut declared).await?;
        self.bind(&dead, TargetNames::dead_exchange(), names.dead_routing_key()).await?;
        for partition in 0..partitions {
            let live = (names.queue(partition), names.routing_key(partition));
            let backfill = (names.backfill_queue(partition), names.backfill_routing_key(partition));
            for (queue, key) in [live, backfill] {
                self.declare_queue(&queue, partition_queue_arguments(names, bounds), &mut declared).await?;
                self.bind(&queue, &names.exchange(), &key).await?;
            }
        }
        Ok(declared)
    }

    async fn declare_exchange(&self, exchange: &str) -> Result<(), BrokerError> {
        let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
        let channel = self.channel().await?;
        channel
            .exchange_declare(exchange.into(), ExchangeKind::Direct, options, FieldTable::default())
            .await
            .map_err(|error| declare_error(error, format!("exchange {exchange}")))?;
        close(&channel).await;
        Ok(())
    }

    async fn declare_queue(
        &self,
        queue: &str,
        arguments: FieldTable,
        declared: &mut Declared,
    ) -> Result<(), BrokerError> {
        if self.queue_state(queue).await?.exists {
            declared.existing += 1;
        } else {
            declared.created.push(queue.to_owned());
        }
        // Declared even when it is there: that is how RabbitMQ compares the arguments.
        let channel = self.channel().await?;
        channel
            .queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments)
            .await
            .map_err(|error| declare_error(error, format!("queue {queue}")))?;
        close(&channel).await;
        Ok(())
    }

    async fn bind(&self, queue: &str, exchange: &str, key: &str) -> Result<(), BrokerError> {
        let channel = self.channel().await?;
        let options = QueueBindOptions::default();
        channel
            .queue_bind(queue.into(), exchange.into(), key.into(), options, FieldTable::default())
            .await
            .map_err(|error| declare_error(error, format!("binding of {queue}")))?;
        close(&channel).await;
        Ok(())
    }

    /// Looks at a queue without changing anything.
    ///
    /// # Errors
    /// When RabbitMQ cannot be asked; not when the queue is missing.
    pub async fn queue_state(&self, queue: &str) -> Result<QueueState, BrokerError> {
        // A missing queue closes the channel, so each look has its own.
        let channel = self.channel().await?;
        let options = QueueDeclareOptions::durable().passive();
        let (name, asked_at) = (queue.to_owned(), Instant::now());
        let state = match channel.queue_declare(queue.into(), options, FieldTable::default()).await {
            Ok(found) => {
                let (messages, consumers) = (found.message_count(), found.consumer_count());
                let answered = messages > 0 || consumers > 0 || asked_at.elapsed() < OWN_WORD_WITHIN;
                QueueState { name, exists: true, messages, consumers, answered }
            }
            Err(error) if is_soft(&error, AMQPSoftError::NOTFOUND) => {
                return Ok(QueueState { name, exists: false, messages: 0, consumers: 0, answered: true });
            }
            Err(error) => return Err(error.into()),
        };
        close(&channel).await;
        Ok(state)
    }

    /// Whether a queue has a message ready. The queue answers in the order of its own log, so a no is certain;
    /// [`Link::queue_state`] can say 0 of a queue that has just started. Ask that first: of several messages that were given
    /// back before, the one that is looked at goes behind the others.
    ///
    /// # Errors
    /// When the queue is missing or RabbitMQ cannot be asked.
    pub async fn has_ready_message(&self, queue: &str) -> Result<bool, BrokerError> {
        let channel = self.channel().await?;
        let got = channel.basic_get(queue.into(), BasicGetOptions { no_ack: false }).await?;
        if let Some(message) = &got {
            let options = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
            channel.basic_nack(message.delivery.delivery_tag, options).await?;
        }
        close(&channel).await;
        Ok(got.is_some())
    }

    /// Whether an exchange is there, without changing anything.
    ///
    /// # Errors
    /// When RabbitMQ cannot be asked; not when the exchange is missing.
    pub async fn exchange_exists(&self, exchange: &str) -> Result<bool, BrokerError> {
        let channel = self.channel().await?;
        let options = ExchangeDeclareOptions { passive: true, ..Default::default() };
        match channel
            .exchange_declare(exchange.into(), ExchangeKind::Direct, options, FieldTable::default())
            .await
        {
            Ok(()) => {
                close(&channel).await;
                Ok(true)
            }
            Err(error) if is_soft(&error, AMQPSoftError::NOTFOUND) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes a queue with whatever is in it; one that is not there is as good.
    ///
    /// # Errors
    /// When RabbitMQ cannot be asked.
    pub async fn delete_queue(&self, queue: &str) -> Result<(), BrokerError> {
        let channel = self.channel().await?;
        channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await?;
        close(&channel).await;
        Ok(())
    }

    /// Deletes a queue, only if it is empty and nobody consumes it. False: it is in use, or holds messages.
    ///
    /// # Errors
    /// When RabbitMQ cannot be asked.
    pub async fn delete_queue_if_empty(&self, queue: &str) -> Result<bool, BrokerError> {
        let state = self.queue_state(queue).await?;
        if !state.is_empty() || !state.is_unused() {
            return Ok(false);
        }
        if state.exists && self.has_ready_message(queue).await? {
            return Ok(false);
        }
        // Quorum queues refuse if_empty and if_unused, hence the look before.
        let channel = self.channel().await?;
        channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await?;
        close(&channel).await;
        Ok(true)
    }
}

async fn close(channel: &Channel) {
    let _ = channel.close(200, "done".into()).await;
}

pub(crate) fn is_soft(error: &lapin::Error, wanted: AMQPSoftError) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(amqp) if *amqp.kind() == AMQPErrorKind::Soft(wanted))
}

pub(crate) fn declare_error(error: lapin::Error, what: String) -> BrokerError {
    if is_soft(&error, AMQPSoftError::PRECONDITIONFAILED) {
        return BrokerError::Mismatch { what, detail: error.to_string() };
    }
    error.into()
}

// Arguments that mean the same on 3.10 and 4.x. Not among them: x-queue-mode and x-queue-version, which 4.x refuses.
// A delivery limit is always set: without one 3.10 requeues to the back, and 4.x takes 20.
fn quorum_arguments(bounds: QueueBounds) -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(i64::from(bounds.delivery_limit)));
    arguments
}

/// At-least-once dead-lettering needs reject-publish; full, the queue refuses, and the relay keeps the rest.
fn partition_queue_arguments(names: &TargetNames, bounds: QueueBounds) -> FieldTable {
    let mut arguments = quorum_arguments(bounds);
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(i64::from(bounds.messages_max)));
    let bytes_max = i64::try_from(bounds.bytes_max).unwrap_or(i64::MAX);
    arguments.insert("x-max-length-bytes".into(), AMQPValue::LongLongInt(bytes_max));
    arguments
        .insert("x-dead-letter-exchange".into(), AMQPValue::LongString(TargetNames::dead_exchange().into()));
    arguments
        .insert("x-dead-letter-routing-key".into(), AMQPValue::LongString(names.dead_routing_key().into()));
    arguments.insert("x-dead-letter-strategy".into(), AMQPValue::LongString("at-least-once".into()));
    arguments
}

/// Dead letters are unbounded: refusing one would hold up the lane it came from.
fn dead_queue_arguments(bounds: QueueBounds) -> FieldTable {
    quorum_arguments(bounds)
}
