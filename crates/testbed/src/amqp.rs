//! What only the broker itself knows at once: the management API's counts lag by seconds.

use std::time::Duration;

use anyhow::{Context, Result};
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};

/// A queue's counts at the moment of the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueInfo {
    /// Messages ready for a consumer; those out with a consumer do not count.
    ///
    /// After a restart a quorum queue says 0 until it has replayed its log.
    pub messages_ready: u32,
    /// Consumers that are attached.
    pub consumers: u32,
}

/// Asks for a queue's counts by a passive declare; none if there is no such queue.
pub(crate) async fn queue_info(url: &str, queue: &str) -> Result<Option<QueueInfo>> {
    const NOT_FOUND: u16 = 404;
    let connecting = Connection::connect(url, ConnectionProperties::default());
    let connection =
        tokio::time::timeout(Duration::from_secs(10), connecting).await.context("RabbitMQ is silent")??;
    let channel = connection.create_channel().await?;
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let answer = match channel.queue_declare(queue.into(), passive, FieldTable::default()).await {
        Ok(queue) => {
            Ok(Some(QueueInfo { messages_ready: queue.message_count(), consumers: queue.consumer_count() }))
        }
        Err(error) => match error.kind() {
            lapin::ErrorKind::ProtocolError(refusal) if refusal.get_id() == NOT_FOUND => Ok(None),
            _ => Err(error).with_context(|| format!("cannot look at queue {queue}")),
        },
    };
    connection.close(200, "done".into()).await?;
    answer
}
