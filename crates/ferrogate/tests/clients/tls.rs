// SPDX-License-Identifier: Apache-2.0
//! TLS as `openssl s_client` and curl see it: versions, ALPN, certificates by name and their hot
//! swap, resumption, staples, certificates of clients, and upstreams that prove themselves.

use anyhow::{Context as _, ensure};
use serde_json::json;

use crate::gateway::{FIRST, Gateway, block, certificates};
use crate::pki::Authority;
use crate::tools::{Talk, Told, curl, fed, run, status};
use crate::upstream::Upstream;

/// A request that makes the gateway close when it has answered: until then `openssl` reads.
const ASKED: &[u8] =
    b"GET /secure-books/v1/books HTTP/1.1\r\nhost: books.example.com\r\nconnection: close\r\n\r\n";

/// A connection of `openssl` that asks for books.example.com and for one page.
async fn s_client(gateway: &Gateway, more: &[&str]) -> anyhow::Result<Told> {
    let address = gateway.https.to_string();
    let args = ["s_client", "-connect", &address, "-servername", "books.example.com", "-ign_eof"];
    fed("openssl", &[&args[..], more].concat(), ASKED).await
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_agrees_on_versions_and_resumes_and_reads_the_staple() -> anyhow::Result<()> {
    let (gateway, upstream) = (Gateway::configured("tls.toml").await?, Upstream::start().await?);
    gateway.apply("server-certificate.yaml", &[(FIRST, &upstream.url())]).await?;
    let folder = tempfile::tempdir()?;
    for (flag, version) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let session = folder.path().join(version).display().to_string();
        let first = s_client(&gateway, &[flag, "-sess_out", &session]).await?.all();
        ensure!(first.contains(&format!("New, {version}")) && first.contains("HTTP/1.1 200 OK"), "{first}");
        let again = s_client(&gateway, &[flag, "-sess_in", &session]).await?.all();
        ensure!(
            again.contains(&format!("Reused, {version}")) && again.contains("HTTP/1.1 200 OK"),
            "{again}"
        );
    }
    // OpenSSL itself must be allowed what it is to be refused.
    let old = s_client(&gateway, &["-tls1_1", "-cipher", "ALL@SECLEVEL=0"]).await?.all();
    ensure!(old.contains("alert") && !old.contains("HTTP/1.1"), "{old}");

    for (offered, agreed) in [("h2,http/1.1", "ALPN protocol: h2"), ("http/1.1", "ALPN protocol: http/1.1")] {
        let told = s_client(&gateway, &["-alpn", offered]).await?.all();
        ensure!(told.contains(agreed), "{offered}: {told}");
    }
    let stapled = s_client(&gateway, &["-status"]).await?.all();
    ensure!(stapled.contains("OCSP Response Status: successful"), "{stapled}");
    ensure!(stapled.contains("Cert Status: good"), "{stapled}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_replaced_under_an_open_connection() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = Authority::new(folder.path())?;
    let (gateway, upstream) = (Gateway::start(&[]).await?, Upstream::start().await?);
    gateway.apply("server-certificate.yaml", &[(FIRST, &upstream.url())]).await?;
    let (url, place) = gateway.named("books.example.com", "/secure-books/v1/books");
    let address = gateway.https.to_string();
    let args = ["s_client", "-connect", &address, "-servername", "books.example.com", "-quiet"];
    let mut open = Talk::start("openssl", &args)?;
    let asked = "GET /secure-books/v1/books?n HTTP/1.1\r\nhost: books.example.com\r\n\r\n";
    open.say(&asked.replace("?n", "?first")).await?;
    open.until("?first").await?;

    // With a staple of its own, as openssl makes it.
    let mut artifact = authority.issue("books.example.com")?.artifact("books-example-com");
    artifact["spec"]["ocspResponse"] = authority.ocsp_response("books.example.com").await?.into();
    gateway.apply_text("replaced.json", &artifact.to_string()).await?;
    let trusted = authority.file("ca.pem");
    ensure!(status(&["--cacert", &trusted, "--resolve", &place, &url]).await? == "200", "the new one");
    let new = s_client(&gateway, &["-status", "-CAfile", &trusted, "-verify_return_error"]).await?.all();
    ensure!(
        new.contains("OCSP Response Status: successful") && new.contains("Verify return code: 0"),
        "{new}"
    );
    open.say(&asked.replace("?n", "?second")).await?;
    open.until("?second").await?;

    // Who asks for another name, or for none, is shown something else.
    let other = run("openssl", &["s_client", "-connect", &address, "-servername", "other.example"]).await?;
    shown_something_else(&other.all())?;
    let none = run("openssl", &["s_client", "-connect", &address, "-noservername"]).await?;
    shown_something_else(&none.all())?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_prove_themselves_and_upstreams_are_told() -> anyhow::Result<()> {
    let (folder, elsewhere) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let (authority, stranger) = (Authority::new(folder.path())?, Authority::new(elsewhere.path())?);
    let (gateway, upstream) = (Gateway::configured("tls.toml").await?, Upstream::start().await?);
    let there = certificates("client-certificate.yaml")?;
    let edits = [(there[0].as_str(), block(&authority.pem())), (FIRST, upstream.url())];
    gateway
        .apply("client-certificate.yaml", &edits.each_ref().map(|(from, to)| (*from, to.as_str())))
        .await?;
    for issuer in [&authority, &stranger] {
        issuer.issue("checkout.partner.example")?;
    }
    authority.issue("another.partner.example")?;
    let url = format!("https://{}/partner-orders/v1/orders", gateway.https);
    let shown = async |issuer: &Authority, name: &str| {
        let (certificate, key) = (issuer.file(&format!("{name}.pem")), issuer.file(&format!("{name}.key")));
        let spoofed = "x-client-certificate: Hash=0;Subject=\"CN=root\"";
        curl(&["-k", "-w", "\n%{http_code}", "-H", spoofed, "--cert", &certificate, "--key", &key, &url])
            .await
    };
    let served = shown(&authority, "checkout.partner.example").await?;
    ensure!(served.ends_with("\n200") && served.contains("CN=checkout.partner.example"), "{served}");
    ensure!(!served.contains("CN=root"), "a client wrote the header: {served}");
    ensure!(shown(&authority, "another.partner.example").await?.ends_with("\n403"), "another name");
    ensure!(shown(&stranger, "checkout.partner.example").await.is_err(), "issued by a stranger");
    ensure!(status(&["-k", &url]).await? == "401", "without a certificate");
    // It is asked for, by the names of who may issue it.
    let address = gateway.https.to_string();
    let asked = run("openssl", &["s_client", "-connect", &address]).await?.all();
    ensure!(asked.contains("Acceptable client certificate CA names"), "{asked}");
    ensure!(asked.contains("the authority of this test"), "{asked}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_prove_themselves_as_their_definition_says() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = Authority::new(folder.path())?;
    let there = certificates("upstream-tls.yaml")?;
    let shown = there.get(1).context("our own certificate")?.replace("    ", "");
    let right = authority.issue("books.partner.example")?;
    let partner = Upstream::over_tls(right.server(None)?).await?;
    let demanding = Upstream::over_tls(right.server(Some(&shown))?).await?;
    let wrong = Upstream::over_tls(authority.issue("other.partner.example")?.server(None)?).await?;
    let gateway = Gateway::start(&[]).await?;
    let ours = block(&authority.pem());
    let url = gateway.url("/partner-books/v1/books");
    let sandbox = "host: sandbox.partner-books.example.com";
    for (main, other, expected) in [(&partner, &demanding, "200"), (&wrong, &wrong, "503")] {
        let (main, other) =
            (format!("https://{}", main.address), format!("https://localhost:{}", other.address.port()));
        let edits = [
            (there[0].as_str(), ours.as_str()),
            ("https://127.0.0.1:8443", &main),
            ("https://localhost:8444", &other),
        ];
        gateway.apply("upstream-tls.yaml", &edits).await?;
        ensure!(status(&[&url]).await? == expected, "main: not {expected}");
        ensure!(status(&["-H", sandbox, &url]).await? == expected, "sandbox: not {expected}");
    }
    for told in [curl(&[&url]).await?, curl(&["-H", sandbox, &url]).await?] {
        ensure!(told.contains("upstream_tls_failed"), "{told}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_has_expired_vouches_for_no_upstream() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let expired = Authority::expired(folder.path())?;
    let upstream = Upstream::over_tls(expired.issue("books.partner.example")?.server(None)?).await?;
    let gateway = Gateway::start(&[]).await?;
    let there = certificates("upstream-tls.yaml")?;
    let (ours, address) = (block(&expired.pem()), format!("https://{}", upstream.address));
    let named = [(there[0].as_str(), ours.as_str()), ("https://127.0.0.1:8443", address.as_str())];
    // No API names it: it is there for every upstream.
    let for_all = [
        (
            "name: partner-authority\nspec:\n  usage: named",
            "name: partner-authority\nspec:\n  usage: upstreamTrust",
        ),
        ("        caCertificate: partner-authority\n        serverName:", "        serverName:"),
    ];
    for edits in [named.to_vec(), [named, for_all].concat()] {
        gateway.apply("upstream-tls.yaml", &edits).await?;
        let told = curl(&[&gateway.url("/partner-books/v1/books")]).await?;
        ensure!(told.contains("upstream_tls_failed"), "{told}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_has_expired_vouches_for_no_client() -> anyhow::Result<()> {
    let (folder, elsewhere) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let (expired, valid) = (Authority::expired(folder.path())?, Authority::new(elsewhere.path())?);
    let (gateway, upstream) = (Gateway::configured("tls.toml").await?, Upstream::start().await?);
    let there = certificates("client-certificate.yaml")?;
    let (ours, address) = (block(&expired.pem()), upstream.url());
    let edits = [(there[0].as_str(), ours.as_str()), (FIRST, address.as_str())];
    gateway.apply("client-certificate.yaml", &edits).await?;
    let name = "checkout.partner.example";
    for issuer in [&expired, &valid] {
        issuer.issue(name)?;
    }
    let url = format!("https://{}/partner-orders/v1/orders", gateway.https);
    let shown = async |issuer: &Authority| {
        let (certificate, key) = (issuer.file(&format!("{name}.pem")), issuer.file(&format!("{name}.key")));
        status(&["-k", "--cert", &certificate, "--key", &key, &url]).await
    };
    // Nobody is left who could vouch for clients, so that none is asked.
    ensure!(shown(&expired).await? == "401", "nobody is asked");
    let another = json!({
        "apiVersion": "gateway.api-platform.wso2.com/v1",
        "kind": "Certificate",
        "metadata": { "name": "another" },
        "spec": { "usage": "clientTrust", "certificate": valid.pem() },
    });
    gateway.apply_text("another.json", &another.to_string()).await?;
    ensure!(shown(&valid).await? == "200", "issued by one who is valid");
    ensure!(shown(&expired).await.is_err(), "issued by one who is not");
    Ok(())
}

fn shown_something_else(told: &str) -> anyhow::Result<()> {
    ensure!(told.contains("BEGIN CERTIFICATE") && !told.contains("books.example.com"), "{told}");
    Ok(())
}
