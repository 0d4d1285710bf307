use crate::server::{Server, answer};
use crate::states::{backend, deliver, detail, signed, state};
use postbound_event::Action;

const USER: &str = r#"{"id":"u-7654321","email":"max.muster@example.com","firstName":"Max","lastName":"M\u00fcller-Li",
    "phone":"+49 30 1234567","age":4711,"role":"user","address":{"street":"Hauptweg 7"},"bio":"likes trains"}"#;

/// What is told of a refusal with this body.
async fn check(content_type: &'static str, body: &'static str, expected: &str) {
    let server = Server::start(move |_| answer(422, &[("content-type", content_type)], body)).await;
    let delivery = state("u-7654321", 1, Action::Updated, USER);
    let outcomes = deliver(signed(&server.url(), backend()), &[delivery]).await;
    assert_eq!(detail(&outcomes[0]), expected, "{body}");
}

#[tokio::test]
async fn a_targets_own_words_are_kept_and_the_users_are_masked() {
    let text = "text/plain; charset=utf-8";
    check(text, "the role user is unknown\r\n", "the role user is unknown").await;
    check(text, "user u-7654321 is invalid", "user u-7654321 is invalid").await;
    check(text, "Max Müller-Li <max.muster@example.com> exists", "*** ***-*** <***> exists").await;
    check(text, "Key (email)=(MAX.MUSTER@Example.Com) exists", "Key (email)=(***) exists").await;
    check(text, "other.person@elsewhere.org exists", "*** exists").await;
    check(text, "login MaxMuster taken", "login *** taken").await;
    check(text, "call +49301234567 or 0301234567", "call +*** or ***").await;
    check(text, "no such street: Hauptweg", "no such street: ***").await;
    check(text, "max%2Emuster%40example.com", "***%***%***.***").await;
    check(text, "age 4711, limit 120", "age ***, limit 120").await;
    check(text, "key the-api-key, Bearer the-token, extra-value", "key ***, Bearer ***, ***").await;
}

#[tokio::test]
async fn only_text_meant_for_reading_is_told() {
    let problem = r#"{"type":"/problems/invalid-content","title":"Invalid","detail":"email of Max is bad","sent":{"email":"x"}}"#;
    check("application/problem+json", problem, "invalid-content: Invalid: email of *** is bad").await;
    check(
        "application/json",
        r#"{"error":"Invalid","details":[{"message":"\"email\" is bad"}]}"#,
        "Invalid: \"email\" is bad",
    )
    .await;
    check("text/html", "<html><body>Server Error in Application</body></html>", "").await;
    check("application/json", r#"{"received":{"firstName":"Max"}}"#, "").await;
    check("text/plain", "", "").await;
}
