use super::UserArgs;
use crate::{
    exit::{Exit, failed},
    moment::{show as show_moment, show_if},
    output::{lines, or_dash, print, print_json, table},
};
use postbound_store::{Store, UserChange, UserLetter};
use serde_json::json;
use time::OffsetDateTime;

/// Letters one history shows.
const LETTERS_MAX: i64 = 200;

/// `postbound users history`; of the changes since then, so many at most, with their data or without.
pub(super) async fn run(
    store: &Store,
    user: &UserArgs,
    (since, limit, with_data): (OffsetDateTime, i64, bool),
    json: bool,
) -> Result<Exit, Exit> {
    if store.user_head(&user.tenant, &user.user).await.map_err(failed)?.is_none() {
        return Err(user.unknown());
    }
    let changes = store.user_changes(user.key(), since, limit, with_data).await.map_err(failed)?;
    let letters = store.user_letters(&user.tenant, &user.user, LETTERS_MAX).await.map_err(failed)?;
    let doubts: Vec<_> = store
        .user_at_targets(&user.tenant, &user.user)
        .await
        .map_err(failed)?
        .into_iter()
        .filter_map(|row| Some((row.target, row.doubt_until?)))
        .collect();
    if json {
        let doubts: Vec<_> = doubts
            .iter()
            .map(|(target, due)| json!({ "target": target, "due_at": show_moment(*due) }))
            .collect();
        print_json(&json!({ "changes": changes, "letters": letters, "doubts": doubts }))?;
        return Ok(Exit::Done);
    }
    print(render(&changes, &letters));
    for (target, due) in doubts {
        print(format!("{target}: in doubt, the newest state is sent once more at {}", show_if(Some(due))));
    }
    Ok(Exit::Done)
}

fn render(changes: &[UserChange], letters: &[UserLetter]) -> String {
    let mut rows = table(["version", "written", "action", "origin", "for", "event", "log id"]);
    for change in changes {
        let targets = change.targets.as_ref().map_or_else(
            || "all".to_owned(),
            |targets| match targets.is_empty() {
                true => "nobody".to_owned(),
                false => targets.join(" "),
            },
        );
        rows.add_row([
            change.version.to_string(),
            show_moment(change.logged_at),
            change.action.clone(),
            or_dash(change.origin.as_ref()),
            targets,
            change.event_id.to_string(),
            change.log_id.to_string(),
        ]);
        if let Some(data) = &change.data {
            rows.add_row(["", &data.to_string()]);
        }
    }
    let mut text = match changes.is_empty() {
        true => "no changes in that time".to_owned(),
        false => lines(&rows),
    };
    if !letters.is_empty() {
        let mut rows = table(["letter", "target", "version", "reason", "failed last", ""]);
        for letter in letters {
            rows.add_row([
                letter.letter_id.to_string(),
                letter.target.clone(),
                letter.version.to_string(),
                letter.reason.clone(),
                show_moment(letter.last_failed_at),
                if letter.open { "open" } else { "closed" }.to_owned(),
            ]);
        }
        text.push_str(&format!("\n\n{}", lines(&rows)));
    }
    text
}
