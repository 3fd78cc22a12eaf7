// SPDX-License-Identifier: Apache-2.0
//! From a parsed head to its route, by the rules of arrival that both codecs share
//! (`request::inbound`, `settle`). Decides too which requests this path does not serve, before
//! anything of them has been counted or changed. `connection` calls it; `exchange` goes on.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use ferrogate_model::Position;
use ferrogate_policy::ClientCertificate;

use super::answer::Terms;
use super::fields::Fields;
use super::framing::{self, Framing};
use super::line::{Known, Present};
use super::parse::{RequestHead, Version};
use super::request_head::{RequestId, RequestView};
use crate::error::{Failure, Reason};
use crate::request::inbound::{self, Health};
use crate::router::CompiledRoute;
use crate::settle::{self, Arrival, Settled};
use crate::worker::Worker;

/// Calls have failures of their own shape and deadlines of their own.
const GRPC: &[u8] = b"application/grpc";

/// A request as it stands in its buffer.
pub struct Arrived<'b> {
    /// The headers.
    pub fields: Fields<'b>,
    /// The method.
    pub method: &'b str,
    /// Path and query.
    pub target: &'b str,
    /// The form of its answer.
    pub terms: Terms,
    /// Its body, or why that is not clear.
    pub framing: Result<Framing, &'static str>,
    /// Whether its client waits for a word before it sends the body.
    pub expects: bool,
}

/// What is known of a request whatever becomes of it.
#[derive(Default)]
pub struct Told<'b> {
    /// That of the snapshot looked into.
    pub position: Position,
    /// `x-request-id`, unless it was refused before.
    pub request_id: Option<RequestId<'b>>,
}

/// What a request turned out to be.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every request is a route's, and a box would allocate for it"
)]
pub enum Found<'b> {
    /// A request of the health namespace.
    Health(Health),
    /// It is refused.
    Failed(Failure),
    /// Its route.
    Route {
        /// The route.
        route: Arc<CompiledRoute>,
        /// The head, ready for policies.
        head: RequestView<'b>,
        /// `x-request-id`.
        request_id: RequestId<'b>,
        /// Who the client is, as far as can be verified.
        client: IpAddr,
    },
    /// Not for this path.
    Unusual,
}

impl<'b> Arrived<'b> {
    /// Reads what is beside the header lines.
    #[must_use]
    pub fn new(fields: Fields<'b>, head: &RequestHead) -> Arrived<'b> {
        let raw = fields.raw();
        // Both were checked to be text.
        let text = |start: usize, end: usize| {
            raw.get(start..end).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
        };
        let method = text(head.start, head.method_end);
        let present = head.present;
        let terms = Terms {
            version: head.version,
            head_only: method == "HEAD",
            trailers: present.has(Known::Te) && wants_trailers(&fields),
            close: closes(&fields, head.version),
        };
        let framed = Present::of(&[Known::ContentLength, Known::TransferEncoding]);
        let framing = if present.any(framed) {
            framing::of_request(raw, fields.lines(), head.version)
        } else {
            Ok(Framing::None)
        };
        let expects = present.has(Known::Expect)
            && head.version == Version::Http11
            && fields.first(Known::Expect).is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"));
        Arrived {
            fields,
            method,
            target: text(head.method_end + 1, head.target_end),
            terms,
            framing,
            expects,
        }
    }

    /// Whether hyper must serve it: another protocol, or another form of target. What is
    /// ambiguous, or a target of no form at all, is not handed over but refused.
    #[must_use]
    pub fn is_unusual(&self) -> bool {
        let kind = self.fields.first(Known::ContentType).unwrap_or_default();
        let grpc = kind.get(..GRPC.len()).is_some_and(|kind| kind.eq_ignore_ascii_case(GRPC));
        let path = self.target.starts_with('/');
        let unusual = grpc || self.fields.present().has(Known::Upgrade) || !path;
        self.framing.is_ok() && unusual && (path || self.target.parse::<http::Uri>().is_ok())
    }

    /// Finds its route.
    pub fn find(self, worker: &Worker, peer: &Peer, told: &mut Told<'b>) -> Found<'b> {
        match self.try_find(worker, peer, told) {
            Ok(found) => found,
            Err(failure) => Found::Failed(failure),
        }
    }

    fn try_find(mut self, worker: &Worker, peer: &Peer, told: &mut Told<'b>) -> Result<Found<'b>, Failure> {
        self.framing.map_err(bad)?;
        let (path, query) = match self.target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (self.target, None),
        };
        if let Some(health) = inbound::health(path) {
            return Ok(Found::Health(health));
        }
        if !path.starts_with('/') {
            return Err(bad("the target is no path"));
        }
        let announced = if let Ok(Framing::Length(length)) = self.framing { length } else { 0 };
        inbound::admit(worker, 0, self.target.len(), announced)?;
        let version = http::Version::from(self.terms.version);
        let authority = inbound::host(None, self.fields.known(Known::Host), version)?;
        let (text, path_bytes) = inbound::normalised(path, query, worker.shared.config.path)?;
        let target = match text {
            Cow::Borrowed(_) => Cow::Borrowed(self.target),
            Cow::Owned(text) => Cow::Owned(text),
        };
        let Peer { address, https, certificate } = peer;
        let certificate = certificate.as_deref();
        let arrival = Arrival { peer: *address, certificate, authority, https: *https, version };
        let Settled { client, made_id } = settle::request(&mut self.fields, &worker.shared.config, &arrival);
        let request_id = match made_id {
            Some(made) => RequestId::Made(made),
            None => RequestId::sent(&self.fields),
        };
        told.request_id = Some(request_id);
        let fields = &self.fields;
        let header = |name: &str| fields.by_name(name);
        let path = target.get(..path_bytes).unwrap_or_default();
        let route = inbound::route(worker, (authority, self.method, path), &header, &mut told.position)?;
        if !route.is_plain {
            return Ok(Found::Unusual);
        }
        let head = RequestView::new(self.fields, self.method, target, authority, *https);
        Ok(Found::Route { route, head, request_id, client })
    }
}

fn closes(fields: &Fields<'_>, version: Version) -> bool {
    let mut closes = version == Version::Http10;
    if fields.present().has(Known::Connection) {
        for token in fields.known(Known::Connection).flat_map(|value| value.split(|byte| *byte == b',')) {
            let token = token.trim_ascii();
            if token.eq_ignore_ascii_case(b"close") {
                return true;
            }
            closes &= !token.eq_ignore_ascii_case(b"keep-alive");
        }
    }
    closes
}

fn wants_trailers(fields: &Fields<'_>) -> bool {
    let mut codings = fields.known(Known::Te).flat_map(|value| value.split(|byte| *byte == b','));
    codings.any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

fn bad(detail: &str) -> Failure {
    Failure::with(Reason::BadRequest, detail)
}

/// Who is at the other end.
pub struct Peer {
    /// Its address, or what a PROXY header said in its place.
    pub address: IpAddr,
    /// It speaks TLS with us.
    pub https: bool,
    /// Who it has proved to be in the handshake, if it has.
    pub certificate: Option<Arc<ClientCertificate>>,
}
