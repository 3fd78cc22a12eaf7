// SPDX-License-Identifier: Apache-2.0
//! The headers of a message on the hot path: the lines as they came, each with its fate, and
//! the headers that the gateway or a policy added. Nothing is copied, hashed or lower-cased
//! that nobody asks for. [`super::request_head`] and [`super::response_head`] are the policy
//! views over it, `compose` writes what is left.

use http::{HeaderName, HeaderValue};

use super::line::{Fate, Known, Line, Present};
use crate::hop;
use crate::settle::Arriving;

/// The lines and additions of one head. The vectors are a worker's to keep: only their
/// contents belong to the request.
#[derive(Default)]
pub struct Lists {
    /// What came.
    pub lines: Vec<Line>,
    /// What was added.
    pub added: Vec<Added>,
}

/// A header that did not come with the message.
pub struct Added {
    /// Its name.
    pub name: HeaderName,
    /// Its value.
    pub value: HeaderValue,
    /// The gateway's, put before any policy ran; as good as sent by the client.
    pub on_arrival: bool,
    /// Whether it goes out. A policy may have removed it again.
    pub live: bool,
}

/// The headers.
pub struct Fields<'b> {
    raw: &'b [u8],
    present: Present,
    lists: Lists,
}

impl<'b> Fields<'b> {
    /// The headers of a head that was parsed into `lists.lines`.
    #[must_use]
    pub fn new(raw: &'b [u8], present: Present, mut lists: Lists) -> Fields<'b> {
        lists.added.clear();
        Fields { raw, present, lists }
    }

    /// The vectors, for the next request.
    #[must_use]
    pub fn into_lists(self) -> Lists {
        self.lists
    }

    /// The same of headers that stay where they are.
    #[must_use]
    pub fn take_lists(&mut self) -> Lists {
        std::mem::take(&mut self.lists)
    }

    /// The bytes the lines point into.
    #[must_use]
    pub fn raw(&self) -> &'b [u8] {
        self.raw
    }

    /// Which known headers came or were put in on arrival; some may have been taken out again.
    #[must_use]
    pub fn present(&self) -> Present {
        self.present
    }

    /// Every line that came, with its fate.
    #[must_use]
    pub fn lines(&self) -> &[Line] {
        &self.lists.lines
    }

    /// Every addition that goes out.
    pub fn added(&self) -> impl Iterator<Item = &Added> {
        self.lists.added.iter().filter(|added| added.live)
    }

    /// The first value of a known header that came and still goes on.
    #[must_use]
    pub fn first(&self, known: Known) -> Option<&'b [u8]> {
        if !self.present.has(known) {
            return None;
        }
        self.known(known).next()
    }

    /// The first value of a known header that came, whatever became of its line.
    #[must_use]
    pub fn came(&self, known: Known) -> Option<&'b [u8]> {
        let lines = &self.lists.lines;
        lines.iter().find(|line| line.known == known).map(|line| line.value(self.raw))
    }

    /// Every value of a known header that came and still goes on.
    pub fn known(&self, known: Known) -> impl Iterator<Item = &'b [u8]> {
        let raw = self.raw;
        self.lists
            .lines
            .iter()
            .filter(move |line| line.known == known && line.fate == Fate::Kept)
            .map(move |line| line.value(raw))
    }

    /// The trailers that the message declares, in one list: no others pass over HTTP/1.1, whichever
    /// codec it is.
    #[must_use]
    pub fn declared_trailers(&self) -> Vec<u8> {
        let mut names = Vec::new();
        if self.present.has(Known::Trailer) {
            for value in self.known(Known::Trailer) {
                names.extend_from_slice(value);
                names.push(b',');
            }
        }
        names
    }

    /// The first value of a header by its lower-case name, for the router.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&'b [u8]> {
        let kept = |line: &&Line| {
            line.fate == Fate::Kept && line.name(self.raw).eq_ignore_ascii_case(name.as_bytes())
        };
        self.lists.lines.iter().find(kept).map(|line| line.value(self.raw))
    }

    /// Takes out the lines that `gone` says, before any policy sees them.
    pub fn settle_out(&mut self, gone: impl Fn(&'b [u8], &Line) -> bool) {
        let raw = self.raw;
        for line in self.lists.lines.iter_mut().filter(|line| line.fate == Fate::Kept) {
            if gone(raw, line) {
                line.fate = Fate::Settled;
            }
        }
    }

    /// Adds a header before any policy runs.
    pub fn settle_in(&mut self, name: HeaderName, value: HeaderValue) {
        self.lists.added.push(Added { name, value, on_arrival: true, live: true });
    }

    /// Every value before any policy changed them.
    pub fn originals(&self, name: &HeaderName) -> impl Iterator<Item = &[u8]> {
        let came = self.lists.lines.iter().filter(|line| line.fate != Fate::Settled);
        let came = came.filter(move |line| line.is(self.raw, name)).map(|line| line.value(self.raw));
        let added = self.lists.added.iter().filter(move |added| added.on_arrival && added.name == *name);
        came.chain(added.map(|added| added.value.as_bytes()))
    }

    /// The first value.
    #[must_use]
    pub fn get(&self, name: &HeaderName) -> Option<&[u8]> {
        self.kept(name)
            .next()
            .map(|line| line.value(self.raw))
            .or_else(|| self.added().find(|added| added.name == *name).map(|added| added.value.as_bytes()))
    }

    /// Every value.
    pub fn each(&self, name: &HeaderName, visit: &mut dyn FnMut(&[u8])) {
        self.kept(name).for_each(|line| visit(line.value(self.raw)));
        self.added().filter(|added| added.name == *name).for_each(|added| visit(added.value.as_bytes()));
    }

    /// Every header, by its lower-case name.
    pub fn all(&self, visit: &mut dyn FnMut(&str, &[u8])) {
        for line in self.lists.lines.iter().filter(|line| line.fate == Fate::Kept) {
            // A token is ASCII.
            let name = String::from_utf8_lossy(line.name(self.raw));
            if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
                visit(&name.to_ascii_lowercase(), line.value(self.raw));
            } else {
                visit(&name, line.value(self.raw));
            }
        }
        self.added().for_each(|added| visit(added.name.as_str(), added.value.as_bytes()));
    }

    /// Replaces every value with one.
    pub fn set(&mut self, name: &HeaderName, value: HeaderValue) {
        self.remove(name);
        self.append(name, value);
    }

    /// Adds a value after those present.
    pub fn append(&mut self, name: &HeaderName, value: HeaderValue) {
        self.lists.added.push(Added { name: name.clone(), value, on_arrival: false, live: true });
    }

    /// Removes every value.
    pub fn remove(&mut self, name: &HeaderName) {
        let raw = self.raw;
        for line in &mut self.lists.lines {
            if line.fate == Fate::Kept && line.is(raw, name) {
                line.fate = Fate::Removed;
            }
        }
        self.lists.added.iter_mut().filter(|added| added.name == *name).for_each(|added| added.live = false);
    }

    /// Every value of a known header that was added.
    fn put_in(&self, known: Known) -> impl Iterator<Item = &[u8]> {
        let name = known.name();
        self.added()
            .filter(move |added| name.as_ref() == Some(&added.name))
            .map(|added| added.value.as_bytes())
    }

    fn kept(&self, name: &HeaderName) -> impl Iterator<Item = &Line> {
        self.lists.lines.iter().filter(move |line| line.fate == Fate::Kept && line.is(self.raw, name))
    }
}

impl Arriving for Fields<'_> {
    #[inline]
    fn value(&self, known: Known) -> Option<&[u8]> {
        if !self.present.has(known) {
            return None;
        }
        self.known(known).next().or_else(|| self.put_in(known).next())
    }

    #[inline]
    fn values(&self, known: Known, mut visit: impl FnMut(&[u8])) {
        if self.present.has(known) {
            self.known(known).for_each(&mut visit);
            self.put_in(known).for_each(visit);
        }
    }

    #[inline]
    fn take_out(&mut self, gone: Present) {
        if self.present.any(gone) {
            self.settle_out(|_, line| gone.has(line.known));
            self.lists.added.retain(|added| !gone.has(Known::of(added.name.as_str().as_bytes())));
        }
    }

    #[inline]
    fn take_out_listed(&mut self) {
        if !self.present.has(Known::Connection) {
            return;
        }
        let listed: smallvec::SmallVec<[&[u8]; 4]> =
            self.known(Known::Connection).flat_map(hop::listed).collect();
        if !listed.is_empty() {
            self.settle_out(|raw, line| listed.iter().any(|name| line.name(raw).eq_ignore_ascii_case(name)));
        }
    }

    #[inline]
    fn put(&mut self, known: Known, value: HeaderValue) {
        self.take_out(Present::of(&[known]));
        if let Some(name) = known.name() {
            self.present.add(known);
            self.settle_in(name, value);
        }
    }

    fn put_named(&mut self, name: &HeaderName, value: Option<HeaderValue>) {
        self.settle_out(|raw, line| line.is(raw, name));
        self.lists.added.retain(|added| added.name != *name);
        if let Some(value) = value {
            self.settle_in(name.clone(), value);
        }
    }
}
