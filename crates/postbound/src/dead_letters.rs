//! `postbound dead-letters`: finding out what died and why, and sending it again or giving it up.

mod filter;
mod replay;
mod show;

use crate::{
    args::Common,
    confirm::confirm_many,
    exit::{Exit, failed},
    moment::show as show_moment,
    operate::{self, Terms},
    output::{lines, or_dash, print, print_json, table},
};
use filter::{ChosenLetters, FilterArgs};
use postbound_store::{LetterCause, LetterRow, LetterState, Store};
use serde_json::json;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum DeadLettersCommand {
    /// List letters, the newest first
    List {
        #[command(flatten)]
        filter: FilterArgs,
        /// Open ones, closed ones (discarded, replayed, overtaken by a newer success), or all
        #[arg(long, value_enum, default_value_t = StateArg::Open)]
        state: StateArg,
        /// So many at most
        #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        /// The page after this letter: those older than it
        #[arg(long, value_name = "LETTER")]
        after: Option<i64>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Group letters by cause, the most frequent first
    Summary {
        #[command(flatten)]
        filter: FilterArgs,
        /// Open ones, closed ones, or all
        #[arg(long, value_enum, default_value_t = StateArg::Open)]
        state: StateArg,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Everything about one letter
    Show {
        /// Its number
        letter: i64,
        /// Show what it carries too: the user's personal data
        #[arg(long)]
        data: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Send open letters again, as a job of the relay
    Replay(replay::ReplayArgs),
    /// Give open letters up: nobody has to do anything about them any more
    Discard {
        #[command(flatten)]
        chosen: ChosenLetters,
        #[command(flatten)]
        terms: Terms,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum StateArg {
    Open,
    Closed,
    All,
}

impl From<StateArg> for LetterState {
    fn from(state: StateArg) -> Self {
        match state {
            StateArg::Open => Self::Open,
            StateArg::Closed => Self::Closed,
            StateArg::All => Self::All,
        }
    }
}

/// Causes one summary shows.
const CAUSES_MAX: i64 = 200;

/// `postbound dead-letters list|summary|show|replay|discard`
pub(crate) async fn run(common: &Common, command: &DeadLettersCommand) -> Result<Exit, Exit> {
    let (config, store) = operate::open(common).await?;
    match command {
        DeadLettersCommand::List { filter, state, limit, after, json } => {
            let limit = i64::from(*limit);
            let letters =
                store.letters(&filter.filter(&[]), (*state).into(), limit, *after).await.map_err(failed)?;
            match json {
                true => print_json(&letters)?,
                false => print(render_list(&letters, limit)),
            }
        }
        DeadLettersCommand::Summary { filter, state, json } => {
            let causes = store
                .letter_causes(&filter.filter(&[]), (*state).into(), CAUSES_MAX)
                .await
                .map_err(failed)?;
            match json {
                true => print_json(&causes)?,
                false => print(render_summary(&causes)),
            }
        }
        DeadLettersCommand::Show { letter, data, json } => show::run(&store, *letter, *data, *json).await?,
        DeadLettersCommand::Replay(args) => replay::run(&config, &store, args).await?,
        DeadLettersCommand::Discard { chosen, terms } => discard(&store, chosen, terms).await?,
    }
    Ok(Exit::Done)
}

async fn discard(store: &Store, chosen: &ChosenLetters, terms: &Terms) -> Result<(), Exit> {
    let filter = chosen.filter()?;
    let limit = chosen.limit();
    let open = store.open_letters(&filter).await.map_err(failed)?.min(limit.unwrap_or(i64::MAX));
    let mut discarded = 0;
    if !terms.dry_run && open > 0 {
        confirm_many(open, &format!("discard {open} letters"), terms.yes)?;
        let asked = json!({ "letters": filter, "all": chosen.all, "limit": limit });
        let operation = terms.acting.operation("dead-letters discard", asked);
        // No more than was confirmed, though others may have died since.
        discarded = store.discard_letters(&filter, Some(open), &operation).await.map_err(failed)?;
    }
    match (terms.json, terms.dry_run) {
        (true, _) => print_json(&json!({ "dry_run": terms.dry_run, "open": open, "discarded": discarded }))?,
        (false, true) => print(format!("{open} letters would be discarded")),
        (false, false) => print(format!("{discarded} letters discarded")),
    }
    Ok(())
}

fn render_list(letters: &[LetterRow], limit: i64) -> String {
    if letters.is_empty() {
        return "no letters".to_owned();
    }
    let mut rows = table([
        "letter",
        "failed last",
        "target",
        "tenant",
        "user",
        "version",
        "reason",
        "tries",
        "",
        "the target said",
    ]);
    for letter in letters {
        rows.add_row([
            letter.letter_id.to_string(),
            show_moment(letter.last_failed_at),
            letter.target.clone(),
            or_dash(letter.tenant_id.as_ref()),
            or_dash(letter.user_id.as_ref()),
            or_dash(letter.version),
            letter.reason.clone(),
            letter.attempts.to_string(),
            if letter.open { "open" } else { "closed" }.to_owned(),
            shortened(&letter.detail, 60),
        ]);
    }
    let mut text = lines(&rows);
    if letters.len() as i64 == limit
        && let Some(last) = letters.last()
    {
        text.push_str(&format!("\n\nthe next page: --after {}", last.letter_id));
    }
    text
}

fn render_summary(causes: &[LetterCause]) -> String {
    if causes.is_empty() {
        return "no letters".to_owned();
    }
    let mut rows = table([
        "letters",
        "users",
        "target",
        "class",
        "reason",
        "first",
        "last",
        "for example",
        "the target said",
    ]);
    for cause in causes {
        rows.add_row([
            cause.letters.to_string(),
            cause.users.to_string(),
            cause.target.clone(),
            cause.class.clone(),
            cause.reason.clone(),
            show_moment(cause.first_at),
            show_moment(cause.last_at),
            cause.example.to_string(),
            shortened(&cause.example_detail, 60),
        ]);
    }
    let letters: i64 = causes.iter().map(|cause| cause.letters).sum();
    format!("{}\n\nletters in all: {letters}", lines(&rows))
}

/// One line of at most `chars`.
fn shortened(text: &str, chars: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(chars) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    fn letter(letter_id: i64, user: Option<&str>) -> LetterRow {
        LetterRow {
            letter_id,
            target: "crm".into(),
            tenant_id: user.map(|_| "acme".into()),
            user_id: user.map(str::to_owned),
            version: user.map(|_| 7),
            action: user.map(|_| "updated".into()),
            class: "permanent".into(),
            reason: "http_422".into(),
            status: Some(422),
            detail: "the\ndepartment is unknown".into(),
            attempts: 3,
            last_failed_at: datetime!(2026-11-21 22:00 UTC),
            open: letter_id != 4,
        }
    }

    #[test]
    fn people_read_one_line_per_letter_and_how_to_turn_the_page() {
        insta::assert_snapshot!(render_list(&[letter(9, Some("u1")), letter(4, None)], 2), @r"
        letter  failed last           target  tenant  user  version  reason    tries          the target said
        9       2026-11-21 22:00:00Z  crm     acme    u1    7        http_422  3      open    the department is unknown
        4       2026-11-21 22:00:00Z  crm     -       -     -        http_422  3      closed  the department is unknown

        the next page: --after 4
        ");
        assert_eq!(render_list(&[], 2), "no letters");
    }

    #[test]
    fn people_read_causes_with_an_example_each() {
        let cause = LetterCause {
            target: "crm".into(),
            class: "permanent".into(),
            reason: "http_422".into(),
            status: Some(422),
            letters: 39_000,
            users: 38_500,
            first_at: datetime!(2026-11-21 22:00 UTC),
            last_at: datetime!(2026-11-22 3:00 UTC),
            example: 40_001,
            example_detail: "department ".repeat(10),
        };
        insta::assert_snapshot!(render_summary(&[cause]), @r"
        letters  users  target  class      reason    first                 last                  for example  the target said
        39000    38500  crm     permanent  http_422  2026-11-21 22:00:00Z  2026-11-22 03:00:00Z  40001        department department department department department depar...

        letters in all: 39000
        ");
    }
}
