//! The registration workflow (S0).

use std::time::Duration;

use postbound_receiver::Smtp;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::stage::{Answer, Case, Stage};

const PATH: &str = "/workflows/trigger";

fn registration(user: &str) -> Value {
    json!({
        "trigger": "user_registration",
        "inputData": {
            "eventType": "account_created",
            "source": "haffnet_website",
            "customerData": {
                "email": format!("{user}@example.com"), "firstName": "Max", "lastName": "Mustermann",
                "phone": "+49 123 456789"
            },
            "metadata": {
                "convexUserId": user, "registrationDate": "2025-11-23T06:29:19Z", "platform": "web",
                "authProvider": "email"
            }
        }
    })
}

async fn trigger(stage: &Stage, headers: &[(&str, &str)], body: &Value) -> Answer {
    stage.send("POST", PATH, headers, body.to_string()).await
}

async fn count(stage: &Stage, sql: &'static str) -> i64 {
    stage.row(sql).await.as_i64().unwrap()
}

#[tokio::test]
async fn a_trigger_runs_the_behaviors_by_priority_and_answers_the_ids_they_made() {
    let stage = Stage::start(|_| ()).await;
    let answer = trigger(&stage, &[("postbound-tenant", "acme")], &registration("convex_user_1")).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let body = answer.json();
    assert_eq!(body["success"], true);
    let ran: Vec<&str> =
        body["behaviors"].as_array().unwrap().iter().map(|one| one["type"].as_str().unwrap()).collect();
    assert_eq!(ran, ["create-contact", "create-frontend-user", "send-welcome-email"]);
    let user = stage.row("select to_jsonb(u) - 'created_at' - 'updated_at' from frontend_users as u").await;
    assert_eq!(
        user,
        json!({
            "frontend_user_id": body["frontendUserId"], "crm_contact_id": body["crmContactId"], "tenant_id": "acme",
            "convex_user_id": "convex_user_1", "email": "convex_user_1@example.com",
            "custom_properties": { "convexUserId": "convex_user_1", "authProvider": "email" }
        })
    );
    let contact =
        stage.row("select jsonb_build_array(crm_contact_id, phone, source, tags) from crm_contacts").await;
    assert_eq!(
        contact,
        json!([body["crmContactId"], "+49 123 456789", "haffnet_website", ["website_user", "active"]])
    );
    assert_eq!(
        stage.row("select to_jsonb(state) from welcome_emails").await,
        "off",
        "no mail server is configured"
    );
    assert_eq!(stage.log().await, ["convex_user_1 - applied 200"]);
}

#[tokio::test]
async fn a_behavior_that_fails_is_logged_and_the_next_one_runs() {
    let stage = Stage::start(|_| ()).await;
    let mut body = registration("u1");
    body["inputData"]["customerData"]["phone"] = "7".repeat(51).into();
    let answer = trigger(&stage, &[], &body).await;
    let said = answer.json();
    assert_eq!((answer.status, &said["success"]), (200, &json!(true)), "{}", answer.text);
    assert_eq!(
        said["behaviors"][0],
        json!({ "type": "create-contact", "status": "failed", "error": "22001" })
    );
    assert_eq!(
        (&said["behaviors"][1]["status"], &said["behaviors"][2]["status"]),
        (&json!("done"), &json!("done"))
    );
    assert!(said["frontendUserId"].is_string() && said["crmContactId"].is_null(), "{said}");
    assert_eq!(count(&stage, "select to_jsonb(count(*)) from crm_contacts").await, 0);
    assert_eq!(count(&stage, "select to_jsonb(count(*)) from welcome_emails").await, 1);
}

#[tokio::test]
async fn a_run_that_made_no_user_is_not_remembered_and_a_retry_runs_it_again() {
    let stage = Stage::start(|_| ()).await;
    sqlx::query("update workflow_behaviors set enabled = false where type = 'create-frontend-user'")
        .execute(&stage.pool)
        .await
        .unwrap();
    let key = [("idempotency-key", "\"k1\"")];
    let failed = trigger(&stage, &key, &registration("u1")).await;
    assert_eq!((failed.status, &failed.json()["success"]), (200, &json!(false)));
    sqlx::query("update workflow_behaviors set enabled = true").execute(&stage.pool).await.unwrap();
    let retried = trigger(&stage, &key, &registration("u1")).await;
    assert_eq!(retried.json()["success"], true);
    assert_eq!(stage.log().await, ["u1 - refused 200", "u1 - applied 200"]);
    assert_eq!(count(&stage, "select to_jsonb(count(*)) from welcome_emails").await, 1);
}

#[tokio::test]
async fn a_repeated_key_answers_the_same_and_does_nothing_and_another_body_under_it_is_refused() {
    let stage = Stage::start(|_| ()).await;
    let key = [("idempotency-key", "\"k1\""), ("postbound-user-version", "1")];
    let first = trigger(&stage, &key, &registration("u1")).await;
    let again = trigger(&stage, &key, &registration("u1")).await;
    assert_eq!((again.status, again.json()), (200, first.json()));
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(trigger(&stage, &key, &registration("u2")).await.status, 422);
    // Without a key the user is found all the same.
    let keyless = trigger(&stage, &[], &registration("u1")).await.json();
    assert_eq!(keyless["frontendUserId"], first.json()["frontendUserId"]);
    assert_eq!(count(&stage, "select to_jsonb(count(*)) from welcome_emails").await, 1);
    assert_eq!(
        stage.log().await,
        ["u1 1 applied 200", "u1 1 replayed 200", "u2 1 key_conflict 422", "u1 - applied 200"]
    );
}

#[tokio::test]
async fn what_is_no_trigger_is_refused() {
    let stage = Stage::start(|config| config.backend_api_key = Some("key".to_owned())).await;
    let with = |pointer: &str, value: Value| {
        let mut body = registration("u1");
        *body.pointer_mut(pointer).unwrap() = value;
        body
    };
    let key = ("x-internal-api-key", "key");
    let cases: Vec<Case<Value>> = vec![
        ("no key", vec![], registration("u1"), 401),
        ("another trigger", vec![key], with("/trigger", json!("other")), 422),
        ("no trigger", vec![key], with("/trigger", json!("")), 400),
        ("no input", vec![key], with("/inputData", json!([])), 400),
        ("no customer", vec![key], with("/inputData/customerData", json!(null)), 422),
        ("no email", vec![key], with("/inputData/customerData/email", json!("")), 422),
        ("a number for an email", vec![key], with("/inputData/customerData/email", json!(7)), 400),
        ("no user", vec![key], with("/inputData/metadata/convexUserId", json!(null)), 422),
        ("no object", vec![key], json!([]), 400),
        ("all in order", vec![key], registration("u1"), 200),
    ];
    for (what, headers, body, status) in cases {
        assert_eq!(trigger(&stage, &headers, &body).await.status, status, "{what}");
    }
    assert_eq!(count(&stage, "select to_jsonb(count(*)) from frontend_users").await, 1);
}

/// A mail server that takes everything, or says no so many times first; gives what it was sent.
async fn mail_server(mut refusals: u32) -> (String, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("smtp://{}", listener.local_addr().unwrap());
    let (sender, mails) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let refuses = refusals > 0;
            refusals = refusals.saturating_sub(1);
            let _ = sender.send(talk(connection, refuses).await);
        }
    });
    (url, mails)
}

async fn talk(mut connection: TcpStream, refuses: bool) -> String {
    let (read, mut write) = connection.split();
    let mut lines = BufReader::new(read).lines();
    let mut mail = String::new();
    let mut in_data = false;
    write.write_all(b"220 mail.example\r\n").await.unwrap();
    while let Ok(Some(line)) = lines.next_line().await {
        let reply = match line.split([' ', ':']).next().unwrap_or_default() {
            _ if in_data && line != "." => {
                mail += &format!("{line}\n");
                continue;
            }
            "." => {
                in_data = false;
                "250 taken"
            }
            "RCPT" if refuses => "451 try again later",
            "DATA" => {
                in_data = true;
                "354 go on"
            }
            "QUIT" => "221 bye",
            _ => "250 fine",
        };
        if write.write_all(format!("{reply}\r\n").as_bytes()).await.is_err() {
            break;
        }
    }
    mail
}

#[tokio::test]
async fn a_new_user_is_welcomed_once_by_mail_though_the_mail_server_refuses_at_first() {
    let (url, mut mails) = mail_server(1).await;
    let smtp = Some(Smtp { url, from: "Backend <welcome@backend.example>".to_owned() });
    let stage = Stage::start(|config| config.smtp = smtp).await;
    for _ in 0..2 {
        assert_eq!(trigger(&stage, &[], &registration("u1")).await.status, 200);
    }
    let soon = Duration::from_secs(30);
    assert_eq!(tokio::time::timeout(soon, mails.recv()).await.unwrap().unwrap(), "", "it was refused");
    let mail = tokio::time::timeout(soon, mails.recv()).await.unwrap().unwrap();
    assert!(mail.contains("To: u1@example.com") && mail.contains("Hello Max,"), "{mail}");
    assert!(mail.contains("From: Backend <welcome@backend.example>"), "{mail}");
    while stage.row("select to_jsonb(state) from welcome_emails").await != "sent" {
        tokio::task::yield_now().await;
    }
    assert_eq!(trigger(&stage, &[], &registration("u1")).await.status, 200);
    assert_eq!(count(&stage, "select to_jsonb(count(*)) from welcome_emails").await, 1);
}
