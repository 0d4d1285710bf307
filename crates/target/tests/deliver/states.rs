use postbound_event::{Action, UserKey};
use postbound_target::{
    AdapterSettings, BodyTemplate, Clock, Delivery, Outcome, SecretFn, SecretsFn, Target, TargetSettings,
    TenantInfo, TextTemplate, WebhookBody, WorkflowSettings,
};
use serde_json::value::RawValue;
use std::sync::Arc;
use std::time::Duration;
use time::macros::datetime;
use uuid::Uuid;

pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
pub(crate) const OLD_SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
/// The time of every attempt: 2015-10-21 07:28:00 UTC.
pub(crate) const NOW: i64 = 1_445_412_480;

pub(crate) fn state(user: &str, version: i64, action: Action, data: &str) -> Delivery {
    Delivery {
        event_id: Uuid::from_u128(u128::try_from(version).unwrap()),
        key: UserKey::new("acme", user),
        version,
        action,
        logged_at: datetime!(2025-08-19 10:00:00.123987 UTC) + Duration::from_secs(version.unsigned_abs()),
        traceparent: None,
        data: RawValue::from_string(data.to_owned()).unwrap().into(),
        resend: 0,
        full_sync: false,
    }
}

pub(crate) fn updated(user: &str, version: i64) -> Delivery {
    state(user, version, Action::Updated, &format!(r#"{{"email":"{user}@example.com","name":"N {user}"}}"#))
}

pub(crate) fn tenant() -> TenantInfo {
    TenantInfo {
        id: "acme".to_owned(),
        name: Some("Acme Inc".to_owned()),
        subdomain: Some("acme-sub".to_owned()),
        kinde_org_id: Some("org_1".to_owned()),
    }
}

pub(crate) fn backend() -> AdapterSettings {
    AdapterSettings::BackendSync { send_tenant_header: true }
}

pub(crate) fn crm() -> AdapterSettings {
    AdapterSettings::CrmBatch {
        sync_source: "postbound".to_owned(),
        synced_by: "postbound".to_owned(),
        application_code: "crm".to_owned(),
        batch_users_max: 100,
        send_versions: true,
    }
}

pub(crate) fn webhook() -> AdapterSettings {
    AdapterSettings::Webhook {
        body: WebhookBody::CloudEvents { source: "/postbound".to_owned(), type_prefix: "user.".to_owned() },
        content_type: "application/cloudevents+json".to_owned(),
        headers: Vec::new(),
        api_key_header: "X-API-Key".to_owned(),
        external_id: None,
        changed_fields: Vec::new(),
    }
}

/// A webhook whose body is `body`, with the user in a header and the id of the answer's contact.
pub(crate) fn webhook_of(body: &str) -> AdapterSettings {
    AdapterSettings::Webhook {
        body: WebhookBody::Template(BodyTemplate::parse(body).unwrap()),
        content_type: "application/json".to_owned(),
        headers: vec![("X-User".to_owned(), TextTemplate::parse("{{/tenant/id}} {{/user}}").unwrap())],
        api_key_header: "X-API-Key".to_owned(),
        external_id: Some("/contact/id".to_owned()),
        changed_fields: Vec::new(),
    }
}

pub(crate) fn template() -> AdapterSettings {
    webhook_of(r#"{"who": "{{/user}}", "all": "{{/data}}", "v": "{{/version}}"}"#)
}

pub(crate) fn workflow() -> AdapterSettings {
    AdapterSettings::WorkflowTrigger(WorkflowSettings::default())
}

/// Settings with a standing clock, a small cap, and timeouts that no busy machine meets.
pub(crate) fn settings(url: &str, adapter: AdapterSettings) -> TargetSettings {
    TargetSettings {
        timeout: Duration::from_secs(30),
        connect_timeout: Duration::from_secs(30),
        response_bytes_max: 64 << 10,
        clock: Clock::new(|| datetime!(2015-10-21 07:28:00 UTC)),
        ..TargetSettings::new("the-target", url, adapter)
    }
}

/// The same, with every kind of credential.
pub(crate) fn signed(url: &str, adapter: AdapterSettings) -> TargetSettings {
    TargetSettings {
        api_key: SecretFn::fixed("the-api-key"),
        bearer_token: SecretFn::fixed("the-token"),
        signing_secrets: SecretsFn::fixed([SECRET, OLD_SECRET]),
        headers: vec![("X-Extra".to_owned(), "extra-value".to_owned())],
        ..settings(url, adapter)
    }
}

pub(crate) async fn deliver(settings: TargetSettings, deliveries: &[Delivery]) -> Vec<Outcome> {
    Target::new(settings).unwrap().deliver(deliveries, &tenant()).await
}

/// An outcome in one line: class, reason, seconds of `Retry-After`, and the flags that are set.
pub(crate) fn brief(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Delivered { external_id, links } => {
            let mut brief = "delivered".to_owned();
            if let Some(id) = external_id {
                brief += &format!(" as {id}");
            }
            for link in links {
                brief += &format!(" {}={}", link.system, link.id);
            }
            brief
        }
        Outcome::Stale { held_version } => format!("stale {held_version:?}"),
        Outcome::Failed(failure) => {
            let mut brief = format!("{} {}", failure.class.as_str(), failure.reason);
            if let Some(wait) = failure.retry_after {
                brief += &format!(" after {} s", wait.as_secs());
            }
            for (set, flag) in
                [(failure.shared, "shared"), (failure.bisect, "bisect"), (failure.bounded, "bounded")]
            {
                if set {
                    brief += &format!(" {flag}");
                }
            }
            brief
        }
    }
}

pub(crate) fn detail(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Failed(failure) => &failure.detail,
        other => panic!("no failure: {other:?}"),
    }
}

pub(crate) fn arc(text: &str) -> Arc<str> {
    text.into()
}
