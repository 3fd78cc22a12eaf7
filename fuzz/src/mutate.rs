// SPDX-License-Identifier: Apache-2.0
//! A small mutation driver for the ordinary tests: seeded, so that a run is the same
//! everywhere, and without coverage, so that it runs on the normal build. It changes kept
//! inputs a little and crosses them with one another; libFuzzer finds more, and what it
//! finds is kept as inputs for this one.

use fastrand::Rng;

/// The longest input made.
const MAX_BYTES: usize = 8 * 1024;
/// The most changes made to one input.
const MAX_CHANGES: usize = 6;
/// Numbers at which code goes wrong.
const NUMBERS: [&str; 12] = [
    "0",
    "-1",
    "1",
    "127",
    "256",
    "65535",
    "65536",
    "2147483648",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "1e309",
];
/// Bytes at which parsers decide.
const BYTES: [u8; 24] = *b"\0\n\r\t \"'`%/\\.,:;{}[]()*&|";

/// Makes inputs out of seeds, without end.
pub struct Mutator<'s> {
    rng: Rng,
    seeds: &'s [Vec<u8>],
    words: &'s [&'static str],
}

impl<'s> Mutator<'s> {
    /// A mutator; the same arguments give the same inputs.
    #[must_use]
    pub fn new(seed: u64, seeds: &'s [Vec<u8>], words: &'s [&'static str]) -> Mutator<'s> {
        Mutator { rng: Rng::with_seed(seed), seeds, words }
    }

    /// The next input.
    #[must_use]
    pub fn next_input(&mut self) -> Vec<u8> {
        let mut input = self.seed().to_vec();
        for _ in 0..=self.rng.usize(..MAX_CHANGES) {
            self.change(&mut input);
        }
        input.truncate(MAX_BYTES);
        input
    }

    fn seed(&mut self) -> &'s [u8] {
        self.rng.choice(self.seeds).map(Vec::as_slice).unwrap_or_default()
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.rng.usize(..=input.len());
        let end = self.rng.usize(at..=input.len().min(at.saturating_add(64)));
        match self.rng.u8(..10) {
            0 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << self.rng.u8(..8);
                }
            }
            1 => {
                let byte = self.rng.u8(..);
                if let Some(place) = input.get_mut(at) {
                    *place = byte;
                }
            }
            2 => insert(input, at, at, &[self.rng.choice(BYTES).unwrap_or_default()]),
            3 => insert(input, at, end, &[]),
            4 => {
                let copied = input.get(at..end).unwrap_or_default().repeat(self.rng.usize(1..40));
                insert(input, at, at, &copied);
            }
            5 => {
                let word = self.rng.choice(self.words).copied().unwrap_or_default();
                insert(input, at, end.min(at + self.rng.usize(..16)), word.as_bytes());
            }
            6 => {
                let word = self.rng.choice(self.words).copied().unwrap_or_default();
                insert(input, at, at, word.as_bytes());
            }
            7 => {
                let number = self.rng.choice(NUMBERS).unwrap_or_default();
                insert(input, at, end, number.as_bytes());
            }
            8 => {
                let length = self.rng.usize(1..16);
                let noise: Vec<u8> = std::iter::repeat_with(|| self.rng.u8(..)).take(length).collect();
                insert(input, at, at, &noise);
            }
            _ => self.cross(input, at),
        }
    }

    /// The beginning of this input and the end of another.
    fn cross(&mut self, input: &mut Vec<u8>, at: usize) {
        let other = self.seed();
        let from = self.rng.usize(..=other.len());
        input.truncate(at);
        input.extend_from_slice(other.get(from..).unwrap_or_default());
    }
}

fn insert(input: &mut Vec<u8>, at: usize, end: usize, bytes: &[u8]) {
    let end = end.clamp(at, input.len().max(at));
    if at <= input.len() {
        input.splice(at..end.min(input.len()), bytes.iter().copied());
    }
}
