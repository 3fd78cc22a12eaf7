// SPDX-License-Identifier: Apache-2.0
//! The config stream's client out of its settings: as whom a runtime asks for its configuration,
//! what it shows and whom it trusts. A client that cannot work ends the start, with the setting to
//! mend: logged and passed over, it would leave a runtime that never hears of anything.

use std::path::Path;

use ferrogate_base::secret::Secret;
use ferrogate_model::GatewayId;
use ferrogate_policy::Registry;
use ferrogate_xds::Capabilities;
use ferrogate_xds::client::{Client, ClientError, ClientOptions};
use ferrogate_xds::node::NodeInfo;
use ferrogate_xds::tls::{ClientTls, TlsError, TlsIdentity, read_certificates};

use super::StartError;
use crate::config::Stream;

const CONTROLLERS: &str = "runtime.controllers (--controller)";
const TOKEN: &str = "runtime.join_token";
const TOKEN_FILE: &str = "runtime.join_token_file (--join-token-file)";
const CA: &str = "runtime.tls.ca_file (--stream-ca)";
const CERTIFICATE: &str = "runtime.tls.cert_file (--stream-cert)";
const KEY: &str = "runtime.tls.key_file (--stream-key)";
/// What the certificates are read from and compared with, of which several may be at fault.
const TLS: &str = "runtime.tls";

/// `None` where nobody is to be asked: something in the process feeds the runtime itself.
pub(super) fn client(stream: &Stream, registry: &Registry) -> Result<Option<Client>, StartError> {
    if stream.controllers.is_empty() {
        return Ok(None);
    }
    let node = NodeInfo {
        id: stream.runtime_id.clone(),
        gateway: GatewayId::from(stream.gateway_id.as_str()),
        zone: stream.zone.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        capabilities: capabilities(registry),
    };
    let mut options = ClientOptions::new(stream.controllers.clone(), node);
    options.join_token = join_token(stream)?;
    options.tls = stream.ca_file.as_deref().map(|ca| client_tls(stream, ca)).transpose()?;
    let client = Client::try_new(options);
    client.map(Some).map_err(|error| unusable(setting_of(&error, stream), error.to_string()))
}

/// The setting that such a client was refused for.
fn setting_of(error: &ClientError, stream: &Stream) -> &'static str {
    match error {
        ClientError::BadToken if stream.join_token.is_some() => TOKEN,
        ClientError::BadToken => TOKEN_FILE,
        ClientError::NoTrust(_) => CA,
        ClientError::Tls(_) => TLS,
        ClientError::NoControllers
        | ClientError::BadUrl { .. }
        | ClientError::NotAUrl(_)
        | ClientError::Backoff(_) => CONTROLLERS,
    }
}

fn join_token(stream: &Stream) -> Result<Option<Secret>, StartError> {
    let (None, Some(path)) = (&stream.join_token, &stream.join_token_file) else {
        return Ok(stream.join_token.clone());
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| unusable(TOKEN_FILE, format!("cannot read {}: {error}", path.display())))?;
    Ok(Some(Secret::new(text.trim())))
}

/// How the stream's other end is known, and what it is shown.
fn client_tls(stream: &Stream, ca: &Path) -> Result<ClientTls, StartError> {
    let named = |error: TlsError| {
        let setting = match Some(error.path()) {
            path if path == stream.cert_file.as_deref() => CERTIFICATE,
            path if path == stream.key_file.as_deref() => KEY,
            Some(_) | None => CA,
        };
        let cause = std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
        unusable(setting, format!("{error}{cause}"))
    };
    let mut tls = ClientTls::new(read_certificates(ca).map_err(named)?);
    if let (Some(cert), Some(key)) = (&stream.cert_file, &stream.key_file) {
        tls = tls.with_identity(TlsIdentity::from_files(cert, key).map_err(named)?);
    }
    Ok(match &stream.server_name {
        Some(name) => tls.with_server_name(name.clone()),
        None => tls,
    })
}

fn unusable(setting: &str, why: String) -> StartError {
    StartError::Stream(format!("{setting}: {why}"))
}

fn capabilities(registry: &Registry) -> Capabilities {
    let build = Capabilities::of_this_build();
    registry.iter().fold(build, |capabilities, registered| {
        let version = registered.definition.version();
        let major = version.split('.').next().unwrap_or(version);
        capabilities.with(format!("policy/{}/{major}", registered.definition.name()))
    })
}

#[cfg(test)]
mod tests {
    use ferrogate_base::secret::Secret;
    use ferrogate_policy::Registry;

    use super::client;
    use crate::config::Stream;

    #[test]
    fn a_client_that_cannot_work_ends_the_start_and_names_the_setting() {
        let told = |url: &str, set: &dyn Fn(&mut Stream)| {
            let mut stream = Stream::default();
            for url in ["http://good:18000", url] {
                let Ok(controller) = url.parse();
                stream.controllers.push(controller);
            }
            set(&mut stream);
            let registry = Registry::new(Vec::new()).unwrap();
            client(&stream, &registry).err().map(|error| error.to_string()).unwrap_or_default()
        };
        let nothing = |_: &mut Stream| {};
        assert_eq!(told("http://c1:18000", &nothing), "");
        let start = "the config stream cannot be set up: ";
        for (url, setting) in [
            ("http://c1:99999", "runtime.controllers (--controller): 'http://c1:99999' is not a URL"),
            ("c1:18000", "runtime.controllers (--controller): "),
            ("https://c1:18000", "runtime.tls.ca_file (--stream-ca): "),
        ] {
            assert!(told(url, &nothing).starts_with(&format!("{start}{setting}")), "{}", told(url, &nothing));
        }
        let token = told("http://c1:18000", &|stream: &mut Stream| {
            stream.join_token = Some(Secret::new("a\nb"));
        });
        assert!(token.starts_with(&format!("{start}runtime.join_token: ")), "{token}");
    }
}
