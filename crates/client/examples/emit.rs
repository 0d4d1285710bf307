//! Changes one's own user row and tells Postbound, in one transaction:
//! `DATABASE_URL=postgres://... cargo run --example emit -- user-1 "Ada Lovelace"`.

#![expect(clippy::print_stdout, reason = "printing the answer is what the example is for")]

use anyhow::Context as _;
use postbound_client::{Change, DEFAULT_TENANT, emit};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let user_id = arguments.next().unwrap_or_else(|| "user-1".to_owned());
    let name = arguments.next().unwrap_or_else(|| "Ada Lovelace".to_owned());
    let url = std::env::var("DATABASE_URL").context("DATABASE_URL is not set")?;

    let mut connection = PgConnection::connect(&url).await?;
    let mut tx = connection.begin().await?;
    let (email, name, is_active): (String, String, bool) = sqlx::query_as(
        "insert into app_user as u (id, email, name) values ($1, $1 || '@example.com', $2)
         on conflict (id) do update set name = excluded.name
         returning u.email, u.name, u.is_active",
    )
    .bind(&user_id)
    .bind(&name)
    .fetch_one(&mut *tx)
    .await?;
    let state = json!({"email": email, "displayName": name, "isActive": is_active});
    let emitted = emit(&mut tx, &Change::updated(DEFAULT_TENANT, user_id).data(&state)?).await?;
    tx.commit().await?;

    println!("event_id={} version={}", emitted.event_id, emitted.version);
    Ok(())
}
