//! Lengths of time as they are typed: `500ms`, `30s`, `5m`, `2h`, `7d`; a bare number is seconds.

use std::time::Duration;

/// Reads one, at least a millisecond.
///
/// # Errors
/// A sentence that says how one is written.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("\"{text}\" is no length of time: say 500ms, 30s, 5m, 2h or 7d");
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit_ms = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    let ms = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms));
    ms.filter(|ms| *ms > 0).map(Duration::from_millis).ok_or_else(wrong)
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
