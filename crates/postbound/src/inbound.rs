//! `postbound inbound`: webhooks that came in for users nobody knows yet.

use crate::{
    args::Common,
    confirm::confirm_many,
    exit::{Exit, failed},
    moment::show_if,
    operate::{self, Acting, parse_name},
    output::{lines, or_dash, print, print_json, table},
};
use postbound_store::{InboundWaiting, Store};
use serde_json::json;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum InboundCommand {
    /// What waits for an identity link, the oldest first
    List {
        /// Of this source only
        #[arg(long, value_name = "NAME", value_parser = parse_name)]
        source: Option<String>,
        /// List so many at most
        #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Try them again within seconds, refused ones too; all, or those named
    Retry {
        /// Numbers, as listed [default: all]
        ids: Vec<i64>,
        #[command(flatten)]
        acting: Acting,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Throw them away: they are never applied
    Drop {
        /// Numbers, as listed
        #[arg(required = true)]
        ids: Vec<i64>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        acting: Acting,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// `postbound inbound list|retry|drop`
pub(crate) async fn run(common: &Common, command: &InboundCommand) -> Result<Exit, Exit> {
    let (_, store) = operate::open(common).await?;
    match command {
        InboundCommand::List { source, limit, json } => {
            list(&store, source.as_deref(), i64::from(*limit), *json).await
        }
        InboundCommand::Retry { ids, acting, json } => {
            let operation = acting.operation("inbound retry", json!({ "ids": ids }));
            let named = (!ids.is_empty()).then_some(ids.as_slice());
            let count = store.retry_inbound(named, &operation).await.map_err(failed)?;
            said(count, "tried again within seconds", *json)
        }
        InboundCommand::Drop { ids, yes, acting, json } => {
            let count = i64::try_from(ids.len()).unwrap_or(i64::MAX);
            confirm_many(count, &format!("throw away {count} inbound changes"), *yes)?;
            let operation = acting.operation("inbound drop", json!({ "ids": ids }));
            let count = store.drop_inbound(ids, &operation).await.map_err(failed)?;
            said(count, "thrown away", *json)
        }
    }
}

async fn list(store: &Store, source: Option<&str>, limit: i64, json: bool) -> Result<Exit, Exit> {
    let (waiting, total) = store.inbound_waiting(source, limit).await.map_err(failed)?;
    if json {
        print_json(&json!({ "waiting": waiting, "total": total }))?;
        return Ok(Exit::Done);
    }
    if waiting.is_empty() {
        print("nothing waits");
        return Ok(Exit::Done);
    }
    print(render(&waiting));
    if total > limit {
        print(format!("{limit} of {total}"));
    }
    Ok(Exit::Done)
}

fn said(count: u64, what: &str, json: bool) -> Result<Exit, Exit> {
    match json {
        true => print_json(&json!({ "changes": count }))?,
        false => print(format!("{count} changes: {what}")),
    }
    Ok(Exit::Done)
}

fn render(waiting: &[InboundWaiting]) -> String {
    let mut rows =
        table(["id", "source", "message", "tenant", "target", "external id", "received", "tries", "reason"]);
    for one in waiting {
        rows.add_row([
            one.waiting_id.to_string(),
            one.source.clone(),
            one.message_id.clone(),
            or_dash(one.tenant_id.as_ref()),
            if one.target.is_empty() { "-" } else { &one.target }.to_owned(),
            one.external_id.clone(),
            show_if(Some(one.received_at)),
            one.tries.to_string(),
            one.reason.clone(),
        ]);
    }
    lines(&rows)
}
