//! `postbound users`: one user everywhere (why is this user not in sync?), and the users of day one.

mod erase;
mod history;
mod import;
mod retry;
mod show;
mod standing;

use crate::{
    args::Common,
    exit::Exit,
    moment::parse_moment,
    operate,
    operate::{Acting, parse_name},
};
use time::OffsetDateTime;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum UsersCommand {
    /// Where a user stands at each target, and why (exit 4: not in sync everywhere)
    Show {
        #[command(flatten)]
        user: UserArgs,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// A user's changes and dead letters. Reads the whole log since --since: it has no index by user
    History {
        #[command(flatten)]
        user: UserArgs,
        /// From this time (2026-11-21T22:00:00Z, 2026-11-21) or age (2h, 3d) on
        #[arg(long, value_name = "TIME", value_parser = parse_moment, default_value = "14d")]
        since: OffsetDateTime,
        /// So many changes at most, the newest
        #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        /// Show each state too: the user's personal data
        #[arg(long)]
        data: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Try a parked user again at once; a dead-lettered one is replayed
    Retry {
        #[command(flatten)]
        user: UserArgs,
        /// At this target only
        #[arg(long, value_name = "NAME", value_parser = parse_name)]
        target: Option<String>,
        #[command(flatten)]
        acting: Acting,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove a deleted user's data everywhere in Postbound; versions, ids and the proof stay
    Erase {
        #[command(flatten)]
        user: UserArgs,
        /// Also when a target has not settled the delete, or there was none: targets then keep what they hold
        #[arg(long)]
        force: bool,
        /// Do not ask before --force
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        acting: Acting,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Bring in users that existed before Postbound, and send them to the targets; those written since are left alone
    Import(import::ImportArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct UserArgs {
    /// Tenant of the user
    #[arg(value_parser = parse_name)]
    tenant: String,
    /// The user's id
    #[arg(value_parser = parse_name)]
    user: String,
}

impl UserArgs {
    fn key(&self) -> (&str, &str) {
        (&self.tenant, &self.user)
    }

    fn unknown(&self) -> Exit {
        Exit::failed(format!("nobody has written user {} of tenant {}", self.user, self.tenant))
    }
}

/// `postbound users show|history|retry|erase|import`
pub(crate) async fn run(common: &Common, command: &UsersCommand) -> Result<Exit, Exit> {
    let (_, store) = operate::open(common).await?;
    match command {
        UsersCommand::Show { user, json } => show::run(&store, user, *json).await,
        UsersCommand::History { user, since, limit, data, json } => {
            history::run(&store, user, (*since, i64::from(*limit), *data), *json).await
        }
        UsersCommand::Retry { user, target, acting, json } => {
            retry::run(&store, user, target.as_deref(), acting, *json).await
        }
        UsersCommand::Erase { user, force, yes, acting, json } => {
            erase::run(&store, user, (*force, *yes), acting, *json).await
        }
        UsersCommand::Import(args) => import::run(&store, args).await,
    }
}
