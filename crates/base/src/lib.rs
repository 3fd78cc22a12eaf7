// SPDX-License-Identifier: Apache-2.0
//! Process plumbing: configuration, telemetry, readiness, drain, owned tasks, backoff.
//! It serves every role and knows nothing of gateways.
#![warn(missing_docs)]
