use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde_json::json;
use tokio::net::TcpListener;

use super::*;
use crate::directory::clerk_api::http_client;

const ISSUER: &str = "https://clerk.example.com";
const SITE: &str = "https://app.example.com";

/// A key made here, with its name.
struct Key {
    kid: &'static str,
    pair: RsaKeyPair,
}

impl Key {
    fn new(kid: &'static str) -> Self {
        let made = Command::new("openssl")
            .args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-outform", "DER"])
            .output()
            .expect("openssl is needed to make a key");
        // PKCS#1 or PKCS#8, by the version of openssl.
        let pair = RsaKeyPair::from_der(&made.stdout).or_else(|_| RsaKeyPair::from_pkcs8(&made.stdout));
        Self { kid, pair: pair.unwrap() }
    }

    fn jwk(&self) -> Value {
        let public = RsaPublicKeyComponents::<Vec<u8>>::from(self.pair.public());
        json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.kid, "n": encoded(&public.n), "e": encoded(&public.e)})
    }

    fn sign(&self, claims: &Value) -> String {
        self.sign_as(&json!({"alg": "RS256", "typ": "JWT", "kid": self.kid}), claims)
    }

    fn sign_as(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encoded(header.to_string()), encoded(claims.to_string()));
        let mut signature = vec![0; self.pair.public().modulus_len()];
        self.pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
        format!("{message}.{}", encoded(signature))
    }
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Serves a key set that can be replaced, and counts who asks.
struct KeyServer {
    url: String,
    set: Arc<Mutex<Value>>,
    asked: Arc<AtomicUsize>,
}

impl KeyServer {
    async fn serving(keys: &[&Key]) -> Self {
        let set = Arc::new(Mutex::new(Value::Null));
        let asked = Arc::new(AtomicUsize::new(0));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/.well-known/jwks.json", listener.local_addr().unwrap());
        let (shown, counter) = (Arc::clone(&set), Arc::clone(&asked));
        let answer = move || {
            counter.fetch_add(1, Ordering::SeqCst);
            let set = shown.lock().unwrap().to_string();
            async move { set }
        };
        let router = Router::new().route("/.well-known/jwks.json", get(answer));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let server = Self { url, set, asked };
        server.serve(keys);
        server
    }

    fn serve(&self, keys: &[&Key]) {
        let keys: Vec<_> = keys.iter().map(|key| key.jwk()).collect();
        *self.set.lock().unwrap() = json!({ "keys": keys });
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn settings(jwks_url: &str) -> IngressDirectory {
    IngressDirectory {
        clerk_issuer: Some(ISSUER.to_owned()),
        clerk_jwks_url: Some(jwks_url.to_owned()),
        clerk_authorized_parties: vec![SITE.to_owned()],
        ..IngressDirectory::default()
    }
}

fn tokens(settings: &IngressDirectory) -> SessionTokens {
    let http = http_client(Duration::from_secs(5)).unwrap();
    SessionTokens::new(settings, &http).unwrap().unwrap()
}

/// Claims of a good token, with these over them; null takes one out.
fn claims(over: Value) -> Value {
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let mut claims = json!({
        "sub": "user_1", "sid": "sess_1", "iss": ISSUER, "azp": SITE, "iat": now, "nbf": now - 10, "exp": now + 60, "v": 2
    });
    let Value::Object(over) = over else { panic!("{over}") };
    for (name, value) in over {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(&name)),
            value => claims[name] = value,
        }
    }
    claims
}

async fn check(tokens: &SessionTokens, token: &str, expected: Option<TokenError>) {
    let verified = tokens.verify(token).await;
    assert_eq!(verified.as_ref().err(), expected.as_ref(), "{token}");
    if let Ok(claims) = verified {
        assert_eq!((claims.sub.as_str(), claims.sid.as_deref()), ("user_1", Some("sess_1")));
    }
}

#[tokio::test]
async fn a_token_is_taken_only_as_clerk_documents_it() {
    let (key, stranger) = (Key::new("ins_1"), Key::new("ins_1"));
    let server = KeyServer::serving(&[&key]).await;
    let tokens = tokens(&settings(&server.url));
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let of = |over: Value| key.sign(&claims(over));

    check(&tokens, &of(json!({})), None).await;
    check(&tokens, &of(json!({"azp": null})), None).await;
    check(&tokens, &of(json!({"exp": now - 60})), Some(TokenError::Expired)).await;
    check(&tokens, &of(json!({"nbf": now + 60})), Some(TokenError::Early)).await;
    check(&tokens, &of(json!({"iss": "https://clerk.example.org"})), Some(TokenError::Issuer)).await;
    check(&tokens, &of(json!({"azp": "https://evil.example.com"})), Some(TokenError::Party)).await;
    check(&tokens, &of(json!({"sts": "pending"})), Some(TokenError::Pending)).await;
    for missing in ["exp", "nbf", "iss", "sub"] {
        check(&tokens, &of(json!({ missing: null })), Some(TokenError::Claims)).await;
    }
    // A claim of the wrong type is not as good as none.
    for claim in ["exp", "nbf"] {
        check(&tokens, &of(json!({ claim: "99999999999" })), Some(TokenError::Claims)).await;
    }
    check(&tokens, &of(json!({"sub": ""})), Some(TokenError::Claims)).await;

    check(&tokens, &stranger.sign(&claims(json!({}))), Some(TokenError::Signature)).await;
    let good = of(json!({}));
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (header, _) = message.split_once('.').unwrap();
    let other = encoded(claims(json!({"sub": "user_2"})).to_string());
    check(&tokens, &format!("{header}.{other}.{signature}"), Some(TokenError::Signature)).await;
    check(&tokens, &format!("{message}."), Some(TokenError::Signature)).await;
    for token in ["", "a.b.c", message, &format!("{good}.x"), &"x".repeat(TOKEN_BYTES_MAX + 1)] {
        check(&tokens, token, Some(TokenError::Form)).await;
    }
    for alg in ["none", "HS256", "RS512"] {
        let token = key.sign_as(&json!({"alg": alg, "kid": "ins_1"}), &claims(json!({})));
        check(&tokens, &token, Some(TokenError::Form)).await;
    }
    let nameless = key.sign_as(&json!({"alg": "RS256"}), &claims(json!({})));
    check(&tokens, &nameless, Some(TokenError::Key)).await;
}

#[tokio::test]
async fn a_rotated_key_is_looked_for_once_and_strangers_do_not_make_us_ask() {
    let (old, new) = (Key::new("ins_old"), Key::new("ins_new"));
    let server = KeyServer::serving(&[&old]).await;
    let tokens = tokens(&settings(&server.url));
    check(&tokens, &old.sign(&claims(json!({}))), None).await;
    check(&tokens, &old.sign(&claims(json!({}))), None).await;
    assert_eq!(server.asked(), 1);

    // A minute has not passed since: a name nobody knows is not asked for again, and what is known still serves.
    server.serve(&[&old, &new]);
    for _ in 0..5 {
        check(&tokens, &new.sign(&claims(json!({}))), Some(TokenError::Key)).await;
    }
    check(&tokens, &old.sign(&claims(json!({}))), None).await;
    assert_eq!(server.asked(), 1);

    tokens.keys.pass_a_minute();
    let token = new.sign(&claims(json!({})));
    let together = futures_util::future::join_all((0..8).map(|_| check(&tokens, &token, None)));
    together.await;
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn while_the_keys_cannot_be_had_nobody_is_told_the_token_is_wrong() {
    let key = Key::new("ins_1");
    let tokens = tokens(&settings("http://127.0.0.1:1/jwks.json"));
    check(&tokens, &key.sign(&claims(json!({}))), Some(TokenError::Unavailable)).await;
}

#[tokio::test]
async fn keys_may_be_a_file_and_one_key_a_pem() {
    let key = Key::new("ins_1");
    let folder = tempfile::tempdir().unwrap();
    let set = folder.path().join("jwks.json");
    std::fs::write(&set, json!({"keys": [key.jwk(), {"kty": "EC", "kid": "other"}]}).to_string()).unwrap();
    let of_file =
        IngressDirectory { clerk_jwks_url: None, clerk_jwks_file: Some(set), ..settings("http://unused") };
    check(&tokens(&of_file), &key.sign(&claims(json!({}))), None).await;

    let (private, public) = (folder.path().join("key.pem"), folder.path().join("public.pem"));
    let openssl =
        |args: &[&str]| assert!(Command::new("openssl").args(args).output().unwrap().status.success());
    openssl(&["genpkey", "-algorithm", "RSA", "-out", private.to_str().unwrap()]);
    openssl(&["pkey", "-in", private.to_str().unwrap(), "-pubout", "-out", public.to_str().unwrap()]);
    let der = Command::new("openssl")
        .args(["pkcs8", "-topk8", "-nocrypt", "-outform", "DER", "-in", private.to_str().unwrap()])
        .output()
        .unwrap();
    let key = Key { kid: "whatever", pair: RsaKeyPair::from_pkcs8(&der.stdout).unwrap() };
    let of_pem =
        IngressDirectory { clerk_jwks_url: None, clerk_key_file: Some(public), ..settings("http://unused") };
    check(&tokens(&of_pem), &key.sign(&claims(json!({}))), None).await;
}
