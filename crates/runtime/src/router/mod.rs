// SPDX-License-Identifier: Apache-2.0
//! The routing table: from host, method, path and headers to a compiled route (contract
//! 4.1 to 4.3). Immutable once published and persistent: cloning shares everything, a
//! change copies what it touches. A lookup takes no lock and, for a lower-case host,
//! allocates nothing. `request` asks it; [`crate::sync`] builds the next one.

mod children;
mod entry;
mod host;
mod node;
pub mod route;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use ferrogate_model::kinds::rest_api::Method;
pub use ferrogate_model::route::{EscapedSlashes, Normalised, normalise, normalise_with};
use imbl::shared_ptr::DefaultSharedPtr;
use smol_str::SmolStr;

pub use entry::{Entry, HeaderLookup, HeaderRule};
pub use route::{
    CompiledRoute, Endpoint, Endpoints, Poison, PoisonReason, Rewrite, Target, Timeouts, Upgrades,
};

/// A persistent map by text. Short texts stand in it themselves: with many APIs what a lookup
/// costs is the memory it has to wait for, and this spares it one piece. Clients choose what is
/// looked up but never what is stored, so that no client can make its hashes collide.
type Map<V> = imbl::GenericHashMap<SmolStr, V, foldhash::fast::RandomState, DefaultSharedPtr>;

/// Changes what stands in a slice. Nodes are many, are read always and change seldom: they hold
/// slices that are as long as what is in them.
fn edit<T, A>(slice: &mut Box<[T]>, change: impl FnOnce(&mut Vec<T>) -> A) -> A {
    let mut all = std::mem::take(slice).into_vec();
    let answer = change(&mut all);
    *slice = all.into_boxed_slice();
    answer
}

/// The routes of one snapshot.
pub struct Table<R = CompiledRoute> {
    hosts: host::Hosts<R>,
    routes: usize,
}

impl<R> Table<R> {
    /// How many routes the table has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.routes
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.routes == 0
    }

    /// The route for a request: its `Host` or `:authority`, its method, its normalised path
    /// without the query, and its headers by lower-case name. `None` is the 404.
    #[must_use]
    pub fn find(
        &self,
        authority: &str,
        method: &str,
        path: &str,
        headers: HeaderLookup<'_, '_>,
    ) -> Option<&Arc<R>> {
        let method = Method::from_token(method)?;
        let routes = self.hosts.select(authority)?;
        routes.find(path, node::Wanted { method, headers }).map(|found| &found.route)
    }

    /// Adds a route. True when it collides: another artifact has a route for exactly the
    /// same requests. Controllers do not admit that; should it happen all the same, both
    /// routes are kept, the first by operation index and artifact name answers, and the
    /// other takes over when that one goes: the table depends on what it holds only,
    /// never on the order of arrival.
    pub fn insert(&mut self, entry: Arc<Entry<R>>) -> bool {
        self.routes += 1;
        self.hosts.insert(entry)
    }

    /// Removes a route that was added; false when it is not there.
    pub fn remove(&mut self, entry: &Arc<Entry<R>>) -> bool {
        let removed = self.hosts.remove(entry);
        if removed {
            self.routes = self.routes.saturating_sub(1);
        }
        removed
    }
}

// Written out because a derive would ask `R: Clone`, and what is cloned is always an `Arc`.
impl<R> Clone for Table<R> {
    fn clone(&self) -> Table<R> {
        Table { hosts: self.hosts.clone(), routes: self.routes }
    }
}

impl<R> Default for Table<R> {
    fn default() -> Table<R> {
        Table { hosts: host::Hosts::default(), routes: 0 }
    }
}
