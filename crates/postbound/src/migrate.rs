use crate::{
    args::Common,
    exit::{Exit, failed},
    output::print,
    roles,
};

/// `postbound migrate`
pub(crate) async fn run(common: &Common) -> Result<Exit, Exit> {
    let config = roles::configuration(common)?;
    let store = roles::store(&config, "postbound migrate")?;
    let before = store.migration_status().await.map_err(failed)?;
    let after = store.migrate().await.map_err(failed)?;
    print(format!("schema postbound: migration {} -> {}", before.applied, after.applied));
    Ok(Exit::Done)
}
