use crate::{partition::LinkWatch, retry::reconnect_pauses};
use postbound_broker::Broker;
use std::sync::Arc;
use tokio::sync::watch;

/// Keeps a target's connection to RabbitMQ, for all its partitions. Ends with the last watcher.
pub(crate) fn keep_connected(broker: Broker, name: String) -> LinkWatch {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        let mut pauses = reconnect_pauses();
        while !sender.is_closed() {
            match broker.connect(&name).await {
                Ok(link) => {
                    let link = Arc::new(link);
                    sender.send_replace(Some(Arc::clone(&link)));
                    tokio::select! {
                        () = link.lost() => tracing::warn!(connection = %name, "connection to RabbitMQ lost"),
                        () = sender.closed() => return,
                    }
                    sender.send_replace(None);
                    pauses = reconnect_pauses();
                }
                Err(error) => tracing::warn!(connection = %name, error = %error, "no connection to RabbitMQ"),
            }
            let pause = pauses.next().unwrap_or_default();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = sender.closed() => return,
            }
        }
    });
    receiver
}
