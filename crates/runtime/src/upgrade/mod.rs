// SPDX-License-Identifier: Apache-2.0
//! A client that wants to switch its connection to another protocol: HTTP/1.1 `Upgrade`
//! (RFC 9110, 7.8) and HTTP/2 extended CONNECT (RFC 8441), both of which reach the upstream as an
//! HTTP/1.1 upgrade. Route, policies and upstream are those of any request; only when the
//! upstream agreed to what was asked for does [`tunnel`] take over. `request` calls it. Nothing
//! is switched that the route does not allow, or whose bytes a body policy would have to see.

pub mod tunnel;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ferrogate_policy::{BodyNeed, Chain};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version};
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use smallvec::SmallVec;

use crate::error::{Failure, Reason};
use crate::router::CompiledRoute;
use crate::upstream::circuit::Connection;
use crate::upstream::pick::Guard;
use crate::upstream::reply::ReplyBody;

const WEBSOCKET: &str = "websocket";

/// What a server adds to the key before it hashes it (RFC 6455, 1.3).
const WEBSOCKET_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The protocols a client would switch to, in its order.
pub struct Offer {
    protocols: SmallVec<[String; 1]>,
    client: OnUpgrade,
    extended: bool,
}

/// A switch that the route allows and the upstream is asked for.
pub struct Switch {
    protocol: HeaderValue,
    client: OnUpgrade,
    /// The client spoke HTTP/2, which knows no 101.
    extended: bool,
    /// What the upstream must answer to the key we made for a client that needs none.
    accept: Option<String>,
}

/// A switch that the upstream agreed to.
pub struct Switched {
    protocol: HeaderValue,
    client: OnUpgrade,
    upstream: OnUpgrade,
    extended: bool,
    /// The endpoint counts the tunnel as a request under way, and as a connection where it may
    /// only have so many.
    _counted: (Option<Guard>, Option<Connection>),
}

/// What the request's head offers. An extended CONNECT becomes the GET that it stands for
/// (RFC 8441, 5), so that routes and policies need not know of it.
pub fn offered(parts: &mut Parts, bodiless: bool) -> Option<Offer> {
    if parts.version == Version::HTTP_2 {
        let protocol = parts.extensions.remove::<Protocol>()?;
        let client = parts.extensions.remove::<OnUpgrade>()?;
        parts.method = Method::GET;
        let protocols = std::iter::once(protocol.as_str().to_owned()).collect();
        return Some(Offer { protocols, client, extended: true });
    }
    // Without the connection option the header is not meant for us; and a body would have to
    // end before the switch, which nobody does and much could be hidden in.
    if !bodiless
        || !parts.headers.contains_key(UPGRADE)
        || !lists(&parts.headers, CONNECTION.as_str(), "upgrade")
    {
        return None;
    }
    let client = parts.extensions.remove::<OnUpgrade>()?;
    let texts = parts.headers.get_all(UPGRADE).into_iter().filter_map(|value| value.to_str().ok());
    let names = texts.flat_map(|text| text.split(',')).map(str::trim).filter(|name| !name.is_empty());
    Some(Offer { protocols: names.map(str::to_owned).collect(), client, extended: false })
}

impl Offer {
    /// The first protocol that may be switched to here. An `Upgrade` that nobody takes up is
    /// ignored and the request goes on as a plain one (RFC 9110, 7.8).
    ///
    /// # Errors
    /// When an extended CONNECT is not allowed: as a plain request it would mean nothing.
    pub fn settle(self, route: &CompiledRoute, chain: &Chain) -> Result<Option<Switch>, Failure> {
        // Bytes of another protocol are in no body that a policy could look at.
        let unseen =
            chain.request_body_need() == BodyNeed::None && chain.response_body_need() == BodyNeed::None;
        let allowed = self.protocols.iter().find(|protocol| unseen && route.upgrades.allow(protocol));
        match allowed.and_then(|protocol| HeaderValue::try_from(protocol.as_str()).ok()) {
            Some(protocol) => {
                let (client, extended) = (self.client, self.extended);
                Ok(Some(Switch { protocol, client, extended, accept: None }))
            }
            None if self.extended => {
                let asked = self.protocols.join(", ");
                Err(Failure::with(Reason::UpgradeRefused, format!("no switch to {asked} on this route")))
            }
            None => Ok(None),
        }
    }
}

impl Switch {
    /// Asks the upstream for it.
    pub fn ask(&mut self, headers: &mut HeaderMap) {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, self.protocol.clone());
        if self.extended && self.protocol.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes()) {
            // HTTP/2 needs neither (RFC 8441, 5); an HTTP/1.1 server insists on both.
            let key = STANDARD.encode(fastrand::u128(..).to_be_bytes());
            self.accept = Some(accept_of(&key));
            if let Ok(key) = HeaderValue::try_from(key) {
                headers.insert(SEC_WEBSOCKET_KEY, key);
            }
            headers.entry(SEC_WEBSOCKET_VERSION).or_insert(HeaderValue::from_static("13"));
        }
    }

    /// The upstream answered 101: takes its connection, if it switched to what was asked for.
    ///
    /// # Errors
    /// When the answer is to another question.
    pub fn agreed<B>(self, response: &mut Response<B>) -> Result<Switched, Failure> {
        let bad = |detail: &str| Failure::with(Reason::UpstreamProtocol, detail);
        let headers = response.headers();
        let named = headers.get(UPGRADE).is_some_and(|named| {
            named.as_bytes().trim_ascii().eq_ignore_ascii_case(self.protocol.as_bytes())
        });
        if !named || !lists(headers, CONNECTION.as_str(), "upgrade") {
            return Err(bad("it switched to another protocol than was asked for"));
        }
        if let Some(accept) = &self.accept {
            let right = headers.get(SEC_WEBSOCKET_ACCEPT).is_some_and(|value| value == accept);
            if !right {
                return Err(bad("the answer to the WebSocket key is wrong"));
            }
        }
        let upstream = hyper::upgrade::on(&mut *response);
        if self.extended {
            response.headers_mut().remove(SEC_WEBSOCKET_ACCEPT);
        }
        let Switch { protocol, client, extended, accept: _ } = self;
        Ok(Switched { protocol, client, upstream, extended, _counted: (None, None) })
    }
}

impl Switched {
    /// The same, of an endpoint that is told when the tunnel ends; `answer` is the body that came
    /// with its consent, on the connection that becomes the tunnel.
    #[must_use]
    pub fn guarded(mut self, guard: Option<Guard>, answer: ReplyBody) -> Switched {
        let connection = match answer {
            ReplyBody::Hyper(_, lease) => lease.into_counted(),
            ReplyBody::Direct(_) => None,
        };
        self._counted = (guard, connection);
        self
    }

    /// Makes the head say to the client what it must hear.
    pub fn tell<B>(&self, response: &mut Response<B>) {
        if self.extended {
            *response.status_mut() = StatusCode::OK;
        } else {
            let headers = response.headers_mut();
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, self.protocol.clone());
        }
    }
}

/// Whether a header that is a list has this entry.
fn lists(headers: &HeaderMap, name: &str, wanted: &str) -> bool {
    let entries = headers.get_all(name).into_iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
    entries.map(<[u8]>::trim_ascii).any(|entry| entry.eq_ignore_ascii_case(wanted.as_bytes()))
}

fn accept_of(key: &str) -> String {
    let mut hash = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(WEBSOCKET_GUID);
    STANDARD.encode(hash.finish())
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::{accept_of, lists};

    #[test]
    fn a_list_is_searched_entry_by_entry() {
        let mut headers = HeaderMap::new();
        for value in ["keep-alive", "x-up , UPGRADE"] {
            headers.append("connection", HeaderValue::from_static(value));
        }
        assert!(lists(&headers, "connection", "upgrade"));
        assert!(!lists(&headers, "connection", "up"));
        assert!(!lists(&headers, "te", "upgrade"));
    }

    #[test]
    fn the_answer_to_a_key_is_that_of_the_rfc() {
        assert_eq!(accept_of("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
