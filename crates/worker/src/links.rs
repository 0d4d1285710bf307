use crate::retry::reconnect_pauses;
use postbound_broker::{Broker, Link};
use std::sync::Arc;
use tokio::sync::watch;

/// The target's connection: None while there is none.
pub(crate) type LinkWatch = watch::Receiver<Option<Arc<Link>>>;

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

/// The connection, as soon as there is one; None: there will be none, the worker ends.
pub(crate) async fn next_link(links: &mut LinkWatch) -> Option<Arc<Link>> {
    let is_up = |link: &Option<Arc<Link>>| link.as_ref().is_some_and(|link| link.is_up());
    links.wait_for(is_up).await.ok()?.clone()
}
