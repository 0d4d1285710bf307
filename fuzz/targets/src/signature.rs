//! Signatures of Standard Webhooks.

use http::HeaderMap;
use postbound_target::signature::{HeaderNames, SigningKey, Verifier, sign};

const SECRETS: [&str; 2] =
    ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"];
/// The published vector's time.
const NOW: i64 = 1_614_265_330;

/// Lines: id, timestamp, signatures; what follows is the body. What is accepted was signed with one of the keys, within
/// the tolerance; what is signed is accepted, and a changed body is not.
pub fn target(data: &[u8]) {
    let keys: Vec<SigningKey> = SECRETS.iter().filter_map(|secret| SigningKey::parse(secret).ok()).collect();
    let verifier = Verifier { keys: keys.clone(), names: HeaderNames::Standard, body_bytes_max: 1 << 16 };
    let mut parts = data.splitn(4, |byte| *byte == b'\n');
    let [id, timestamp, signatures, body] = [(); 4].map(|()| parts.next().unwrap_or_default());

    let mut headers = HeaderMap::new();
    for (name, value) in
        [("webhook-id", id), ("webhook-timestamp", timestamp), ("webhook-signature", signatures)]
    {
        if let Ok(value) = value.try_into() {
            headers.insert(name, value);
        }
    }
    if let Ok(accepted) = verifier.verify(&headers, body, NOW) {
        assert_eq!(accepted.as_bytes(), id);
        let at: i64 =
            std::str::from_utf8(timestamp).ok().and_then(|text| text.parse().ok()).expect("a number");
        assert!(NOW.abs_diff(at) <= 300, "{at} was accepted at {NOW}");
    }

    let Some(mut headers) = signed(&keys, id, body) else { return };
    let verdict = verifier.verify(&headers, body, NOW);
    assert_eq!(verdict.is_ok(), body.len() <= verifier.body_bytes_max, "{verdict:?}");
    let mut changed = body.to_vec();
    match changed.first_mut() {
        Some(first) => *first ^= 1,
        None => changed.push(0),
    }
    assert!(verifier.verify(&headers, &changed, NOW).is_err(), "a changed body was accepted");
    headers.append("webhook-id", "another".parse().expect("a header"));
    assert!(verifier.verify(&headers, body, NOW).is_err(), "an id that stands twice was accepted");
}

/// Headers of a request that was signed with the first key; None where the id cannot be one.
fn signed(keys: &[SigningKey], id: &[u8], body: &[u8]) -> Option<HeaderMap> {
    let id = std::str::from_utf8(id).ok().filter(|id| !id.is_empty() && !id.contains('.'))?;
    let mut headers = HeaderMap::new();
    headers.insert("webhook-id", id.parse().ok()?);
    headers["webhook-id"].to_str().ok()?;
    headers.insert("webhook-timestamp", NOW.to_string().parse().ok()?);
    headers.insert("webhook-signature", sign(keys.get(..1)?, id, NOW, body).parse().ok()?);
    Some(headers)
}
