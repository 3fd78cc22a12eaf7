// SPDX-License-Identifier: Apache-2.0
//! `status`: the cluster as a table, as whichever controller answers sees it.

use http::Method;
use serde_json::Value;

use super::show::{self, field, items, table};
use crate::cli::{Connection, Exit, Output};
use crate::client::{Call, Client};
use crate::output;

/// Shows the cluster.
pub async fn run(connection: &Connection) -> anyhow::Result<Exit> {
    let reply = Client::connect(connection)?.send(Call::new(Method::GET, "/cluster")).await?;
    match connection.output.unwrap_or(Output::Table) {
        Output::Table => output::text(&summary(&reply.body))?,
        format => show::document(&reply.body, format)?,
    }
    Ok(Exit::Done)
}

fn summary(cluster: &Value) -> String {
    let mut text = format!(
        "gateway {} at revision {} (epoch {}), store {}, as seen by {}\n",
        field(cluster, "gatewayId"),
        field(cluster, "revision"),
        field(cluster, "epoch"),
        field(cluster, "store"),
        field(cluster, "controller"),
    );
    if cluster.get("complete").and_then(Value::as_bool) == Some(false) {
        text.push_str("the store does not answer: only what this controller sees itself is listed\n");
    }
    let controllers = items(cluster, "controllers").iter().map(|one| {
        let mut row = ["id", "zone", "revision", "runtimes"].map(|name| field(one, name)).to_vec();
        row.push(decimal(one, "load"));
        row.push(health(one).to_owned());
        row
    });
    let header = ["CONTROLLER", "ZONE", "REVISION", "RUNTIMES", "REQUESTS/S", "STATE"];
    text.push_str(&format!("\n{}\n", table(&header, controllers)));
    let runtimes = items(cluster, "runtimes");
    let rows = runtimes.iter().map(|one| {
        let mut row = ["id", "zone", "controller", "applied", "lag"].map(|name| field(one, name)).to_vec();
        row.push(decimal(one, "lagSeconds"));
        row.push(if one.get("fromCache") == Some(&Value::Bool(true)) { "cache" } else { "live" }.to_owned());
        row.push(items(one, "rejects").len().to_string());
        row.push(health(one).to_owned());
        row
    });
    let header = ["RUNTIME", "ZONE", "CONTROLLER", "REVISION", "LAG", "LAG S", "SOURCE", "REJECTS", "STATE"];
    text.push_str(&format!("\n{}\n", table(&header, rows)));
    for runtime in runtimes {
        for reject in items(runtime, "rejects") {
            text.push_str(&format!(
                "\n{} refused {} at revision {}: {}\n",
                field(runtime, "id"),
                field(reject, "resource"),
                field(reject, "revision"),
                field(reject, "reason"),
            ));
        }
    }
    text
}

fn health(replica: &Value) -> &'static str {
    if replica.get("alive") == Some(&Value::Bool(true)) { "alive" } else { "gone" }
}

fn decimal(value: &Value, name: &str) -> String {
    value.get(name).and_then(Value::as_f64).map_or_else(String::new, |number| format!("{number:.1}"))
}

#[cfg(test)]
mod tests {
    use super::summary;
    use serde_json::json;

    #[test]
    fn the_summary_names_replicas_and_rejects() {
        let text = summary(&json!({
            "gatewayId": "g", "revision": 7, "epoch": 1, "store": "unavailable", "controller": "c1", "complete": false,
            "controllers": [{ "id": "c1", "zone": "a", "revision": 7, "runtimes": 1, "load": 0.25, "alive": true }],
            "runtimes": [{ "id": "r1", "zone": "a", "controller": "c1", "applied": 6, "lag": 1, "lagSeconds": 0.5,
                           "fromCache": true, "alive": false,
                           "rejects": [{ "resource": "rest-api/x", "revision": 6, "reason": "no such policy" }] }],
        }));
        for part in [
            "only what this controller sees",
            "c1",
            "0.2",
            "cache",
            "gone",
            "r1 refused rest-api/x at revision 6",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
