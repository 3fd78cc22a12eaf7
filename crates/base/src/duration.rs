// SPDX-License-Identifier: Apache-2.0
//! Durations the way Go writes them, because that is how configuration files written
//! for gateways write them: `15s`, `1h30m`, `1.5s`, `300ms`. Called by the
//! configuration reader; negative durations have no meaning in any setting.

use std::time::Duration;

use thiserror::Error;

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DurationError {
    /// It does not have the form at all.
    #[error("not a duration: write numbers with units, such as \"15s\", \"300ms\" or \"1h30m\"")]
    Syntax,
    /// A number stands without a unit.
    #[error("a unit is missing: one of ns, us, ms, s, m, h")]
    MissingUnit,
    /// It is too long to be held.
    #[error("the duration is too long")]
    TooLong,
}

/// Parses a Go duration; `0` needs no unit.
pub fn parse_go(text: &str) -> Result<Duration, DurationError> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(DurationError::Syntax);
    }
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let number_end =
            rest.find(|symbol: char| !symbol.is_ascii_digit() && symbol != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(number_end);
        let unit_end =
            after.find(|symbol: char| symbol.is_ascii_digit() || symbol == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        nanos = nanos.checked_add(term(number, unit)?).ok_or(DurationError::TooLong)?;
        rest = after;
    }
    u64::try_from(nanos).map(Duration::from_nanos).map_err(|_| DurationError::TooLong)
}

/// Writes a duration so that [`parse_go`] reads it back.
pub fn format_go(duration: Duration) -> String {
    if duration.is_zero() {
        return "0s".to_owned();
    }
    let nanos = duration.subsec_nanos();
    if nanos != 0 {
        let whole = duration.as_nanos();
        return match (nanos % 1_000_000, nanos % 1_000) {
            (0, _) => format!("{}ms", whole / 1_000_000),
            (_, 0) => format!("{}us", whole / 1_000),
            _ => format!("{whole}ns"),
        };
    }
    let seconds = duration.as_secs();
    let parts = [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    parts.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count}{unit}")).collect()
}

fn term(number: &str, unit: &str) -> Result<u128, DurationError> {
    let scale: u128 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "" => return Err(DurationError::MissingUnit),
        _ => return Err(DurationError::Syntax),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(DurationError::Syntax);
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| DurationError::TooLong)? };
    let mut nanos = whole.checked_mul(scale).ok_or(DurationError::TooLong)?;
    let mut place = scale;
    for digit in fraction.chars() {
        // Digits below a nanosecond are dropped, as Go does.
        place /= 10;
        let digit = digit.to_digit(10).ok_or(DurationError::Syntax)?;
        nanos = nanos.checked_add(place * u128::from(digit)).ok_or(DurationError::TooLong)?;
    }
    Ok(nanos)
}

#[cfg(test)]
mod tests {
    use super::{DurationError, format_go, parse_go};
    use std::time::Duration;

    #[test]
    fn go_durations_are_read() {
        let cases = [
            ("0", 0),
            ("0s", 0),
            ("15s", 15_000_000_000),
            ("300ms", 300_000_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1m0.25s", 60_250_000_000),
            ("7us", 7_000),
            ("7µs", 7_000),
            ("9ns", 9),
            ("+2s", 2_000_000_000),
        ];
        for (text, nanos) in cases {
            assert_eq!(parse_go(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        let cases = [
            ("", DurationError::Syntax),
            ("15", DurationError::MissingUnit),
            ("1h30", DurationError::MissingUnit),
            ("-1s", DurationError::Syntax),
            ("1d", DurationError::Syntax),
            ("s", DurationError::Syntax),
            ("1..5s", DurationError::Syntax),
            ("1 s", DurationError::Syntax),
            ("99999999999999h", DurationError::TooLong),
        ];
        for (text, error) in cases {
            assert_eq!(parse_go(text), Err(error), "{text}");
        }
    }

    #[test]
    fn written_durations_read_back() {
        for (millis, text) in [(0, "0s"), (1500, "1500ms"), (5_400_000, "1h30m"), (61_000, "1m1s")] {
            let duration = Duration::from_millis(millis);
            assert_eq!(format_go(duration), text);
            assert_eq!(parse_go(text), Ok(duration));
        }
        assert_eq!(format_go(Duration::from_nanos(1_000_001)), "1000001ns");
    }
}
