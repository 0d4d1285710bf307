/// What happened to the user, or what the target is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    /// They are there.
    Created,
    /// They are still there.
    Updated,
    /// They are gone.
    Deleted,
}

/// What an operator may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// Sends a dead letter again.
    Replay,
    /// Sends the newest state, whatever the ledger says.
    Resync,
}

/// How often each may happen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// A message comes twice.
    pub repeats: u8,
    /// A worker dies.
    pub crashes: u8,
    /// A worker loses lease and channel, and lives.
    pub evictions: u8,
    /// A worker loses the channel.
    pub cuts: u8,
    /// A request's answer does not come in time.
    pub timeouts: u8,
    /// The target fails, for now.
    pub failures: u8,
    /// The target will not take the content, ever.
    pub refusals: u8,
    /// The target is found closed.
    pub closings: u8,
    /// A parked user is due again while being tried.
    pub early_dues: u8,
}

/// What can be taken out, to see what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protections {
    /// What the ledger has is not sent.
    pub version_gate: bool,
    /// No send starts that could end after the lease.
    pub lease_fence: bool,
    /// A new owner waits until the last one's consumer is gone.
    pub waits_for_consumer: bool,
    /// The message is acknowledged after the ledger has the outcome.
    pub ledger_before_ack: bool,
    /// The ledger says dead after the letter is confirmed.
    pub letter_before_ledger: bool,
    /// A delete is never folded away.
    pub keeps_deletes: bool,
    /// A success takes out only what was stored up to its version.
    pub unparks_by_version: bool,
    /// One delivery at a time per lane.
    pub parks_before_ack: bool,
    /// After an unknown outcome the newest state is sent once more.
    pub doubts: bool,
    /// What is given out again may have been sent before.
    pub redelivery_is_doubtful: bool,
    /// A replay does not pass what was delivered since.
    pub replay_gate: bool,
    /// Doubt knows the oldest version that may be on its way; else only the newest.
    pub doubt_knows_oldest: bool,
    /// A letter leaves the doubt behind that there is.
    pub letters_keep_doubt: bool,
    /// Where there was doubt already, what was delivered last stays the state to be sent again.
    pub letters_keep_older_doubt: bool,
    /// Only where a state may undo another is one sent once more.
    pub events_are_undoubted: bool,
    /// What the feeder took is compared with what is stored when it is used.
    pub feeds_are_checked: bool,
    /// A resend clears only the doubt it was sent for.
    pub resends_clear_their_own: bool,
    /// A doubtful state that joins a newer delivery under way has that sent once more.
    pub joining_is_doubtful: bool,
    /// A replay does not end the doubt its letter left behind.
    pub replays_keep_doubt: bool,
    /// Statements of a worker that lost its lease do not reach Postgres.
    pub writes_fenced: bool,
}

impl Default for Protections {
    fn default() -> Self {
        Self {
            version_gate: true,
            lease_fence: true,
            waits_for_consumer: true,
            ledger_before_ack: true,
            letter_before_ledger: true,
            keeps_deletes: true,
            unparks_by_version: true,
            parks_before_ack: true,
            doubts: true,
            redelivery_is_doubtful: true,
            replay_gate: true,
            doubt_knows_oldest: true,
            letters_keep_doubt: true,
            letters_keep_older_doubt: true,
            events_are_undoubted: true,
            feeds_are_checked: true,
            resends_clear_their_own: true,
            joining_is_doubtful: true,
            replays_keep_doubt: true,
            writes_fenced: true,
        }
    }
}
