/// A login role that has one of Postbound's group roles and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Writes changes.
    Producer,
    /// Reads the log, keeps cursors and partitions.
    Relay,
    /// Delivers, keeps the ledger.
    Worker,
    /// Takes changes in over HTTP.
    Ingress,
    /// Operates the installation.
    Operator,
    /// Sees counts and states.
    Viewer,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Producer, Self::Relay, Self::Worker, Self::Ingress, Self::Operator, Self::Viewer];

    /// The group role of the schema.
    #[must_use]
    pub fn group(self) -> &'static str {
        match self {
            Self::Producer => "postbound_producer",
            Self::Relay => "postbound_relay",
            Self::Worker => "postbound_worker",
            Self::Ingress => "postbound_ingress",
            Self::Operator => "postbound_operator",
            Self::Viewer => "postbound_viewer",
        }
    }

    /// The name to log in with.
    #[must_use]
    pub fn login(self) -> String {
        format!("test_{}", self.group())
    }

    /// The password to log in with; the server is private to the run.
    #[must_use]
    pub fn password(self) -> &'static str {
        "in-tests-only"
    }
}
