//! The yardstick: a bare loop with no guarantees beyond RabbitMQ's own.
//!
//! Publish with confirms → 16 quorum queues per target → consume → POST → ack, per event. It keeps no order per user, no
//! ledger, no retries, no outbox. It is meant to be beaten fairly, so it is built as a careful person would build it:
//! confirms are pipelined, a thousand and more at once; several publishing channels; a channel per queue with prefetch;
//! as many requests in flight as Postbound has, on kept connections; a target's copy costs no second publish, as both
//! targets' queues hang on one exchange; bodies are passed through as they are.
//!
//! Two processes, as Postbound has two roles: [`publish`] and [`deliver`]. Live clients publish by themselves.

pub(crate) mod consumer;
pub(crate) mod publisher;

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, Result};
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties, ExchangeKind};
use tokio::signal::unix::{SignalKind, signal};

use crate::installation::{PARTITIONS, Target};
use crate::person::Person;
use crate::process::Process;
use crate::site::Site;

const EXCHANGE: &str = "bench";

/// Requests in flight per target, as Postbound's default.
const CONCURRENCY: usize = 64;

/// Messages a consumer may hold per queue.
const PREFETCH: u16 = 64;

/// The queues of one measurement of the bare loop, and the process that consumes them.
pub(crate) struct BareLoop {
    /// Where its messages go.
    pub(crate) url: String,
    /// The consuming process, once started.
    pub(crate) consumer: Option<Process>,
    name: String,
    doors: Vec<(usize, SocketAddr)>,
}

impl BareLoop {
    /// Declares the queues of these targets in a virtual host of their own.
    pub(crate) async fn set_up(site: &mut Site, targets: &[Target]) -> Result<Self> {
        let name = site.new_name();
        let url = site.endpoints.rabbitmq.create_vhost(&name).await?;
        let doors: Vec<_> =
            targets.iter().map(|target| (target.door(), site.receiver.address(target.door()))).collect();
        let channel_owner = connect(&url).await?;
        let channel = channel_owner.create_channel().await?;
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        channel
            .exchange_declare(EXCHANGE.into(), ExchangeKind::Direct, durable, FieldTable::default())
            .await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        for (door, _) in &doors {
            for partition in 0..PARTITIONS {
                let queue = queue(*door, partition);
                let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
                channel.queue_declare(queue.as_str().into(), durable, arguments.clone()).await?;
                channel
                    .queue_bind(
                        queue.as_str().into(),
                        EXCHANGE.into(),
                        routing_key(partition).as_str().into(),
                        QueueBindOptions::default(),
                        FieldTable::default(),
                    )
                    .await?;
            }
        }
        channel_owner.close(200, "done".into()).await?;
        Ok(Self { url, consumer: None, name, doors })
    }

    /// Starts the consuming process and waits until every queue has its consumer.
    pub(crate) async fn start_consumer(&mut self, site: &Site) -> Result<()> {
        let mut args = vec!["deliver".to_owned(), "--amqp".to_owned(), self.url.clone()];
        for (door, address) in &self.doors {
            args.extend(["--door".to_owned(), format!("{door}={address}")]);
        }
        let mut consumer = spawn(site, "loop-deliver", &self.name, &args)?;
        consumer.logged("consuming").await?;
        self.consumer = Some(consumer);
        Ok(())
    }

    /// Starts the publishing process: it publishes one event for each of the first `count` users at once, and says so
    /// when all are confirmed.
    pub(crate) fn start_publisher(&self, site: &Site, count: u32) -> Result<Process> {
        let args = ["publish", "--amqp", &self.url, "--events", &count.to_string()].map(str::to_owned);
        spawn(site, "loop-publish", &self.name, &args)
    }

    /// Ends the consumer and deletes the queues.
    pub(crate) async fn remove(self, site: &Site) -> Result<()> {
        if let Some(consumer) = self.consumer {
            consumer.stop().await?;
        }
        site.endpoints.rabbitmq.delete_vhost(&self.name).await
    }
}

fn spawn(site: &Site, name: &'static str, run: &str, args: &[String]) -> Result<Process> {
    let program = std::env::current_exe().context("this program has no path")?;
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    Process::start(&program, &args, name, &site.folder, &format!("{run}-{name}"))
}

/// `postbound-bench publish`: publishes, says how long that took, and stays until it is asked to end, so that what it has
/// used can be read.
#[expect(clippy::print_stdout, reason = "the bench reads it from the log")]
pub(crate) async fn publish(url: &str, events: u32) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let publisher = publisher::Publisher::connect(url).await?;
    let started = Instant::now();
    publisher.publish_each((0..events).map(Person)).await?;
    println!("published seconds={}", started.elapsed().as_secs_f64());
    terminate.recv().await;
    Ok(())
}

/// `postbound-bench deliver`
#[expect(clippy::print_stdout, reason = "the bench reads it from the log")]
pub(crate) async fn deliver(url: &str, doors: &[(usize, SocketAddr)]) -> Result<()> {
    let consumers = consumer::Consumers::start(url, doors).await?;
    println!("consuming");
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        ended = consumers.run() => ended,
        _ = terminate.recv() => Ok(()),
    }
}

async fn connect(url: &str) -> Result<Connection> {
    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);
    let connecting = Connection::connect(url, ConnectionProperties::default());
    Ok(tokio::time::timeout(PATIENCE, connecting).await.context("RabbitMQ is silent")??)
}

fn queue(door: usize, partition: u16) -> String {
    format!("bench.{door}.p{partition}")
}

fn routing_key(partition: u16) -> String {
    format!("p{partition}")
}
