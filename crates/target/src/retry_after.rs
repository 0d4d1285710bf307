use std::time::{Duration, SystemTime};
use time::OffsetDateTime;

/// No target is left alone longer than this because it asked for it.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Reads `Retry-After` (RFC 9110, section 10.2.3): seconds or an HTTP date, brought into 0 s to 24 h. `None` for
/// anything else.
pub(crate) fn parse(value: &str, now: OffsetDateTime) -> Option<Duration> {
    let value = value.trim();
    let wait = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // Only too many digits fail to parse.
        value.parse().map_or(RETRY_AFTER_MAX, Duration::from_secs)
    } else {
        let at = httpdate::parse_http_date(value).ok()?;
        at.duration_since(SystemTime::from(now)).unwrap_or(Duration::ZERO)
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn seconds_and_dates_are_read_and_bounded() {
        let check = |value: &str, seconds: Option<u64>| {
            let now = datetime!(2015-10-21 07:27:00 UTC);
            assert_eq!(parse(value, now), seconds.map(Duration::from_secs), "{value:?}");
        };
        check("0", Some(0));
        check(" 120 ", Some(120));
        check("86401", Some(86_400));
        check("99999999999999999999999", Some(86_400));
        check("Wed, 21 Oct 2015 07:28:00 GMT", Some(60));
        check("Wed, 21 Oct 2015 07:00:00 GMT", Some(0));
        check("Wed, 21 Oct 2099 07:28:00 GMT", Some(86_400));
        check("Wednesday, 21-Oct-15 07:28:00 GMT", Some(60));
        check("", None);
        check("-1", None);
        check("+1", None);
        check("1.5", None);
        check("soon", None);
    }
}
