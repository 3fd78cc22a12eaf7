// SPDX-License-Identifier: Apache-2.0
//! The request's body: passed on as it comes, or gathered whole for policies that need it.
//! The walk decides which; limits and deadlines apply here.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use crate::access_log::Traffic;
use crate::deadline::Deadlines;
use crate::error::{Failure, Reason};
use crate::upstream::body::{ClientBody, OutgoingBody};

/// The body as it comes.
#[must_use]
pub fn pass(incoming: Incoming, traffic: &Rc<Traffic>) -> OutgoingBody {
    if incoming.is_end_stream() {
        traffic.request_complete.set(true);
        return whole(Bytes::new());
    }
    OutgoingBody::Client(ClientBody::new(incoming, traffic.clone()))
}

/// A body in memory.
#[must_use]
pub fn whole(bytes: Bytes) -> OutgoingBody {
    OutgoingBody::Whole(bytes)
}

/// The body in memory if it says that it is no longer than this, else as it comes.
///
/// # Errors
/// When it breaks off or takes too long while it is read.
pub async fn hold(
    incoming: Incoming,
    traffic: &Rc<Traffic>,
    deadlines: &Deadlines,
    limit: usize,
) -> Result<OutgoingBody, Failure> {
    let short = incoming.size_hint().exact().and_then(|size| usize::try_from(size).ok());
    if short.is_some_and(|size| size <= limit) {
        gather(incoming, traffic, deadlines, limit).await.map(whole)
    } else {
        Ok(pass(incoming, traffic))
    }
}

/// Reads the body whole. A body that says beforehand that it is too long is not read at all.
///
/// # Errors
/// When it is longer than `limit`, breaks off, or takes too long.
pub async fn gather(
    incoming: Incoming,
    traffic: &Rc<Traffic>,
    deadlines: &Deadlines,
    limit: usize,
) -> Result<Bytes, Failure> {
    let too_large = || Failure::with(Reason::RequestBodyTooLarge, format!("more than {limit} bytes"));
    if usize::try_from(incoming.size_hint().lower()).is_ok_and(|size| size > limit) {
        return Err(too_large());
    }
    if incoming.is_end_stream() {
        traffic.request_complete.set(true);
        return Ok(Bytes::new());
    }
    let mut body = ClientBody::new(incoming, traffic.clone());
    let mut gathered = BytesMut::new();
    while let Some(frame) = deadlines.bound(traffic, body.frame()).await? {
        let broken = || traffic.refused.get().unwrap_or(Reason::RequestBodyBroken);
        let frame = frame.map_err(|error| Failure::with(broken(), error))?;
        if let Ok(data) = frame.into_data() {
            if gathered.len().saturating_add(data.len()) > limit {
                return Err(too_large());
            }
            gathered.extend_from_slice(&data);
        }
        if body.is_end_stream() {
            break;
        }
    }
    Ok(gathered.freeze())
}
