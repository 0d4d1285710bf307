use super::render;
use crate::{
    exit::{Exit, failed},
    output::{print, print_json},
};
use postbound_store::Store;

/// `postbound links show`
pub(super) async fn run(store: &Store, (tenant, user): (&str, &str), json: bool) -> Result<Exit, Exit> {
    let links = store.links_of_user(tenant, user).await.map_err(failed)?;
    if links.is_empty() && store.user_head(tenant, user).await.map_err(failed)?.is_none() {
        return Err(Exit::failed(format!("nobody has written user {user} of tenant {tenant}")));
    }
    match json {
        true => print_json(&links)?,
        false if links.is_empty() => {
            print(format!("no target has told an id of user {user} of tenant {tenant}"));
        }
        false => print(render(&links)),
    }
    Ok(Exit::Done)
}
