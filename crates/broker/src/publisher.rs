use crate::{BrokerError, Link};
use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use lapin::{
    BasicProperties, Channel, Confirmation,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::{AMQPValue, FieldTable},
};
use std::{
    collections::{HashSet, VecDeque},
    future::Future,
    pin::Pin,
    sync::Arc,
};

/// Message headers: name and value, both text.
pub type Headers = Vec<(&'static str, String)>;

/// A message to be published.
pub struct Message {
    /// Exchange to publish to.
    pub exchange: String,
    /// Routing key.
    pub routing_key: String,
    /// `content_type` property.
    pub content_type: &'static str,
    /// Names the message among those of this publisher that are not yet confirmed.
    pub id: u64,
    /// Headers.
    pub headers: Headers,
    /// The body.
    pub body: Arc<[u8]>,
}

/// What RabbitMQ did with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A queue has it, on disk.
    Confirmed,
    /// Its queue refused it: full, or unwell.
    Refused,
    /// No queue is bound to the routing key.
    Unroutable,
}

/// A channel with confirms, used by one task: with several, confirms and messages could swap.
///
/// Every message is mandatory, persistent and confirmed, and its [`Verdict`] comes from [`Publisher::next`].
pub struct Publisher {
    channel: Channel,
    waiting: FuturesUnordered<Waiting>,
    settled: VecDeque<(u64, Verdict)>,
    /// Messages seen to be returned whose own confirm is still to come.
    returned: HashSet<u64>,
}

type Waiting = Pin<Box<dyn Future<Output = (u64, lapin::Result<Confirmation>)> + Send>>;

impl Publisher {
    /// Opens a publishing channel.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn open(link: &Link) -> Result<Self, BrokerError> {
        let channel = link.channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self {
            channel,
            waiting: FuturesUnordered::new(),
            settled: VecDeque::new(),
            returned: HashSet::new(),
        })
    }

    /// Messages published and not yet settled.
    pub fn unconfirmed(&self) -> usize {
        self.waiting.len() + self.settled.len()
    }

    /// Takes a message to be published; it goes out while [`Publisher::next`] is awaited, in no order with others.
    ///
    /// It does not wait: a connection that RabbitMQ has blocked takes nothing, and its owner must see that.
    pub fn publish(&mut self, message: Message) {
        let channel = self.channel.clone();
        self.waiting.push(Box::pin(async move {
            let id = message.id;
            (id, send(channel, message).await)
        }));
    }

    /// The next message that is settled; pending for ever while none is under way. Safe to drop and call again.
    ///
    /// # Errors
    /// When the channel is gone; all unsettled messages are then unknown, and to be published again.
    pub async fn next(&mut self) -> Result<(u64, Verdict), BrokerError> {
        if let Some(settled) = self.settled.pop_front() {
            return Ok(settled);
        }
        let Some(first) = self.waiting.next().await else {
            return std::future::pending().await;
        };
        self.settle(first)?;
        Ok(self.settled.pop_front().expect("settling adds at least one"))
    }

    /// A returned message rides on whichever confirm completes next, perhaps long before its own. It was returned
    /// before it was confirmed, so when its own is complete, one that is complete by then has carried it: take them
    /// together, remember what was returned, then decide.
    fn settle(&mut self, first: (u64, lapin::Result<Confirmation>)) -> Result<(), BrokerError> {
        let mut complete = vec![first];
        while let Some(Some(more)) = self.waiting.next().now_or_never() {
            complete.push(more);
        }
        let mut verdicts = Vec::with_capacity(complete.len());
        for (id, confirmation) in complete {
            let (verdict, returned) = match confirmation? {
                Confirmation::Ack(returned) => (Verdict::Confirmed, returned),
                Confirmation::Nack(returned) => (Verdict::Refused, returned),
                Confirmation::NotRequested => {
                    return Err(BrokerError::Amqp("the channel lost its confirm mode".to_owned()));
                }
            };
            if let Some(id) = returned.and_then(|message| message_id(&message.properties)) {
                self.returned.insert(id);
            }
            verdicts.push((id, verdict));
        }
        for (id, verdict) in verdicts {
            let verdict = if self.returned.remove(&id) { Verdict::Unroutable } else { verdict };
            self.settled.push_back((id, verdict));
        }
        Ok(())
    }
}

async fn send(channel: Channel, message: Message) -> lapin::Result<Confirmation> {
    let mut headers = FieldTable::default();
    for (name, value) in message.headers {
        headers.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    let properties = BasicProperties::default()
        .with_content_type(message.content_type.into())
        .with_delivery_mode(2)
        .with_message_id(message.id.to_string().into())
        .with_headers(headers);
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    let (exchange, key) = (message.exchange.into(), message.routing_key.into());
    channel.basic_publish(exchange, key, options, &message.body, properties).await?.await
}

fn message_id(properties: &BasicProperties) -> Option<u64> {
    properties.message_id().as_ref()?.as_str().parse().ok()
}
