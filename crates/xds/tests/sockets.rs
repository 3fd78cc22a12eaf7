// SPDX-License-Identifier: Apache-2.0
//! Both ends over real sockets: failover, credentials, certificates, chunking, limits,
//! drain. Every server has a tokio runtime of its own, so that it can be killed as a
//! process would be.

// The lints allow these in test functions, not in the helpers beside them.
#![allow(clippy::panic, clippy::unwrap_used)]

// By path: the test kit's fault proxy uses nothing of ours, its other modules much that is not needed here.
#[path = "../../testkit/src/link.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod link;
mod support;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ferrogate_base::secret::Secret;
use ferrogate_base::tasks::Tasks;
use ferrogate_base::watch;
use ferrogate_model::{GatewayId, Position, Reject};
use ferrogate_xds::client::{ClientOptions, Controller};
use ferrogate_xds::server::{Sent, ServeError, ServerOptions, StreamObserver};
use ferrogate_xds::tls::{ClientTls, ServerTls, TlsIdentity};
use ferrogate_xds::{Catalog, Held, NodeInfo, Outcome, RuntimeInfo, Sink, Update, client, server};
use link::{Link, Mode};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, date_time_ymd,
};
use support::{BAD, Line, Runtime, name, node};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// Far above what any condition here needs, for a machine that does other things too.
const DEADLINE: Duration = Duration::from_secs(20);

type Catalogs = watch::Sender<Option<Arc<dyn Catalog>>>;

/// A controller: its process (a tokio runtime), its catalog and what it observed.
struct Server {
    process: Option<tokio::runtime::Runtime>,
    catalogs: Catalogs,
    observed: Arc<Observed>,
    url: String,
    stop: Option<oneshot::Sender<()>>,
    done: Option<oneshot::Receiver<Result<(), ServeError>>>,
}

#[derive(Default)]
struct Observed {
    events: Mutex<Vec<String>>,
    sent: Mutex<Vec<Sent>>,
    applied: Mutex<Vec<(Position, usize)>>,
}

/// A runtime: its client's task and its sink.
struct Client {
    tasks: Tasks,
    sink: Arc<TestSink>,
}

#[derive(Default)]
struct TestSink {
    runtime: Mutex<Runtime>,
    controllers: Mutex<Vec<Option<String>>>,
}

impl StreamObserver for Observed {
    fn connected(&self, runtime: RuntimeInfo) {
        self.events.lock().unwrap().push(format!("+{}", runtime.node.id));
    }

    fn sent(&self, _runtime_id: &str, sent: Sent) {
        self.sent.lock().unwrap().push(sent);
    }

    fn applied(&self, _runtime_id: &str, position: Position, rejects: &[Reject]) {
        self.applied.lock().unwrap().push((position, rejects.len()));
    }

    fn disconnected(&self, runtime_id: &str) {
        self.events.lock().unwrap().push(format!("-{runtime_id}"));
    }
}

impl Observed {
    fn events(&self) -> Vec<String> {
        self.events.lock().unwrap().clone()
    }

    fn last_applied(&self) -> Option<(Position, usize)> {
        self.applied.lock().unwrap().last().copied()
    }
}

#[async_trait]
impl Sink for TestSink {
    fn held(&self) -> Held {
        self.runtime.lock().unwrap().held.clone()
    }

    async fn apply(&self, update: Update) -> Outcome {
        self.runtime.lock().unwrap().apply(update)
    }

    fn connected(&self, controller: Option<&str>) {
        self.controllers.lock().unwrap().push(controller.map(str::to_owned));
    }
}

impl Server {
    fn start(id: &str, zone: &str, catalog: Option<&Line>) -> Server {
        Server::start_with(id, zone, catalog, |_| {})
    }

    fn start_with(
        id: &str,
        zone: &str,
        catalog: Option<&Line>,
        set: impl FnOnce(&mut ServerOptions),
    ) -> Server {
        let process =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let catalogs = watch::Sender::new(catalog.map(Line::snapshot));
        let receiver = catalogs.subscribe();
        let observed = Arc::new(Observed::default());
        let mut options = ServerOptions::new(GatewayId::from("default"), id, zone);
        set(&mut options);
        let scheme = if options.tls.is_some() { "https" } else { "http" };
        let (stop, stopped) = oneshot::channel();
        let (ended, done) = oneshot::channel();
        let observer = observed.clone();
        let serving = async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let stopped = async { drop(stopped.await) };
            drop(ended.send(server::serve(listener, receiver, options, observer, stopped).await));
        };
        process.spawn(serving);
        let url = format!("{scheme}://{address}");
        Server { process: Some(process), catalogs, observed, url, stop: Some(stop), done: Some(done) }
    }

    /// Ends at once, the way a killed process does.
    fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.shutdown_background();
        }
    }

    fn controller(&self) -> Controller {
        self.url.parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Client {
    fn start(node: NodeInfo, controllers: &[&Server]) -> Client {
        Client::start_with(node, controllers, Runtime::default(), |_| {})
    }

    fn start_with(
        node: NodeInfo,
        controllers: &[&Server],
        runtime: Runtime,
        set: impl FnOnce(&mut ClientOptions),
    ) -> Client {
        let sink = Arc::new(TestSink { runtime: Mutex::new(runtime), ..TestSink::default() });
        let controllers = controllers.iter().map(|server| server.controller()).collect();
        let mut options = ClientOptions::new(controllers, node);
        set(&mut options);
        let tasks = Tasks::new();
        let (token, driven) = (tasks.token(), sink.clone());
        tasks.spawn("client", async move {
            client::run(options, driven, token.cancelled_owned()).await.unwrap();
        });
        Client { tasks, sink }
    }

    fn position(&self) -> Position {
        self.sink.held().position
    }

    fn controller(&self) -> Option<String> {
        self.sink.controllers.lock().unwrap().last().cloned().flatten()
    }

    async fn stop(self) -> Runtime {
        assert!(self.tasks.shutdown(DEADLINE).await.aborted.is_empty());
        std::mem::take(&mut *self.sink.runtime.lock().unwrap())
    }
}

/// Polls until it holds; the time it took.
async fn eventually(what: &str, condition: impl Fn() -> bool) -> Duration {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    start.elapsed()
}

fn line(changes: usize) -> Line {
    let mut line = Line::new();
    line.fill(changes, "x");
    line
}

#[tokio::test]
async fn a_change_arrives_and_a_refusal_is_reported() {
    let mut line = line(3);
    let server = Server::start("c1", "a", Some(&line));
    let client = Client::start(node("r1", "a"), &[&server]);
    eventually("the first set", || client.position() == line.position()).await;
    assert_eq!(client.controller().as_deref(), Some("c1"));

    line.change(name(1), Some(BAD.to_owned()));
    line.change(name(2), None);
    server.catalogs.set(Some(line.snapshot()));
    eventually("the refusal", || server.observed.last_applied() == Some((line.position(), 1))).await;
    let sent = server.observed.sent.lock().unwrap().clone();
    let figures: Vec<_> = sent.iter().map(|sent| (sent.full, sent.upserts, sent.removes)).collect();
    assert_eq!(figures, [(true, 3, 0), (false, 1, 1)]);
    let runtime = client.stop().await;
    assert_eq!(runtime.running[&name(1)].payload, "x", "the last good version serves");
    eventually("the end", || server.observed.events() == ["+r1", "-r1"]).await;
}

#[tokio::test]
async fn when_a_controller_is_killed_its_runtime_is_in_sync_elsewhere_within_two_seconds() {
    let mut line = line(100);
    let mut first = Server::start("c1", "a", Some(&line));
    let second = Server::start("c2", "b", Some(&line));
    let client = Client::start(node("r1", "a"), &[&second, &first]);
    eventually("the own zone", || client.controller().as_deref() == Some("c1")).await;
    eventually("the first set", || client.position() == line.position()).await;

    first.kill();
    line.change(name(7), Some("y".to_owned()));
    second.catalogs.set(Some(line.snapshot()));
    let took =
        eventually("the other controller", || second.observed.last_applied() == Some((line.position(), 0)))
            .await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    let upserts: usize = second.observed.sent.lock().unwrap().iter().map(|sent| sent.upserts).sum();
    // The first contact with both may have gone to either; what is held is never resent.
    let full = second.observed.sent.lock().unwrap().iter().any(|sent| sent.full);
    assert_eq!(upserts, if full { 101 } else { 1 });
    client.stop().await;
}

#[tokio::test]
async fn when_a_controller_vanishes_without_a_word_its_runtime_goes_elsewhere_in_time() {
    let mut line = line(3);
    let first = Server::start("c1", "a", Some(&line));
    let second = Server::start("c2", "b", Some(&line));
    let port = first.url.rsplit(':').next().unwrap().parse().unwrap();
    let link = Link::to(port).await.unwrap();
    let client = Client::start_with(node("r1", "a"), &[&second], Runtime::default(), |options| {
        let url = format!("http://{}", link.address());
        options.controllers.push(Controller { url, zone: Some("a".to_owned()) });
    });
    eventually("the own zone", || client.controller().as_deref() == Some("c1")).await;
    eventually("the first set", || client.position() == line.position()).await;

    link.set(Mode::HalfOpen);
    line.change(name(2), Some("y".to_owned()));
    second.catalogs.set(Some(line.snapshot()));
    let took = eventually("the other controller", || client.position() == line.position()).await;
    // Three seconds until it is noticed and two for another try at the own zone, and some room.
    assert!(took < Duration::from_secs(8), "{took:?}");
    client.stop().await;
}

#[tokio::test]
async fn a_runtime_moves_to_its_own_zone_once_it_knows_it() {
    let line = line(5);
    let away = Server::start("c1", "a", Some(&line));
    let home = Server::start("c2", "b", Some(&line));
    for _ in 0..3 {
        let client = Client::start(node("r1", "b"), &[&away, &home]);
        eventually("home", || client.controller().as_deref() == Some("c2")).await;
        client.stop().await;
    }
}

#[tokio::test]
async fn on_resume_nothing_is_sent_that_is_held() {
    let mut line = line(50);
    let server = Server::start("c1", "a", Some(&line));
    let client = Client::start(node("r1", "a"), &[&server]);
    eventually("the first set", || server.observed.last_applied().is_some()).await;
    let runtime = client.stop().await;
    assert_eq!(runtime.updates, 1);

    let client = Client::start_with(node("r1", "a"), &[&server], runtime, |_| {});
    eventually("the confirmation", || server.observed.applied.lock().unwrap().len() == 2).await;
    let sent = server.observed.sent.lock().unwrap().clone();
    assert_eq!((sent[1].full, sent[1].upserts, sent[1].removes, sent[1].bytes), (false, 0, 0, 0));
    // What was only confirmed is still there after the next change.
    line.change(name(7), Some("y".to_owned()));
    server.catalogs.set(Some(line.snapshot()));
    eventually("the change", || client.position() == line.position()).await;
    let runtime = client.stop().await;
    assert_eq!((runtime.updates, &runtime.delivered), (2, line.set()));
}

#[tokio::test]
async fn twenty_thousand_resources_arrive_in_chunks() {
    let mut line = Line::new();
    line.fill(20_000, &"p".repeat(1000));
    let server = Server::start("c1", "a", Some(&line));
    let client = Client::start(node("r1", "a"), &[&server]);
    eventually("everything", || server.observed.last_applied() == Some((line.position(), 0))).await;
    let sent = server.observed.sent.lock().unwrap().clone();
    assert_eq!((sent.len(), sent[0].upserts), (1, 20_000));
    assert!(sent[0].responses >= 20_332_380 / (512 * 1024) && sent[0].bytes > 20_000_000, "{sent:?}");
    assert_eq!(&client.stop().await.delivered, line.set());
}

#[tokio::test]
async fn a_controller_that_is_behind_sends_the_runtime_to_another() {
    let mut line = line(5);
    let quick = |options: &mut ServerOptions| options.limits.behind_timeout = Duration::from_millis(200);
    let behind = Server::start_with("c1", "a", Some(&line), quick);
    let empty = Server::start_with("c2", "a", None, quick);
    line.change(name(1), Some("y".to_owned()));
    let ahead = Server::start("c3", "b", Some(&line));
    let client = Client::start(node("r1", "b"), &[&ahead]);
    eventually("the newest", || client.position() == line.position()).await;
    let runtime = client.stop().await;

    // The sink asserts that nothing goes back; both others are of its zone, so they come first.
    let client = Client::start_with(node("r1", "a"), &[&behind, &empty, &ahead], runtime, |options| {
        for (controller, zone) in options.controllers.iter_mut().zip(["a", "a", "b"]) {
            controller.zone = Some(zone.to_owned());
        }
    });
    eventually("the one ahead", || client.controller().as_deref() == Some("c3")).await;
    for server in [&behind, &empty] {
        assert!(server.observed.events().contains(&"+r1".to_owned()));
        assert!(server.observed.sent.lock().unwrap().is_empty());
    }
    assert_eq!(client.stop().await.held.position, line.position());
}

#[tokio::test]
async fn a_catalog_that_is_loaded_in_time_is_served() {
    let line = line(5);
    let server = Server::start("c1", "a", None);
    let client = Client::start(node("r1", "a"), &[&server]);
    eventually("the stream", || server.observed.events() == ["+r1"]).await;
    server.catalogs.set(Some(line.snapshot()));
    eventually("the set", || client.position() == line.position()).await;
    assert_eq!(server.observed.events(), ["+r1"]);
    client.stop().await;
}

#[tokio::test]
async fn a_wrong_token_and_a_foreign_gateway_are_refused() {
    let line = line(1);
    let token = |options: &mut ServerOptions| options.join_token = Some(Secret::new("s3cret"));
    let server = Server::start_with("c1", "a", Some(&line), token);
    let mut foreign = node("r3", "a");
    foreign.gateway = GatewayId::from("other");
    let refused = [
        Client::start(node("r1", "a"), &[&server]),
        Client::start_with(node("r2", "a"), &[&server], Runtime::default(), |options| {
            options.join_token = Some(Secret::new("s3creT"));
        }),
        Client::start_with(foreign, &[&server], Runtime::default(), |options| {
            options.join_token = Some(Secret::new("s3cret"));
        }),
    ];
    let admitted = Client::start_with(node("r4", "a"), &[&server], Runtime::default(), |options| {
        options.join_token = Some(Secret::new("s3cret"));
    });
    eventually("the one with the token", || admitted.position() == line.position()).await;
    for client in refused {
        assert_eq!(client.stop().await.updates, 0);
    }
    assert_eq!(server.observed.events(), ["+r4"]);
    admitted.stop().await;
}

#[tokio::test]
async fn without_credentials_it_listens_on_loopback_only() {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let catalogs = watch::Sender::new(None);
    let receiver = catalogs.subscribe();
    let options = ServerOptions::new(GatewayId::from("default"), "c1", "a");
    let served = server::serve(listener, receiver, options, Arc::new(()), std::future::pending()).await;
    assert!(matches!(served, Err(ServeError::Unprotected(_))));
}

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Ca {
    fn new() -> Ca {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Ca { issuer: Issuer::new(params, key), pem }
    }

    fn identity(&self, host: &str) -> TlsIdentity {
        self.identity_with(host, |_| {})
    }

    fn identity_with(&self, host: &str, change: impl FnOnce(&mut CertificateParams)) -> TlsIdentity {
        let key = KeyPair::generate().unwrap();
        let mut certificate = CertificateParams::new(vec![host.to_owned()]).unwrap();
        change(&mut certificate);
        let certificate = certificate.signed_by(&key, &self.issuer).unwrap();
        TlsIdentity::from_pem(certificate.pem(), Secret::new(key.serialize_pem()))
    }
}

fn for_purpose(purpose: ExtendedKeyUsagePurpose) -> impl FnOnce(&mut CertificateParams) {
    |certificate| certificate.extended_key_usages = vec![purpose]
}

fn expired(certificate: &mut CertificateParams) {
    (certificate.not_before, certificate.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
}

#[tokio::test]
async fn mutual_tls_admits_its_own_and_nobody_else() {
    let line = line(1);
    let (ours, theirs) = (Ca::new(), Ca::new());
    let server = Server::start_with("c1", "a", Some(&line), |options| {
        let tls = ServerTls::new(ours.identity("127.0.0.1")).require_clients_of(&*ours.pem);
        options.tls = Some(tls);
    });
    let start = |id: &str, tls: ClientTls| {
        Client::start_with(node(id, "a"), &[&server], Runtime::default(), |options| options.tls = Some(tls))
    };
    let refused = [
        start("without", ClientTls::new(&*ours.pem)),
        start("foreign", ClientTls::new(&*ours.pem).with_identity(theirs.identity("runtime"))),
        start("distrusting", ClientTls::new(&*theirs.pem).with_identity(ours.identity("runtime"))),
    ];
    let admitted = start("admitted", ClientTls::new(&*ours.pem).with_identity(ours.identity("runtime")));
    eventually("the one with the certificate", || admitted.position() == line.position()).await;
    for client in refused {
        assert_eq!(client.stop().await.updates, 0);
    }
    assert_eq!(server.observed.events(), ["+admitted"]);
    admitted.stop().await;
}

#[tokio::test]
async fn an_expired_certificate_and_one_for_another_role_do_not_join() {
    let (line, ours) = (line(1), Ca::new());
    let start = |server: &Server, id: &str, identity: TlsIdentity| {
        let tls = ClientTls::new(&*ours.pem).with_identity(identity);
        Client::start_with(node(id, "a"), &[server], Runtime::default(), |options| options.tls = Some(tls))
    };
    let serve = |id: &str, identity: TlsIdentity| {
        Server::start_with(id, "a", Some(&line), |options| {
            options.tls = Some(ServerTls::new(identity).require_clients_of(&*ours.pem));
        })
    };
    let runtime = || ours.identity_with("runtime", for_purpose(ExtendedKeyUsagePurpose::ClientAuth));
    let controller = || ours.identity_with("127.0.0.1", for_purpose(ExtendedKeyUsagePurpose::ServerAuth));

    let server = serve("c1", controller());
    let refused = [
        start(&server, "expired", ours.identity_with("runtime", expired)),
        start(&server, "a controller's", controller()),
    ];
    let admitted = start(&server, "admitted", runtime());
    eventually("the runtime's own", || admitted.position() == line.position()).await;
    for client in refused {
        assert_eq!(client.stop().await.updates, 0);
    }
    assert_eq!(server.observed.events(), ["+admitted"]);
    admitted.stop().await;

    // Nor does a runtime follow who shows such a certificate: it goes on to the next controller.
    let (late, posing) = (
        serve("late", ours.identity_with("127.0.0.1", expired)),
        serve("posing", ours.identity_with("127.0.0.1", for_purpose(ExtendedKeyUsagePurpose::ClientAuth))),
    );
    let tls = ClientTls::new(&*ours.pem).with_identity(runtime());
    let client =
        Client::start_with(node("r1", "a"), &[&late, &posing, &server], Runtime::default(), |options| {
            options.tls = Some(tls);
        });
    eventually("the right controller", || client.controller().as_deref() == Some("c1")).await;
    client.stop().await;
    assert!(late.observed.events().is_empty() && posing.observed.events().is_empty());
}

#[tokio::test]
async fn a_certificate_without_the_token_does_not_join_where_both_are_asked_for() {
    let (line, ours) = (line(1), Ca::new());
    let server = Server::start_with("c1", "a", Some(&line), |options| {
        options.tls = Some(ServerTls::new(ours.identity("127.0.0.1")).require_clients_of(&*ours.pem));
        options.join_token = Some(Secret::new("s3cret"));
    });
    let start = |id: &str, token: &str| {
        let tls = ClientTls::new(&*ours.pem).with_identity(ours.identity("runtime"));
        Client::start_with(node(id, "a"), &[&server], Runtime::default(), |options| {
            options.tls = Some(tls);
            options.join_token = Some(Secret::new(token));
        })
    };
    let (refused, admitted) = (start("refused", "guess"), start("admitted", "s3cret"));
    eventually("the one with both", || admitted.position() == line.position()).await;
    assert_eq!(refused.stop().await.updates, 0);
    assert_eq!(server.observed.events(), ["+admitted"]);
    admitted.stop().await;
}

#[tokio::test]
async fn a_full_controller_turns_runtimes_away_until_there_is_room() {
    let line = line(1);
    let server = Server::start_with("c1", "", Some(&line), |options| options.max_streams = 1);
    let first = Client::start(node("r1", ""), &[&server]);
    eventually("the first", || first.position() == line.position()).await;
    let second = Client::start(node("r2", ""), &[&server]);
    first.stop().await;
    eventually("the second", || second.position() == line.position()).await;
    assert_eq!(server.observed.events(), ["+r1", "-r1", "+r2"]);
    second.stop().await;
}

#[tokio::test]
async fn a_newer_stream_of_a_runtime_takes_over_without_a_gap_in_the_view() {
    let line = line(1);
    let server = Server::start("c1", "a", Some(&line));
    let older = Client::start_with(node("r1", "a"), &[&server], Runtime::default(), |options| {
        options.backoff = (DEADLINE, DEADLINE);
    });
    eventually("the older", || older.position() == line.position()).await;
    let newer = Client::start(node("r1", "a"), &[&server]);
    eventually("the newer", || newer.position() == line.position()).await;
    eventually("the end of the older", || older.controller().is_none()).await;
    let events = server.observed.events();
    assert_eq!(events.first().map(String::as_str), Some("+r1"));
    assert_eq!(events.get(1).map(String::as_str), Some("+r1"), "no end is reported in between");
    older.stop().await;
    newer.stop().await;
}

#[tokio::test]
async fn a_drained_controller_lets_its_runtimes_go_and_returns() {
    let line = line(10);
    let mut leaving = Server::start("c1", "a", Some(&line));
    let staying = Server::start("c2", "b", Some(&line));
    let client = Client::start(node("r1", "a"), &[&leaving, &staying]);
    eventually("the own zone", || client.controller().as_deref() == Some("c1")).await;
    drop(leaving.stop.take());
    let done = leaving.done.take().unwrap();
    let served =
        tokio::time::timeout(Duration::from_secs(4), done).await.expect("before the drain's deadline");
    assert!(matches!(served, Ok(Ok(()))));
    eventually("the other", || client.controller().as_deref() == Some("c2")).await;
    assert_eq!(leaving.observed.events().last().map(String::as_str), Some("-r1"));
    client.stop().await;
}

#[tokio::test]
async fn a_connection_that_has_reached_its_age_is_renewed_without_a_resend() {
    let line = line(10);
    let server = Server::start_with("c1", "a", Some(&line), |options| {
        options.max_connection_age = Duration::from_millis(300);
    });
    let client = Client::start(node("r1", "a"), &[&server]);
    eventually("a second stream", || server.observed.applied.lock().unwrap().len() >= 2).await;
    let sent = server.observed.sent.lock().unwrap().clone();
    let figures: Vec<_> = sent.iter().take(2).map(|sent| (sent.full, sent.upserts)).collect();
    assert_eq!(figures, [(true, 10), (false, 0)]);
    assert_eq!(client.stop().await.updates, 1);
}

#[tokio::test]
async fn an_update_that_is_not_persisted_is_not_acknowledged() {
    struct FullDisk(Arc<TestSink>);

    #[async_trait]
    impl Sink for FullDisk {
        fn held(&self) -> Held {
            Held::default()
        }

        async fn apply(&self, update: Update) -> Outcome {
            Outcome { not_persisted: Some("no space left".to_owned()), ..self.0.apply(update).await }
        }

        fn connected(&self, controller: Option<&str>) {
            self.0.connected(controller);
        }
    }

    let line = line(2);
    let server = Server::start("c1", "a", Some(&line));
    let sink = Arc::new(TestSink::default());
    let tasks = Tasks::new();
    let options = ClientOptions::new(vec![server.controller()], node("r1", "a"));
    let (token, full) = (tasks.token(), Arc::new(FullDisk(sink.clone())));
    tasks.spawn("client", async move {
        client::run(options, full, token.cancelled_owned()).await.unwrap();
    });
    eventually("a second try", || sink.runtime.lock().unwrap().updates >= 2).await;
    assert!(tasks.shutdown(DEADLINE).await.aborted.is_empty());
    assert_eq!(server.observed.last_applied(), None);
    assert_eq!(sink.runtime.lock().unwrap().running.len(), 2, "it is served all the same");
}

#[tokio::test]
async fn a_controller_that_accepts_and_says_nothing_is_passed_over() {
    let line = line(1);
    // Its connections stay in the backlog: accepted by the kernel, answered by nobody.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server::start("c1", "b", Some(&line));
    let client = Client::start_with(node("r1", "a"), &[&server], Runtime::default(), |options| {
        let url = format!("http://{}", mute.local_addr().unwrap());
        options.controllers.push(Controller { url, zone: Some("a".to_owned()) });
    });
    eventually("the other", || client.position() == line.position()).await;
    client.stop().await;
}

#[tokio::test]
async fn options_that_cannot_work_are_refused_at_once() {
    let run = async |url: &str| {
        let controller = url.parse().unwrap();
        let options = ClientOptions::new(vec![controller], node("r1", "a"));
        client::run(options, Arc::new(TestSink::default()), std::future::pending())
            .await
            .unwrap_err()
            .to_string()
    };
    assert!(run("https://c1:18000").await.contains("certificate authority"));
    assert!(run("c1:18000").await.contains("http://"));
    assert!(run("not a url").await.contains("not a URL"));
    let options = ClientOptions::new(Vec::new(), node("r1", "a"));
    let none = client::run(options, Arc::new(TestSink::default()), std::future::pending()).await;
    assert!(none.is_err());
}
