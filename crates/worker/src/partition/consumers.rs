use crate::lane::{Source, Tag};
use postbound_broker::{BrokerError, Message, PartitionConsumer};

/// The two queues of a partition, under one lease. Live messages go first.
pub(super) struct Consumers {
    pub(super) live: PartitionConsumer,
    pub(super) backfill: PartitionConsumer,
}

impl Consumers {
    /// The next message of the queues that are asked for, of one at least.
    pub(super) async fn next(
        &mut self,
        live: bool,
        backfill: bool,
    ) -> Result<(Source, Message), BrokerError> {
        tokio::select! {
            biased;
            message = self.live.next(), if live => Ok((Source::Live, message?)),
            message = self.backfill.next(), if backfill => Ok((Source::Backfill, message?)),
        }
    }

    pub(super) async fn ack(&self, tag: Tag) -> Result<(), BrokerError> {
        match tag.source {
            Source::Live => self.live.ack(tag.number).await,
            Source::Backfill => self.backfill.ack(tag.number).await,
        }
    }

    pub(super) async fn close(self) {
        tokio::join!(self.live.close(), self.backfill.close());
    }
}
