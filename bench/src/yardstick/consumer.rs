//! The bare loop's delivering side.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::TryStreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{CONCURRENCY, PREFETCH, connect, queue};
use crate::installation::{API_KEY, PARTITIONS};

/// A consumer for each queue.
pub(crate) struct Consumers {
    queues: Vec<(Channel, Consumer, Arc<Outlet>)>,
    _connections: Vec<Connection>,
}

/// One target's way out.
struct Outlet {
    client: reqwest::Client,
    url: reqwest::Url,
    headers: HeaderMap,
    permits: Semaphore,
}

impl Consumers {
    /// Attaches them: a connection per target, a channel per queue.
    pub(crate) async fn start(url: &str, doors: &[(usize, SocketAddr)]) -> Result<Self> {
        let mut consumers = Self { queues: Vec::new(), _connections: Vec::new() };
        for (door, address) in doors {
            let connection = connect(url).await?;
            let outlet = Arc::new(Outlet::new(*address)?);
            for partition in 0..PARTITIONS {
                let channel = connection.create_channel().await?;
                channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
                let consumer = channel
                    .basic_consume(
                        queue(*door, partition).as_str().into(),
                        "".into(),
                        BasicConsumeOptions::default(),
                        FieldTable::default(),
                    )
                    .await?;
                consumers.queues.push((channel, consumer, outlet.clone()));
            }
            consumers._connections.push(connection);
        }
        Ok(consumers)
    }

    /// Delivers until something fails.
    pub(crate) async fn run(self) -> Result<()> {
        let mut tasks = JoinSet::new();
        for (channel, consumer, outlet) in self.queues {
            tasks.spawn(async move {
                let (channel, outlet) = (&channel, &outlet);
                consumer
                    .map_err(anyhow::Error::from)
                    .try_for_each_concurrent(usize::from(PREFETCH), |delivery| async move {
                        let tag = delivery.delivery_tag;
                        outlet.post(delivery).await?;
                        channel.basic_ack(tag, BasicAckOptions::default()).await?;
                        Ok(())
                    })
                    .await
            });
        }
        tasks.join_next().await.context("there is no queue")??.context("a queue's loop failed")
    }
}

impl Outlet {
    fn new(address: SocketAddr) -> Result<Self> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([])
            .http1_only()
            .tcp_nodelay(true)
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(10))
            .pool_max_idle_per_host(CONCURRENCY)
            .build()?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(HeaderName::from_static("x-internal-api-key"), HeaderValue::from_static(API_KEY));
        let url = format!("http://{address}/internal/users/sync").parse()?;
        Ok(Self { client, url, headers, permits: Semaphore::new(CONCURRENCY) })
    }

    async fn post(&self, delivery: Delivery) -> Result<()> {
        let _permit = self.permits.acquire().await?;
        let mut headers = self.headers.clone();
        if let Some(version) = delivery.properties.message_id() {
            let version = HeaderValue::from_str(version.as_str())?;
            headers.insert(HeaderName::from_static("postbound-user-version"), version);
        }
        let request = self.client.post(self.url.clone()).headers(headers).body(delivery.data);
        let mut response = request.send().await?;
        ensure!(response.status().is_success(), "the receiver answered {}", response.status());
        while response.chunk().await?.is_some() {}
        Ok(())
    }
}
