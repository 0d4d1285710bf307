use super::render;
use crate::{
    exit::{Exit, failed},
    operate,
    output::{print, print_json},
};
use postbound_store::Store;
use std::collections::BTreeSet;

/// An id that more users have than this is no id; so many are listed.
const USERS_MAX: i64 = 1000;

/// `postbound links find`; `within` a system and a tenant.
pub(super) async fn run(
    store: &Store,
    (target, external_id): (&str, &str),
    (system, tenant): (Option<&str>, Option<&str>),
    json: bool,
) -> Result<Exit, Exit> {
    operate::target(store, target).await?;
    let tenants = tenant.map(|tenant| [tenant.to_owned()]);
    let tenants = tenants.as_ref().map(|tenants| &tenants[..]);
    let found =
        store.users_of_link((target, external_id), system, tenants, USERS_MAX).await.map_err(failed)?;
    if found.is_empty() {
        return Err(Exit::failed(format!("no user is linked to {external_id} of {target}")));
    }
    match json {
        true => print_json(&found)?,
        false => print(render(&found)),
    }
    let users: BTreeSet<_> = found.iter().map(|link| (&link.tenant_id, &link.user_id)).collect();
    Ok(if users.len() == 1 { Exit::Done } else { Exit::Findings })
}
