//! Lengths of time as they are typed: `500ms`, `30s`, `5m`, `2h`, `7d`; a bare number is seconds.

use std::time::Duration;

use crate::config::parse_duration;

/// Reads one, at least a millisecond.
///
/// # Errors
/// A sentence that says how one is written.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("\"{text}\" is no length of time: say 500ms, 30s, 5m, 2h or 7d");
    parse_duration(text).filter(|time| !time.is_zero()).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_known() {
        let ms =
            ["500ms", "3", "30s", "5m", "2h", "7d"].map(|text| parse(text).map(|d| d.as_millis()));

        assert_eq!(ms, [500, 3_000, 30_000, 300_000, 7_200_000, 604_800_000].map(Ok));
    }

    #[test]
    fn what_is_no_length_of_time_is_refused() {
        for text in ["", "s", "0", "0s", "-1s", "1.5s", "5 m", "1w", "99999999999999999999d"] {
            let error = parse(text).expect_err(text);
            assert!(error.contains("30s"), "{error}");
        }
    }
}
