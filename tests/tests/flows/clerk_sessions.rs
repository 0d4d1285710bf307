//! Users who come with Clerk's session token: the fallback for a lost webhook, their own data, their login.

use super::Town;
use super::town::{Habits, clerk_delete, clerk_user, now, said};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::Method;
use serde_json::{Value, json};
use std::io::Write as _;
use std::process::{Command, Stdio};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const SITE: &str = "https://app.example.com";
const SECRET: &str = "sk_test_of_the_tests";

/// Clerk, as far as it matters here: a key made by the test, its set, and a Backend API that knows one user.
struct Clerk {
    folder: TempDir,
    url: String,
}

impl Clerk {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key.pem");
        openssl(&["genpkey", "-algorithm", "RSA", "-out", key.to_str().unwrap()], b"");
        let modulus = openssl(&["rsa", "-in", key.to_str().unwrap(), "-noout", "-modulus"], b"");
        let modulus = String::from_utf8(modulus).unwrap();
        let modulus = modulus.trim().trim_start_matches("Modulus=").as_bytes();
        let bytes: Vec<u8> = modulus
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        let set = json!({"keys": [
            {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "ins_1", "n": encoded(bytes), "e": "AQAB"}
        ]});
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(serve(listener, set));
        Self { folder, url }
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("ingress.directory.clerk_issuer", self.url.clone()),
            ("ingress.directory.clerk_jwks_url", format!("{}/.well-known/jwks.json", self.url)),
            ("ingress.directory.clerk_authorized_parties", SITE.to_owned()),
            ("ingress.directory.clerk_api_url", self.url.clone()),
            ("ingress.directory.clerk_secret_key", SECRET.to_owned()),
        ]
    }

    /// A session token of a user, with further claims.
    fn token(&self, user: &str, claims: &Value) -> String {
        let at = now();
        let mut all = json!({
            "sub": user, "sid": format!("sess_{user}"), "iss": self.url, "azp": SITE, "iat": at, "nbf": at - 10, "exp": at + 600
        });
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        let header = json!({"alg": "RS256", "typ": "JWT", "kid": "ins_1"});
        let message = format!("{}.{}", encoded(header.to_string()), encoded(all.to_string()));
        let key = self.folder.path().join("key.pem");
        let signature = openssl(&["dgst", "-sha256", "-sign", key.to_str().unwrap()], message.as_bytes());
        format!("{message}.{}", encoded(signature))
    }
}

/// Answers `GET`s: the key set, one user for whoever has the secret, 404 else.
async fn serve(listener: TcpListener, set: Value) {
    while let Ok((mut connection, _)) = listener.accept().await {
        let set = set.to_string();
        tokio::spawn(async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(connection.read_u8().await?);
            }
            let head = String::from_utf8_lossy(&head);
            let path = head.split(' ').nth(1).unwrap_or_default();
            let known = head.contains(&format!("Bearer {SECRET}"));
            let (status, body) = match path {
                "/.well-known/jwks.json" => ("200 OK", set),
                "/v1/users/user_api" if known => {
                    ("200 OK", clerk_user("user.created", "user_api", "Api", 5_000)["data"].to_string())
                }
                _ => ("404 Not Found", "{}".to_owned()),
            };
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            connection.write_all(answer.as_bytes()).await
        });
    }
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn openssl(args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = Command::new("openssl");
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("openssl makes the test's key");
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "openssl {args:?}");
    output.stdout
}

async fn town(clerk: &Clerk) -> Town {
    let settings = clerk.settings();
    let settings: Vec<_> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
    Town::start_with(Habits::default(), &settings).await
}

/// What a user is answered who comes with a token.
async fn ask(town: &Town, token: &str, method: Method, path: &str, body: &Value) -> (u16, Value) {
    let request = town.request(method, path).bearer_auth(token);
    let request = if body.is_null() { request } else { request.json(body) };
    said(request.send().await.unwrap()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_whose_webhook_was_lost_is_there_after_the_front_end_has_asked() {
    let clerk = Clerk::start().await;
    let town = town(&clerk).await;
    let check = async |user: &str, claims: Value, expected: u16, email: Value| {
        let token = clerk.token(user, &claims);
        let (status, answer) = ask(&town, &token, Method::POST, "/api/users", &Value::Null).await;
        assert_eq!((status, &answer["email"]), (expected, &email), "{user}: {answer}");
    };
    // By the token, by Clerk's Backend API, by neither; and again, when they are there.
    check("user_jwt", json!({"email": "jwt@example.com", "first_name": "J"}), 201, json!("jwt@example.com"))
        .await;
    check("user_api", json!({}), 201, json!("user_api@example.com")).await;
    check("user_lost", json!({}), 422, Value::Null).await;
    check("user_lost", json!({"email": "lost@example.com", "email_verified": false}), 422, Value::Null).await;
    check("user_jwt", json!({"email": "other@example.com"}), 200, json!("jwt@example.com")).await;

    // The webhook comes after all, and knows better; the theme stays.
    let token = clerk.token("user_jwt", &json!({}));
    let (status, user) = ask(&town, &token, Method::PUT, "/api/users", &json!({"theme": "dark"})).await;
    assert_eq!((status, &user["theme"]), (200, &json!("dark")), "{user}");
    let (_, answer) = town.clerk("msg_1", &clerk_user("user.created", "user_jwt", "Jay", 1_000)).await;
    assert_eq!(answer["outcome"], "applied", "{answer}");
    let (_, user) = ask(&town, &token, Method::GET, "/api/users", &Value::Null).await;
    assert_eq!((&user["firstName"], &user["theme"]), (&json!("Jay"), &json!("dark")), "{user}");
    // One older than what the Backend API said does not.
    let (_, answer) = town.clerk("msg_2", &clerk_user("user.created", "user_api", "Older", 4_000)).await;
    assert_eq!(answer["outcome"], "older", "{answer}");
    town.until_at_rest().await;
    assert_eq!(town.number("select count(*) from receiver.backend_users where is_active").await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_sees_and_changes_nobody_else_and_nothing_once_deleted() {
    let clerk = Clerk::start().await;
    let town = town(&clerk).await;
    town.clerk("msg_1", &clerk_user("user.created", "user_1", "Ada", 1_000)).await;
    town.register("u-2", "Other").await;
    let token = clerk.token("user_1", &json!({}));
    for (method, path, body, expected) in [
        (Method::GET, "/api/users?id=u-2", Value::Null, 200),
        (Method::PUT, "/api/users", json!({"id": "u-2", "theme": "dark"}), 403),
        (Method::PUT, "/api/users", json!({"email": "mine@example.com"}), 422),
        (Method::PUT, "/api/users", json!({"isActive": true}), 422),
        (Method::PUT, "/api/users", json!({"theme": 5}), 422),
        (Method::PUT, "/api/users", json!(["theme"]), 400),
        (Method::DELETE, "/api/users?id=user_1", Value::Null, 403),
        (Method::POST, "/api/sessions", Value::Null, 201),
        (Method::GET, "/api/sessions/sess_user_1", Value::Null, 200),
    ] {
        let (status, answer) = ask(&town, &token, method.clone(), path, &body).await;
        assert_eq!(status, expected, "{method} {path} {body}: {answer}");
        assert_ne!(answer["id"], "u-2", "{answer}");
    }
    let other = clerk.token("user_2", &json!({}));
    assert_eq!(ask(&town, &other, Method::GET, "/api/users", &Value::Null).await.0, 404);
    assert_eq!(ask(&town, &other, Method::GET, "/api/sessions/sess_user_1", &Value::Null).await.0, 404);
    let evil = clerk.token("user_1", &json!({"azp": "https://evil.example.com"}));
    assert_eq!(ask(&town, &evil, Method::GET, "/api/users", &Value::Null).await.0, 401);
    // A browser sends the cookie along, and says for whom.
    for (origin, expected) in [(None, 200), (Some(SITE), 200), (Some("https://evil.example.com"), 403)] {
        let request =
            town.request(Method::GET, "/api/users").header("cookie", format!("a=b; __session={token}"));
        let request = origin.into_iter().fold(request, |request, origin| request.header("origin", origin));
        assert_eq!(request.send().await.unwrap().status().as_u16(), expected, "{origin:?}");
    }

    // A page of another origin asks before it comes.
    for (origin, allowed) in [(SITE, Some(SITE)), ("https://evil.example.com", None)] {
        let asked = town.request(Method::OPTIONS, "/api/users").header("origin", origin);
        let asked = asked.header("access-control-request-method", "PUT").send().await.unwrap();
        let allow = asked.headers().get("access-control-allow-origin").map(|value| value.to_str().unwrap());
        assert_eq!(allow, allowed);
    }

    town.clerk("msg_2", &clerk_delete("user_1")).await;
    for (method, path) in
        [(Method::GET, "/api/users"), (Method::POST, "/api/users"), (Method::POST, "/api/sessions")]
    {
        let (status, answer) = ask(&town, &token, method.clone(), path, &Value::Null).await;
        assert_eq!(
            (status, &answer["type"]),
            (403, &json!("/problems/user-deleted")),
            "{method} {path}: {answer}"
        );
    }
    let (_, session) = ask(&town, &token, Method::GET, "/api/sessions/sess_user_1", &Value::Null).await;
    assert_eq!((&session["active"], &session["endReason"]), (&json!(false), &json!("user_deleted")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_page_through_users_and_find_them_by_address() {
    let town = Town::start(Habits::default()).await;
    for user in ["a", "b", "c", "d", "e"] {
        town.register(user, user).await;
    }
    town.ask(Method::DELETE, "/api/users?id=c", &Value::Null).await;
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let (status, page) = town.ask(Method::GET, &format!("/api/users?limit=2{after}"), &Value::Null).await;
        assert_eq!(status, 200, "{page}");
        seen.extend(
            page["users"].as_array().unwrap().iter().map(|user| user["id"].as_str().unwrap().to_owned()),
        );
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ["a", "b", "d", "e"]);
    let (_, found) = town.ask(Method::GET, "/api/users?email=B@EXAMPLE.com", &Value::Null).await;
    assert_eq!(found["users"].as_array().unwrap().len(), 1, "{found}");
    assert_eq!(found["users"][0]["id"], "b");
    for (path, expected) in [
        ("/api/users?id=nobody", 404),
        ("/api/users?limit=0", 422),
        ("/api/users?limit=many", 400),
        ("/api/users?page=2", 400),
    ] {
        assert_eq!(town.ask(Method::GET, path, &Value::Null).await.0, expected, "{path}");
    }
    for id in [json!("x".repeat(257)), json!("a\nb"), json!("a\u{0}b")] {
        let (status, answer) = town.ask(Method::POST, "/api/users", &json!({"id": id})).await;
        assert_eq!(status, 422, "{id}: {answer}");
    }
    let nobody = json!({"id": "x", "email": 5});
    assert_eq!(town.ask(Method::POST, "/api/users", &nobody).await.0, 422);
    // A service that wants a user back says so by POST; PUT refuses.
    let put = town.ask(Method::PUT, "/api/users", &json!({"id": "c", "theme": "dark"})).await;
    assert_eq!(put.0, 409, "{put:?}");
    let back = town.ask(Method::POST, "/api/users", &json!({"id": "c", "email": "c@example.com"})).await;
    assert_eq!(
        (back.0, &back.1["isActive"], &back.1["deletedAt"]),
        (201, &json!(true), &Value::Null),
        "{back:?}"
    );
    town.ask(Method::PUT, "/api/users", &json!({"id": "c", "isActive": false})).await;
    let login = town.ask(Method::POST, "/api/sessions", &json!({"userId": "c"})).await;
    assert_eq!((login.0, &login.1["type"]), (403, &json!("/problems/user-inactive")), "{login:?}");
}
