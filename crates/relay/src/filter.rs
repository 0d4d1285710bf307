use postbound_event::Action;
use postbound_store::{LogRow, Registration};
use std::str::FromStr as _;

/// Whether a target wants a row: by action and by the event's own list of targets. What came from the target itself goes
/// out too: only the worker knows whether the target holds all that was before it.
pub(crate) fn wants(target: &Registration, row: &LogRow) -> bool {
    let action = Action::from_str(&row.action);
    action.is_ok_and(|action| target.actions.contains(&action))
        && row.targets.as_ref().is_none_or(|targets| targets.contains(&target.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::OffsetDateTime;
    use uuid::Uuid;

    fn row(action: &str, origin: Option<&str>, targets: Option<&[&str]>) -> LogRow {
        LogRow {
            id: 1,
            logged_at: OffsetDateTime::UNIX_EPOCH,
            version: 1,
            event_id: Uuid::nil(),
            tenant_id: "t".into(),
            user_id: "u".into(),
            action: action.into(),
            origin: origin.map(Into::into),
            targets: targets.map(|names| names.iter().map(ToString::to_string).collect()),
            traceparent: None,
            data: "{}".into(),
            awaits_state: false,
        }
    }

    #[test]
    fn a_target_gets_what_it_asked_for_and_what_came_from_it() {
        let crm = Registration {
            name: "crm".into(),
            adapter: "crm-batch".into(),
            actions: vec![Action::Created, Action::Deleted],
            origin: "zopkit".into(),
            fold: true,
            config_hash: String::new(),
            settings: Default::default(),
            partitions: 16,
        };
        let check = |wanted: bool, row: LogRow| assert_eq!(wants(&crm, &row), wanted, "{row:?}");
        check(true, row("created", None, None));
        check(true, row("deleted", Some("backend"), Some(&["backend", "crm"])));
        check(false, row("updated", None, None));
        check(true, row("created", Some("zopkit"), None));
        check(false, row("updated", Some("zopkit"), None));
        check(false, row("created", None, Some(&["backend"])));
        check(false, row("created", None, Some(&[])));
    }
}
