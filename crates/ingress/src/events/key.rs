//! `Idempotency-Key`: here it is required.

use axum::http::HeaderMap;
use postbound_http::{parse_key, single};

use crate::problem::Problem;

/// The key; 400 where there is none, or anything else under its name.
pub(super) fn of_request(headers: &HeaderMap) -> Result<String, Problem> {
    let refused = |detail: &str| Problem::malformed(detail).with("header", "Idempotency-Key");
    let header = single(headers, "idempotency-key")?.ok_or_else(|| {
        refused(
            "header Idempotency-Key is required: draw a UUID per change, and send it again with every retry",
        )
    })?;
    parse_key(header)
        .ok_or_else(|| refused("header Idempotency-Key must be a quoted string of at most 255 characters"))
}
