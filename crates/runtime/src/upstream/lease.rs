// SPDX-License-Identifier: Apache-2.0
//! A connection as one request uses it: a whole one of HTTP/1.1, hyper's or the hot path's, or a
//! share of one of HTTP/2. Sending, and what a failure to send proves, is the same to the caller;
//! here is what differs. `upstream::send` gets leases from the pools; the response's body has
//! them after that and gives them back.

use http::header::{HOST, TE, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Request, Response, Uri};
use hyper::body::Body;
use hyper::client::conn::TrySendError;

use super::body::OutgoingBody;
use super::circuit::Connection;
use super::copy_of;
use super::direct::{Direct, Lost};
use super::pool::Kept;
use super::reply::ReplyBody;
use super::streams::Slot;
use crate::access_log::Traffic;
use crate::grpc::Call;
use ferrogate_model::kinds::rest_api::Scheme;

/// A connection in use.
pub enum Lease {
    /// HTTP/1.1, for this request alone.
    Kept(Kept),
    /// The same, with no task beside it.
    Direct(Direct),
    /// HTTP/2, shared.
    Shared(Slot, Scheme),
}

/// Why there is no response.
pub struct NotAnswered {
    /// The request, when it is still whole.
    pub request: Option<Request<OutgoingBody>>,
    /// What became of it.
    pub fate: Fate,
    /// What happened.
    pub error: SendError,
}

/// What is known of a request without a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The connection closed before a byte of it was written; it is still whole.
    Unsent,
    /// The upstream says that it did nothing with it (RFC 9113, 8.7).
    Unprocessed,
    /// The upstream may have seen it.
    Unknown,
}

/// What happened instead of a response.
pub enum SendError {
    /// hyper says it.
    Hyper(hyper::Error),
    /// The connection ended.
    Ended(String),
    /// What came is no response.
    Malformed(String),
}

impl Lease {
    /// Whether a request can be sent at once.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        match self {
            Lease::Kept(kept) => kept.sender.is_ready(),
            Lease::Direct(_) => true,
            Lease::Shared(slot, _) => slot.sender.is_ready(),
        }
    }

    /// Waits until a request can be sent.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn ready(&mut self) -> Result<(), hyper::Error> {
        match self {
            Lease::Kept(kept) => kept.sender.ready().await,
            Lease::Direct(_) => Ok(()),
            Lease::Shared(slot, _) => slot.sender.ready().await,
        }
    }

    /// A copy to send again, where there may be a reason to and the body is at hand: on a new
    /// connection only an upstream's refusal without a look, which only HTTP/2 can say. A direct
    /// connection leaves the request whole.
    #[must_use]
    pub fn spare(&self, request: &Request<OutgoingBody>, repeatable: bool) -> Option<Request<OutgoingBody>> {
        let wanted = match self {
            Lease::Kept(_) => repeatable,
            Lease::Direct(_) => false,
            Lease::Shared(..) => true,
        };
        wanted.then(|| copy_of(request)).flatten()
    }

    /// Sends the request and waits for the response's head.
    ///
    /// # Errors
    /// With what is known of the request's fate.
    pub async fn send(self, request: Request<OutgoingBody>) -> Result<Response<ReplyBody>, NotAnswered> {
        match self {
            Lease::Kept(mut kept) => {
                let sent = kept.sender.try_send_request(framed(request)).await.map_err(not_answered)?;
                Ok(sent.map(|body| ReplyBody::Hyper(body, Lease::Kept(kept))))
            }
            Lease::Direct(direct) => match direct.send(&request).await {
                Ok(response) => Ok(response.map(|body| ReplyBody::Direct(Box::new(body)))),
                Err(lost) => Err(lost_directly(lost, request)),
            },
            Lease::Shared(mut slot, scheme) => {
                match slot.sender.try_send_request(dressed(request, scheme)).await {
                    Ok(response) => {
                        Ok(response.map(|body| ReplyBody::Hyper(body, Lease::Shared(slot, scheme))))
                    }
                    Err(error) => Err(lost_in_share(error, &slot)),
                }
            }
        }
    }

    /// Keeps the connection for the next request, if this one is through in both directions.
    pub fn give_back(self, traffic: &Traffic) {
        match self {
            Lease::Kept(kept) => kept.give_back(traffic),
            // Its exchange has it, and gives it back by itself.
            Lease::Direct(unused) => drop(unused),
            // Giving the share back is all there is to do; a stream that is not through is reset.
            Lease::Shared(slot, _) => drop(slot),
        }
    }

    /// What the endpoint counts, of a connection that goes on without us as a tunnel.
    #[must_use]
    pub fn into_counted(self) -> Option<Connection> {
        match self {
            Lease::Kept(kept) => kept.into_counted(),
            // Neither becomes a tunnel.
            Lease::Direct(_) | Lease::Shared(..) => None,
        }
    }
}

fn not_answered(mut error: TrySendError<Request<OutgoingBody>>) -> NotAnswered {
    let request = error.take_message();
    let fate = if request.is_some() { Fate::Unsent } else { Fate::Unknown };
    NotAnswered { request, fate, error: SendError::Hyper(error.into_error()) }
}

fn lost_directly(lost: Lost, request: Request<OutgoingBody>) -> NotAnswered {
    let (fate, error) = match lost {
        Lost::Unsent(detail) => (Fate::Unsent, SendError::Ended(detail)),
        Lost::Ended(detail) => (Fate::Unknown, SendError::Ended(detail)),
        Lost::Malformed(detail) => (Fate::Unknown, SendError::Malformed(detail)),
    };
    NotAnswered { request: Some(request), fate, error }
}

fn lost_in_share(error: TrySendError<Request<OutgoingBody>>, slot: &Slot) -> NotAnswered {
    let mut lost = not_answered(error);
    if let SendError::Hyper(error) = &lost.error
        && cause(error).is_some_and(is_refusal)
        && lost.fate == Fate::Unknown
    {
        lost.fate = Fate::Unprocessed;
    }
    if lost.fate == Fate::Unprocessed || slot.sender.is_closed() {
        slot.retire();
    }
    lost.request = lost.request.map(undressed);
    lost
}

/// hyper hands on what the peer said only as its error's source.
#[must_use]
pub fn cause(error: &hyper::Error) -> Option<&h2::Error> {
    std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>())
}

/// A refused stream, or one above the last that a peer which goes away has looked at.
fn is_refusal(error: &h2::Error) -> bool {
    let reason = error.reason();
    error.is_remote()
        && (reason == Some(h2::Reason::REFUSED_STREAM)
            || (error.is_go_away() && reason == Some(h2::Reason::NO_ERROR)))
}

/// A body of unknown length goes in chunks (RFC 9112, 6.1), which must be said: of a GET or HEAD
/// without such a word hyper takes the body away and sends the rest.
fn framed(mut request: Request<OutgoingBody>) -> Request<OutgoingBody> {
    if request.body().size_hint().exact().is_none() {
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    request
}

/// HTTP/2 has scheme and host beside the headers (RFC 9113, 8.3.1).
fn dressed(mut request: Request<OutgoingBody>, scheme: Scheme) -> Request<OutgoingBody> {
    let host = request.headers().get(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    if let Some(authority) = host {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(match scheme {
            Scheme::Http => http::uri::Scheme::HTTP,
            Scheme::Https => http::uri::Scheme::HTTPS,
        });
        parts.authority = Some(authority);
        let path = parts.path_and_query.get_or_insert(PathAndQuery::from_static("/")).clone();
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_else(|_| Uri::from(path));
        request.headers_mut().remove(HOST);
    }
    if Call::of(request.headers()).is_some() {
        // Said hop by hop, and gRPC servers insist on hearing it.
        request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
    }
    // One that was meant for HTTP/1.1 first.
    request.headers_mut().remove(TRANSFER_ENCODING);
    *request.version_mut() = http::Version::HTTP_2;
    request
}

/// As it was, for a connection of the other kind.
fn undressed(mut request: Request<OutgoingBody>) -> Request<OutgoingBody> {
    let uri = request.uri();
    let host = uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    if let Some(host) = host {
        let path = uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        request.headers_mut().insert(HOST, host);
        *request.uri_mut() = Uri::from(path);
    }
    *request.version_mut() = http::Version::HTTP_11;
    request
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use ferrogate_model::kinds::rest_api::Scheme;
    use http::Request;

    use super::{dressed, framed, undressed};
    use crate::upstream::body::OutgoingBody;

    #[test]
    fn a_body_of_unknown_length_is_chunked_over_http1_and_only_there() {
        let framing = |body: OutgoingBody| {
            let request = Request::get("/a").header("host", "books.example").body(body).expect("a request");
            let sent = framed(request);
            let chunked = sent.headers().get("transfer-encoding").is_some_and(|coding| coding == "chunked");
            assert!(!dressed(sent, Scheme::Http).headers().contains_key("transfer-encoding"));
            chunked
        };
        assert!(framing(OutgoingBody::Chunks(tokio::sync::mpsc::channel(1).1)));
        assert!(!framing(OutgoingBody::Whole(Bytes::from_static(b"abc"))));
        assert!(!framing(OutgoingBody::Whole(Bytes::new())));
    }

    #[test]
    fn a_request_is_dressed_for_http2_and_back() {
        let body = OutgoingBody::Whole(Bytes::new());
        let request =
            Request::get("/a?b=1").header("host", "books.example:81").body(body).expect("a request");
        let sent = dressed(request, Scheme::Https);
        assert_eq!(sent.uri(), "https://books.example:81/a?b=1");
        assert!(!sent.headers().contains_key("host"));
        let back = undressed(sent);
        assert_eq!(back.uri(), "/a?b=1");
        assert_eq!(back.headers()["host"], "books.example:81");
    }
}
