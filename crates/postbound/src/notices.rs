use crate::{
    args::Common,
    exit::{Exit, failed},
    moment::{show as show_moment, show_if},
    operate::{self, Acting, parse_name},
    output::{lines, or_dash, print, print_json, table},
};
use postbound_store::NoticeRow;
use serde_json::json;

/// What subscribed webhooks are told beside users' states.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum NoticesCommand {
    /// Those that are not taken yet, given up first (exit 4: some were given up)
    List {
        /// Of this target only
        #[arg(long, value_name = "NAME", value_parser = parse_name)]
        target: Option<String>,
        /// So many at most
        #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Tell those that were given up again
    Retry {
        /// Of this target only
        #[arg(long, value_name = "NAME", value_parser = parse_name)]
        target: Option<String>,
        #[command(flatten)]
        acting: Acting,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// `postbound notices list|retry`
pub(crate) async fn run(common: &Common, command: &NoticesCommand) -> Result<Exit, Exit> {
    let (_, store) = operate::open(common).await?;
    let (NoticesCommand::List { target, .. } | NoticesCommand::Retry { target, .. }) = command;
    if let Some(name) = target {
        operate::target(&store, name).await?;
    }
    match command {
        NoticesCommand::List { target, limit, json } => {
            let rows = store.notices(target.as_deref(), i64::from(*limit)).await.map_err(failed)?;
            match json {
                true => print_json(&rows)?,
                false => print(render(&rows)),
            }
            let is_whole = rows.iter().all(|row| row.dead_at.is_none());
            Ok(if is_whole { Exit::Done } else { Exit::Findings })
        }
        NoticesCommand::Retry { target, acting, json } => {
            let operation = acting.operation("notices retry", json!({ "target": target }));
            let retried = store.retry_notices(target.as_deref(), &operation).await.map_err(failed)?;
            match json {
                true => print_json(&json!({ "retried": retried }))?,
                false => print(format!("{retried} notices are told again within seconds")),
            }
            Ok(Exit::Done)
        }
    }
}

fn render(rows: &[NoticeRow]) -> String {
    if rows.is_empty() {
        return "nothing is left to tell".to_owned();
    }
    let mut shown = table([
        "notice", "target", "kind", "tenant", "user", "noted", "attempts", "reason", "next", "given up",
    ]);
    for row in rows {
        shown.add_row([
            row.notice_id.to_string(),
            row.target.clone(),
            row.kind.clone(),
            or_dash(row.tenant_id.as_ref()),
            or_dash(row.user_id.as_ref()),
            show_moment(row.noted_at),
            row.attempts.to_string(),
            or_dash(row.reason.as_ref()),
            show_if(row.dead_at.is_none().then_some(row.next_attempt_at)),
            show_if(row.dead_at),
        ]);
    }
    lines(&shown)
}
