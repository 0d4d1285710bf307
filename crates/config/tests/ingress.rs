//! `[ingress]`: what is asked of sources and tokens.

use std::collections::BTreeMap;

use postbound_config::{Config, InboundKind, IngressScope, SignatureEncoding, Verification};

const BASE: &str = "[database]\nurl = \"postgres://db\"\n[broker]\nurl = \"amqp://mq\"\n";
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn load(toml: &str) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("postbound.toml");
    std::fs::write(&file, format!("{BASE}{toml}")).unwrap();
    Config::load(Some(&file), BTreeMap::new()).map_err(|errors| errors.to_string())
}

fn check_refused(toml: &str, says: &[&str]) {
    let said = load(toml).unwrap_err();
    for words in says {
        assert!(said.contains(words), "{words:?} is not in: {said}");
    }
    assert!(!said.contains("hunter2") && !said.contains(SECRET), "a secret is told: {said}");
}

fn source(keys: &str) -> String {
    format!("[ingress.sources.backend]\nkind = \"backend-sync\"\nsigning_secrets = [\"{SECRET}\"]\n{keys}\n")
}

#[test]
fn a_source_has_the_path_and_the_origin_of_its_kind_and_name_where_it_gives_none() {
    let config = load(&format!(
        "{}[ingress.sources.clerk]\nkind = \"clerk\"\nsigning_secrets_file = \"/run/clerk\"\norigin = \"idp\"\n",
        source("")
    ))
    .unwrap();
    let (backend, clerk) = (&config.ingress.sources["backend"], &config.ingress.sources["clerk"]);
    assert_eq!(
        (backend.kind, backend.path(), backend.origin()),
        (InboundKind::BackendSync, "/api/webhooks/backend-sync", "backend")
    );
    assert_eq!(
        (clerk.kind, clerk.path(), clerk.origin()),
        (InboundKind::Clerk, "/api/webhooks/clerk", "idp")
    );
    assert_eq!(
        (backend.verification, backend.signature_encoding),
        (Verification::StandardWebhooks, SignatureEncoding::Hex)
    );
}

#[test]
fn what_is_wrong_with_a_source_is_told_with_its_key() {
    check_refused(
        "[ingress.sources.x]\nsigning_secrets = [\"a\"]",
        &["ingress.sources.x", "`kind` is missing"],
    );
    check_refused(
        "[ingress.sources.x]\nkind = \"clark\"",
        &["ingress.sources.x.kind", "did you mean \"clerk\"?"],
    );
    check_refused(
        "[ingress.sources.x]\nkind = \"clerk\"",
        &["ingress.sources.x.signing_secrets", "unsigned"],
    );
    check_refused("[ingress.sources.x]\nkind = \"clerk\"\nsigning_secrets = [\"hunter2\"]", &["whsec_"]);
    check_refused(&source("signing_secrets_file = \"/x\""), &["signing_secrets_file", "either"]);
    check_refused(&source("path = \"api/webhooks\""), &["ingress.sources.backend.path"]);
    for path in ["/v1/events", "/api/users", "/api/sessions", "/openapi.json"] {
        check_refused(&source(&format!("path = \"{path}\"")), &["the ingress' own"]);
    }
    check_refused(&source("path = \"/api/{id}\""), &["ingress.sources.backend.path"]);
    check_refused(&source("tenant = \"a\"\ntenant_pointer = \"/data/b\""), &["tenant_pointer", "either"]);
    check_refused(&source("tenant_pointer = \"data\""), &["JSON pointer"]);
    check_refused(&source("link_system = \"frontendUserId\""), &["needs `link_target`"]);
    check_refused(&source("rate_limit = { requests = 0, per = \"1m\" }"), &["rate_limit.requests"]);
    check_refused(&source("signature_header = \"X Sig\""), &["no header's name"]);
    let twice = source("") + &source("").replace("sources.backend", "sources.other");
    check_refused(&twice, &["ingress.sources.other.path", "`backend` already"]);
    let short = source("verification = \"header-hmac\"").replace(SECRET, "hunter2");
    check_refused(&short, &["16 characters"]);
}

#[test]
fn a_token_says_what_it_opens() {
    let config =
        load("[ingress.tokens.convex]\ntoken = \"0123456789abcdef\"\nscopes = [\"events\", \"status\"]\n")
            .unwrap();
    let token = &config.ingress.tokens["convex"];
    assert_eq!(
        token.scopes.iter().copied().collect::<Vec<_>>(),
        [IngressScope::Events, IngressScope::Status]
    );
    check_refused("[ingress.tokens.x]\nscopes = [\"events\"]", &["ingress.tokens.x.token", "is required"]);
    check_refused("[ingress.tokens.x]\ntoken = \"hunter2\"\nscopes = [\"events\"]", &["16 characters"]);
    check_refused("[ingress.tokens.x]\ntoken = \"0123456789abcdef\"", &["ingress.tokens.x.scopes"]);
    check_refused(
        "[ingress.tokens.x]\ntoken = \"0123456789abcdef\"\nscopes = [\"all\"]",
        &["ingress.tokens.x.scopes"],
    );
}

#[test]
fn nobody_waits_longer_than_a_request_may_take() {
    check_refused(
        "[ingress]\nrequest_timeout = \"5s\"\nevents.wait_max = \"5s\"",
        &["ingress.events.wait_max"],
    );
    assert_eq!(load("[ingress]\nevents.wait_max = \"off\"").unwrap().ingress.events.wait_max, None);
}
