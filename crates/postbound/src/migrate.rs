use crate::{
    args::Common,
    exit::{Exit, failed},
    roles,
};

/// `postbound migrate`
#[expect(clippy::print_stdout, reason = "the answer of a command")]
pub(crate) async fn run(common: &Common) -> Result<Exit, Exit> {
    let config = roles::configuration(common)?;
    let store = roles::store(&config, "postbound migrate")?;
    let before = store.migration_status().await.map_err(failed)?;
    let after = store.migrate().await.map_err(failed)?;
    println!("schema postbound: migration {} -> {}", before.applied, after.applied);
    Ok(Exit::Done)
}
