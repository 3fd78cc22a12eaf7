// SPDX-License-Identifier: Apache-2.0
//! Where an input is cut: a stream's bytes arrive in pieces, and what they mean may not
//! hang on which. The places follow from the bytes themselves, so that an input is cut in
//! the same places in every run and needs no bytes of its own to say where.

use std::hash::{DefaultHasher, Hash, Hasher};

use fastrand::Rng;

/// More places than these make nothing new of one input.
const MAX_CUTS: usize = 12;

/// Some places within the input, in order; each may come twice, which makes an empty piece.
#[must_use]
pub fn cuts(input: &[u8]) -> Vec<usize> {
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    let mut rng = Rng::with_seed(hasher.finish());
    let count = rng.usize(1..=MAX_CUTS);
    let mut cuts: Vec<usize> = std::iter::repeat_with(|| rng.usize(..=input.len())).take(count).collect();
    // Parsers decide at the ends of lines, which few places out of many would meet.
    let ends: Vec<usize> = (1..).zip(input).filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at).collect();
    if let Some(end) = rng.choice(&ends) {
        cuts.extend([end - 1, *end]);
    }
    cuts.sort_unstable();
    cuts
}

/// The input in pieces.
pub fn pieces<'i>(input: &'i [u8], cuts: &[usize]) -> Vec<&'i [u8]> {
    let mut from = 0;
    let mut pieces = Vec::with_capacity(cuts.len() + 1);
    for cut in cuts.iter().chain([&input.len()]) {
        pieces.push(input.get(from..*cut).unwrap_or_default());
        from = *cut;
    }
    pieces
}
