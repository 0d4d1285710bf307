//! RabbitMQ's side of the history it shares with Postgres: a queue that holds the newest witness, and nothing else.
//!
//! The queue holds one message and drops the older one when a newer comes, in one step of its own log: there is no
//! moment without any. Whoever looks gives the message back; one who dies looking has it given back by RabbitMQ. For that
//! moment the queue can look empty to another, or hold two, so looking is repeated, and the newest counts.

use crate::{
    BrokerError, Headers, Link, OutgoingMessage, Publisher, QueueState, Verdict,
    topology::{declare_error, is_soft},
};
use lapin::{
    Channel, ExchangeKind,
    options::{
        BasicGetOptions, BasicNackOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
    },
    protocol::AMQPSoftError,
    types::{AMQPValue, FieldTable},
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Name of the queue, and of the exchange before it.
const NAME: &str = "postbound.witness";
const ROUTING_KEY: &str = "witness";
const CONTENT_TYPE: &str = "application/json";
/// Looks at a queue that seems empty before it counts as that.
const LOOKS: usize = 5;
const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// How long a witness may take to be confirmed.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);
/// Every look counts as a delivery.
const DELIVERY_LIMIT: i64 = 1_000_000_000;

/// What RabbitMQ knows of the history it shares with Postgres.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerWitness {
    /// Epoch of the history.
    pub epoch: i64,
    /// Its name.
    pub lineage: String,
    /// Beats so far.
    pub beat: i64,
    /// The greatest version that was published.
    pub version_max: i64,
    /// Postgres' cluster.
    pub system_identifier: i64,
    /// Its timeline.
    pub timeline: i32,
    /// The last rows published, some of each stream.
    pub rows: Vec<WitnessRow>,
}

/// A row of the log that was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessRow {
    /// Its place in the log.
    pub id: i64,
    /// When it was written, in microseconds since 1970.
    pub logged_at_us: i64,
    /// Its event.
    pub event_id: String,
}

impl Link {
    /// Declares the queue of the witness and its exchange. Gives whether the queue is new.
    ///
    /// # Errors
    /// When RabbitMQ refuses.
    pub async fn declare_witness(&self) -> Result<bool, BrokerError> {
        let exists = self.witness_queue().await?.exists;
        let channel = self.channel().await?;
        let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
        channel
            .exchange_declare(NAME.into(), ExchangeKind::Direct, durable, FieldTable::default())
            .await
            .map_err(|error| declare_error(error, format!("exchange {NAME}")))?;
        channel
            .queue_declare(NAME.into(), QueueDeclareOptions::durable(), arguments())
            .await
            .map_err(|error| declare_error(error, format!("queue {NAME}")))?;
        let options = QueueBindOptions::default();
        channel
            .queue_bind(NAME.into(), NAME.into(), ROUTING_KEY.into(), options, FieldTable::default())
            .await?;
        close(&channel).await;
        Ok(!exists)
    }

    /// Looks at the queue of the witness without changing anything.
    ///
    /// # Errors
    /// When RabbitMQ cannot be asked; not when the queue is missing.
    pub async fn witness_queue(&self) -> Result<QueueState, BrokerError> {
        self.queue_state(NAME).await
    }

    /// The newest witness; None: there is no queue for it, or nothing in it. One that cannot be read is an error.
    ///
    /// # Errors
    /// When RabbitMQ cannot be asked.
    pub async fn witness(&self) -> Result<Option<BrokerWitness>, BrokerError> {
        for look in 0..LOOKS {
            if look > 0 {
                tokio::time::sleep(LOOK_PAUSE).await;
            }
            let channel = self.channel().await?;
            match newest(&channel).await {
                Ok(None) => {}
                Ok(found) => {
                    close(&channel).await;
                    return Ok(found);
                }
                Err(BrokerError::Missing { .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
            close(&channel).await;
        }
        Ok(None)
    }
}

impl Publisher {
    /// Puts a witness in place of the last one. Not to be used beside other messages of this publisher.
    ///
    /// # Errors
    /// When it is not confirmed; it may be there all the same.
    pub async fn replace_witness(&mut self, witness: &BrokerWitness) -> Result<Verdict, BrokerError> {
        let body = serde_json::to_vec(witness).map_err(|error| BrokerError::Amqp(error.to_string()))?;
        self.publish(OutgoingMessage {
            exchange: NAME.to_owned(),
            routing_key: ROUTING_KEY.to_owned(),
            content_type: CONTENT_TYPE,
            id: u64::try_from(witness.beat).unwrap_or(0),
            headers: Headers::new(),
            body: body.into(),
        });
        let settled = tokio::time::timeout(CONFIRM_TIMEOUT, self.next()).await;
        Ok(settled.map_err(|_| BrokerError::Timeout(CONFIRM_TIMEOUT))??.1)
    }
}

/// Takes what there is and gives it back, in order.
async fn newest(channel: &Channel) -> Result<Option<BrokerWitness>, BrokerError> {
    let (mut newest, mut last_tag) = (None::<BrokerWitness>, None);
    // Two at most: the queue drops the older when the one that was looked at comes back.
    while let Some(got) =
        channel.basic_get(NAME.into(), BasicGetOptions { no_ack: false }).await.map_err(missing)?
    {
        last_tag = Some(got.delivery.delivery_tag);
        let witness: BrokerWitness = serde_json::from_slice(&got.delivery.data).map_err(|error| {
            BrokerError::Amqp(format!("the message in queue {NAME} is no witness: {error}"))
        })?;
        if newest.as_ref().is_none_or(|known| (known.epoch, known.beat) < (witness.epoch, witness.beat)) {
            newest = Some(witness);
        }
    }
    if let Some(tag) = last_tag {
        channel.basic_nack(tag, BasicNackOptions { multiple: true, requeue: true }).await?;
    }
    Ok(newest)
}

fn missing(error: lapin::Error) -> BrokerError {
    match is_soft(&error, AMQPSoftError::NOTFOUND) {
        true => BrokerError::Missing { what: format!("queue {NAME}") },
        false => error.into(),
    }
}

fn arguments() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(DELIVERY_LIMIT));
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(1));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("drop-head".into()));
    arguments
}

async fn close(channel: &Channel) {
    let _ = channel.close(200, "done".into()).await;
}
