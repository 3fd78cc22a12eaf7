// SPDX-License-Identifier: Apache-2.0
//! Header lines that a client says twice: what a policy and a route's conditions make of them is
//! the same in every codec.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::backend::Backend;
use crate::support::{Gateway, Reply, api, probes, read};

/// A GET with these lines of `x-client`, over HTTP/1.1 and over HTTP/2.
async fn over_each(gateway: &Gateway, path: &str, lines: &[&str]) -> [Reply; 2] {
    let sent = |target: String| {
        let request =
            lines.iter().fold(Request::get(target), |request, line| request.header("x-client", *line));
        request.header("host", "h").body(Full::new(Bytes::new())).expect("a request")
    };
    let stream = TcpStream::connect(gateway.http).await.expect("a connection");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("h2");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { drop(connection.await) });
    let second = sender.send_request(sent(format!("http://h{path}"))).await.expect("a response");
    [gateway.call(sent(path.to_owned())).await, read(second).await]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_wants_one_line_sees_that_there_are_two() {
    let (gateway, backend) = (Gateway::start().await, Backend::start().await);
    // The second route's policies look at bodies, so that another path serves it.
    let (only, looking) = (json!({ "do": "only" }), json!({ "do": "look" }));
    let of = |context: &str, list: &[serde_json::Value]| {
        let list = probes(list);
        api(context, &backend.url(), |spec| spec["policies"] = list)
    };
    gateway
        .deploy(&[of("/whole", std::slice::from_ref(&only)), of("/looked", &[only.clone(), looking])])
        .await;
    for path in ["/whole/x", "/looked/x"] {
        for (lines, status) in
            [(&["a"][..], 200), (&["a", "b"], 418), (&["a", "a"], 418), (&["a", ""], 418), (&[], 418)]
        {
            for reply in over_each(&gateway, path, lines).await {
                assert_eq!(reply.status.as_u16(), status, "{path} {lines:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_condition_is_about_the_first_line() {
    let (gateway, backend) = (Gateway::start().await, Backend::start().await);
    let document = api("/c", &backend.url(), |spec| {
        let conditional = |value: &str, kind: &str| {
            json!({ "match": { "method": "GET", "path": { "value": "/x" },
                    "headers": [{ "name": "X-Client", "value": value, "type": kind }] } })
        };
        spec["operations"] = json!([conditional("a", "Exact"), conditional("b.*", "RegularExpression")]);
    });
    gateway.deploy(&[document]).await;
    for (lines, status) in [
        (&["a"][..], 200),
        (&["a", "z"], 200),
        (&["z", "a"], 404),
        (&["bb", "z"], 200),
        (&["z", "bb"], 404),
        (&["a, z"], 404),
        (&[], 404),
    ] {
        for reply in over_each(&gateway, "/c/x", lines).await {
            assert_eq!(reply.status.as_u16(), status, "{lines:?}");
        }
    }
}
