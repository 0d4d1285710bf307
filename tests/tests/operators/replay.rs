use super::{done, held, idle, letters, number, numbers, refused, sql};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_says_how_many_would_be_sent_in_how_many_calls_and_changes_nothing() {
    let installation = idle().await;
    let seed = [
        letters("crm", 250, "http_500", "transient", 500),
        letters("backend", 20, "http_500", "transient", 500),
        held("crm", "u-1", 5),
        held("crm", "u-2", 9),
        "insert into postbound.dead_letter (target, unreadable, reason, class, last_failed_at)
         values ('crm', 'no json', 'unreadable', 'unreadable', now());
         update postbound.dead_letter set discarded_at = now(), discarded_by = 'ada' where letter_id = 3;
         insert into postbound.breaker (target, tenant_id, cause, reason, paused_by, pause_reason)
         values ('crm', '', 'operator', 'paused', 'ada', 'migration')"
            .to_owned(),
    ];
    sql(&installation, &seed.concat()).await;
    let replay = ["dead-letters", "replay", "--all", "--dry-run", "--rate", "10"];
    let forecast = done(&installation, &replay).await;
    assert_eq!(
        forecast["letters"],
        serde_json::json!({"matched": 271, "superseded": 2, "replayed": 0, "discarded": 1, "unreadable": 1})
    );
    let targets = &forecast["targets"];
    assert_eq!(numbers(targets, "letters"), [20, 247]);
    assert_eq!(numbers(targets, "calls"), [20, 3], "the CRM takes 100 users a call");
    assert_eq!((targets[0]["seconds"].as_f64(), targets[1]["seconds"].as_f64()), (Some(2.0), Some(24.7)));
    assert_eq!(targets[0]["held_back"], serde_json::Value::Null);
    let held_back = targets[1]["held_back"].as_str().unwrap();
    assert!(held_back.starts_with("paused by ada: migration; closed since"), "{held_back}");
    assert_eq!(number(&installation, "select count(*) from postbound.job").await, 0);
    assert_eq!(number(&installation, "select count(*) from postbound.audit").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_a_handful_needs_a_yes_and_an_empty_filter_an_all() {
    let installation = idle().await;
    sql(&installation, &letters("crm", 11, "http_500", "transient", 500)).await;
    let (code, said) = refused(&installation, &["dead-letters", "replay"]).await;
    assert!(code == 2 && said.contains("--all"), "{said}");
    let (code, said) = refused(&installation, &["dead-letters", "replay", "--text", "said http"]).await;
    assert_eq!(code, 2);
    assert!(said.contains("this would replay 11 letters"), "{said}");
    assert!(said.contains("postbound dead-letters replay --text 'said http' --yes"), "{said}");
    assert_eq!(number(&installation, "select count(*) from postbound.job").await, 0);
    let ten = done(&installation, &["dead-letters", "replay", "--target", "crm", "--limit", "10"]).await;
    assert_eq!(numbers(&ten["jobs"], "items"), [10]);
    let last = done(&installation, &["dead-letters", "replay", "--target", "crm"]).await;
    assert_eq!(numbers(&last["jobs"], "items"), [1], "those on their way are not sent twice");
    let none = done(&installation, &["dead-letters", "replay", "--target", "crm"]).await;
    assert_eq!(none["jobs"], serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_is_one_job_per_target_with_its_letters_in_order() {
    let installation = idle().await;
    let seed = [
        letters("crm", 30, "http_500", "transient", 500),
        letters("backend", 20, "http_500", "transient", 500),
    ];
    sql(&installation, &seed.concat()).await;
    let replay = [
        "dead-letters",
        "replay",
        "--reason",
        "http_500",
        "--yes",
        "--rate",
        "7.5",
        "--stop-after-failures",
        "4",
    ];
    let made = done(&installation, &[&replay[..], &["--current", "--new-key", "--as", "ada"]].concat()).await;
    assert_eq!(numbers(&made["jobs"], "items"), [20, 30]);
    let job = numbers(&made["jobs"], "job_id")[1].to_string();
    let items = done(&installation, &["jobs", "status", &job, "--items"]).await;
    assert_eq!(numbers(&items, "item"), (1..=30).collect::<Vec<_>>());
    assert_eq!(numbers(&items, "letter_id"), (1..=30).collect::<Vec<_>>());
    assert!(items.as_array().unwrap().iter().all(|item| item["state"] == "waiting" && item["version"] == 5));
    let status = done(&installation, &["jobs", "status", &job]).await;
    assert_eq!(status["state"], "running");
    assert_eq!((status["use_current"].as_bool(), status["new_key"].as_bool()), (Some(true), Some(true)));
    assert_eq!(
        (status["rate_per_second"].as_f64(), status["stop_after_failures"].as_i64()),
        (Some(7.5), Some(4))
    );
    assert_eq!(
        (&status["created_by"], &status["created_as"]),
        (&"test_postbound_operator".into(), &"ada".into())
    );
    let audit = done(&installation, &["audit", "list"]).await;
    assert_eq!(audit[0]["filter"]["letters"]["reason"], "http_500");
    assert_eq!(audit[0]["counts"]["items"], 50);
}
