// SPDX-License-Identifier: Apache-2.0
//! What a policy is: the definition it registers, the hooks it may implement, the
//! head views and the exchange it sees, and the chain that runs it. It knows no
//! socket and no concrete policy. The controller compiles chains here to admit an
//! artifact; the runtime compiles the same chains and runs them.
#![warn(missing_docs)]

pub mod chain;
pub mod client_certificate;
mod condition;
pub mod counters;
pub mod definition;
pub mod exchange;
pub mod fetch;
pub mod harness;
pub mod head;
pub mod hooks;
pub mod operator;
mod params;
pub mod registry;

pub use chain::{Chain, ChainRun, Decision, Outcome, Phase, PolicyFailure, admit, operation_prefix};
pub use client_certificate::ClientCertificate;
pub use condition::{ConditionError, MAX_CONDITION_BYTES};
pub use counters::MemoryCounters;
pub use definition::{
    Algorithm, Attachment, CompileError, Counters, Definition, Level, Rule, Services, Shared, Taken,
};
pub use exchange::{Auth, Exchange};
pub use fetch::Fetch;
pub use head::{Headers, RequestHead, ResponseHead};
pub use hooks::{Answer, BodyNeed, Hooks, Phases, Policy, PolicyError, Verdict};
pub use operator::OperatorSection;
pub use params::ParamFault;
pub use registry::{Registered, Registry, RegistryError, ResolveError};
