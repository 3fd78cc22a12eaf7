// SPDX-License-Identifier: Apache-2.0
//! The cases, by what they ask about.

pub mod following;
pub mod history;
pub mod reading;
pub mod upgrade;
pub mod writing;
