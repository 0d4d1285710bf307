use super::{answer, done, idle, number, numbers, refused, run, sql};
use postbound_store::{ImportOutcome, ImportPlan, ImportedUser, JobOptions, Operation};
use postbound_tests::{Crowd, Installation, Options, Role};
use serde_json::json;
use std::fmt::Write as _;

/// A file of users.
fn file(installation: &Installation, lines: &str) -> String {
    let path = installation.path("users.ndjson");
    std::fs::write(&path, lines).unwrap();
    path.display().to_string()
}

fn line(user: &str) -> String {
    json!({"user_id": user, "data": {"email": format!("{user}@example.com")}}).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn good_users_are_imported_and_bad_lines_told_by_their_number() {
    let installation = idle().await;
    let mut producer = installation.database.connect(Role::Producer).await;
    sqlx::raw_sql("select postbound.emit('t0', 'u-2', 'updated', '{\"email\": \"newer@example.com\"}'); select postbound.lock_user('t0', 'u-3')")
        .execute(&mut producer)
        .await
        .unwrap();
    let lines = [
        line("u-1"),
        line("u-2"),
        "oops".into(),
        line("u-3"),
        String::new(),
        line("u-1"),
        r#"{"user_id": "u-4", "data": []}"#.into(),
        r#"{"user_id": "", "data": {}}"#.into(),
    ];
    let path = file(&installation, &lines.join("\n"));
    let import = ["users", "import", "--tenant", "t0", &path, "--as", "ada"];
    let (code, dry) = answer(&installation, &[&import[..], &["--dry-run"]].concat()).await;
    assert_eq!((code, &dry["refused"], &dry["jobs"]), (4, &json!(3), &json!([])));
    assert_eq!(number(&installation, "select count(*) from postbound.user_state").await, 0);

    let (code, report) = answer(&installation, &import).await;
    assert_eq!((code, &report["imported"], &report["known"]), (4, &json!(2), &json!(2)));
    assert_eq!(numbers(&report["refusals"], "line"), [3, 7, 8]);
    assert_eq!(numbers(&report["jobs"], "items"), [2, 2], "one job per target");
    for job in numbers(&report["jobs"], "job_id") {
        let status = done(&installation, &["jobs", "status", &job.to_string()]).await;
        assert_eq!((&status["kind"], &status["state"]), (&json!("import"), &json!("running")));
    }
    let states = "select count(*) from postbound.user_state where version = 1 and action = 'created' and user_id in ('u-1', 'u-3')";
    assert_eq!(number(&installation, states).await, 2);
    let next: i64 = sqlx::query_scalar("select emitted_version from postbound.emit('t0', 'u-1', 'updated')")
        .fetch_one(&mut producer)
        .await
        .unwrap();
    assert_eq!(next, 2);
    let (_, again) = answer(&installation, &import).await;
    assert_eq!((&again["imported"], &again["known"], &again["jobs"]), (&json!(0), &json!(4), &json!([])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_come_from_a_query_too_which_cannot_write() {
    let installation = idle().await;
    sql(
        &installation,
        "create table public.customer (id bigint, mail text);
         insert into public.customer select n, n || '@example.com' from generate_series(1, 2500) as n;
         grant select, insert on public.customer to postbound_operator",
    )
    .await;
    let import = ["users", "import", "--tenant", "t0", "--targets", "crm", "--yes", "--query"];
    let query =
        "select id as user_id, jsonb_build_object('email', mail) as data from public.customer order by id;";
    let report = done(&installation, &[&import[..], &[query]].concat()).await;
    assert_eq!((&report["imported"], numbers(&report["jobs"], "items")), (&json!(2500), vec![2500]));
    assert_eq!(report["jobs"][0]["target"], "crm");
    let kept = sqlx::query_scalar::<_, String>(
        "select (select filter::text from postbound.job) || (select filter::text from postbound.audit)",
    )
    .fetch_one(installation.database.superuser())
    .await
    .unwrap();
    assert!(!kept.contains("customer") && kept.matches("sha256").count() == 2, "{kept}");
    assert_eq!(
        number(&installation, "select count(*) from postbound.user_state where targets = '{crm}'").await,
        2500
    );
    let in_order = "select count(*) from postbound.job_item where user_id = item::text";
    assert_eq!(number(&installation, in_order).await, 2500);
    for (query, said) in [
        ("insert into public.customer values (1, '') returning id as user_id, '{}' as data", "syntax error"),
        ("select nextval('postbound.change_id')::text as user_id, '{}' as data", "permission denied"),
        ("select 1 as id", "user_id"),
    ] {
        let (code, stderr) = refused(&installation, &[&import[..], &[query]].concat()).await;
        assert!(code == 1 && stderr.contains(said), "{query}: {stderr}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_ended_halfway_is_taken_up_by_the_next() {
    let installation = idle().await;
    let plan = ImportPlan {
        tenant: "t0".into(),
        targets: None,
        options: JobOptions::default(),
        operation: Operation { command: "users import", acting_as: None, filter: json!({"tenant": "t0"}) },
    };
    let store = installation.store();
    let mut first = store.begin_import(plan.clone()).await.unwrap().unwrap();
    let user = |id: &str| ImportedUser { user_id: id.into(), data: "{}".into() };
    assert_eq!(first.add(&[user("u-1")]).await.unwrap(), [ImportOutcome::Imported]);
    assert!(store.begin_import(plan).await.unwrap().is_none(), "one at a time per tenant");
    let path = file(&installation, &format!("{}\n{}", line("u-1"), line("u-2")));
    let import = ["users", "import", "--tenant", "t0", &path];
    let (code, said) = refused(&installation, &import).await;
    assert!(code == 1 && said.contains("another import of tenant t0 is under way"), "{said}");
    drop(first);
    // The server notices that the first one's connection is gone in its own time.
    let report = postbound_tests::eventually(
        "the first import is over",
        std::time::Duration::from_secs(10),
        async || {
            let pace = ["--rate", "7.5", "--stop-after-failures", "4", "--json"];
            let output = run(&installation, &[&import[..], &pace].concat()).await;
            serde_json::from_slice::<serde_json::Value>(&output.stdout).ok()
        },
    )
    .await;
    assert_eq!((&report["imported"], &report["known"]), (&json!(1), &json!(1)));
    assert_eq!(numbers(&report["jobs"], "items"), [2, 2], "the first one's user is sent as well");
    assert_eq!(number(&installation, "select count(*) from postbound.job where state = 'filling'").await, 0);
    let as_asked =
        "select count(*) from postbound.job where rate_per_second = 7.5 and stop_after_failures = 4";
    assert_eq!(number(&installation, as_asked).await, 2, "they send as the second one asks");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_beside_busy_producers_never_puts_its_older_state_over_theirs() {
    let installation = idle().await;
    let mut lines = String::new();
    for user in (0..40).step_by(2) {
        let _ = writeln!(lines, "{}", line(&format!("hot-{user}")));
    }
    let path = file(&installation, &lines);
    let crowd = Crowd { clients: 6, transactions: 40, users: 40, bare_deletes: false };
    let import = ["users", "import", "--tenant", "t0", &path, "--yes"];
    let (report, ()) = tokio::join!(done(&installation, &import), crowd.run(&installation.database));
    assert_eq!(report["refused"], 0);
    // An imported state is version 1; a change of a producer's is none of the import's users' first version, or it is the
    // first and the import left that user alone.
    let both = "select count(*) from postbound.user_state as s join postbound.change_log as c using (tenant_id, user_id, version)";
    assert_eq!(number(&installation, both).await, 0);
    let gaps = "select count(*) from postbound.user_head as h where h.version > 0 and h.version <>
        (select count(*) from postbound.change_log as c where c.tenant_id = h.tenant_id and c.user_id = h.user_id)
        + (select count(*) from postbound.user_state as s where s.tenant_id = h.tenant_id and s.user_id = h.user_id)";
    assert_eq!(number(&installation, gaps).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_postgres_refuses_is_told_by_the_line_and_holds_up_nobody() {
    let installation = idle().await;
    // JSON all the same, but no number Postgres has.
    let bad = r#"{"user_id": "u-2", "data": {"tiny": 1e-20000, "email": "u-2@secret.example"}}"#;
    let path = file(&installation, &[&line("u-1"), bad, &line("u-3")].join("\n"));
    let (code, report) = answer(&installation, &["users", "import", "--tenant", "t0", &path]).await;
    assert_eq!((code, &report["imported"], numbers(&report["refusals"], "line")), (4, &json!(2), vec![2]));
    assert_eq!(report["refusals"][0]["reason"], "Postgres refuses it (SQLSTATE 22003)");
    assert_eq!(numbers(&report["jobs"], "items"), [2, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_a_handful_of_users_needs_a_yes() {
    let installation = idle().await;
    let lines: Vec<_> = (1..=11).map(|user| line(&format!("u-{user}"))).collect();
    let path = file(&installation, &lines.join("\n"));
    let import = ["users", "import", "--tenant", "t0", &path];
    let (code, said) = refused(&installation, &import).await;
    assert!(code == 2 && said.contains("this would import more than 10 users of tenant t0"), "{said}");
    assert_eq!(number(&installation, "select count(*) from postbound.job").await, 0);
    let report = done(&installation, &[&import[..], &["--yes"]].concat()).await;
    assert_eq!(report["imported"], 11);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_gets_every_event_gets_imported_users_only_where_it_is_named() {
    let installation = Installation::start(Options::default().with("targets.crm.coalesce", "false")).await;
    let check = async |user: &str, targets: &[&str], expected: &[&str]| {
        let path = file(&installation, &line(user));
        let import = ["users", "import", "--tenant", "t0", &path];
        let report = done(&installation, &[&import[..], targets].concat()).await;
        let jobs = report["jobs"].as_array().unwrap().iter().map(|job| job["target"].as_str().unwrap());
        assert_eq!(jobs.collect::<Vec<_>>(), expected);
    };
    check("u-1", &[], &["backend"]).await;
    check("u-2", &["--targets", "backend,crm"], &["backend", "crm"]).await;
}
