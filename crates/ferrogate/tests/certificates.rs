// SPDX-License-Identifier: Apache-2.0
//! Certificates in a whole gateway, seen by clients that are not ours: `openssl` and `curl`.
//! Uploaded through one controller they are shown by every runtime, also by one that starts
//! from its disk while no controller is there; their keys are in no log and on no disk.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use ferrogate_testkit::cluster::{Cluster, PASSWORD, Shape};
use ferrogate_testkit::eventually::eventually_async;
use ferrogate_testkit::management::{Management, api};
use ferrogate_testkit::process::{Process, Spec};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use reqwest::StatusCode;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// Where a standalone gateway of these tests listens.
const LISTENERS: [&str; 8] =
    ["management", "admin", "metrics", "stream", "http", "readiness", "runtime-admin", "runtime-metrics"];
/// Longer than a handshake takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// An authority, and the files that other programs want of it.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
}

struct Identity {
    certificate: String,
    key: String,
}

impl Authority {
    fn new(folder: &Path) -> anyhow::Result<Authority> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, "the authority of this test");
        let key = KeyPair::generate()?;
        std::fs::write(folder.join("ca.key"), key.serialize_pem())?;
        let issuer = CertifiedIssuer::self_signed(params, key)?;
        std::fs::write(folder.join("ca.pem"), issuer.pem())?;
        Ok(Authority { issuer, folder: folder.to_owned() })
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// A certificate for this name; its files are called so.
    fn issue(&self, name: &str) -> anyhow::Result<Identity> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let identity = Identity { certificate: certificate.pem(), key: key.serialize_pem() };
        std::fs::write(self.folder.join(format!("{name}.pem")), &identity.certificate)?;
        std::fs::write(self.folder.join(format!("{name}.key")), &identity.key)?;
        Ok(identity)
    }
}

impl Identity {
    fn artifact(&self, name: &str) -> Value {
        json!({
            "apiVersion": "gateway.api-platform.wso2.com/v1",
            "kind": "Certificate",
            "metadata": { "name": name },
            "spec": { "certificate": self.certificate, "privateKey": self.key },
        })
    }
}

/// Runs a program to its end; answers whether it succeeded, and all that it said.
async fn run(program: &str, args: &[&str]) -> anyhow::Result<(bool, String)> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await;
    let output = output.with_context(|| format!("{program} {args:?} does not end"))?;
    let output = output.with_context(|| format!("{program} cannot be run"))?;
    let told = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&told).into_owned()))
}

/// A handshake of `openssl` that verifies what it is shown.
async fn s_client(
    authority: &Authority,
    address: SocketAddr,
    server: &str,
    more: &[&str],
) -> anyhow::Result<(bool, String)> {
    let (address, trusted) = (address.to_string(), authority.file("ca.pem"));
    let args = ["s_client", "-connect", &address, "-servername", server, "-verify_hostname", server];
    let args = [&args[..], &["-CAfile", &trusted, "-verify_return_error"], more].concat();
    run("openssl", &args).await
}

fn https(cluster: &Cluster, runtime: usize) -> anyhow::Result<SocketAddr> {
    let url = cluster.runtimes[runtime].url("https");
    url.rsplit('/').next().and_then(|address| address.parse().ok()).context("an address")
}

async fn cluster() -> anyhow::Result<Cluster> {
    rustls::crypto::ring::default_provider().install_default().ok();
    let binary = Path::new(env!("CARGO_BIN_EXE_ferrogate"));
    Cluster::start(Shape { binary, controllers: &["a", "a"], runtimes: &["a", "a"] }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_upload_is_shown_by_every_runtime_and_survives_its_restart() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = Authority::new(folder.path())?;
    let mut cluster = cluster().await?;
    let (shop, bank) = (authority.issue("shop.example")?, authority.issue("bank.example")?);
    ensure!(!s_client(&authority, https(&cluster, 0)?, "shop.example", &[]).await?.0, "trusted beforehand");
    let documents =
        [shop.artifact("shop"), bank.artifact("bank"), api("books", &cluster.backend.url(), &json!([]))];
    let answer = cluster.management(1).apply(&documents, "?wait=live&timeout=20s").await?;
    ensure!(answer.status == StatusCode::OK, "{}", answer.body);

    for runtime in 0..2 {
        let address = https(&cluster, runtime)?;
        for server in ["shop.example", "bank.example"] {
            let (verified, told) = s_client(&authority, address, server, &[]).await?;
            ensure!(verified && told.replace(' ', "").contains(&format!("subject=CN={server}")), "{told}");
        }
        let (verified, _) = s_client(&authority, address, "other.example", &[]).await?;
        ensure!(!verified, "a name that nobody has");
        for (at_least, at_most) in [("--tlsv1.2", "1.2"), ("--tlsv1.3", "1.3")] {
            let url = format!("https://shop.example:{}/books/echo", address.port());
            let place = format!("shop.example:{}:127.0.0.1", address.port());
            let trusted = authority.file("ca.pem");
            let args = ["-sS", "--fail", "--cacert", &trusted, "--resolve", &place, at_least];
            let (served, told) = run("curl", &[&args[..], &["--tls-max", at_most, &url]].concat()).await?;
            ensure!(served, "{at_least}: {told}");
        }
    }

    for controller in &mut cluster.controllers {
        controller.kill().await?;
    }
    cluster.restart_runtime(0).await?;
    let (verified, told) = s_client(&authority, https(&cluster, 0)?, "shop.example", &[]).await?;
    ensure!(verified, "from its disk: {told}");
    let secret = shop.key.lines().nth(1).context("a line of base64")?;
    let mut read = 0;
    for file in files(cluster.root())? {
        let bytes = std::fs::read(&file)?;
        read += bytes.len();
        ensure!(!bytes.windows(secret.len()).any(|part| part == secret.as_bytes()), "{}", file.display());
    }
    ensure!(read > 0, "no file was looked at");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_resumes_and_reads_the_staple() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = Authority::new(folder.path())?;
    let cluster = cluster().await?;
    let shop = authority.issue("shop.example")?;
    std::fs::write(folder.path().join("index"), "")?;
    let (index, response) = (authority.file("index"), authority.file("ocsp.der"));
    let (ca, ca_key, leaf) =
        (authority.file("ca.pem"), authority.file("ca.key"), authority.file("shop.example.pem"));
    let args = ["ocsp", "-index", &index, "-CA", &ca, "-rsigner", &ca, "-rkey", &ca_key, "-issuer", &ca];
    let args = [&args[..], &["-cert", &leaf, "-respout", &response, "-noverify"]].concat();
    let (made, told) = run("openssl", &args).await?;
    ensure!(made, "{told}");
    let mut artifact = shop.artifact("shop");
    artifact["spec"]["ocspResponse"] = json!(base64(&std::fs::read(&response)?));
    let answer = cluster.management(0).apply(&[artifact], "?wait=live&timeout=20s").await?;
    ensure!(answer.status == StatusCode::OK, "{}", answer.body);

    let address = https(&cluster, 0)?;
    let (_, told) = s_client(&authority, address, "shop.example", &["-status"]).await?;
    ensure!(told.contains("OCSP Response Status: successful"), "{told}");
    let session = authority.file("session");
    let (_, told) =
        s_client(&authority, address, "shop.example", &["-tls1_2", "-sess_out", &session]).await?;
    ensure!(told.contains("New, TLSv1.2"), "{told}");
    let (_, told) = s_client(&authority, address, "shop.example", &["-tls1_2", "-sess_in", &session]).await?;
    ensure!(told.contains("Reused, TLSv1.2"), "{told}");
    Ok(())
}

/// An `https` upstream that answers every connection's first request in the same way, until
/// the tasks are dropped.
async fn upstream(identity: &Identity) -> anyhow::Result<(SocketAddr, JoinSet<()>)> {
    let chain = CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?;
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let mut served = JoinSet::new();
    served.spawn(async move {
        let mut open = JoinSet::new();
        while let Ok((connection, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            open.spawn(async move {
                // A handshake that the gateway breaks off is part of the test.
                let Ok(mut tls) = acceptor.accept(connection).await else { return };
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && tls.read_buf(&mut head).await.is_ok_and(|read| read > 0)
                {
                }
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\nconnection: close\r\n\r\ntrusted";
                if tls.write_all(answer).await.is_ok() {
                    tls.shutdown().await.ok();
                }
            });
        }
    });
    Ok((address, served))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_is_trusted_by_a_file_alone() -> anyhow::Result<()> {
    rustls::crypto::ring::default_provider().install_default().ok();
    let (folder, data) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let authority = Authority::new(folder.path())?;
    let (address, _served) = upstream(&authority.issue("localhost")?).await?;
    let certificates = data.path().join("certificates");
    std::fs::create_dir(&certificates)?;
    let mut args: Vec<String> =
        ["standalone", "--workers", "1", "--listen-https", "off"].map(str::to_owned).into();
    for listener in LISTENERS {
        args.extend([format!("--listen-{listener}"), "127.0.0.1:0".to_owned()]);
    }
    let setting = "FERROGATE_ROUTER_UPSTREAM_TLS_CUSTOM_CERTS_PATH".to_owned();
    let spec = Spec {
        binary: env!("CARGO_BIN_EXE_ferrogate").into(),
        name: "standalone".to_owned(),
        args,
        env: vec![
            ("FERROGATE_ADMIN_PASSWORD".to_owned(), PASSWORD.to_owned()),
            (setting, certificates.display().to_string()),
        ],
        data_dir: data.path().join("data"),
        log: data.path().join("data/process.log"),
    };
    let mut process = spec.start().await?;
    let management = Management::new(process.url("management"));
    let books = api("books", &format!("https://localhost:{}", address.port()), &json!([]));
    let answer = management.create(&books, "?wait=live&timeout=20s").await?;
    ensure!(answer.status == StatusCode::CREATED, "{}", answer.body);
    let asked = async |process: &Process| -> anyhow::Result<(u16, String)> {
        let answer = reqwest::get(format!("{}/books/echo", process.url("http"))).await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    };
    let (status, told) = asked(&process).await?;
    ensure!(status == 503 && told.contains("upstream_tls_failed"), "nobody vouches for it yet: {told}");

    std::fs::copy(authority.file("ca.pem"), certificates.join("corp.pem"))?;
    let again = process.pinned_spec();
    ensure!(process.terminate(PATIENCE).await?.success(), "the drain was not clean");
    process = again.start().await?;
    let trusted = eventually_async(PATIENCE, || async {
        asked(&process).await.ok().filter(|answer| *answer == (200, "trusted".to_owned()))
    });
    trusted.await.context("the file's authority is not trusted")?;
    let listed = Management::new(process.url("management")).get("/certificates").await?;
    ensure!(listed.body["certificates"][0]["name"] == "corp", "{}", listed.body);
    Ok(())
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { found.extend(files(&path)?) } else { found.push(path) }
    }
    Ok(found)
}
