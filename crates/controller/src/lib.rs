// SPDX-License-Identifier: Apache-2.0
//! The controller: admit, commit, replicate, publish, report. It takes deployments over
//! the management API, stores them as revisions, follows the change feed like every
//! other replica, and feeds runtimes over the config stream. Any replica takes any
//! write; there is no leader. It never proxies a request, and no request of the data
//! plane ever waits for it. Begin reading at `run`, then `api`, `deploy`, `replicate`.

pub mod admin;
pub mod api;
pub mod auth;
pub mod config;
pub mod deploy;
pub mod files;
pub mod follow;
pub mod listener;
pub mod metrics;
pub mod replicate;
pub mod retention;
pub mod run;
pub mod seal;
pub mod snapshot;
pub mod status;
