use postbound_event::Action;
use postbound_store::{LogRow, Registration};
use std::str::FromStr as _;

/// Which rows of the log go to a target: `postbound.admits` of `migrations/0021_tenants.sql`, for rows in hand.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    target: String,
    actions: Vec<Action>,
    /// Sorted; empty: all.
    tenants: Vec<String>,
}

impl Filter {
    pub(crate) fn of(target: &Registration) -> Self {
        Self { target: target.name.clone(), actions: target.actions.clone(), tenants: target.tenants() }
    }

    /// Whether the target wants a row: by action, by tenant, and by the event's own list of targets. What came from the
    /// target itself goes out too: only the worker knows whether the target holds all that was before it.
    pub(crate) fn wants(&self, row: &LogRow) -> bool {
        let action = Action::from_str(&row.action);
        action.is_ok_and(|action| self.actions.contains(&action))
            && (self.tenants.is_empty()
                || self.tenants.binary_search_by(|wanted| wanted.as_str().cmp(&*row.tenant_id)).is_ok())
            && row.targets.as_ref().is_none_or(|targets| targets.contains(&self.target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::OffsetDateTime;
    use uuid::Uuid;

    fn row(tenant: &str, action: &str, origin: Option<&str>, targets: Option<&[&str]>) -> LogRow {
        LogRow {
            id: 1,
            logged_at: OffsetDateTime::UNIX_EPOCH,
            version: 1,
            event_id: Uuid::nil(),
            tenant_id: tenant.into(),
            user_id: "u".into(),
            action: action.into(),
            origin: origin.map(Into::into),
            targets: targets.map(|names| names.iter().map(ToString::to_string).collect()),
            traceparent: None,
            data: "{}".into(),
            awaits_state: false,
        }
    }

    fn crm(tenants: &str) -> Filter {
        Filter::of(&Registration {
            name: "crm".into(),
            adapter: "crm-batch".into(),
            actions: vec![Action::Created, Action::Deleted],
            origin: "zopkit".into(),
            fold: true,
            config_hash: String::new(),
            settings: [("tenants".to_owned(), tenants.to_owned())].into(),
            partitions: 16,
        })
    }

    #[test]
    fn a_target_gets_what_it_asked_for_and_what_came_from_it() {
        let all = crm("[]");
        let check = |wanted: bool, row: LogRow| assert_eq!(all.wants(&row), wanted, "{row:?}");
        check(true, row("t", "created", None, None));
        check(true, row("t", "deleted", Some("backend"), Some(&["backend", "crm"])));
        check(false, row("t", "updated", None, None));
        check(true, row("t", "created", Some("zopkit"), None));
        check(false, row("t", "updated", Some("zopkit"), None));
        check(false, row("t", "created", None, Some(&["backend"])));
        check(false, row("t", "created", None, Some(&[])));
    }

    #[test]
    fn a_target_of_some_tenants_gets_nothing_of_others() {
        let some = crm(r#"["t3", "t1"]"#);
        for (tenant, wanted) in [("t1", true), ("t3", true), ("t2", false), ("t", false), ("T1", false)] {
            assert_eq!(some.wants(&row(tenant, "created", None, None)), wanted, "{tenant}");
        }
        assert!(!some.wants(&row("t1", "updated", None, None)));
    }
}
