// SPDX-License-Identifier: Apache-2.0
//! The head views: all that a policy can see and change of a message's head. They are
//! small traits and not one HTTP library's map, so that every codec of the runtime can
//! offer them over its own storage (measured: a header map per policy costs more than
//! the policies do). Names and values are `http` types, checked once when compiled.

use http::{HeaderName, HeaderValue, StatusCode};

/// The headers of a message. Names compare case-insensitively.
pub trait Headers {
    /// The first value.
    fn get(&self, name: &HeaderName) -> Option<&[u8]>;

    /// Calls `visit` with every value of this name, in order.
    fn each(&self, name: &HeaderName, visit: &mut dyn FnMut(&[u8]));

    /// Calls `visit` with every header, in order.
    fn all(&self, visit: &mut dyn FnMut(&str, &[u8]));

    /// Replaces every value of this name with one.
    fn set(&mut self, name: &HeaderName, value: HeaderValue);

    /// Adds a value after those present.
    fn append(&mut self, name: &HeaderName, value: HeaderValue);

    /// Removes every value of this name.
    fn remove(&mut self, name: &HeaderName);
}

/// A request's head. What decides access is read through `original_…`: the message as the
/// client sent it, whatever earlier policies changed (contract chapter 6).
pub trait RequestHead: Headers {
    /// The method as it will go upstream.
    fn method(&self) -> &str;

    /// Changes the method; the route stays.
    fn set_method(&mut self, method: http::Method);

    /// Path and query as they stand, before rewriting for the upstream.
    fn path_and_query(&self) -> &str;

    /// Changes path and query; the route stays (contract 5.1).
    fn set_path_and_query(&mut self, path_and_query: String);

    /// The client's `Host` or `:authority`.
    fn authority(&self) -> &str;

    /// What the upstream sees as `Host`, instead of what the API's host rewriting says.
    fn set_upstream_authority(&mut self, authority: HeaderValue);

    /// `http` or `https`, as the client spoke to us.
    fn scheme(&self) -> &str;

    /// The first value the client sent, before any policy.
    fn original(&self, name: &HeaderName) -> Option<&[u8]>;

    /// Calls `visit` with every value the client sent, in order, before any policy.
    fn each_original(&self, name: &HeaderName, visit: &mut dyn FnMut(&[u8]));

    /// The value of the only line of this name that the client sent. None where it sent several:
    /// a policy that checked one of them would let the others pass to whoever reads those.
    fn only_original(&self, name: &HeaderName) -> Option<&[u8]> {
        let mut lines = 0_usize;
        self.each_original(name, &mut |_| lines += 1);
        if lines == 1 { self.original(name) } else { None }
    }

    /// The method the client sent.
    fn original_method(&self) -> &str;

    /// Path and query the client sent, normalised.
    fn original_path_and_query(&self) -> &str;
}

/// A response's head.
pub trait ResponseHead: Headers {
    /// The status as it will go to the client.
    fn status(&self) -> StatusCode;

    /// Changes the status.
    fn set_status(&mut self, status: StatusCode);
}
