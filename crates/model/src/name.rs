// SPDX-License-Identifier: Apache-2.0
//! Names: the gateway, the handle a client chose, the kind, and the resource name
//! made of the last two, which is the key in the store and on the wire alike.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest handle accepted, in bytes: it is a database key and a path segment.
pub const MAX_HANDLE_BYTES: usize = 255;

/// Which gateway a row, a stream or a runtime belongs to. Several gateways may share one database.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GatewayId(pub Arc<str>);

/// The kinds of artifact. Adding one is a file in `kinds`, and an arm wherever the compiler asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// A REST API: operations under a context, policies, upstreams.
    RestApi,
    /// A secret: a value that templates of other artifacts name. It stays with the controllers.
    Secret,
    /// A certificate: trusted by upstreams or clients, or shown to clients.
    Certificate,
}

/// The gateway of whoever names none: one id for both planes, or they would not find each other.
pub const DEFAULT_GATEWAY: &str = "platform-gateway-id";

/// `metadata.name` of an artifact: unique within its gateway and kind, and its path segment in the API.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Handle(Arc<str>);

/// `<kind>/<handle>`: the key of an artifact in the store and of its resource on the wire.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceName {
    /// The kind of the artifact.
    pub kind: Kind,
    /// Its handle.
    pub handle: Handle,
}

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The handle is empty.
    #[error("a handle must not be empty")]
    Empty,
    /// The handle is longer than [`MAX_HANDLE_BYTES`].
    #[error("a handle has at most {MAX_HANDLE_BYTES} bytes")]
    TooLong,
    /// The handle has a character that cannot stand in a path segment.
    #[error("a handle must not contain whitespace, '/', '}}' or control characters")]
    BadCharacter,
    /// The handle is `.` or `..`, which URL libraries resolve away before they send a path.
    #[error("a handle must not be '.' or '..'")]
    Dots,
    /// The text before the slash names no known kind.
    #[error("'{0}' is not a known resource kind")]
    UnknownKind(String),
    /// There is no slash between kind and handle.
    #[error("'{0}' is not of the form kind/handle")]
    NoSlash(String),
}

impl Kind {
    /// Every kind, for tables and loops.
    pub const ALL: [Kind; 3] = [Kind::RestApi, Kind::Secret, Kind::Certificate];

    /// Whether runtimes are sent artifacts of this kind. One that is not reaches them, if at
    /// all, as what a template in another artifact made of it.
    #[must_use]
    pub const fn is_served(self) -> bool {
        match self {
            Kind::RestApi | Kind::Certificate => true,
            Kind::Secret => false,
        }
    }

    /// Whether the document that is kept in the clear leaves out what is secret of it. It is
    /// then whole only together with the payload, and the administrator's business.
    #[must_use]
    pub const fn conceals(self) -> bool {
        match self {
            Kind::RestApi => false,
            Kind::Secret | Kind::Certificate => true,
        }
    }

    /// The name used in documents (`kind: RestApi`).
    #[must_use]
    pub const fn document_name(self) -> &'static str {
        match self {
            Kind::RestApi => "RestApi",
            Kind::Secret => "Secret",
            Kind::Certificate => "Certificate",
        }
    }

    /// The name used in resource names, store rows and collection paths.
    #[must_use]
    pub const fn path_name(self) -> &'static str {
        match self {
            Kind::RestApi => "rest-apis",
            Kind::Secret => "secrets",
            Kind::Certificate => "certificates",
        }
    }

    /// The kind with this document name.
    #[must_use]
    pub fn from_document_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.document_name() == name)
    }

    /// The kind with this path name.
    #[must_use]
    pub fn from_path_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.path_name() == name)
    }
}

impl Handle {
    /// Checks and takes a handle.
    ///
    /// # Errors
    /// When the text is empty, too long, or could not stand in one path segment.
    pub fn try_new(text: &str) -> Result<Handle, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > MAX_HANDLE_BYTES {
            return Err(NameError::TooLong);
        }
        if text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '/' || c == '}') {
            return Err(NameError::BadCharacter);
        }
        if matches!(text, "." | "..") {
            return Err(NameError::Dots);
        }
        Ok(Handle(text.into()))
    }

    /// The handle as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ResourceName {
    /// The name of the artifact of this kind with this handle.
    #[must_use]
    pub const fn new(kind: Kind, handle: Handle) -> ResourceName {
        ResourceName { kind, handle }
    }
}

impl GatewayId {
    /// The gateway id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for GatewayId {
    fn from(text: &str) -> GatewayId {
        GatewayId(text.into())
    }
}

impl TryFrom<String> for Handle {
    type Error = NameError;

    fn try_from(text: String) -> Result<Handle, NameError> {
        Handle::try_new(&text)
    }
}

impl From<Handle> for String {
    fn from(handle: Handle) -> String {
        handle.0.as_ref().to_owned()
    }
}

impl FromStr for ResourceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<ResourceName, NameError> {
        let (kind, handle) = text.split_once('/').ok_or_else(|| NameError::NoSlash(text.to_owned()))?;
        let kind = Kind::from_path_name(kind).ok_or_else(|| NameError::UnknownKind(kind.to_owned()))?;
        Ok(ResourceName::new(kind, Handle::try_new(handle)?))
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.path_name(), self.handle)
    }
}

impl fmt::Display for GatewayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{Handle, Kind, NameError, ResourceName};

    #[test]
    fn a_resource_name_survives_the_round_trip() {
        let name: ResourceName = "rest-apis/reading-list".parse().expect("a well-formed name");
        assert_eq!(name.kind, Kind::RestApi);
        assert_eq!(name.to_string(), "rest-apis/reading-list");
    }

    #[test]
    fn a_handle_that_cannot_be_a_path_segment_is_refused() {
        for (text, error) in [
            ("", NameError::Empty),
            ("a b", NameError::BadCharacter),
            ("a/b", NameError::BadCharacter),
            ("a}", NameError::BadCharacter),
            ("a\n", NameError::BadCharacter),
            (".", NameError::Dots),
            ("..", NameError::Dots),
        ] {
            assert_eq!(Handle::try_new(text), Err(error), "{text:?}");
        }
        assert_eq!(Handle::try_new(&"x".repeat(256)), Err(NameError::TooLong));
    }
}
