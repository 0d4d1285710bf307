use crate::{
    exit::{Exit, failed},
    moment::{show as show_moment, show_if},
    output::{lines, or_dash, print, print_json, table},
};
use postbound_store::{LetterData, LetterDetail, Store};
use serde_json::{Value, json};

/// `postbound dead-letters show`
pub(super) async fn run(store: &Store, letter: i64, with_data: bool, json: bool) -> Result<(), Exit> {
    let Some(detail) = store.letter(letter).await.map_err(failed)? else {
        return Err(Exit::failed(format!("there is no letter {letter}")));
    };
    let data = match with_data {
        true => store.letter_data(letter).await.map_err(failed)?,
        false => None,
    };
    if json {
        let mut answer = serde_json::to_value(&detail).map_err(failed)?;
        answer["standing"] = Value::String(standing(&detail));
        match data {
            Some(LetterData::State(state)) => answer["data"] = state,
            Some(LetterData::Unreadable(bytes)) => {
                answer["unreadable"] = json!(String::from_utf8_lossy(&bytes));
            }
            None => {}
        }
        return print_json(&answer);
    }
    print(render(&detail));
    match data {
        Some(LetterData::State(state)) => {
            print(format!("\n{}", serde_json::to_string_pretty(&state).map_err(failed)?));
        }
        Some(LetterData::Unreadable(bytes)) => print(format!("\n{}", String::from_utf8_lossy(&bytes))),
        None => {}
    }
    Ok(())
}

fn render(detail: &LetterDetail) -> String {
    let letter = &detail.letter;
    let status = letter.status.map_or_else(String::new, |status| format!(", HTTP {status}"));
    let mut rows = table(["letter", &letter.letter_id.to_string()]);
    let mut row = |name: &str, value: String| {
        rows.add_row([name, &value]);
    };
    row("standing", standing(detail));
    row("target", letter.target.clone());
    row("tenant", or_dash(letter.tenant_id.as_ref()));
    row("user", or_dash(letter.user_id.as_ref()));
    row(
        "change",
        match (&letter.action, letter.version) {
            (Some(action), Some(version)) => {
                format!("{action}, version {version}, written {}", show_if(detail.logged_at))
            }
            _ => format!("a message of {} bytes nobody can read", or_dash(detail.unreadable_bytes)),
        },
    );
    row("event", or_dash(detail.event_id));
    row("log id", or_dash(detail.log_id));
    row("origin", or_dash(detail.origin.as_ref()));
    row("trace", or_dash(detail.traceparent.as_ref()));
    row("reason", format!("{} ({}{status})", letter.reason, letter.class));
    row("said", if letter.detail.is_empty() { "-".to_owned() } else { letter.detail.clone() });
    let unknown = if detail.unknown_outcome { "; one ended without anyone knowing how" } else { "" };
    row("attempts", format!("{}{unknown}", letter.attempts));
    row(
        "failed",
        format!("first {}, last {}", show_if(detail.first_failed_at), show_moment(letter.last_failed_at)),
    );
    row("archived", show_moment(detail.archived_at));
    if detail.replay > 0 {
        row("job", format!("failed last in job {}", detail.replay));
    }
    lines(&rows)
}

/// Open, or what closed it.
fn standing(detail: &LetterDetail) -> String {
    if let Some(at) = detail.discarded_at {
        return format!("discarded by {} at {}", or_dash(detail.discarded_by.as_ref()), show_moment(at));
    }
    if let Some(at) = detail.replayed_at {
        return format!("replayed at {}", show_moment(at));
    }
    if !detail.letter.open {
        let at = show_if(detail.delivered_at);
        return format!("overtaken: the target took version {} at {at}", detail.delivered_version);
    }
    match detail.unreadable_bytes {
        Some(_) => "open; it can only be discarded".to_owned(),
        None => format!("open; the target holds version {}", detail.delivered_version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postbound_store::LetterRow;
    use time::macros::datetime;

    fn detail() -> LetterDetail {
        let at = datetime!(2026-11-21 22:00 UTC);
        LetterDetail {
            letter: LetterRow {
                letter_id: 9,
                target: "crm".into(),
                tenant_id: Some("acme".into()),
                user_id: Some("u1".into()),
                version: Some(7),
                action: Some("updated".into()),
                class: "permanent".into(),
                reason: "http_422".into(),
                status: Some(422),
                detail: "unknown department".into(),
                attempts: 3,
                last_failed_at: at,
                open: true,
            },
            replay: 1,
            event_id: Some("7c9e6679-7425-40de-944b-e07fc1f90ae7".parse().unwrap()),
            log_id: Some(4711),
            origin: None,
            traceparent: None,
            logged_at: Some(at),
            unknown_outcome: true,
            first_failed_at: Some(at),
            archived_at: at,
            replayed_at: None,
            discarded_at: None,
            discarded_by: None,
            delivered_version: 5,
            delivered_at: Some(at),
            unreadable_bytes: None,
        }
    }

    #[test]
    fn people_read_everything_but_the_users_data() {
        insta::assert_snapshot!(render(&detail()), @r"
        letter    9
        standing  open; the target holds version 5
        target    crm
        tenant    acme
        user      u1
        change    updated, version 7, written 2026-11-21 22:00:00Z
        event     7c9e6679-7425-40de-944b-e07fc1f90ae7
        log id    4711
        origin    -
        trace     -
        reason    http_422 (permanent, HTTP 422)
        said      unknown department
        attempts  3; one ended without anyone knowing how
        failed    first 2026-11-21 22:00:00Z, last 2026-11-21 22:00:00Z
        archived  2026-11-21 22:00:00Z
        job       failed last in job 1
        ");
    }

    #[test]
    fn a_closed_letter_says_what_closed_it() {
        let at = Some(datetime!(2026-11-22 3:00 UTC));
        let mut closed = detail();
        closed.letter.open = false;
        closed.delivered_version = 8;
        assert_eq!(standing(&closed), "overtaken: the target took version 8 at 2026-11-21 22:00:00Z");
        closed.replayed_at = at;
        assert_eq!(standing(&closed), "replayed at 2026-11-22 03:00:00Z");
        (closed.discarded_at, closed.discarded_by) = (at, Some("ada".into()));
        assert_eq!(standing(&closed), "discarded by ada at 2026-11-22 03:00:00Z");
        let unreadable = LetterDetail { unreadable_bytes: Some(12), ..detail() };
        assert_eq!(standing(&unreadable), "open; it can only be discarded");
    }
}
