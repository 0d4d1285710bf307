//! What settings of a target may be, alone and together.

use crate::{check, good};
use postbound_config::{Breaker, RateLimit, Retry};
use std::time::Duration;

#[test]
fn every_adapter_can_have_pace_and_dispositions_of_its_own() {
    for adapter in ["backend-sync", "crm-batch"] {
        let config = good(
            &format!(
                "[targets.x]\nadapter = '{adapter}'\nrate_limit = {{ requests = 5, per = '1s' }}\nlive_share = 0.9\n\
                 guards_versions = true\ndoubt_after = '5m'\n[targets.x.retry]\nhorizon = '1h'\n\
                 [targets.x.breaker]\nfold_after = '5s'\n\
                 [targets.x.dispositions]\n'500-599' = 'unknown'\n503 = 'whole-target'\ntimeout = 'transient'"
            ),
            &[],
        );
        let target = &config.targets["x"];
        assert_eq!(target.rate_limit, Some(RateLimit { requests: 5, per: Duration::from_secs(1) }));
        assert_eq!((target.live_share, target.guards_versions), (0.9, true));
        assert_eq!(target.doubt_after, Duration::from_secs(300));
        assert_eq!(target.retry, Retry { horizon: Duration::from_secs(3600), ..Retry::default() });
        assert_eq!(target.breaker, Breaker { fold_after: Duration::from_secs(5), ..Breaker::default() });
        let shown = serde_json::to_value(target).unwrap();
        let dispositions = r#"{"500-599":"unknown","503":"whole-target","timeout":"transient"}"#;
        assert_eq!(shown["dispositions"].to_string(), dispositions);
    }
}

#[test]
fn what_must_fit_together_is_checked() {
    check(
        "[worker]\nlease = '11s'\n[targets.backend]\nadapter = 'backend-sync'\n\
         [targets.crm]\nadapter = 'crm-batch'\ntimeout = '9s500ms'",
        &[],
        "postbound.toml:7: worker.lease: 11s is too short for targets.backend.timeout (10s): it must exceed it by \
         more than 2s, for a request must end before the partition can change hands\n  \
         to mend it: raise worker.lease above 12s, or lower targets.backend.timeout",
    );
    check(
        "[worker]\nheartbeat = '6s'",
        &[],
        "postbound.toml:7: worker.heartbeat: must be at most a third of worker.lease (15s)",
    );
    check(
        "[topology]\npartitions = 257",
        &[],
        "postbound.toml:7: topology.partitions: must be between 1 and 256",
    );
    check(
        "[relay]\npoll_min = '1s'",
        &[],
        "postbound.toml:6: relay.poll_max: must not be shorter than poll_min (1s)",
    );
    check(
        "",
        &["POSTBOUND_BROKER__CLIENT_CERT_FILE=/x"],
        "postbound.toml:4: broker.client_key_file: certificate and key of the client go together",
    );
}

#[test]
fn targets_are_checked() {
    let cases = [
        (
            "url = 'crm.example'",
            "url: is not a URL (relative URL without a base); \
          expected http://host/path or https://host/path",
        ),
        ("url = 'ftp://crm'", "url: is not a web address; expected http://host/path or https://host/path"),
        (
            "url = 'http://u:hunter2@crm'",
            "url: must not hold credentials: it is logged\n  \
          to mend it: use `bearer_token`, `api_key` or `headers`",
        ),
        ("concurrency = 0", "concurrency: must be 1 or more"),
        ("actions = []", "actions: a target that wants no action gets nothing"),
        ("retry = { jitter = 1.5 }", "retry.jitter: must be between 0.0 and 1.0"),
        ("retry = { schedule_jitter = -0.1 }", "retry.schedule_jitter: must be between 0.0 and 1.0"),
        ("retry = { schedule = [] }", "retry.schedule: needs one pause or more, each longer than 0"),
        ("retry = { schedule = ['0s'] }", "retry.schedule: needs one pause or more, each longer than 0"),
        ("retry = { horizon = '0s' }", "retry.horizon: must be longer than 0"),
        ("retry = { bounded_attempts = 0 }", "retry.bounded_attempts: must be 1 or more"),
        ("retry = { permanent_attempts = 0 }", "retry.permanent_attempts: must be 1 or more"),
        ("breaker = { failing_share = 0.0 }", "breaker.failing_share: must be above 0.0 and at most 1.0"),
        ("breaker = { calls_min = 0 }", "breaker.calls_min: must be 1 or more"),
        ("breaker = { pause_max = '500ms' }", "breaker.pause_max: must not be shorter than pause_min (1s)"),
        ("live_share = 1.0", "live_share: must be at least 0.0 and below 1.0, or backfill never ends"),
        (
            "doubt_after = '9s'",
            "doubt_after: must not be shorter than timeout (10s): until then a lost request may still take \
             effect\n  to mend it: raise it to 10s or more",
        ),
        (
            "guards_versions = true\nsend_versions = false",
            "guards_versions: needs send_versions: a target can guard only the versions it is told",
        ),
        ("rate_limit = { requests = 0, per = '1s' }", "rate_limit.requests: must be 1 or more"),
        (
            "retry = { delays = ['1s', '2'] }",
            "retry.delays[1]: `2` has no unit; expected a number with a unit, \
          such as \"500ms\", \"10s\", \"15m\" or \"24h\" (\"2s\" for seconds)",
        ),
        ("batch_users_max = 101", "batch_users_max: must be between 1 and 100, the most the contract takes"),
        ("headers = { Host = 'x' }", "headers.Host: is set by Postbound itself"),
        ("headers = { X = \"hunter2\\n\" }", "headers.X: holds characters a header cannot carry"),
    ];
    for (text, expected) in cases {
        check(
            &format!("[targets.crm]\nadapter = 'crm-batch'\n{text}"),
            &[],
            &format!("postbound.toml:8: targets.crm.{expected}"),
        );
    }
    check(
        "[targets.CRM]\nadapter = 'crm-batch'",
        &[],
        "postbound.toml:6: targets.CRM: a target's name is a-z, 0-9 and `-`, starts with a letter and has at most \
         40 characters",
    );
    check(
        "[targets.crm]\nadapter = 'crm-batch'\napi_key = 'hunter2'\napi_key_file = '/x'",
        &[],
        "postbound.toml:9: targets.crm.api_key_file: give either this or `api_key`",
    );
}

#[test]
fn a_disposition_that_makes_no_sense_is_refused_with_the_reason() {
    let answer =
        "is neither an HTTP status, a range such as \"500-599\", nor a reason that can be overridden";
    let status = "is no HTTP status from 200 to 599, nor a range of them such as \"500-599\"";
    let cases = [
        (
            "crm-batch",
            "'result_faild' = 'permanent'",
            format!("result_faild: {answer}; did you mean \"result_failed\"?"),
        ),
        (
            "crm-batch",
            "'http_422' = 'permanent'",
            format!("http_422: {answer}; write the status alone: \"422\""),
        ),
        ("crm-batch", "'100' = 'transient'", format!("100: {status}")),
        ("crm-batch", "'4xx' = 'transient'", format!("4xx: {status}")),
        (
            "crm-batch",
            "'599-500' = 'transient'",
            "599-500: the range must end above its beginning".to_owned(),
        ),
        (
            "crm-batch",
            "'404' = 'pernament'",
            "404: \"pernament\" is not known; expected \"delivered\", \"transient\", \"permanent\", \
             \"whole-target\" or \"unknown\"\n  to mend it: did you mean \"permanent\"?"
                .to_owned(),
        ),
        (
            "crm-batch",
            "'404' = 7",
            "404: a whole number where a string is expected\n  to mend it: put the value in quotes"
                .to_owned(),
        ),
        (
            "crm-batch",
            "'202' = 'delivered'",
            "202: a status cannot be \"delivered\" at a crm-batch target: its results decide".to_owned(),
        ),
        ("backend-sync", "'timeout' = 'delivered'", "timeout: only a status can be \"delivered\"".to_owned()),
        (
            "backend-sync",
            "'result_failed' = 'permanent'",
            "result_failed: is for crm-batch targets: only their answers hold results that are read"
                .to_owned(),
        ),
        (
            "backend-sync",
            "'400-450' = 'permanent', '410-499' = 'transient', '410' = 'delivered'",
            "410-499: overlaps \"400-450\", and neither is within the other".to_owned(),
        ),
    ];
    for (adapter, text, expected) in cases {
        check(
            &format!("[targets.crm]\nadapter = '{adapter}'\ndispositions = {{ {text} }}"),
            &[],
            &format!("postbound.toml:8: targets.crm.dispositions.{expected}"),
        );
    }
}
