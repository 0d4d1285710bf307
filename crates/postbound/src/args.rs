use clap::{Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// A durable outbox worker: carries user changes from Postgres over RabbitMQ to every system that must know them.
#[derive(Debug, Parser)]
#[command(name = "postbound", version, max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "Exit codes:
  0  done, or stopped as asked
  1  failed
  2  bad usage
  3  the configuration is wrong
  4  checked, and something needs mending (doctor, topology show)
  5  stopped before the drain was complete; nothing is lost";

/// What every subcommand takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Common {
    /// The configuration; `postbound.toml` here if there is one, overridden by POSTBOUND_* variables
    #[arg(long, global = true, value_name = "FILE", env = "POSTBOUND_CONFIG")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Bring the database's schema up to this version (needs a direct connection, not PgBouncer)
    Migrate,
    /// Register targets in Postgres and declare their exchanges and queues in RabbitMQ
    Topology {
        #[command(subcommand)]
        command: TopologyCommand,
    },
    /// Publish committed changes to RabbitMQ; one relay is active, others stand by
    Relay,
    /// Deliver changes to targets
    Worker {
        /// Work for this target only; may be repeated [default: all]
        #[arg(long = "target", value_name = "NAME")]
        targets: Vec<String>,
    },
    /// Serve the reference receivers of the backend and the CRM contract
    Receiver {
        /// Serve one contract only
        #[arg(long, value_name = "CONTRACT")]
        only: Option<ContractArg>,
        /// Behave like a receiver without idempotency and version guard
        #[arg(long)]
        guardless: bool,
    },
    /// Check the configuration
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Say what is wrong with Postgres, RabbitMQ, topology and targets, and how to mend it
    Doctor {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show lag, users per target, workers and partitions
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TopologyCommand {
    /// Register and declare what the configuration names; what is there already stays
    Apply {
        /// Retire targets that are no longer in the configuration, and delete their empty queues
        #[arg(long)]
        prune: bool,
    },
    /// Show queues, their length and their consumers
    Show {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Report everything that is wrong, or the settings in force with secrets masked
    Check {
        /// Print the settings in force as JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ContractArg {
    /// `POST /internal/users/sync`
    BackendSync,
    /// `POST /api/internal/sync/users`
    CrmBatch,
}
