// SPDX-License-Identifier: Apache-2.0
//! The `date` of responses (RFC 9110, 6.6.1), written once a second and not once a request.
//! `worker` renews it at every tick; `exchange` copies it.

use std::cell::Cell;

use ferrogate_base::clock::Clock;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;

/// `Sun, 06 Nov 1994 08:49:37 GMT`
const LENGTH: usize = 29;

/// A worker's date.
pub struct Date {
    second: Cell<i64>,
    text: Cell<[u8; LENGTH]>,
}

impl Date {
    /// The date now.
    #[must_use]
    pub fn new(clock: &dyn Clock) -> Date {
        let date = Date { second: Cell::new(i64::MIN), text: Cell::new([b' '; LENGTH]) };
        date.renew(clock);
        date
    }

    /// Writes it anew when the second has changed.
    pub fn renew(&self, clock: &dyn Clock) {
        let second = clock.now_micros().div_euclid(1_000_000);
        if self.second.replace(second) == second {
            return;
        }
        let timestamp = Timestamp::from_second(second).unwrap_or_default();
        let text = DateTimePrinter::new().timestamp_to_rfc9110_string(&timestamp);
        // The format has one length as long as years have four digits.
        if let Some(Ok(text)) = text.ok().map(|text| <[u8; LENGTH]>::try_from(text.as_bytes())) {
            self.text.set(text);
        }
    }

    /// Its text.
    #[must_use]
    pub fn get(&self) -> [u8; LENGTH] {
        self.text.get()
    }
}

#[cfg(test)]
mod tests {
    use ferrogate_base::clock::ManualClock;

    use super::Date;

    #[test]
    fn it_is_renewed_with_the_second() {
        let clock = ManualClock::at_ms(784_111_777);
        let date = Date::new(&clock);
        assert_eq!(&date.get(), b"Sat, 10 Jan 1970 01:48:31 GMT");
        clock.advance_ms(1000);
        date.renew(&clock);
        assert_eq!(&date.get(), b"Sat, 10 Jan 1970 01:48:32 GMT");
    }
}
