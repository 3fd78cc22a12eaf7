// SPDX-License-Identifier: Apache-2.0
//! HAProxy with one thread.

use std::path::Path;

use super::{Ground, Peer, free_ports, program};
use crate::process::Pinned;

pub(super) async fn start(ground: &Ground<'_>, dir: &Path) -> anyhow::Result<Peer> {
    let [http, https] = free_ports()?;
    let pem = ground.certificate.with_extension("pem").display().to_string();
    let backend = ground.backend;
    let config = format!(
        "global
  nbthread 1
  maxconn 15000
  no strict-limits
defaults
  mode http
  timeout client 3600s
  timeout server 3600s
  timeout connect 5s
  timeout http-keep-alive 3600s
  http-reuse always
frontend front
  bind {http}
  bind {https} ssl crt {pem} alpn h2,http/1.1
  default_backend back
backend back
  server one {backend} pool-max-conn 1024
"
    );
    let file = dir.join("haproxy.cfg");
    std::fs::write(&file, config)?;
    let args = ["-db".to_owned(), "-f".to_owned(), file.display().to_string()];
    let mut haproxy =
        Pinned::start(ground.core, &program("haproxy", "haproxy")?, &args, &dir.join("output.log"))?;
    haproxy.listening(http).await?;
    Ok(Peer { http, https, token: None, measured: vec![haproxy], _beside: Vec::new() })
}
