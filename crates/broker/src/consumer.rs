use crate::{BrokerError, Link};
use futures_util::StreamExt as _;
use lapin::{
    Channel, Consumer,
    options::{BasicAckOptions, BasicConsumeOptions},
    types::{AMQPValue, FieldTable},
};
use tokio::sync::oneshot;

/// A message as it was taken from a queue.
pub struct Message {
    /// Names the message to [`PartitionConsumer::ack`].
    pub tag: u64,
    /// The body.
    pub body: Vec<u8>,
    /// Times it was delivered before, as the quorum queue counts.
    pub delivered_before: u64,
    headers: Option<FieldTable>,
}

impl Message {
    /// A header that is text.
    pub fn header(&self, name: &str) -> Option<String> {
        text(self.headers.as_ref()?.inner().get(name)?)
    }

    /// Why RabbitMQ itself dead-lettered it last (`delivery_limit`, `expired`, `maxlen`, `rejected`), if it did.
    pub fn broker_death(&self) -> Option<String> {
        let AMQPValue::FieldArray(deaths) = self.headers.as_ref()?.inner().get("x-death")? else {
            return None;
        };
        let AMQPValue::FieldTable(newest) = deaths.as_slice().first()? else { return None };
        text(newest.inner().get("reason")?)
    }
}

fn text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => Some(text.to_string()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}

/// A channel a consumer is about to be started on.
pub struct ConsumingChannel(Channel);

impl ConsumingChannel {
    /// Opens a channel for a consumer of at most `prefetch` messages ahead of the acknowledgements.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn open(link: &Link, prefetch: u16) -> Result<Self, BrokerError> {
        Ok(Self(link.consuming_channel(prefetch.max(1)).await?))
    }

    /// Starts to consume a queue. Where nobody waits for it any more it is stopped again.
    ///
    /// # Errors
    /// When the queue is missing or the connection gone.
    pub async fn consume(self, queue: &str) -> Result<PartitionConsumer, BrokerError> {
        let Self(channel) = self;
        let queue = queue.to_owned();
        let (reply, started) = oneshot::channel();
        // lapin keeps a consumer whose start was dropped before RabbitMQ's answer, for as long as the connection lives.
        tokio::spawn(async move {
            let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
            let consumer = channel.basic_consume(queue.into(), "".into(), options, arguments).await;
            if let Err(Ok(unwanted)) =
                reply.send(consumer.map(|consumer| PartitionConsumer { channel, consumer }))
            {
                unwanted.close().await;
            }
        });
        let gone = |_| BrokerError::Amqp("the start of a consumer was given up".to_owned());
        Ok(started.await.map_err(gone)??)
    }
}

/// The one consumer of a queue, with a channel of its own.
pub struct PartitionConsumer {
    channel: Channel,
    consumer: Consumer,
}

impl PartitionConsumer {
    /// Starts consuming a queue, at most `prefetch` messages ahead of the acknowledgements.
    ///
    /// # Errors
    /// When the queue is missing or the connection gone.
    pub async fn start(link: &Link, queue: &str, prefetch: u16) -> Result<Self, BrokerError> {
        ConsumingChannel::open(link, prefetch).await?.consume(queue).await
    }

    /// The next message. Safe to drop and call again.
    ///
    /// # Errors
    /// When the channel is gone or the queue was deleted: unacknowledged messages are in their queue again.
    pub async fn next(&mut self) -> Result<Message, BrokerError> {
        match self.consumer.next().await {
            Some(Ok(delivery)) => Ok(Message {
                tag: delivery.delivery_tag,
                delivered_before: delivered_before(&delivery.properties),
                headers: delivery.properties.headers().clone(),
                body: delivery.data,
            }),
            Some(Err(error)) => Err(error.into()),
            None => Err(BrokerError::Amqp("RabbitMQ cancelled the consumer".to_owned())),
        }
    }

    /// Acknowledges one message.
    ///
    /// # Errors
    /// When the channel is gone; the message will be delivered again.
    pub async fn ack(&self, tag: u64) -> Result<(), BrokerError> {
        Ok(self.channel.basic_ack(tag, BasicAckOptions { multiple: false }).await?)
    }

    /// Stops: unacknowledged messages go back to the head of the queue in order.
    pub async fn close(self) {
        // Dropping the consumer alone would cancel it and leave its messages with the channel.
        let _ = self.channel.close(200, "done".into()).await;
    }
}

fn delivered_before(properties: &lapin::BasicProperties) -> u64 {
    let header = properties.headers().as_ref().and_then(|headers| headers.inner().get("x-delivery-count"));
    match header {
        Some(AMQPValue::LongLongInt(count)) => u64::try_from(*count).unwrap_or(0),
        Some(AMQPValue::LongUInt(count)) => u64::from(*count),
        Some(AMQPValue::LongInt(count)) => u64::try_from(*count).unwrap_or(0),
        Some(AMQPValue::ShortShortUInt(count)) => u64::from(*count),
        _ => 0,
    }
}
