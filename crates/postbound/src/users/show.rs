use super::{
    UserArgs,
    standing::{why, words},
};
use crate::{
    exit::{Exit, failed},
    moment::{show as show_moment, show_if},
    operate,
    output::{lines, or_dash, print, print_json, table},
};
use postbound_broker::TargetNames;
use postbound_event::UserKey;
use postbound_store::{Standing, Store, UserAtTarget, UserHead};
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Debug, Serialize)]
struct Shown<'a> {
    tenant: &'a str,
    user: &'a str,
    #[serde(flatten)]
    head: UserHead,
    targets: Vec<AtTarget>,
}

#[derive(Debug, Serialize)]
struct AtTarget {
    #[serde(flatten)]
    row: UserAtTarget,
    state: Standing,
    why: String,
}

/// `postbound users show`
pub(super) async fn run(store: &Store, user: &UserArgs, json: bool) -> Result<Exit, Exit> {
    let Some(head) = store.user_head(&user.tenant, &user.user).await.map_err(failed)? else {
        return Err(user.unknown());
    };
    let rows = store.user_at_targets(&user.tenant, &user.user).await.map_err(failed)?;
    let judged: Vec<_> = rows.into_iter().map(|row| (Standing::of(&row), row)).collect();
    let ways = match judged.iter().any(|(standing, _)| *standing == Standing::OnItsWay) {
        true => ways(store, user).await?,
        false => BTreeMap::new(),
    };
    let targets: Vec<_> = judged
        .into_iter()
        .map(|(state, row)| {
            let way = ways.get(&row.target).map_or("", String::as_str);
            AtTarget { why: why(&row, state, way), state, row }
        })
        .collect();
    let settled = targets.iter().all(|target| target.state.is_settled());
    let shown = Shown { tenant: &user.tenant, user: &user.user, head, targets };
    match json {
        true => print_json(&shown)?,
        false => print(render(&shown)),
    }
    Ok(if settled { Exit::Done } else { Exit::Findings })
}

/// How a change of this user goes to each target: what lies before it, through which queue, to whom.
async fn ways(store: &Store, user: &UserArgs) -> Result<BTreeMap<String, String>, Exit> {
    let lags = store.stream_lags().await.map_err(failed)?;
    let owners = store.partition_owners().await.map_err(failed)?;
    let key = UserKey::new(&user.tenant, &user.user);
    let of_target = |target: postbound_store::RegisteredTarget| {
        let name = target.registration.name;
        let partition = key.partition(target.registration.partitions);
        let lag = lags.iter().find(|lag| lag.stream == name).filter(|lag| lag.rows > 0);
        let way = match lag {
            Some(lag) => {
                format!("{} changes are still to be published, the oldest {:.0} s old", lag.rows, lag.seconds)
            }
            None => {
                let queue = TargetNames::new(name.clone(), target.generation).queue(partition);
                let mine = |owner: &&postbound_store::PartitionOwner| {
                    owner.target == name && owner.partition == i32::from(partition)
                };
                let owner = owners.iter().find(mine).and_then(|owner| owner.owner.as_deref());
                match owner {
                    Some(owner) => format!("published to {queue}, worker {owner}"),
                    None => format!(
                        "published to {queue}, which no worker serves: start one with postbound worker"
                    ),
                }
            }
        };
        (name, way)
    };
    Ok(operate::targets(store).await?.into_iter().map(of_target).collect())
}

fn render(shown: &Shown<'_>) -> String {
    let Shown { tenant, user, head, targets } = shown;
    let mut text = format!("user {user} of tenant {tenant}: version {}", head.version);
    if head.projected_version == head.version {
        text.push_str(&format!(", {} {}", or_dash(head.action.as_ref()), show_if(head.changed_at)));
    } else if head.deleted {
        text.push_str(", deleted");
    }
    if let Some(at) = head.erased_at {
        text.push_str(&format!(", erased {}", show_moment(at)));
    }
    let mut rows = table(["target", "holds", "present", "external id", "state", "why"]);
    for AtTarget { row, state, why } in targets {
        rows.add_row([
            row.target.clone(),
            row.held_version.to_string(),
            if row.present { "yes" } else { "no" }.to_owned(),
            ids(row),
            words(*state).to_owned(),
            why.clone(),
        ]);
    }
    text.push_str(&format!("\n\n{}", lines(&rows)));
    text
}

/// The user's id at the target, and those behind it by the field that named them.
fn ids(row: &UserAtTarget) -> String {
    let behind = row.links.iter().map(|(system, id)| format!("{system} {id}"));
    let ids: Vec<_> = row.external_id.iter().cloned().chain(behind).collect();
    or_dash((!ids.is_empty()).then(|| ids.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::super::standing::tests::{parked_row, row};
    use super::*;
    use time::macros::datetime;

    #[test]
    fn people_read_per_target_what_it_holds_and_why() {
        let at = |row: UserAtTarget| {
            let state = Standing::of(&row);
            AtTarget {
                why: why(&row, state, "published to postbound.crm.g1.p003, worker host:7"),
                state,
                row,
            }
        };
        let head = UserHead {
            version: 7,
            deleted: false,
            projected_version: 7,
            action: Some("updated".into()),
            changed_at: Some(datetime!(2026-11-21 21:59 UTC)),
            erased_at: None,
        };
        let synced = UserAtTarget { target: "backend".into(), held_version: 7, external_id: None, ..row() };
        let links =
            [("crmContactId".to_owned(), "c-9".to_owned()), ("frontendUserId".to_owned(), "f-3".to_owned())];
        let workflow = UserAtTarget {
            target: "workflow".into(),
            held_version: 7,
            external_id: None,
            links: sqlx::types::Json(links.into()),
            ..row()
        };
        let shown = Shown {
            tenant: "acme",
            user: "u1",
            head,
            targets: vec![at(synced), at(parked_row()), at(row()), at(workflow)],
        };
        insta::assert_snapshot!(render(&shown), @r"
        user u1 of tenant acme: version 7, updated 2026-11-21 21:59:00Z

        target    holds  present  external id                           state       why
        backend   7      yes      -                                     in sync     since 2026-11-21 20:00:00Z
        crm       5      yes      crm-1                                 parked      attempt 3 failed: http_503 (maintenance); next at 2026-11-21 22:05:00Z
        crm       5      yes      crm-1                                 on its way  published to postbound.crm.g1.p003, worker host:7
        workflow  7      yes      crmContactId c-9, frontendUserId f-3  in sync     since 2026-11-21 20:00:00Z
        ");
    }
}
