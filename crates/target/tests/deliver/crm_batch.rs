use crate::server::{Server, answer};
use crate::states::{crm, deliver, settings, signed, state, tenant, updated};
use postbound_event::Action;
use postbound_target::{AdapterSettings, Delivery, Target, TenantInfo};

/// The body a CRM gets for these states.
async fn body(send_versions: bool, tenant: &TenantInfo, states: &[Delivery]) -> String {
    let server = Server::start(|_| answer(500, &[], "")).await;
    let AdapterSettings::CrmBatch { sync_source, synced_by, application_code, batch_users_max, .. } = crm()
    else {
        unreachable!("it is a crm-batch")
    };
    let adapter = AdapterSettings::CrmBatch {
        sync_source,
        synced_by,
        application_code,
        batch_users_max,
        send_versions,
    };
    Target::new(settings(&server.url(), adapter)).unwrap().deliver(states, tenant).await;
    server.last().body
}

async fn check_user(send_versions: bool, action: Action, data: &str, user: &str) {
    let body = body(send_versions, &tenant(), &[state("u1", 7, action, data)]).await;
    let users = body.split_once(r#""users":["#).unwrap().1.split_once(r#"],"metadata""#).unwrap().0;
    assert_eq!(users, user, "{action} of {data}");
}

#[tokio::test]
async fn a_body_is_the_contracts_with_users_by_id_and_the_time_of_the_newest_change() {
    let expected = concat!(
        r#"{"operation":"user_sync","tenant":{"id":"acme","name":"Acme Inc","subdomain":"acme-sub","kindeOrgId":"org_1"},"#,
        r#""users":[{"id":"a","email":"a@example.com","name":"N a","isActive":true,"version":9},"#,
        r#"{"id":"b","email":"b@example.com","name":"N b","isActive":true,"version":2}],"#,
        r#""metadata":{"syncTime":"2025-08-19T10:00:09.123Z","syncedBy":"postbound","syncType":"incremental","applicationCode":"crm"}}"#
    );
    assert_eq!(body(true, &tenant(), &[updated("b", 2), updated("a", 9)]).await, expected);
    assert_eq!(body(true, &tenant(), &[updated("a", 9), updated("b", 2)]).await, expected);
}

#[tokio::test]
async fn an_unknown_tenant_is_named_by_its_id() {
    let blank = TenantInfo { name: Some(" ".to_owned()), ..TenantInfo::unknown("acme") };
    for tenant in [TenantInfo::unknown("acme"), blank] {
        let body = body(true, &tenant, &[updated("a", 1)]).await;
        assert!(body.contains(r#""tenant":{"id":"acme","name":"acme"},"#), "{body}");
        assert!(body.contains(r#""syncType":"single_user""#), "{body}");
    }
}

#[tokio::test]
async fn a_request_says_whether_it_is_of_a_full_sync_of_one_user_or_of_some() {
    let of = |user: &str, full_sync| Delivery { full_sync, ..updated(user, 1) };
    let check = async |states: &[Delivery], sync_type: &str| {
        let body = body(true, &tenant(), states).await;
        assert!(body.contains(&format!(r#""syncType":"{sync_type}""#)), "{body}");
    };
    check(&[of("a", false)], "single_user").await;
    check(&[of("a", false), of("b", false)], "incremental").await;
    check(&[of("a", true), of("b", true)], "full").await;
    // The rest of a full sync may be one user.
    check(&[of("a", true)], "full").await;
    check(&[of("a", true), of("b", false)], "incremental").await;
}

#[tokio::test]
async fn a_user_has_the_contracts_fields_as_they_came() {
    use Action::{Created, Deleted, Updated};
    check_user(
        false,
        Created,
        r#"{"subscriptionTier": "premium", "kindeUserId": "k1", "email": "u@x.de", "name": "Full", "avatar": "a",
            "isActive": false, "isAdmin": true, "department": "Sales", "title": "Boss", "lastActiveAt": "2025",
            "roles": ["user", "manager"], "permissions": [], "allowedApplications": ["crm"], "phone": "no"}"#,
        concat!(
            r#"{"id":"u1","kindeUserId":"k1","email":"u@x.de","name":"Full","avatar":"a","isActive":false,"#,
            r#""isAdmin":true,"department":"Sales","title":"Boss","lastActiveAt":"2025","roles":["user", "manager"],"#,
            r#""permissions":[],"allowedApplications":["crm"],"subscriptionTier":"premium"}"#
        ),
    )
    .await;
    check_user(true, Updated, "{}", r#"{"id":"u1","name":"u1","isActive":true,"version":7}"#).await;
    check_user(false, Deleted, "{}", r#"{"id":"u1","name":"u1","isActive":false}"#).await;
    let deleted =
        r#"{"id":"u1","email":"e@x.de","name":"e@x.de","isActive":false,"version":7,"deleted":true}"#;
    check_user(true, Deleted, r#"{"email":"e@x.de","isActive":true}"#, deleted).await;
    let named = |name: &str| format!(r#"{{"id":"u1","name":{name},"isActive":true}}"#);
    check_user(false, Updated, r#"{"name":"","displayName":"D"}"#, &named(r#""D""#)).await;
    check_user(false, Updated, r#"{"firstName":"F","lastName":"L","username":"n"}"#, &named(r#""F L""#))
        .await;
    check_user(false, Updated, r#"{"email":"","username":"n"}"#, &named(r#""n""#)).await;
}

#[tokio::test]
async fn a_request_bears_the_headers_of_the_contract() {
    let server = Server::start(|_| answer(500, &[], "")).await;
    deliver(signed(&server.url(), crm()), &[updated("b", 2), updated("a", 9)]).await;
    deliver(signed(&server.url(), crm()), &[updated("a", 9)]).await;
    for request in server.received() {
        for (name, value) in
            [("x-internal-api-key", "the-api-key"), ("x-tenant-id", "acme"), ("x-sync-source", "postbound")]
        {
            assert_eq!(request.header(name), Some(value), "{name}");
        }
    }
}

#[tokio::test]
async fn a_batch_size_beyond_the_contract_is_refused() {
    for (users, possible) in [(0, false), (1, true), (100, true), (101, false)] {
        let adapter = AdapterSettings::CrmBatch {
            sync_source: String::new(),
            synced_by: String::new(),
            application_code: String::new(),
            batch_users_max: users,
            send_versions: true,
        };
        assert_eq!(Target::new(settings("http://127.0.0.1:1", adapter)).is_ok(), possible, "{users}");
    }
}
