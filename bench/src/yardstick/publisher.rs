//! The bare loop's publishing side.

use anyhow::{Context, Result, bail};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection, PublisherConfirm};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{EXCHANGE, connect, routing_key};
use crate::installation::PARTITIONS;
use crate::person::Person;

/// Channels that publish side by side.
const CHANNELS: usize = 4;
/// Confirms awaited at once, per channel.
const UNCONFIRMED: usize = 512;
/// Events clients may have handed over that are not published yet, per channel.
const HANDED_OVER: usize = 256;

/// A change that is to be published.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Note {
    pub(crate) person: Person,
    pub(crate) version: u32,
}

/// Connected, with its channels in confirm mode.
pub(crate) struct Publisher {
    connection: Connection,
    channels: Vec<Channel>,
}

/// Where clients hand over what they have committed; they wait only when it is full.
#[derive(Clone)]
pub(crate) struct Letterbox(Vec<mpsc::Sender<Note>>);

impl Letterbox {
    /// Hands over a change.
    pub(crate) async fn post(&self, note: Note) -> Result<()> {
        let lane = &self.0[note.person.0 as usize % self.0.len()];
        lane.send(note).await.ok().context("the bare loop's publisher has ended")
    }
}

impl Publisher {
    /// Connects.
    pub(crate) async fn connect(url: &str) -> Result<Self> {
        let connection = connect(url).await?;
        let mut channels = Vec::new();
        for _ in 0..CHANNELS {
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            channels.push(channel);
        }
        Ok(Self { connection, channels })
    }

    /// Publishes the first state of each and returns when all are confirmed.
    pub(crate) async fn publish_each(self, people: impl Iterator<Item = Person>) -> Result<()> {
        let lanes = self.channels.len();
        let mut shares: Vec<Vec<Person>> = vec![Vec::new(); lanes];
        for person in people {
            shares[person.0 as usize % lanes].push(person);
        }
        let mut publishing = JoinSet::new();
        for (channel, share) in self.channels.iter().cloned().zip(shares) {
            let mut share = share.into_iter();
            publishing
                .spawn(pump(channel, async move || share.next().map(|person| Note { person, version: 1 })));
        }
        while let Some(ended) = publishing.join_next().await {
            ended??;
        }
        disconnect(&self.connection).await;
        Ok(())
    }

    /// Publishes what is handed over until all letterboxes are gone.
    pub(crate) fn letterbox(self) -> (Letterbox, Publishing) {
        let mut lanes = JoinSet::new();
        let mut letterbox = Vec::new();
        for channel in self.channels.iter().cloned() {
            let (lane, mut notes) = mpsc::channel(HANDED_OVER);
            letterbox.push(lane);
            lanes.spawn(pump(channel, async move || notes.recv().await));
        }
        (Letterbox(letterbox), Publishing { lanes, connection: self.connection })
    }
}

/// A publisher at work.
pub(crate) struct Publishing {
    lanes: JoinSet<Result<()>>,
    connection: Connection,
}

impl Publishing {
    /// Waits until everything that was handed over is confirmed; all letterboxes must be gone.
    pub(crate) async fn finish(mut self) -> Result<()> {
        while let Some(ended) = self.lanes.join_next().await {
            ended??;
        }
        disconnect(&self.connection).await;
        Ok(())
    }
}

/// All is confirmed: whether the goodbye arrives does not matter. It fails while channels are still being closed.
async fn disconnect(connection: &Connection) {
    let _ = connection.close(200, "done".into()).await;
}

/// Publishes on one channel; a second task awaits the confirms in their order.
async fn pump(channel: Channel, mut next: impl AsyncFnMut() -> Option<Note>) -> Result<()> {
    let (unconfirmed, mut awaited) = mpsc::channel::<PublisherConfirm>(UNCONFIRMED);
    let confirming = tokio::spawn(async move {
        while let Some(confirm) = awaited.recv().await {
            match confirm.await? {
                Confirmation::Ack(None) => {}
                other => bail!("RabbitMQ did not take a message: {other:?}"),
            }
        }
        anyhow::Ok(())
    });
    let keys: Vec<String> = (0..PARTITIONS).map(routing_key).collect();
    while let Some(Note { person, version }) = next().await {
        let key = &keys[person.0 as usize / CHANNELS % usize::from(PARTITIONS)];
        let properties =
            BasicProperties::default().with_delivery_mode(2).with_message_id(version.to_string().into());
        let confirm = channel
            .basic_publish(
                EXCHANGE.into(),
                key.as_str().into(),
                BasicPublishOptions::default(),
                person.backend_body(version).as_bytes(),
                properties,
            )
            .await?;
        if unconfirmed.send(confirm).await.is_err() {
            break;
        }
    }
    drop(unconfirmed);
    confirming.await?
}
