/// Names of one target's exchange and queues. Changing P makes a new generation of queues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetNames {
    target: String,
    generation: i32,
}

impl TargetNames {
    /// Names for a target and the current generation of its partition queues.
    pub fn new(target: impl Into<String>, generation: i32) -> Self {
        Self { target: target.into(), generation }
    }

    /// The target.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The generation of the partition queues.
    pub fn generation(&self) -> i32 {
        self.generation
    }

    /// The direct exchange the relay publishes this target's messages to.
    pub fn exchange(&self) -> String {
        format!("postbound.{}", self.target)
    }

    /// Routing key of a partition.
    pub fn routing_key(&self, partition: u16) -> String {
        format!("g{}.p{partition:03}", self.generation)
    }

    /// Queue of a partition.
    pub fn queue(&self, partition: u16) -> String {
        format!("postbound.{}.{}", self.target, self.routing_key(partition))
    }

    /// Routing key of a partition's backfill: what jobs send again, apart from live changes so that it delays none.
    pub fn backfill_routing_key(&self, partition: u16) -> String {
        format!("{}.backfill", self.routing_key(partition))
    }

    /// Queue of a partition's backfill.
    pub fn backfill_queue(&self, partition: u16) -> String {
        format!("postbound.{}.{}", self.target, self.backfill_routing_key(partition))
    }

    /// The direct exchange for dead letters of all targets.
    pub fn dead_exchange() -> &'static str {
        "postbound.dead-letters"
    }

    /// Routing key of the target's dead letters.
    pub fn dead_routing_key(&self) -> &str {
        &self.target
    }

    /// Queue of the target's dead letters.
    pub fn dead_queue(&self) -> String {
        format!("postbound.{}.dead", self.target)
    }
}
