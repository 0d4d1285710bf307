use super::{answer, done, idle, letters, numbers, refused, sql};
use postbound_tests::Installation;

/// Letters 1 to 3 are permanent at the CRM, 4 is transient, 5 diverged at the backend, 6 nobody can read.
async fn six_letters() -> Installation {
    let installation = idle().await;
    let seed = [
        letters("crm", 3, "http_422", "permanent", 422),
        letters("crm", 1, "http_500", "transient", 500),
        letters("backend", 1, "diverged", "diverged", 409),
        "insert into postbound.dead_letter (target, unreadable, reason, class, last_failed_at)
         values ('crm', 'no json', 'unreadable', 'unreadable', now());
         update postbound.dead_letter set last_failed_at = now() - interval '3 days', detail = '50 of 60' where letter_id = 4"
            .to_owned(),
    ];
    sql(&installation, &seed.concat()).await;
    installation
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_has_what_the_filter_says_and_nothing_else() {
    let installation = six_letters().await;
    let check = async |filter: &[&str], expected: &[i64]| {
        let list = done(&installation, &[&["dead-letters", "list"], filter].concat()).await;
        assert_eq!(numbers(&list, "letter_id"), expected, "{filter:?}");
    };
    check(&[], &[6, 5, 4, 3, 2, 1]).await;
    check(&["--target", "backend"], &[5]).await;
    check(&["--tenant", "t0", "--user", "u-1"], &[5, 4, 1]).await;
    check(&["--tenant", "t1"], &[]).await;
    check(&["--reason", "http_422"], &[3, 2, 1]).await;
    check(&["--class", "transient"], &[4]).await;
    check(&["--status", "409"], &[5]).await;
    check(&["--since", "1d"], &[6, 5, 3, 2, 1]).await;
    check(&["--until", "1d"], &[4]).await;
    check(&["--text", "SAID HTTP"], &[3, 2, 1]).await;
    // The letter that says "50 of 60" does not match.
    check(&["--text", "50%"], &[5, 3, 2, 1]).await;
    check(&["--limit", "2"], &[6, 5]).await;
    check(&["--limit", "2", "--after", "5"], &[4, 3]).await;
    let (code, said) = refused(&installation, &["dead-letters", "list", "--since", "yesterday"]).await;
    assert!(code == 2 && said.contains("nor an age"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_that_needs_nobody_any_more_is_closed_and_says_why() {
    let installation = six_letters().await;
    let close = [
        super::held("crm", "u-2", 6),
        "update postbound.dead_letter set replayed_at = now() where letter_id = 1;".to_owned(),
    ];
    sql(&installation, &close.concat()).await;
    let discarded = done(&installation, &["dead-letters", "discard", "3", "--as", "ada"]).await;
    assert_eq!((discarded["open"].as_i64(), discarded["discarded"].as_i64()), (Some(1), Some(1)));
    let check = async |state, expected: &[i64]| {
        let list = done(&installation, &["dead-letters", "list", "--state", state]).await;
        assert_eq!(numbers(&list, "letter_id"), expected, "{state}");
    };
    check("open", &[6, 5, 4]).await;
    check("closed", &[3, 2, 1]).await;
    check("all", &[6, 5, 4, 3, 2, 1]).await;
    let standing = async |letter| {
        let shown = done(&installation, &["dead-letters", "show", letter]).await;
        assert_eq!(shown.get("data"), None, "personal data is shown only to those who ask for it");
        shown["standing"].as_str().unwrap().to_owned()
    };
    assert!(standing("1").await.starts_with("replayed at"));
    assert!(standing("2").await.starts_with("overtaken: the target took version 6"));
    assert!(standing("3").await.starts_with("discarded by ada"));
    assert_eq!(standing("4").await, "open; the target holds version 0");
    assert_eq!(standing("6").await, "open; it can only be discarded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_letter_carries_is_shown_to_those_who_ask() {
    let installation = six_letters().await;
    let state = done(&installation, &["dead-letters", "show", "2", "--data"]).await;
    assert_eq!(state["data"]["email"], "u-2@secret.example");
    let unreadable = done(&installation, &["dead-letters", "show", "6", "--data"]).await;
    assert_eq!(unreadable["unreadable"], "no json");
    let list = super::run(&installation, &["dead-letters", "list"]).await;
    assert!(!String::from_utf8_lossy(&list.stdout).contains("secret.example"), "{list:?}");
    let (code, said) = refused(&installation, &["dead-letters", "show", "77"]).await;
    assert!(code == 1 && said.contains("there is no letter 77"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_summary_groups_by_cause() {
    let installation = six_letters().await;
    let summary = done(&installation, &["dead-letters", "summary"]).await;
    let causes: Vec<_> = summary
        .as_array()
        .unwrap()
        .iter()
        .map(|cause| {
            (
                cause["target"].as_str().unwrap(),
                cause["reason"].as_str().unwrap(),
                cause["letters"].as_i64().unwrap(),
                cause["users"].as_i64().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        causes,
        [
            ("crm", "http_422", 3, 3),
            ("crm", "unreadable", 1, 0),
            ("backend", "diverged", 1, 1),
            ("crm", "http_500", 1, 1)
        ]
    );
    assert_eq!(summary[0]["example"], 3);
    assert_eq!(summary[0]["example_detail"], "said http_422 50%");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_discard_says_what_it_would_do_and_does_not_take_an_empty_filter_for_all() {
    let installation = six_letters().await;
    let (code, said) = refused(&installation, &["dead-letters", "discard"]).await;
    assert!(code == 2 && said.contains("the filter is empty"), "{said}");
    let (code, _) = refused(&installation, &["dead-letters", "discard", "--all", "--target", "crm"]).await;
    assert_eq!(code, 2);
    let dry = answer(&installation, &["dead-letters", "discard", "--target", "crm", "--dry-run"]).await;
    assert_eq!((dry.0, dry.1["open"].as_i64(), dry.1["discarded"].as_i64()), (0, Some(5), Some(0)));
    let some = done(&installation, &["dead-letters", "discard", "--target", "crm", "--limit", "2"]).await;
    assert_eq!(some["discarded"], 2);
    let open = done(&installation, &["dead-letters", "list"]).await;
    assert_eq!(numbers(&open, "letter_id"), [6, 5, 4, 3]);
}
