//! Values that are not what their key asks for.

use crate::{check, good, refusal};
use insta::assert_snapshot;
use std::time::Duration;

#[test]
fn values_of_the_wrong_kind_are_refused_with_what_is_expected() {
    let units = "expected a number with a unit, such as \"500ms\", \"10s\", \"15m\" or \"24h\"";
    let cases = [
        ("[worker]\nlease = '10 parsecs'", format!("worker.lease: \"10 parsecs\" is not a duration; {units}")),
        ("[worker]\nlease = 15", format!("worker.lease: `15` has no unit; {units} (\"15s\" for seconds)")),
        ("[worker]\nlease = true", "worker.lease: a boolean where a duration is expected".to_owned()),
        (
            "[relay]\npage_rows = '2000'",
            "relay.page_rows: a string where a whole number is expected\n  \
             to mend it: write the value without quotes"
                .to_owned(),
        ),
        (
            "[relay]\npage_rows = -1",
            "relay.page_rows: -1 is out of range; expected a whole number from 0 to 4294967295".to_owned(),
        ),
        ("[relay]\npage_rows = 1979-05-27", "relay.page_rows: a date where a whole number is expected".to_owned()),
        (
            "[relay]\npage_bytes_max = '8 megs'",
            "relay.page_bytes_max: \"8 megs\" is not a size; expected bytes as a number, or a number with a unit, \
             such as \"256KiB\", \"8MiB\" or \"1GiB\""
                .to_owned(),
        ),
        (
            "[telemetry]\nlisten = 'localhost'",
            "telemetry.listen: \"localhost\" is not an address; expected an IP address and a port, \
             such as \"127.0.0.1:8080\" or \"0.0.0.0:8080\" (port 0 takes any free one)"
                .to_owned(),
        ),
        (
            "[telemetry]\nlog_format = 'jsno'",
            "telemetry.log_format: \"jsno\" is not known; expected \"human\" or \"json\"\n  \
             to mend it: did you mean \"json\"?"
                .to_owned(),
        ),
        (
            "[receiver]\napi_key = 12345",
            "receiver.api_key: a whole number where a string is expected\n  to mend it: put the value in quotes"
                .to_owned(),
        ),
        (
            "[receiver]\nrate_limit = { requests = 5 }",
            "receiver.rate_limit: `per` is missing\n  to mend it: add `per`".to_owned(),
        ),
    ];
    for (text, expected) in cases {
        check(text, &[], &format!("postbound.toml:7: {expected}"));
    }
}

#[test]
fn a_value_from_a_variable_is_not_quoted_when_it_does_not_fit() {
    check(
        "[relay]\npage_rows = '${PASSWORD}'",
        &["PASSWORD=hunter2"],
        "postbound.toml:7: relay.page_rows: the variable does not hold a whole number",
    );
    check(
        "",
        &["POSTBOUND_TELEMETRY__LOG_FORMAT=hunter2"],
        "environment variable POSTBOUND_TELEMETRY__LOG_FORMAT: telemetry.log_format: \
         the variable's value is not known; expected \"human\" or \"json\"",
    );
    check(
        "[worker]\nlease = '${PASSWORD}'",
        &["PASSWORD=hunter2"],
        "postbound.toml:7: worker.lease: the variable's value is not a duration; \
         expected a number with a unit, such as \"500ms\", \"10s\", \"15m\" or \"24h\"",
    );
    check(
        "",
        &["POSTBOUND_RECEIVER__FAULTS=hunter2"],
        "environment variable POSTBOUND_RECEIVER__FAULTS: receiver.faults: \
         the variable does not hold `true` or `false`",
    );
}

#[test]
fn a_variable_that_is_not_set_is_named_with_its_key() {
    check(
        "[targets.crm]\nadapter = 'crm-batch'\nurl = '${CRM_APP_URL}'",
        &[],
        "postbound.toml:8: targets.crm.url: the variable CRM_APP_URL is not set\n  \
         to mend it: set CRM_APP_URL, or give a default with `${CRM_APP_URL:-...}`",
    );
    check(
        "[telemetry]\nlog = '${oops'",
        &[],
        "postbound.toml:7: telemetry.log: a `${` is not closed\n  \
         to mend it: close it with `}`, or write `$${` for the two characters themselves",
    );
}

#[test]
fn a_wrong_value_is_not_missing_as_well() {
    check(
        "[targets.crm]\nadapter = 'crm-batch'\nrate_limit = { requests = 5, per = '15x' }",
        &[],
        "postbound.toml:8: targets.crm.rate_limit.per: \"15x\" is not a duration; \
         expected a number with a unit, such as \"500ms\", \"10s\", \"15m\" or \"24h\"",
    );
    check(
        "[targets.crm]\nadapter = 'crm-batch'\nrate_limit = { requests = 5 }",
        &[],
        "postbound.toml:8: targets.crm.rate_limit: `per` is missing\n  to mend it: add `per`",
    );
}

#[test]
fn a_signing_secret_nobody_can_sign_with_is_refused_unquoted() {
    let targets = "[targets.crm]\nadapter = 'crm-batch'\n";
    for secret in ["hunter2", "whsec_hunter2", "whsec_c2hvcnQ=", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] {
        for (section, key) in [(targets, "targets.crm"), ("[receiver]\nfaults = true\n", "receiver")] {
            check(
                &format!("{section}signing_secrets = ['{secret}']"),
                &[],
                &format!(
                    "postbound.toml:8: {key}.signing_secrets: each must be whsec_ followed by the base64 of 24 to 64 \
                     bytes\n  to mend it: make one with: echo whsec_$(openssl rand -base64 32)"
                ),
            );
        }
    }
}

#[test]
fn all_errors_of_a_file_are_told_at_once() {
    let text = "
[worker]
lease = 'soon'
heartbeet = '1s'
[relay]
page_rows = 0
[targets.crm]
adapter = 'crm-match'
[targets.backend]
adapter = 'backend-sync'
url = '${BACKEND_SYNC_URL}'
timeout = '60s'
linger = '5ms'
";
    assert_snapshot!(refusal(text, &["POSTBOUND_TOPOLOGY__PARTITIONS=0"]));
}

#[test]
fn broken_toml_is_located_without_quoting_the_line() {
    check(
        "[receiver]\napi_key = 'hunter2\nlisten = 5",
        &[],
        "postbound.toml:7: not valid TOML: invalid literal string, expected `'`",
    );
    check("[relay]\npage_rows = 1\npage_rows = 2", &[], "postbound.toml:8: not valid TOML: duplicate key");
}

#[test]
fn the_scheduled_reconcile_can_be_switched_off() {
    for off in ["\"off\"", "0", "\"0\"", "\"0s\""] {
        let config = good(&format!("[relay]\nreconcile_every = {off}"), &[]);
        assert_eq!(config.relay.reconcile_every, None, "{off}");
    }
    let config = good("[relay]\nreconcile_every = \"off\"", &["POSTBOUND_RELAY__RECONCILE_EVERY=1h"]);
    assert_eq!(config.relay.reconcile_every, Some(Duration::from_secs(3600)));
}
