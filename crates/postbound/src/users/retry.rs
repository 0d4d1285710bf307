use super::UserArgs;
use crate::{
    exit::{Exit, failed},
    operate::{self, Acting},
    output::{print, print_json},
};
use postbound_store::{Retried, Store};
use serde_json::json;

/// `postbound users retry`
pub(super) async fn run(
    store: &Store,
    user: &UserArgs,
    target: Option<&str>,
    acting: &Acting,
    json: bool,
) -> Result<Exit, Exit> {
    if let Some(name) = target {
        operate::target(store, name).await?;
    }
    let rows = store.user_at_targets(&user.tenant, &user.user).await.map_err(failed)?;
    if rows.is_empty() {
        return Err(user.unknown());
    }
    let asked = json!({ "tenant": user.tenant, "user": user.user, "target": target });
    let operation = acting.operation("users retry", asked);
    let Retried { retried, jobs } =
        store.retry_user(user.key(), &rows, target, &operation).await.map_err(failed)?;
    if json {
        print_json(&json!({ "retried": retried, "jobs": jobs }))?;
        return Ok(Exit::Done);
    }
    for name in &retried {
        print(format!("{name}: tried again within seconds"));
    }
    for job in &jobs {
        print(format!("{}: letter replayed by job {}", job.target, job.job_id));
    }
    if retried.is_empty() && jobs.is_empty() {
        print("nothing to retry: neither parked, nor a dead letter that is not on its way already");
    }
    Ok(Exit::Done)
}
