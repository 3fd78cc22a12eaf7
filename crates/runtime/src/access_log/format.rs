// SPDX-License-Identifier: Apache-2.0
//! What an access log line consists of, read once at start: operators between percent
//! signs, in the notation of contract 7.3 and 8.3 and with its two default lines. Which
//! headers a line needs is known beforehand, so that nothing else of a request is kept.
//! `config` parses it; `fields` fills it in.

use std::sync::Arc;

use http::HeaderName;

/// The text line of contract 8.3.
pub const DEFAULT_TEXT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% \
    %PROTOCOL%\" %REQ(:PATH)% %UPSTREAM_PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS% \
    %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
    %REQUEST_TX_DURATION% %RESPONSE_TX_DURATION% %REQUEST_DURATION% %RESPONSE_DURATION% \
    \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \
    \"%UPSTREAM_HOST%\"";

/// The JSON line: the fields of contract 8.3, and ours. Without the four durations beside `dur`,
/// which cost looks at the clock, and without what is always absent.
const DEFAULT_JSON: [(&str, &str); 25] = [
    ("t", "%START_TIME%"),
    ("meth", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH)%"),
    ("proto", "%PROTOCOL%"),
    ("respCd", "%RESPONSE_CODE%"),
    ("respFlg", "%RESPONSE_FLAGS%"),
    ("respCdDtl", "%RESPONSE_CODE_DETAILS%"),
    ("bytesRx", "%BYTES_RECEIVED%"),
    ("bytesTx", "%BYTES_SENT%"),
    ("dur", "%DURATION%"),
    ("upSvcT", "%UPSTREAM_SERVICE_TIME%"),
    ("xff", "%REQ(X-FORWARDED-FOR)%"),
    ("ua", "%REQ(USER-AGENT)%"),
    ("reqId", "%REQ(X-REQUEST-ID)%"),
    ("host", "%REQ(:AUTHORITY)%"),
    ("upHost", "%UPSTREAM_HOST%"),
    ("upProto", "%UPSTREAM_PROTOCOL%"),
    ("upPath", "%UPSTREAM_PATH%"),
    ("route", "%ROUTE_NAME%"),
    ("artifact", "%ARTIFACT%"),
    ("policy", "%POLICY%"),
    ("reason", "%REASON%"),
    ("errorId", "%ERROR_ID%"),
    ("revision", "%REVISION%"),
    ("epoch", "%EPOCH%"),
];

/// Operators without arguments.
const PLAIN: [(&str, Field); 27] = [
    ("START_TIME", Field::Start),
    ("PROTOCOL", Field::Protocol),
    ("RESPONSE_CODE", Field::Status),
    ("RESPONSE_FLAGS", Field::Flags),
    ("RESPONSE_CODE_DETAILS", Field::Detail),
    ("CONNECTION_TERMINATION_DETAILS", Field::Nothing),
    ("BYTES_RECEIVED", Field::Received),
    ("BYTES_SENT", Field::Sent),
    ("DURATION", Field::Duration),
    ("REQUEST_DURATION", Field::RequestDuration),
    ("REQUEST_TX_DURATION", Field::RequestSent),
    ("RESPONSE_DURATION", Field::ResponseDuration),
    ("RESPONSE_TX_DURATION", Field::ResponseSent),
    ("UPSTREAM_HOST", Field::UpstreamHost),
    ("UPSTREAM_PROTOCOL", Field::UpstreamProtocol),
    ("UPSTREAM_PATH", Field::UpstreamPath),
    ("UPSTREAM_SERVICE_TIME", Field::UpstreamTime),
    ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Field::Client),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", Field::Client),
    ("ROUTE_NAME", Field::Route),
    ("ARTIFACT", Field::Artifact),
    ("POLICY", Field::Policy),
    ("REASON", Field::Reason),
    ("ERROR_ID", Field::ErrorId),
    ("REVISION", Field::Revision),
    ("EPOCH", Field::Epoch),
    ("STREAM_ID", Field::RequestId),
];

/// What is only known of a request whose course is timed.
const COURSE: [Field; 4] =
    [Field::RequestDuration, Field::RequestSent, Field::ResponseDuration, Field::ResponseSent];

/// What `REQ(…)` stands for beyond a header.
const OF_REQUEST: [(&str, Field); 5] = [
    (":METHOD", Field::Method),
    (":AUTHORITY", Field::Host),
    (":PATH", Field::ForwardedPath),
    ("X-ENVOY-ORIGINAL-PATH", Field::Path),
    ("X-REQUEST-ID", Field::RequestId),
];

/// What a line consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    pub(super) shape: Shape,
    /// Of the request, kept from its beginning.
    pub(super) request_headers: Vec<HeaderName>,
    /// Of the response.
    pub(super) response_headers: Vec<HeaderName>,
    /// Whether a line tells more of a request's course than its whole duration.
    pub(super) times_request: bool,
}

/// The two kinds of lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// An object; what is absent is left out. Keys are quoted and escaped already.
    Json(Vec<(String, Vec<Piece>)>),
    /// Text; what is absent is `-`.
    Text(Vec<Piece>),
}

/// Part of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// As it stands.
    Literal(String),
    /// The first of these that is there, cut off after so many characters.
    Value(Vec<Field>, Option<usize>),
}

/// Something known of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Start,
    Method,
    Path,
    ForwardedPath,
    Protocol,
    Status,
    Flags,
    Detail,
    Nothing,
    Received,
    Sent,
    Duration,
    RequestDuration,
    RequestSent,
    ResponseDuration,
    ResponseSent,
    RequestId,
    Host,
    Client,
    UpstreamHost,
    UpstreamProtocol,
    UpstreamPath,
    UpstreamTime,
    Route,
    Artifact,
    Policy,
    Reason,
    ErrorId,
    Revision,
    Epoch,
    /// By its place in [`Format::request_headers`].
    RequestHeader(usize),
    /// By its place in [`Format::response_headers`].
    ResponseHeader(usize),
}

impl Format {
    /// The JSON line of contract 8.3, with our fields.
    #[must_use]
    pub fn json() -> Arc<Format> {
        // The table is ours, and a test parses it.
        Format::of_json(DEFAULT_JSON).unwrap_or_else(|_| Arc::new(Format::empty()))
    }

    /// JSON lines with these fields, each a key and its text with operators.
    ///
    /// # Errors
    /// With the key and what is wrong with its text.
    pub fn of_json<'k>(
        fields: impl IntoIterator<Item = (&'k str, &'k str)>,
    ) -> Result<Arc<Format>, (String, String)> {
        let mut format = Format::empty();
        let mut parsed = Vec::new();
        for (key, text) in fields {
            let pieces = format.pieces(text).map_err(|error| (key.to_owned(), error))?;
            parsed.push((serde_json::Value::from(key).to_string(), pieces));
        }
        format.shape = Shape::Json(parsed);
        Ok(Arc::new(format))
    }

    /// Text lines.
    ///
    /// # Errors
    /// With what is wrong with the text.
    pub fn of_text(text: &str) -> Result<Arc<Format>, String> {
        let mut format = Format::empty();
        // A line ends where we say; a file for the contract may say it as well.
        let pieces = format.pieces(text.trim_end_matches(['\r', '\n']))?;
        if text.trim_end_matches(['\r', '\n']).contains(['\r', '\n']) {
            return Err("a line cannot have a line break in it".to_owned());
        }
        format.shape = Shape::Text(pieces);
        Ok(Arc::new(format))
    }

    fn empty() -> Format {
        Format {
            shape: Shape::Text(Vec::new()),
            request_headers: Vec::new(),
            response_headers: Vec::new(),
            times_request: false,
        }
    }

    fn pieces(&mut self, text: &str) -> Result<Vec<Piece>, String> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            literal.push_str(before);
            let Some((operator, next)) = after.split_once('%') else {
                return Err(format!("\"%{after}\" does not end in %"));
            };
            rest = next;
            if operator.is_empty() {
                literal.push('%');
                continue;
            }
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            }
            pieces.push(self.operator(operator)?);
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(pieces)
    }

    /// `NAME`, `NAME(ARGUMENT)` or `NAME(ARGUMENT):LENGTH`.
    fn operator(&mut self, text: &str) -> Result<Piece, String> {
        let unknown = || format!("%{text}% is not known");
        let Some((name, rest)) = text.split_once('(') else {
            let found = PLAIN.into_iter().find(|(name, _)| *name == text);
            let (_, field) = found.ok_or_else(unknown)?;
            self.times_request |= COURSE.contains(&field);
            return Ok(Piece::Value(vec![field], None));
        };
        let (argument, length) = rest.split_once(')').ok_or_else(unknown)?;
        let length = match length.strip_prefix(':') {
            None if length.is_empty() => None,
            Some(digits) => Some(digits.parse().map_err(|_| unknown())?),
            None => return Err(unknown()),
        };
        let mut fields = Vec::new();
        for header in argument.split('?') {
            let upper = header.trim().to_ascii_uppercase();
            let field = match name {
                "REQ" => match OF_REQUEST.into_iter().find(|(name, _)| *name == upper) {
                    Some((_, field)) => field,
                    None => Field::RequestHeader(place(&mut self.request_headers, &upper)?),
                },
                "RESP" if upper == "X-ENVOY-UPSTREAM-SERVICE-TIME" => Field::UpstreamTime,
                "RESP" => Field::ResponseHeader(place(&mut self.response_headers, &upper)?),
                _ => return Err(unknown()),
            };
            fields.push(field);
        }
        Ok(Piece::Value(fields, length))
    }
}

/// The header's place in the list of those kept.
fn place(kept: &mut Vec<HeaderName>, name: &str) -> Result<usize, String> {
    let name = HeaderName::try_from(name).map_err(|_| format!("\"{name}\" is not the name of a header"))?;
    Ok(kept.iter().position(|known| *known == name).unwrap_or_else(|| {
        kept.push(name);
        kept.len() - 1
    }))
}

#[cfg(test)]
mod tests {
    use super::{DEFAULT_JSON, DEFAULT_TEXT, Field, Format, Piece, Shape};

    #[test]
    fn the_default_lines_are_formats() {
        assert!(Format::of_text(DEFAULT_TEXT).is_ok());
        let json = Format::of_json(DEFAULT_JSON).expect("a format");
        assert!(matches!(&json.shape, Shape::Json(fields) if fields.len() == DEFAULT_JSON.len()));
    }

    #[test]
    fn operators_are_read_and_headers_kept_once() {
        let format = Format::of_text("a%%b %REQ(X-A?:METHOD):7% %RESP(x-b)%%REQ(x-a)%\n").expect("a format");
        assert_eq!((format.request_headers.len(), format.response_headers.len()), (1, 1));
        let literal = |text: &str| Piece::Literal(text.to_owned());
        assert_eq!(
            format.shape,
            Shape::Text(vec![
                literal("a%b "),
                Piece::Value(vec![Field::RequestHeader(0), Field::Method], Some(7)),
                literal(" "),
                Piece::Value(vec![Field::ResponseHeader(0)], None),
                Piece::Value(vec![Field::RequestHeader(0)], None),
            ])
        );
    }

    #[test]
    fn what_nobody_knows_is_refused() {
        for text in
            ["%", "%DURATION", "%NONSENSE%", "%REQ(a%", "%REQ(a b)%", "%REQ(a):x%", "%TRAILER(x)%", "a\nb"]
        {
            assert!(Format::of_text(text).is_err(), "{text:?}");
        }
    }
}
