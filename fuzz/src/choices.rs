// SPDX-License-Identifier: Apache-2.0
//! Bytes read as choices: how a target turns raw input into a structure that is valid on
//! the outside, so that mutations reach what lies behind the first parser. Input that is
//! used up gives zeros and empty texts, never an error: every input is a structure.

/// Choices not yet made.
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    /// The choices that these bytes are.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Choices<'a> {
        Choices(bytes)
    }

    /// Whether all are made.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    /// A number below `limit`, or 0 when that is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        let number = usize::from(self.byte()) << 8 | usize::from(self.byte());
        number.checked_rem(limit).unwrap_or(0)
    }

    /// Any number, small ones and those near a power of two more often than others.
    pub fn number(&mut self) -> u64 {
        let shape = self.byte();
        let near = u64::from(self.byte());
        match shape % 4 {
            0 => near,
            1 => u64::MAX.wrapping_sub(near),
            2 => (1_u64 << (shape / 4)).wrapping_add(near).wrapping_sub(2),
            _ => near << (shape / 4 % 56),
        }
    }

    /// One of these.
    pub fn pick<'t, T>(&mut self, from: &'t [T]) -> Option<&'t T> {
        from.get(self.below(from.len()))
    }

    /// At most so many bytes.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A stretch of bytes whose length is the input's choice.
    pub fn stretch(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte()) << 8 | usize::from(self.byte());
        self.bytes(length)
    }

    /// A short text; what is no UTF-8 is replaced.
    pub fn text(&mut self) -> String {
        let length = usize::from(self.byte());
        String::from_utf8_lossy(self.bytes(length)).into_owned()
    }
}
