use super::{answer, held, idle, letters, number, parked, refused, sql};
use postbound_tests::{Installation, Role};
use serde_json::json;

/// Every change of u-1 carries an address that has to be gone afterwards; u-2 is none of this.
async fn emit(installation: &Installation, actions: &[&str]) {
    let mut producer = installation.database.connect(Role::Producer).await;
    for action in actions {
        sqlx::query(
            "select postbound.emit('t0', u, $1, json_build_object('email', u || '@secret.example')::jsonb) from unnest('{u-1,u-2}'::text[]) as u",
        )
        .bind(action)
        .execute(&mut producer)
        .await
        .unwrap();
    }
}

/// What a target holds after the user's delete of this version.
fn deleted(target: &str, version: i64) -> String {
    format!(
        "{} update postbound.delivery_ledger set present = false where target = '{target}';",
        held(target, "u-1", version)
    )
}

/// Tables of the schema in which the user's address still stands.
async fn traces(installation: &Installation) -> Vec<String> {
    let tables: Vec<String> = sqlx::query_scalar(
        "select relname::text from pg_class
         where relnamespace = 'postbound'::regnamespace and relkind in ('r', 'p') and not relispartition order by 1",
    )
    .fetch_all(installation.database.superuser())
    .await
    .unwrap();
    let mut found = Vec::new();
    for table in tables {
        let query =
            format!("select count(*) from postbound.{table} as t where t::text like '%u-1@secret.example%'");
        if number(installation, &query).await > 0 {
            found.push(table);
        }
    }
    found
}

/// As the projection would have it.
const PROJECTED: &str = "insert into postbound.user_state (tenant_id, user_id, version, action, event_id, logged_at, data, targets)
    select distinct on (user_id) tenant_id, user_id, version, action, event_id, logged_at, data, targets
    from postbound.change_log order by user_id, version desc;";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_is_erased_only_when_every_target_has_settled_the_delete() {
    let installation = idle().await;
    emit(&installation, &["created"]).await;
    let erase = ["users", "erase", "t0", "u-1", "--as", "ada"];
    let (code, said) = refused(&installation, &erase).await;
    assert!(code == 1 && said.contains("the newest change is no delete"), "{said}");
    emit(&installation, &["deleted"]).await;
    let seed = [PROJECTED.to_owned(), deleted("backend", 2), held("crm", "u-1", 1)];
    sql(&installation, &seed.concat()).await;
    let (code, said) = refused(&installation, &erase).await;
    assert!(code == 1 && said.contains("has not reached crm (holds version 1)"), "{said}");
    assert_eq!(traces(&installation).await, ["change_log", "user_state"]);
    assert_eq!(number(&installation, "select count(*) from postbound.audit").await, 0);

    sql(&installation, "update postbound.delivery_ledger set delivered_version = 2, present = false").await;
    let (code, erasure) = answer(&installation, &erase).await;
    assert_eq!((code, &erasure["erased"], &erasure["log_rows"]), (0, &json!(true), &json!(2)));
    assert_eq!(traces(&installation).await, [""; 0]);
    let kept = "select count(*) from postbound.change_log where user_id = 'u-2' and data ->> 'email' = 'u-2@secret.example'";
    assert_eq!(number(&installation, kept).await, 2);
    let proof = "select version from postbound.erased_user where user_id = 'u-1' and erased_by = 'test_postbound_operator'";
    assert_eq!(number(&installation, proof).await, 2);
    assert_eq!(
        number(&installation, "select version from postbound.user_head where user_id = 'u-1'").await,
        2
    );
    assert_eq!(
        number(&installation, "select count(*) from postbound.audit where acting_as = 'ada'").await,
        1
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_was_erased_is_ever_sent_but_the_delete() {
    let installation = idle().await;
    emit(&installation, &["created", "updated", "deleted"]).await;
    let doubt = |target: &str, action: &str| {
        format!(
            "insert into postbound.doubt (target, tenant_id, user_id, key_hash, due_at, version, event_id, log_id, action, send_as, resend, logged_at, data, late_version)
             values ('{target}', 't0', 'u-1', 0, now(), 3, gen_random_uuid(), 1, '{action}', '{action}', 1, now(), '{{\"email\": \"u-1@secret.example\"}}', 2);"
        )
    };
    let seed = [
        PROJECTED.to_owned(),
        held("crm", "u-1", 1),
        parked("crm", "u-1", 2, "updated"),
        parked("crm", "u-1", 3, "deleted"),
        parked("backend", "u-1", 2, "updated"),
        doubt("crm", "deleted"),
        doubt("backend", "updated"),
        letters("crm", 1, "http_422", "permanent", 422),
        "update postbound.dead_letter set version = 2, detail = 'u-1@secret.example is unknown';
         update postbound.parked_user set detail = 'u-1@secret.example is busy';
         insert into postbound.identity_link (target, tenant_id, user_id, external_id) values ('crm', 't0', 'u-1', 'u-1@secret.example')"
            .to_owned(),
    ];
    sql(&installation, &seed.concat()).await;
    let (code, said) = refused(&installation, &["users", "erase", "t0", "u-1", "--force"]).await;
    assert!(code == 2 && said.contains("--force --yes"), "{said}");
    let (code, erasure) = answer(&installation, &["users", "erase", "t0", "u-1", "--force", "--yes"]).await;
    assert_eq!((code, &erasure["still_present"]), (0, &json!(["crm"])));
    assert_eq!(traces(&installation).await, [""; 0]);
    let check = async |what, query: &str, expected| {
        assert_eq!(number(&installation, query).await, expected, "{what}");
    };
    check("its log says nobody wants it", "select count(*) from postbound.change_log where user_id = 'u-1' and action <> 'deleted' and targets = '{}'", 2).await;
    check("the delete is still for all", "select count(*) from postbound.change_log where user_id = 'u-1' and action = 'deleted' and targets is null", 1).await;
    check(
        "the parked delete waits on, under a new key",
        "select version from postbound.parked_state where resend = 1",
        3,
    )
    .await;
    check("and nothing else", "select count(*) from postbound.parked_state", 1).await;
    check("nobody is parked without a state", "select count(*) from postbound.parked_user", 1).await;
    check(
        "a delete in doubt stays in doubt",
        "select resend::bigint from postbound.doubt where action = 'deleted'",
        2,
    )
    .await;
    check("a state in doubt does not", "select count(*) from postbound.doubt", 1).await;
    check(
        "the letter stays, empty",
        "select count(*) from postbound.dead_letter where data = '{}' and detail = ''",
        1,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_life_under_the_same_id_is_not_touched() {
    let installation = idle().await;
    emit(&installation, &["created", "deleted"]).await;
    let (code, _) = answer(&installation, &["users", "erase", "t0", "u-1", "--force", "--yes"]).await;
    assert_eq!(code, 0);
    emit(&installation, &["created"]).await;
    let newest = "select version from postbound.change_log where user_id = 'u-1' and data <> '{}'";
    assert_eq!(number(&installation, newest).await, 3);
    let (code, said) = refused(&installation, &["users", "erase", "t0", "nobody"]).await;
    assert!(code == 1 && said.contains("nobody has written"), "{said}");
}
