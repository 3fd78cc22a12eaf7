// SPDX-License-Identifier: Apache-2.0
//! An authority for one test, the certificates that it issues, and the files that other programs
//! want of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::ensure;
use base64::Engine as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};

use crate::tools::run;

pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
}

pub struct Identity {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    /// Its files, in this folder, begin with `ca`.
    pub fn new(folder: &Path) -> anyhow::Result<Authority> {
        Authority::of(folder, CertificateParams::new(Vec::new())?)
    }

    /// The same, and past its time. What it issues is not.
    pub fn expired(folder: &Path) -> anyhow::Result<Authority> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.not_after = date_time_ymd(2020, 1, 1);
        Authority::of(folder, params)
    }

    fn of(folder: &Path, mut params: CertificateParams) -> anyhow::Result<Authority> {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, "the authority of this test");
        let key = KeyPair::generate()?;
        std::fs::write(folder.join("ca.key"), key.serialize_pem())?;
        let issuer = CertifiedIssuer::self_signed(params, key)?;
        std::fs::write(folder.join("ca.pem"), issuer.pem())?;
        Ok(Authority { issuer, folder: folder.to_owned() })
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// A certificate for this name; its files are called so.
    pub fn issue(&self, name: &str) -> anyhow::Result<Identity> {
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

    /// What `openssl ocsp` answers about the certificate of this name, in base64.
    pub async fn ocsp_response(&self, name: &str) -> anyhow::Result<String> {
        std::fs::write(self.folder.join("index"), "")?;
        let (index, response) = (self.file("index"), self.file("ocsp.der"));
        let (ca, key, leaf) = (self.file("ca.pem"), self.file("ca.key"), self.file(&format!("{name}.pem")));
        let args = ["ocsp", "-index", &index, "-CA", &ca, "-rsigner", &ca, "-rkey", &key, "-issuer", &ca];
        let args = [&args[..], &["-cert", &leaf, "-respout", &response, "-noverify"]].concat();
        let made = run("openssl", &args).await?;
        ensure!(made.success, "{}", made.all());
        Ok(base64::engine::general_purpose::STANDARD.encode(std::fs::read(&response)?))
    }
}

impl Identity {
    pub fn artifact(&self, name: &str) -> Value {
        json!({
            "apiVersion": "gateway.api-platform.wso2.com/v1",
            "kind": "Certificate",
            "metadata": { "name": name },
            "spec": { "certificate": self.certificate, "privateKey": self.key },
        })
    }

    /// A server that shows this and speaks both versions of HTTP; one that was given a certificate
    /// serves nobody who does not show one that was issued under it.
    pub fn server(&self, clients: Option<&str>) -> anyhow::Result<ServerConfig> {
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes()).collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())?;
        let builder = ServerConfig::builder();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(issuer) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_slice(issuer.as_bytes())?)?;
                builder.with_client_cert_verifier(WebPkiClientVerifier::builder(Arc::new(roots)).build()?)
            }
        };
        let mut config = builder.with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}
