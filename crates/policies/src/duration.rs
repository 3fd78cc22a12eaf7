// SPDX-License-Identifier: Apache-2.0
//! Durations as parameters write them: a whole number and a unit.

use ferrogate_model::duration::unit_nanos;

/// A year: nothing here is meant to take longer.
pub(crate) const MAX_MS: u64 = 8_760 * 3_600_000;

/// A duration in whole milliseconds, rounded up; `None` for what is none or longer than a year.
pub(crate) fn millis(duration: &str) -> Option<u64> {
    let digits = duration.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = duration.split_at(digits);
    let nanos = number.parse::<u128>().ok()?.checked_mul(unit_nanos(unit)?)?;
    let millis = u64::try_from(nanos.div_ceil(1_000_000)).ok()?;
    (millis <= MAX_MS).then_some(millis)
}
