// SPDX-License-Identifier: Apache-2.0
//! Which crate may depend on which. A crate of this tree exists for what it cannot see;
//! an edge that is missing from this table takes that away, and fails here.

use std::path::Path;

use anyhow::Context;
use cargo_metadata::{DependencyKind, MetadataCommand, Package};

/// What each crate may depend on inside the workspace, outside of tests.
const ALLOWED: &[(&str, &[&str])] = &[
    ("ferrogate-base", &[]),
    ("ferrogate-model", &[]),
    ("ferrogate-policy", &["model"]),
    ("ferrogate-policies", &["policy", "model"]),
    ("ferrogate-xds", &["model", "base"]),
    ("ferrogate-store", &["model", "base"]),
    ("ferrogate-controller", &["base", "model", "policy", "policies", "store", "xds"]),
    ("ferrogate-runtime", &["base", "model", "policy", "xds"]),
    ("ferrogate", &["base", "model", "policy", "policies", "store", "xds", "controller", "runtime"]),
    ("ferrogate-testkit", &["base", "model", "xds"]),
    // Sees the gateway as its users do: over sockets.
    ("ferrogate-bench", &[]),
    ("ferrogate-fuzz", &["base", "model", "policy", "policies", "xds", "controller", "runtime"]),
    ("ferrogate-proof", &["base", "model", "policy", "policies", "store", "xds", "controller", "runtime"]),
    ("xtask", &[]),
];

/// Libraries that belong to one concern, and the crates that are that concern. The binary
/// serves with hyper in its sample backend; the comparison speaks gRPC to another gateway.
const OWNED: &[(&str, &[&str])] = &[
    ("sqlx", &["ferrogate-store"]),
    ("tonic", &["ferrogate-xds", "ferrogate-bench"]),
    ("prost", &["ferrogate-xds", "ferrogate-bench"]),
    ("axum", &["ferrogate-controller"]),
    ("hyper", &["ferrogate-runtime", "ferrogate"]),
];

/// Only tests are built from these, so they may see everything.
const TESTS: &[&str] = &["ferrogate-fuzz", "ferrogate-testkit"];

/// Every edge that the tables do not allow.
pub fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("cargo metadata failed")?;
    Ok(metadata.workspace_packages().into_iter().flat_map(violations).collect())
}

fn violations(package: &Package) -> Vec<String> {
    let name = package.name.as_str();
    let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| *known == name) else {
        return vec![format!("{name}: a new crate needs a line in the table of allowed edges")];
    };
    let mut found = Vec::new();
    for dependency in &package.dependencies {
        let target = dependency.name.as_str();
        let production = dependency.kind != DependencyKind::Development;
        if let Some(short) = target.strip_prefix("ferrogate-")
            && production
            && !allowed.contains(&short)
        {
            found.push(format!("{name}: may not depend on {target}"));
        }
        let owners = OWNED.iter().find(|(library, _)| *library == target).map(|(_, owners)| owners);
        // Tests stand outside and may speak to what they test in any language.
        if let Some(owners) = owners
            && production
            && !TESTS.contains(&name)
            && !owners.contains(&name)
        {
            found.push(format!("{name}: {target} belongs to {}", owners.join(" and ")));
        }
    }
    found
}
