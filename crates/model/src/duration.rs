// SPDX-License-Identifier: Apache-2.0
//! Durations as artifacts and clients write them. Two grammars: one number with one
//! unit (contract 3.3, 3.4), and Go's compound form (`1h30m`), in which clients say how
//! long they wait. Neither takes a sign: nothing here runs backwards. Policies have a
//! narrower grammar of their own over the same units.

use std::time::Duration;

const NANOS_PER_MICRO: u128 = 1_000;
const NANOS_PER_MILLI: u128 = 1_000_000;
const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// More digits than this after the point are below a nanosecond and are dropped.
const MAX_FRACTION_DIGITS: usize = 18;

/// The longest duration accepted: what Go's own type can hold, about 292 years.
pub const MAX_DURATION: Duration = Duration::from_nanos(i64::MAX as u64);

/// Reads a single-unit duration: `^\d+(\.\d+)?(ms|s|m|h)$`. `None` for anything else.
#[must_use]
pub fn parse_single(text: &str) -> Option<Duration> {
    let (amount, rest) = split_amount(text)?;
    // Go's grammar allows `.5s` and `5.s`; this one does not.
    if !amount.starts_with(|c: char| c.is_ascii_digit()) || amount.ends_with('.') {
        return None;
    }
    let unit = match rest {
        "ms" | "s" | "m" | "h" => unit_nanos(rest)?,
        _ => return None,
    };
    bounded(scaled(amount, unit)?)
}

/// Reads a duration as Go's `time.ParseDuration` does, without signs: `300ms`, `1h30m`, `1.5s`, `0`.
/// `None` for anything else.
#[must_use]
pub fn parse_go(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut nanos: u128 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let (amount, after) = split_amount(rest)?;
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        nanos = nanos.checked_add(scaled(amount, unit_nanos(unit)?)?)?;
        rest = next;
    }
    if text.is_empty() { None } else { bounded(nanos) }
}

/// The duration in whole milliseconds, rounded up: a positive duration never becomes zero,
/// which would mean "off" where a timeout is meant.
#[must_use]
pub fn whole_millis(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_nanos().div_ceil(NANOS_PER_MILLI)).unwrap_or(u64::MAX))
}

/// Splits a leading decimal number from what follows. `None` when there is no digit.
fn split_amount(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (amount, rest) = text.split_at(end);
    let points = amount.bytes().filter(|byte| *byte == b'.').count();
    (amount.len() > points && points <= 1).then_some((amount, rest))
}

/// The nanoseconds of a unit, in every grammar there is. `None` for what is none.
#[must_use]
pub fn unit_nanos(unit: &str) -> Option<u128> {
    match unit {
        "ns" => Some(1),
        // The micro sign and the Greek letter look alike; Go takes both.
        "us" | "\u{b5}s" | "\u{3bc}s" => Some(NANOS_PER_MICRO),
        "ms" => Some(NANOS_PER_MILLI),
        "s" => Some(NANOS_PER_SECOND),
        "m" => Some(60 * NANOS_PER_SECOND),
        "h" => Some(3_600 * NANOS_PER_SECOND),
        _ => None,
    }
}

/// `amount` units in nanoseconds, in integers: a float would make some fractions a nanosecond short.
fn scaled(amount: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = amount.split_once('.').unwrap_or((amount, ""));
    let fraction = fraction.get(..MAX_FRACTION_DIGITS).unwrap_or(fraction);
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut nanos = whole.checked_mul(unit)?;
    if !fraction.is_empty() {
        let digits = u32::try_from(fraction.len()).ok()?;
        let part: u128 = fraction.parse().ok()?;
        nanos = nanos.checked_add(part.checked_mul(unit)? / 10_u128.checked_pow(digits)?)?;
    }
    Some(nanos)
}

fn bounded(nanos: u128) -> Option<Duration> {
    let duration = Duration::from_nanos(u64::try_from(nanos).ok()?);
    (duration <= MAX_DURATION).then_some(duration)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::{any, proptest};

    use super::{MAX_DURATION, parse_go, parse_single, whole_millis};

    fn check(text: &str, single: Option<u64>, go: Option<u64>) {
        assert_eq!(parse_single(text), single.map(Duration::from_nanos), "single {text:?}");
        assert_eq!(parse_go(text), go.map(Duration::from_nanos), "go {text:?}");
    }

    #[test]
    fn the_two_grammars_differ_where_they_should() {
        let second = 1_000_000_000;
        check("30s", Some(30 * second), Some(30 * second));
        check("1.5s", Some(1_500_000_000), Some(1_500_000_000));
        check("0.3s", Some(300_000_000), Some(300_000_000));
        check("500ms", Some(second / 2), Some(second / 2));
        check("2m", Some(120 * second), Some(120 * second));
        check("0.25h", Some(900 * second), Some(900 * second));
        check("0s", Some(0), Some(0));
        check("1h30m", None, Some(5_400 * second));
        check("1m0.5s", None, Some(60_500_000_000));
        check(".5s", None, Some(second / 2));
        check("5.s", None, Some(5 * second));
        check("7us", None, Some(7_000));
        check("7\u{b5}s", None, Some(7_000));
        check("7\u{3bc}s", None, Some(7_000));
        check("9ns", None, Some(9));
        check("0", None, Some(0));
        for neither in
            ["", "5", "s", "-5s", "+5s", "5 s", "5S", "1.2.3s", ".s", "1d", "5s ", "9999999h", "5s3", "٣s"]
        {
            check(neither, None, None);
        }
    }

    #[test]
    fn a_positive_duration_stays_positive() {
        assert_eq!(whole_millis(Duration::from_nanos(1)), Duration::from_millis(1));
        assert_eq!(whole_millis(Duration::from_micros(1_500)), Duration::from_millis(2));
        assert_eq!(whole_millis(Duration::ZERO), Duration::ZERO);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>(), digits in "[0-9.]{0,60}(ns|us|ms|s|m|h)?[0-9.]{0,60}(ns|us|ms|s|m|h)?") {
            for text in [text, digits] {
                if let Some(single) = parse_single(&text) {
                    assert_eq!(parse_go(&text), Some(single));
                }
                assert!(parse_go(&text).is_none_or(|duration| duration <= MAX_DURATION));
            }
        }
    }
}
