// SPDX-License-Identifier: Apache-2.0
//! nginx with one worker.

use std::path::Path;

use super::{Ground, Peer, free_ports, program};
use crate::process::Pinned;

pub(super) async fn start(ground: &Ground<'_>, dir: &Path) -> anyhow::Result<Peer> {
    let [http, https] = free_ports()?;
    let (backend, certificate, key) = (ground.backend, ground.certificate.display(), ground.key.display());
    let place = dir.display();
    // A kept connection ends after 1,000 requests by default, which only measures reconnecting.
    let config = format!(
        "daemon off; master_process on; worker_processes 1;
pid {place}/nginx.pid; error_log {place}/error.log warn;
events {{ worker_connections 19000; }}
http {{
  access_log off; client_max_body_size 0; keepalive_requests 1000000000; keepalive_timeout 3600s;
  client_body_temp_path {place}/body; proxy_temp_path {place}/proxy; fastcgi_temp_path {place}/fastcgi;
  uwsgi_temp_path {place}/uwsgi; scgi_temp_path {place}/scgi;
  upstream backend {{ server {backend}; keepalive 1024; keepalive_requests 1000000000; }}
  server {{
    listen {http} reuseport; listen {https} ssl http2;
    ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:tls:10m;
    location / {{
      proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection \"\";
      proxy_request_buffering off;
    }}
  }}
}}
"
    );
    let file = dir.join("nginx.conf");
    std::fs::write(&file, config)?;
    let args = ["-c".to_owned(), file.display().to_string(), "-e".to_owned(), format!("{place}/error.log")];
    let mut nginx =
        Pinned::start(ground.core, &program("nginx", "nginx-light")?, &args, &dir.join("output.log"))?;
    nginx.listening(http).await?;
    Ok(Peer { http, https, token: None, measured: vec![nginx], _beside: Vec::new() })
}
