use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, header};
use futures_util::StreamExt as _;

use crate::problem::Problem;

/// A body that is too long is read up to that many times its limit, so that the sender gets to read the answer.
const DRAIN_FACTOR: usize = 4;

/// The whole body, if it is no longer than `bytes_max`: else 413.
pub(crate) async fn read_body(body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
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

/// A header that may stand once at most, and in visible ASCII: else 400.
pub(crate) fn single<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::malformed(format!("header {name} stands more than once")));
    }
    let text =
        value.to_str().map_err(|_| Problem::malformed(format!("header {name} is not of visible ASCII")))?;
    Ok(Some(text.trim()).filter(|text| !text.is_empty()))
}

/// 415 unless the body is declared as JSON.
pub(crate) fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    let declared = single(headers, header::CONTENT_TYPE.as_str())?.unwrap_or_default();
    let essence = declared.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let json =
        essence == "application/json" || essence.starts_with("application/") && essence.ends_with("+json");
    if json { Ok(()) } else { Err(Problem::not_json()) }
}
