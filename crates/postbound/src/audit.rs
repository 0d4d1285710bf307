use crate::{
    args::Common,
    exit::{Exit, failed},
    moment::show as show_moment,
    operate,
    output::{lines, or_dash, print, print_json, table},
};
use postbound_store::AuditRow;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum AuditCommand {
    /// List what operators did, the newest first
    List {
        /// So many at most
        #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        /// The page after this row: those older than it
        #[arg(long, value_name = "ROW")]
        after: Option<i64>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// `postbound audit list`
pub(crate) async fn run(common: &Common, command: &AuditCommand) -> Result<Exit, Exit> {
    let AuditCommand::List { limit, after, json } = command;
    let (_, store) = operate::open(common).await?;
    let rows = store.audit_rows(i64::from(*limit), *after).await.map_err(failed)?;
    match json {
        true => print_json(&rows)?,
        false => print(render(&rows)),
    }
    Ok(Exit::Done)
}

fn render(rows: &[AuditRow]) -> String {
    let mut shown = table(["row", "at", "login", "as", "command", "on", "touched"]);
    for row in rows {
        shown.add_row([
            row.audit_id.to_string(),
            show_moment(row.at),
            row.login.clone(),
            or_dash(row.acting_as.as_ref()),
            row.command.clone(),
            row.filter.to_string(),
            row.counts.to_string(),
        ]);
    }
    lines(&shown)
}
