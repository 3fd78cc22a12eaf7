// SPDX-License-Identifier: Apache-2.0
//! The compiled policies in use, so that equal ones are one: an organisation gives most of its
//! APIs the same policies with the same parameters. What ten thousand routes share is compiled
//! once, takes the memory of one, and is in the processor's cache when the next request needs
//! it. Nothing is kept alive here; the chains do that. `compile` asks it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::Step;

/// What an instance was made from, as its digest: authors choose parameters, and none may find
/// some that pass for another's.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Made([u8; 32]);

/// The compiled policies in use.
#[derive(Default)]
pub struct Instances(Mutex<Known>);

#[derive(Default)]
struct Known {
    steps: HashMap<Made, Weak<Step>>,
    /// When it has grown to this, those that nobody uses any more are let go.
    sweep_at: usize,
}

impl Made {
    /// From this policy, these parameters and this condition.
    pub(super) fn from(name: &str, version: &str, params: &Value, condition: Option<&str>) -> Made {
        // JSON says where each part ends.
        let text = serde_json::json!([name, version, params, condition]).to_string();
        Made(Sha256::digest(text.as_bytes()).into())
    }
}

impl Instances {
    pub(super) fn get(&self, made: &Made) -> Option<Arc<Step>> {
        self.lock().steps.get(made).and_then(Weak::upgrade)
    }

    /// Keeps it for others, and answers the one that was quicker, if there is one by now.
    pub(super) fn keep(&self, made: Made, step: Arc<Step>) -> Arc<Step> {
        let mut known = self.lock();
        if let Some(other) = known.steps.get(&made).and_then(Weak::upgrade) {
            return other;
        }
        known.steps.insert(made, Arc::downgrade(&step));
        if known.steps.len() > known.sweep_at {
            known.steps.retain(|_, step| step.strong_count() > 0);
            known.sweep_at = known.steps.len() * 2 + 64;
        }
        step
    }

    /// How many are known, in use or not swept away yet.
    pub(super) fn len(&self) -> usize {
        self.lock().steps.len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        // Whole at every step, so a panic elsewhere does not spoil it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Instances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instances").field("steps", &self.len()).finish()
    }
}
