//! Keys that are unknown, missing or another adapter's.

use crate::{check, refusal_of_whole};
use insta::assert_snapshot;
use postbound_config::Config;
use std::path::Path;

#[test]
fn keys_nobody_knows_are_refused_with_the_nearest_one() {
    check(
        "[worker]\nleese = '5s'",
        &[],
        "postbound.toml:7: worker.leese: unknown key\n  to mend it: did you mean `lease`?",
    );
    check(
        "[workers]\nlease = '5s'",
        &[],
        "postbound.toml:6: workers: unknown section\n  to mend it: did you mean `worker`?",
    );
    check(
        "[targets.crm]\nadapter = 'crm-batch'\nbatch_user_max = 3",
        &[],
        "postbound.toml:8: targets.crm.batch_user_max: unknown key\n  to mend it: did you mean `batch_users_max`?",
    );
    check(
        "[targets.crm]\nadapter = 'crm-batch'\nretry = { attemps = 3 }",
        &[],
        "postbound.toml:8: targets.crm.retry.attemps: unknown key\n  to mend it: did you mean `attempts`?",
    );
    check(
        "[topology]\nshards = 3",
        &[],
        "postbound.toml:7: topology.shards: unknown key\n  \
         to mend it: known here: delivery_limit, partitions, queue_bytes_max, queue_messages_max",
    );
    check(
        "",
        &["POSTBOUND_WORKER__LEESE=5s"],
        "environment variable POSTBOUND_WORKER__LEESE: worker.leese: unknown key\n  \
         to mend it: did you mean `lease`?",
    );
    check(
        "",
        &["POSTBOUND_DATABASE_POOL_MAX=5"],
        "environment variable POSTBOUND_DATABASE_POOL_MAX: two underscores part the levels\n  \
         to mend it: name it POSTBOUND_DATABASE__POOL_MAX",
    );
}

#[test]
fn what_is_required_is_asked_for() {
    assert_snapshot!(refusal_of_whole("[targets.crm]\nurl = 'http://x'", &[]), @r#"
    the configuration has 3 errors:
    postbound.toml: database.url: is required
      to mend it: set it, or POSTBOUND_DATABASE__URL, to postgres://user:password@host/db
    postbound.toml: broker.url: is required
      to mend it: set it, or POSTBOUND_BROKER__URL, to amqp://user:password@host/vhost
    postbound.toml:1: targets.crm.adapter: a target needs an adapter
      to mend it: set `adapter` to one of "backend-sync", "crm-batch", "webhook", "workflow-trigger"
    "#);
    let error = Config::load(Some(Path::new("/nowhere/postbound.toml")), []).unwrap_err();
    assert_snapshot!(error, @"/nowhere/postbound.toml: cannot read the configuration: No such file or directory (os error 2)");
}

#[test]
fn a_mistyped_adapter_is_an_unknown_key() {
    check(
        "[targets.crm]\nadaptor = 'crm-batch'\nurl = 'http://x'",
        &[],
        "postbound.toml:7: targets.crm.adaptor: unknown key\n  to mend it: did you mean `adapter`?",
    );
}

#[test]
fn keys_of_the_other_adapter_are_refused_with_the_reason() {
    check(
        "[targets.backend]\nadapter = 'backend-sync'\nbatch_users_max = 50",
        &[],
        "postbound.toml:8: targets.backend.batch_users_max: \
         `batch_users_max` is for crm-batch targets; this one is backend-sync\n  \
         to mend it: remove it, or set `adapter = \"crm-batch\"`",
    );
    check(
        "[targets.crm]\nadapter = 'crm-batch'\nsend_tenant_header = false",
        &[],
        "postbound.toml:8: targets.crm.send_tenant_header: \
         `send_tenant_header` is for backend-sync targets; this one is crm-batch\n  \
         to mend it: remove it, or set `adapter = \"backend-sync\"`",
    );
}
