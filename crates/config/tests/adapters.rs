//! The keys of webhook and workflow-trigger targets.

use crate::{good, refusal};
use postbound_config::{Action, Adapter, Target, Webhook, WorkflowTrigger};
use std::collections::BTreeSet;

fn target(text: &str) -> Target {
    good(&format!("[targets.x]\n{text}"), &[]).targets["x"].clone()
}

fn check(text: &str, said: &str) {
    let errors = refusal(&format!("[targets.x]\n{text}"), &[]);
    assert!(errors.contains(said), "{errors}\n--- for:\n{text}");
}

#[test]
fn a_trigger_gets_every_registration_and_nothing_twice_unless_told_otherwise() {
    let trigger = target("adapter = 'workflow-trigger'\nurl = 'https://backend.example'");
    assert_eq!(trigger.adapter, Adapter::WorkflowTrigger(WorkflowTrigger::default()));
    assert_eq!(trigger.endpoint().unwrap().as_str(), "https://backend.example/workflows/trigger");
    assert_eq!((trigger.coalesce, trigger.guards_versions), (false, true));
    assert_eq!(trigger.actions, BTreeSet::from([Action::Created]));
    let own = target(
        "adapter = 'workflow-trigger'\nurl = 'http://b/own'\nactions = ['created', 'deleted']\ncoalesce = false",
    );
    assert_eq!(own.actions, BTreeSet::from([Action::Created, Action::Deleted]));
    assert_eq!(own.endpoint().unwrap().as_str(), "http://b/own");
    check(
        "adapter = 'workflow-trigger'\ncoalesce = true",
        "targets.x.coalesce: a workflow-trigger target gets every event",
    );
}

#[test]
fn a_webhook_is_a_cloud_event_to_public_addresses_unless_told_otherwise() {
    let hook = target("adapter = 'webhook'\nurl = 'https://hook.example/in'");
    assert_eq!(hook.adapter, Adapter::Webhook(Webhook::default()));
    let Adapter::Webhook(webhook) = &hook.adapter else { panic!() };
    assert_eq!(webhook.content_type(), "application/cloudevents+json");
    assert!(!webhook.allow_private_addresses && hook.coalesce && !hook.guards_versions);
    let Adapter::Webhook(template) = target("adapter = 'webhook'\nbody = '{}'").adapter else { panic!() };
    assert_eq!(template.content_type(), "application/json");
    let events = target("adapter = 'webhook'\ncoalesce = false");
    assert!(events.guards_versions, "no event is told once more under another id");
    target("adapter = 'webhook'\nurl = 'http://10.1.2.3/in'\nallow_addresses = ['10.0.0.0/8']");
}

#[test]
fn what_cannot_work_is_refused_with_a_way_to_mend_it() {
    for (text, said) in [
        ("url = 'http://hook.example/'", "targets.x.url: a webhook to public addresses needs https"),
        ("allow_addresses = ['10.1.2.3', 'fd00::/8']", "\"10.1.2.3\" is not a network; expected such as"),
        ("external_id = 'id'", "targets.x.external_id: is not a JSON pointer"),
        ("header_templates = { 'Webhook-Id' = '{{/id}}' }", "is set by Postbound itself"),
        ("api_key_header = 'bad name'", "targets.x.api_key_header: is not a header's name"),
        ("basic_user = 'me'", "basic_user and basic_password need each other"),
        ("basic_user = 'm:e'\nbasic_password = 'p'", "must not hold a colon"),
        ("basic_user = 'me'\nbasic_password = 'p'\nbearer_token = 't'", "a request has one `Authorization`"),
        ("client_cert_file = '/c.pem'", "client_cert_file and client_key_file need each other"),
        ("trigger = 'x'", "`trigger` is for workflow-trigger targets; this one is webhook"),
        ("sync_source = 'x'", "`sync_source` is for crm-batch targets; this one is webhook"),
        ("dispositions = { result_failed = 'permanent' }", "is for crm-batch targets"),
    ] {
        check(&format!("adapter = 'webhook'\n{text}"), said);
    }
    check("adapter = 'workflow-trigger'\nlinks = { 'a b' = '/x' }", "a system's name is letters");
    check("adapter = 'workflow-trigger'\nlinks = { a = 'x' }", "targets.x.links.a: is not a JSON pointer");
    target("adapter = 'workflow-trigger'\ndispositions = { success_false = 'permanent' }");
}

#[test]
fn what_decides_on_requests_belongs_to_the_hash_and_secrets_do_not() {
    let hash = |text: &str| target(&format!("adapter = 'webhook'\nurl = 'https://h/'\n{text}")).hash();
    let base = hash("");
    for other in [
        "body = '{}'",
        "external_id = '/id'",
        "changed_fields = ['email']",
        "header_templates = { a = '{{/id}}' }",
        "tenants = ['acme']",
        "allow_private_addresses = true",
    ] {
        assert_ne!(hash(other), base, "{other}");
    }
    for same in
        ["basic_user = 'u'\nbasic_password = 'p'", "ca_file = '/ca.pem'", "timeout = '5s'", "tenants = []"]
    {
        assert_eq!(hash(same), base, "{same}");
    }
}

/// Beside the defaults the example shows, what it shows of these two adapters has to be real.
#[test]
fn the_commented_targets_of_the_example_load() {
    let example = include_str!("../../../postbound.example.toml");
    let start = example.find("# [targets.hook]").unwrap();
    let shown: String = example[start..]
        .lines()
        .take_while(|line| line.starts_with('#'))
        .filter_map(|line| {
            line.strip_prefix("# ").filter(|line| line.starts_with('[')).or(line.strip_prefix("#   "))
        })
        .filter(|line| !line.starts_with("and every"))
        .map(|line| {
            format!(
                "{}\n",
                line.replace("${WEBHOOK_URL:-}", "https://h/").replace("${WORKFLOW_URL:-}", "https://b")
            )
        })
        .collect();
    let config = good(&shown, &[]);
    assert_eq!(
        config.targets["registration"],
        Target {
            name: "registration".to_owned(),
            ..target("adapter = 'workflow-trigger'\nurl = 'https://b'\norigin = 'registration'")
        }
    );
    let Adapter::Webhook(hook) = &config.targets["hook"].adapter else { panic!() };
    let default = Webhook::default();
    assert_eq!(
        (&hook.event_source, &hook.event_type_prefix, &hook.api_key_header),
        (&default.event_source, &default.event_type_prefix, &default.api_key_header)
    );
}
