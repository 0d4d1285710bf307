use crate::states::{OLD_SECRET, SECRET};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use postbound_target::signature::{HeaderNames, Rejection, SigningKey, Verifier, sign};

const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
const AT: i64 = 1_614_265_330;
const BODY: &[u8] = br#"{"test": 2432232314}"#;
const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

type Headers<'a> = Vec<(&'static str, &'a str)>;

fn keys(secrets: &[&str]) -> Vec<SigningKey> {
    secrets.iter().map(|secret| SigningKey::parse(secret).unwrap()).collect()
}

fn verify(names: HeaderNames, entries: &Headers<'_>, body: &[u8], now: i64) -> Result<String, Rejection> {
    let mut headers = HeaderMap::new();
    for (name, value) in entries {
        headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    let verifier = Verifier { keys: keys(&[OLD_SECRET, SECRET]), names, body_bytes_max: 1024 };
    verifier.verify(&headers, body, now).map(str::to_owned)
}

fn check(entries: &Headers<'_>, body: &[u8], now: i64, expected: Result<&str, Rejection>) {
    let verdict = verify(HeaderNames::Standard, entries, body, now);
    assert_eq!(verdict, expected.map(str::to_owned), "{entries:?} at {now}");
}

fn named<'a>(id: &'a str, timestamp: &'a str, signature: &'a str) -> Headers<'a> {
    vec![("webhook-id", id), ("webhook-timestamp", timestamp), ("webhook-signature", signature)]
}

#[test]
fn the_published_vectors_are_made_and_accepted() {
    assert_eq!(sign(&keys(&[SECRET]), ID, AT, BODY), SIGNATURE);
    let other = "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=";
    let (id, at, body) = (
        "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
        1_649_367_553,
        br#"{"email":"test@example.com","username":"test_user"}"#,
    );
    assert_eq!(sign(&keys(&[OLD_SECRET]), id, at, body), other);
    check(&named(id, "1649367553", other), body, at, Ok(id));
    for now in [AT - 300, AT, AT + 300] {
        check(&named(ID, "1614265330", SIGNATURE), BODY, now, Ok(ID));
    }
    let svix = vec![("svix-id", ID), ("svix-timestamp", "1614265330"), ("svix-signature", SIGNATURE)];
    assert_eq!(verify(HeaderNames::Svix, &svix, BODY, AT), Ok(ID.to_owned()));
}

#[test]
fn every_secret_signs_and_any_is_accepted() {
    let both = sign(&keys(&[OLD_SECRET, SECRET]), ID, AT, BODY);
    assert_eq!(both.split(' ').count(), 2);
    assert!(both.ends_with(SIGNATURE));
    check(&named(ID, "1614265330", &both), BODY, AT, Ok(ID));
    let unknown = format!("v1a,zzzz v1,short v1,{} {SIGNATURE}", "A".repeat(43) + "=");
    check(&named(ID, "1614265330", &unknown), BODY, AT, Ok(ID));
}

#[test]
fn anything_else_is_refused() {
    use Rejection as R;
    let good = named(ID, "1614265330", SIGNATURE);
    for entry in &good {
        let rest: Headers<'_> = good.iter().filter(|other| *other != entry).copied().collect();
        check(&rest, BODY, AT, Err(R::Missing(entry.0)));
        let twice: Headers<'_> = good.iter().chain([entry]).copied().collect();
        check(&twice, BODY, AT, Err(R::Duplicated(entry.0)));
        let mixed: Headers<'_> = good.iter().copied().chain([("svix-id", ID)]).collect();
        check(&mixed, BODY, AT, Err(R::MixedNames));
    }
    assert_eq!(verify(HeaderNames::Svix, &good, BODY, AT), Err(R::MixedNames));
    check(&named("\u{e9}", "1614265330", SIGNATURE), BODY, AT, Err(R::Missing("webhook-id")));
    for id in ["", "msg.1"] {
        check(&named(id, "1614265330", SIGNATURE), BODY, AT, Err(R::Id));
    }
    for timestamp in
        ["", "+1614265330", "-1614265330", "1614265330.0", " 1614265330", "soon", "99999999999999999999"]
    {
        check(&named(ID, timestamp, SIGNATURE), BODY, AT, Err(R::Timestamp));
    }
    check(&good, BODY, AT + 301, Err(R::Stale));
    check(&good, BODY, AT - 301, Err(R::Stale));
    check(&named(ID, "9223372036854775807", SIGNATURE), BODY, AT, Err(R::Stale));
    let second_version = SIGNATURE.replace("v1", "v2");
    for list in ["", " ", "v1,", "v1,g0hM9SsE", "v1", &SIGNATURE[3..], &second_version] {
        check(&named(ID, "1614265330", list), BODY, AT, Err(R::NoSignature));
    }
    check(&named(ID, "1614265330", &[SIGNATURE; 17].join(" ")), BODY, AT, Err(R::TooManySignatures));
    check(&good, &[b' '; 1025], AT, Err(R::BodyTooLarge));
    check(&good, br#"{"test":2432232314}"#, AT, Err(R::Mismatch));
    check(&named("msg_other", "1614265330", SIGNATURE), BODY, AT, Err(R::Mismatch));
    check(&named(ID, "1614265331", SIGNATURE), BODY, AT, Err(R::Mismatch));
}

#[test]
fn a_secret_that_is_no_key_is_refused_and_not_shown() {
    for secret in ["MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_", "whsec_c2hvcnQ=", "whsec_%%%"] {
        assert!(SigningKey::parse(secret).is_err(), "{secret}");
    }
    assert_eq!(format!("{:?}", keys(&[SECRET])), "[***]");
}
