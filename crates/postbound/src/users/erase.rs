use super::UserArgs;
use crate::{
    confirm::confirm,
    exit::{Exit, failed},
    operate::Acting,
    output::{print, print_json},
};
use postbound_store::{Erasure, Store};
use serde_json::json;

/// `postbound users erase`
pub(super) async fn run(
    store: &Store,
    user: &UserArgs,
    (force, yes): (bool, bool),
    acting: &Acting,
    json: bool,
) -> Result<Exit, Exit> {
    if force {
        let what = format!(
            "erase user {} of tenant {} whether or not the targets have deleted it",
            user.user, user.tenant
        );
        confirm(&what, yes)?;
    }
    let asked = json!({ "tenant": user.tenant, "user": user.user, "force": force });
    let operation = acting.operation("users erase", asked);
    let Some(erasure) = store.erase_user(user.key(), force, &operation).await.map_err(failed)? else {
        return Err(user.unknown());
    };
    if json {
        print_json(&erasure)?;
    } else if erasure.erased {
        print(render(&erasure));
    }
    match erasure.erased {
        true => Ok(Exit::Done),
        false => Err(Exit::failed(refusal(&erasure))),
    }
}

fn render(erasure: &Erasure) -> String {
    let Erasure { version, log_rows, letters, parked_states, links, still_present, .. } = erasure;
    let mut text = format!(
        "erased up to version {version}: {log_rows} changes, {letters} dead letters, {parked_states} parked states, \
         {links} external ids; messages still in RabbitMQ lose their data where they are archived"
    );
    if !still_present.is_empty() {
        text.push_str(&format!("\nstill held, by the ledger: {}", still_present.join(", ")));
    }
    text
}

/// What stands in the way, and how to mend it.
fn refusal(erasure: &Erasure) -> String {
    if !erasure.deleted {
        return "not erased: the newest change is no delete; emit one first, or use --force (targets keep what they hold)"
            .to_owned();
    }
    let missing: Vec<_> = erasure
        .missing
        .iter()
        .map(|target| format!("{} (holds version {})", target.target, target.delivered_version))
        .collect();
    format!(
        "not erased: the delete, version {}, has not reached {}; see: postbound users show. --force erases all the same",
        erasure.version,
        missing.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use postbound_store::MissingTarget;

    fn refused() -> Erasure {
        Erasure {
            erased: false,
            version: 4,
            deleted: true,
            missing: vec![MissingTarget { target: "crm".into(), delivered_version: 2 }],
            still_present: vec!["crm".into()],
            log_rows: 0,
            letters: 0,
            parked_states: 0,
            links: 0,
        }
    }

    #[test]
    fn a_refusal_names_what_is_missing() {
        insta::assert_snapshot!(refusal(&refused()), @"not erased: the delete, version 4, has not reached crm (holds version 2); see: postbound users show. --force erases all the same");
        insta::assert_snapshot!(refusal(&Erasure { deleted: false, ..refused() }), @"not erased: the newest change is no delete; emit one first, or use --force (targets keep what they hold)");
    }

    #[test]
    fn an_erasure_says_what_it_removed_and_who_still_holds_the_user() {
        insta::assert_snapshot!(render(&Erasure { erased: true, log_rows: 4, ..refused() }), @r"
        erased up to version 4: 4 changes, 0 dead letters, 0 parked states, 0 external ids; messages still in RabbitMQ lose their data where they are archived
        still held, by the ledger: crm
        ");
    }
}
