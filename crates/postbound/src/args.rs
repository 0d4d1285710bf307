use crate::{
    audit::AuditCommand, dead_letters::DeadLettersCommand, inbound::InboundCommand, jobs::JobsCommand,
    links::LinksCommand, notices::NoticesCommand, rebase::RebaseArgs, receiver::ReceiverCommand,
    reconcile::ReconcileArgs, resync::ResyncArgs, targets::TargetsCommand, users::UsersCommand,
};
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
  2  bad usage, or more than a handful touched without --yes
  3  the configuration is wrong
  4  something needs a look: a problem (doctor, topology show), a user out of sync (users show),
     a job that failed or was stopped (jobs status), refused users (users import), links that are
     missing or doubled (links check), notices that were given up (notices list), a receiver that
     falls short (receiver check)
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
    /// Take changes in over HTTP: webhooks of other systems and POST /v1/events
    Ingress,
    /// Serve the reference receivers of the backend and the CRM contract, or check a receiver of one's own
    #[command(args_conflicts_with_subcommands = true)]
    Receiver {
        #[command(subcommand)]
        command: Option<ReceiverCommand>,
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
    /// Deliveries that were given up: find out why, send them again, or discard them
    DeadLetters {
        #[command(subcommand)]
        command: DeadLettersCommand,
    },
    /// Webhooks that came in for users nobody knows yet
    Inbound {
        #[command(subcommand)]
        command: InboundCommand,
    },
    /// Replays, resyncs, reconciles and imports: how they get on
    Jobs {
        #[command(subcommand)]
        command: JobsCommand,
    },
    /// What subscribed webhooks are told beside users' states, and have not taken yet
    Notices {
        #[command(subcommand)]
        command: NoticesCommand,
    },
    /// Which id a user has at each target, and whose an id is
    Links {
        #[command(subcommand)]
        command: LinksCommand,
    },
    /// Targets: which there are, whether they are open, and pausing them by hand
    Targets {
        #[command(subcommand)]
        command: TargetsCommand,
    },
    /// One user everywhere, and users that existed before Postbound
    Users {
        #[command(subcommand)]
        command: UsersCommand,
    },
    /// Send users' newest states to a target again, whatever the ledger says it holds
    Resync(ResyncArgs),
    /// Send the newest states of users that are out of sync although nothing is on its way for them
    Reconcile(ReconcileArgs),
    /// Go on after Postgres or RabbitMQ went back to an older state: a replica promoted too early, a restored backup, a
    /// virtual host made anew
    Rebase(RebaseArgs),
    /// What operators did
    Audit {
        #[command(subcommand)]
        command: AuditCommand,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TopologyCommand {
    /// Register and declare what the configuration names; what is there already stays
    Apply {
        /// Retire targets that are no longer in the configuration; delete empty queues of theirs and of past
        /// generations
        #[arg(long)]
        prune: bool,
        /// Change the number of partitions of registered targets to topology.partitions: workers empty the queues
        /// there are, then go on to new ones
        #[arg(long)]
        repartition: bool,
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
