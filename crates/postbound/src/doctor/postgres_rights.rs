use super::{Finding, postgres::ask};
use postbound_store::{Store, StoreError};

const CHECK: &str = "rights";
/// Who sees counts and states.
const VIEWER: &str = "postbound_viewer";

/// What the login may do here.
pub(super) async fn check(store: &Store) -> Vec<Finding> {
    match ask(CHECK, Rights::look(store)).await {
        Ok(rights) => vec![rights.judge()],
        Err(finding) => vec![finding],
    }
}

#[derive(Debug, Clone)]
struct Rights {
    login: String,
    /// The login as SQL writes it.
    quoted: String,
    is_superuser: bool,
    /// Group roles whose rights the login has by being a member.
    member_of: Vec<String>,
    may: Parts,
}

/// Which parts the login has the rights for, by membership or otherwise (it owns the schema).
#[derive(Debug, Clone, Copy)]
struct Parts {
    relay: bool,
    worker: bool,
    ingress: bool,
    operator: bool,
}

impl Rights {
    async fn look(store: &Store) -> Result<Self, StoreError> {
        let (login, quoted, is_superuser, member_of) = sqlx::query_as(
            "-- doctor_login
            select me.rolname::text, quote_ident(me.rolname), me.rolsuper, array(
                select g.rolname::text from pg_roles as g
                where g.rolname in ('postbound_producer', 'postbound_relay', 'postbound_worker', 'postbound_ingress', 'postbound_operator', 'postbound_viewer')
                  and pg_has_role(me.oid, g.oid, 'usage') order by g.rolname)
            from pg_roles as me where me.rolname = current_user",
        )
        .fetch_one(store.pool())
        .await?;
        // By oid: a name could not even be looked up without rights on the schema.
        let (relay, worker, ingress, operator) = sqlx::query_as(
            "-- doctor_rights
            select coalesce(bool_and(pg_has_role(current_user, c.relowner, 'usage')) filter (where c.relname = 'change_log')
                   and bool_and(has_table_privilege(c.oid, 'update')) filter (where c.relname in ('stream_cursor', 'relay_lease'))
                   and bool_and(has_table_privilege(c.oid, 'insert')) filter (where c.relname = 'user_state'), false),
                   coalesce(bool_and(has_table_privilege(c.oid, 'insert')) filter (where c.relname in ('delivery_ledger', 'identity_link'))
                   and bool_and(has_table_privilege(c.oid, 'delete')) filter (where c.relname in ('worker', 'partition_lease')), false),
                   coalesce(bool_and(has_table_privilege(c.oid, 'insert')) filter (where c.relname in ('outbox', 'inbound_message', 'inbound_waiting', 'inbound_answer', 'users', 'sessions'))
                   and bool_and(has_any_column_privilege(c.oid, 'update')) filter (where c.relname = 'parked_user'), false),
                   coalesce(bool_and(has_table_privilege(c.oid, 'insert')) filter (where c.relname in ('target', 'stream_cursor')), false)
            from pg_class as c
            where c.relnamespace in (select oid from pg_namespace where nspname in ('postbound', 'directory'))",
        )
        .fetch_one(store.pool())
        .await?;
        Ok(Self { login, quoted, is_superuser, member_of, may: Parts { relay, worker, ingress, operator } })
    }

    fn judge(&self) -> Finding {
        let groups = match (self.is_superuser, self.member_of.as_slice()) {
            (true, _) => "superuser".to_owned(),
            (_, []) => "member of no role of ours".to_owned(),
            (_, groups) => format!("member of {}", groups.join(", ")),
        };
        let Parts { relay, worker, ingress, operator } = self.may;
        let parts = [("relay", relay), ("worker", worker), ("ingress", ingress), ("operator", operator)];
        let named = |wanted| {
            parts.iter().filter(|(_, may)| *may == wanted).map(|(part, _)| *part).collect::<Vec<_>>()
        };
        let (may, may_not) = (named(true), named(false));
        let grant = format!(
            "grant {} to {}",
            may_not.iter().map(|part| format!("postbound_{part}")).collect::<Vec<_>>().join(", "),
            self.quoted
        );
        let login = &self.login;
        if may_not.is_empty() {
            return Finding::ok(
                CHECK,
                format!("{login} may act as relay, worker, ingress and operator ({groups})"),
            );
        }
        if may.is_empty() && self.member_of.iter().any(|group| group == VIEWER) {
            let what = format!("{login} may look, and act as nothing ({groups})");
            return Finding::warning(CHECK, what).mend(format!("if this login is to do more: {grant}"));
        }
        if may.is_empty() {
            return Finding::problem(CHECK, format!("{login} may act as nothing here ({groups})"))
                .mend(grant);
        }
        let what =
            format!("{login} may act as {}, not as {} ({groups})", may.join(" and "), may_not.join(" and "));
        Finding::warning(CHECK, what).mend(format!("if this login is to do that as well: {grant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn a_login_with_too_few_rights_is_told_which_to_ask_for() {
        let check = |(relay, worker, ingress, operator), member_of: &[&str], level, words: &str| {
            let rights = Rights {
                login: "app-1".to_owned(),
                quoted: "\"app-1\"".to_owned(),
                is_superuser: false,
                member_of: member_of.iter().map(ToString::to_string).collect(),
                may: Parts { relay, worker, ingress, operator },
            };
            let finding = rights.judge();
            assert_eq!(finding.level, level, "{finding:?}");
            let text = format!("{} {}", finding.what, finding.mend.as_deref().unwrap_or_default());
            assert!(text.contains(words), "{text}");
        };
        check((true, true, true, true), &[], Level::Ok, "relay, worker, ingress and operator");
        check(
            (false, true, true, false),
            &[],
            Level::Warning,
            "grant postbound_relay, postbound_operator to \"app-1\"",
        );
        check(
            (false, false, true, false),
            &["postbound_ingress"],
            Level::Warning,
            "may act as ingress, not as relay and worker and operator (member of postbound_ingress)",
        );
        check(
            (false, false, false, false),
            &["postbound_producer"],
            Level::Problem,
            "postbound_worker, postbound_ingress, postbound_operator to",
        );
        check((false, false, false, false), &[], Level::Problem, "nothing here (member of no role of ours)");
        check(
            (false, false, false, false),
            &["postbound_producer"],
            Level::Problem,
            "(member of postbound_producer)",
        );
        check((false, false, false, false), &[VIEWER], Level::Warning, "may look, and act as nothing");
    }
}
