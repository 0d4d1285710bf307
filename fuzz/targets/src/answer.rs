//! Answers of targets.

use postbound_event::{Action, UserKey};
use postbound_target::{
    AdapterSettings, Delivery, Outcome, SecretFn, Target, TargetSettings, WebhookBody, WorkflowSettings,
};
use serde_json::value::RawValue;
use std::{sync::LazyLock, time::Duration};
use time::OffsetDateTime;
use uuid::Uuid;

const SECRET: &str = "canary-api-key-9c1d4e";
const EMAIL: &str = "canary.7f3a@example.com";
const DETAIL_CHARS_MAX: usize = 300;

static BACKEND_SYNC: LazyLock<Target> =
    LazyLock::new(|| target_of(AdapterSettings::BackendSync { send_tenant_header: false }));
static CRM_BATCH: LazyLock<Target> = LazyLock::new(|| {
    target_of(AdapterSettings::CrmBatch {
        sync_source: "s".to_owned(),
        synced_by: "s".to_owned(),
        application_code: "crm".to_owned(),
        batch_users_max: 100,
        send_versions: true,
    })
});
static WEBHOOK: LazyLock<Target> = LazyLock::new(|| {
    target_of(AdapterSettings::Webhook {
        body: WebhookBody::CloudEvents { source: "/".to_owned(), type_prefix: String::new() },
        content_type: "application/json".to_owned(),
        headers: Vec::new(),
        api_key_header: "X-API-Key".to_owned(),
        external_id: Some("/contact/id".to_owned()),
        changed_fields: Vec::new(),
    })
});
static WORKFLOW: LazyLock<Target> =
    LazyLock::new(|| target_of(AdapterSettings::WorkflowTrigger(WorkflowSettings::default())));
static DELIVERIES: LazyLock<Vec<Delivery>> = LazyLock::new(|| (1..=3).map(delivery).collect());

/// Lines: number of users (the first byte; 0: `backend-sync`, h: `webhook`, w: `workflow-trigger`), status, `Retry-After`; what follows is the body. Every
/// user has an outcome, failures tell neither secrets nor the users' data, and nothing but a 2xx is a success.
pub fn target(data: &[u8]) {
    let mut parts = data.splitn(4, |byte| *byte == b'\n');
    let [users, status, retry_after, body] = [(); 4].map(|()| parts.next().unwrap_or_default());
    let status = std::str::from_utf8(status).ok().and_then(|text| text.parse().ok()).unwrap_or(200);
    let retry_after = std::str::from_utf8(retry_after).ok().filter(|text| !text.is_empty());
    let (target, deliveries) = match users.first().unwrap_or(&b'0') {
        b'h' => (&*WEBHOOK, &DELIVERIES[..1]),
        b'w' => (&*WORKFLOW, &DELIVERIES[..1]),
        users => match usize::from(users % 4) {
            0 => (&*BACKEND_SYNC, &DELIVERIES[..1]),
            users => (&*CRM_BATCH, &DELIVERIES[..users]),
        },
    };
    let outcomes = target.read_answer(status, retry_after, body.to_vec(), deliveries);
    assert_eq!(outcomes.len(), deliveries.len());
    for outcome in outcomes {
        match outcome {
            Outcome::Delivered { external_id, links } => {
                assert!((200..300).contains(&status), "{status} is no success");
                let ids = external_id.into_iter().chain(links.into_iter().map(|link| link.id));
                ids.for_each(|id| assert!(id.len() <= 512 && !id.chars().any(char::is_control)));
            }
            Outcome::Stale { held_version } => {
                assert!(held_version.is_none_or(|version| version > 0));
                assert!(
                    (200..300).contains(&status) || [409, 412].contains(&status),
                    "{status} is not stale"
                );
            }
            Outcome::Failed(failure) => {
                assert!(failure.detail.chars().count() <= DETAIL_CHARS_MAX, "{}", failure.detail);
                assert!(
                    !failure.detail.contains(SECRET) && !failure.detail.contains(EMAIL),
                    "{}",
                    failure.detail
                );
                assert!(failure.retry_after.is_none_or(|pause| pause <= Duration::from_secs(24 * 3600)));
            }
        }
    }
}

fn target_of(adapter: AdapterSettings) -> Target {
    let mut settings = TargetSettings::new("fuzzed", "http://127.0.0.1:9/", adapter);
    settings.api_key = SecretFn::fixed(SECRET);
    Target::new(settings).expect("settings that can be used")
}

fn delivery(number: u128) -> Delivery {
    let data = format!(r#"{{"email":"{EMAIL}","username":"canary{number}"}}"#);
    Delivery {
        event_id: Uuid::from_u128(number),
        key: UserKey::new("t", format!("u{number}")),
        version: 7,
        action: Action::Updated,
        logged_at: OffsetDateTime::UNIX_EPOCH,
        traceparent: None,
        data: RawValue::from_string(data).expect("JSON").into(),
        resend: 0,
        full_sync: false,
    }
}
