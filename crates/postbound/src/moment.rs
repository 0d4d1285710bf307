//! Times as operators write and read them.

use std::time::Duration;
use time::{OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description};

/// Reads `2026-11-21T22:00:00Z`, `2026-11-21` (midnight UTC) or an age such as `2h` or `3d`.
pub(crate) fn parse_moment(text: &str) -> Result<OffsetDateTime, String> {
    if let Ok(moment) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(moment);
    }
    if let Ok(day) = time::Date::parse(text, format_description!("[year]-[month]-[day]")) {
        return Ok(day.midnight().assume_utc());
    }
    let age = humantime::parse_duration(text).ok().and_then(|age| time::Duration::try_from(age).ok());
    age.and_then(|age| OffsetDateTime::now_utc().checked_sub(age)).ok_or_else(|| {
        format!("{text:?} is neither a time (2026-11-21T22:00:00Z, 2026-11-21) nor an age (90s, 2h, 3d)")
    })
}

/// Reads a span such as `15m`.
pub(crate) fn parse_span(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| format!("{text:?} is no span of time (90s, 15m, 2h, 3d)"))
}

/// A time for people, in UTC, to the second.
pub(crate) fn show(moment: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]Z");
    moment.to_offset(time::UtcOffset::UTC).format(format).unwrap_or_else(|_| moment.to_string())
}

/// A time for people; `-` where there is none.
pub(crate) fn show_if(moment: Option<OffsetDateTime>) -> String {
    moment.map_or_else(|| "-".to_owned(), show)
}

/// A span for people, in whole seconds.
pub(crate) fn show_span(span: Duration) -> String {
    let whole = Duration::from_secs(span.as_secs_f64().ceil() as u64);
    humantime::format_duration(whole).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn times_and_ages_are_understood_and_all_else_is_told_what_is() {
        assert_eq!(parse_moment("2026-11-21T22:00:00+01:00"), Ok(datetime!(2026-11-21 21:00 UTC)));
        assert_eq!(parse_moment("2026-11-21"), Ok(datetime!(2026-11-21 0:00 UTC)));
        let two_hours_ago = parse_moment("2h").unwrap();
        let age = OffsetDateTime::now_utc() - two_hours_ago;
        assert!((7200..7210).contains(&age.whole_seconds()), "{age}");
        for wrong in ["yesterday", "", "2", "99999999999999d"] {
            assert!(parse_moment(wrong).unwrap_err().contains("nor an age"), "{wrong}");
        }
    }

    #[test]
    fn people_read_seconds_in_utc() {
        assert_eq!(show(datetime!(2026-11-21 22:00:05.7 +1)), "2026-11-21 21:00:05Z");
        assert_eq!(show_if(None), "-");
        assert_eq!(show_span(Duration::from_millis(8_100_500)), "2h 15m 1s");
    }
}
