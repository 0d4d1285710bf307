use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, header};
use futures_util::StreamExt as _;
use serde_json::{Map, Value};

use crate::Problem;

/// A body that is too long is read up to that many times its limit, so that the sender gets to read the answer.
const DRAIN_FACTOR: usize = 4;

/// The whole body, if it has no more than `bytes_max` bytes.
///
/// # Errors
/// 413 where it is longer, 400 where it ends early.
pub async fn read_body(body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
    let mut chunks = body.into_data_stream();
    let mut read = Vec::new();
    let mut length = 0_usize;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| Problem::malformed("the body ended early"))?;
        length = length.saturating_add(chunk.len());
        if length <= bytes_max {
            read.extend_from_slice(&chunk);
        } else if length > bytes_max.saturating_mul(DRAIN_FACTOR) {
            break;
        }
    }
    if length > bytes_max { Err(Problem::too_large(bytes_max)) } else { Ok(read.into()) }
}

/// A body that is one JSON object.
///
/// # Errors
/// 400 where it is anything else. Its content is not repeated.
pub fn read_object(body: &[u8]) -> Result<Map<String, Value>, Problem> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| Problem::malformed(format!("the body is not JSON: line {}", error.line())))?;
    match value {
        Value::Object(fields) => Ok(fields),
        _ => Err(Problem::malformed("the body must be a JSON object")),
    }
}

/// A header that may stand once at most, and in visible ASCII. A blank one counts as absent.
///
/// # Errors
/// 400 where it stands twice or in other characters.
pub fn single<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::malformed(format!("header {name} stands more than once")));
    }
    let text =
        value.to_str().map_err(|_| Problem::malformed(format!("header {name} is not of visible ASCII")))?;
    Ok(Some(text.trim()).filter(|text| !text.is_empty()))
}

/// Looks whether the body is declared as JSON.
///
/// # Errors
/// 415 where it is not.
pub fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    let declared = single(headers, header::CONTENT_TYPE.as_str())?.unwrap_or_default();
    let essence = declared.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let json =
        essence == "application/json" || essence.starts_with("application/") && essence.ends_with("+json");
    if json { Ok(()) } else { Err(Problem::not_json()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_past_the_limit_is_refused_and_one_at_it_is_read() {
        let check = async |length: usize, expected: Result<usize, u16>| {
            let read = read_body(Body::from(vec![b'x'; length]), 8).await;
            assert_eq!(read.map(|body| body.len()).map_err(|problem| problem.status.as_u16()), expected);
        };
        check(0, Ok(0)).await;
        check(8, Ok(8)).await;
        check(9, Err(413)).await;
        check(100, Err(413)).await;
    }

    #[test]
    fn only_a_declared_json_body_is_taken() {
        let check = |declared: &[&str], expected: Result<(), u16>| {
            let mut headers = HeaderMap::new();
            for value in declared {
                headers.append(header::CONTENT_TYPE, value.parse().unwrap());
            }
            let required = require_json(&headers).map_err(|problem| problem.status.as_u16());
            assert_eq!(required, expected, "{declared:?}");
        };
        check(&["application/json"], Ok(()));
        check(&["Application/JSON; charset=utf-8"], Ok(()));
        check(&["application/cloudevents+json"], Ok(()));
        for declared in [&[][..], &[""], &["text/json"], &["application/jsonp"], &["text/plain+json"]] {
            check(declared, Err(415));
        }
        check(&["application/json", "text/plain"], Err(400));
    }
}
