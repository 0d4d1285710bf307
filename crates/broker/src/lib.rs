//! RabbitMQ, as Postbound uses it: connecting, names, topology, confirmed publishing, consuming one partition.
//!
//! Only `relay`, `worker` and `topology apply` speak AMQP, and only through this crate. It knows nothing of users,
//! targets' contracts or Postgres.
//!
//! Architecture invariant: no automatic recovery anywhere. A lost connection or channel is an error to its owner,
//! who starts again from what Postgres says.

mod connect;
mod consumer;
mod names;
mod publisher;
mod tls;
mod topology;
mod witness;

pub use connect::{Broker, BrokerError, BrokerOptions, Link};
pub use consumer::{ConsumingChannel, Message, PartitionConsumer};
pub use names::TargetNames;
pub use publisher::{Headers, Message as OutgoingMessage, Publisher, Verdict};
pub use topology::{Declared, QueueBounds, QueueState};
pub use witness::{BrokerWitness, WitnessRow};
