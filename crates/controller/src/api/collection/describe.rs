// SPDX-License-Identifier: Apache-2.0
//! What OpenAPI is told of the endpoints that every kind has: the tables of their answers,
//! once for all kinds. A kind's own endpoints (its list) describe themselves by attribute.

use std::sync::Arc;

use axum::routing::MethodRouter;
use serde_json::Value;
use utoipa::openapi::path::{OperationBuilder, Parameter, ParameterBuilder, ParameterIn, Paths};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{
    Content, ContentBuilder, HttpMethod, PathItem, Ref, RefOr, Required, ResponseBuilder, ResponsesBuilder,
    Schema,
};
use utoipa::{IntoParams, PartialSchema, ToSchema};
use utoipa_axum::router::UtoipaMethodRouter;

use super::{Collection, HistoryQuery, RevisionList, RollbackRequest};
use crate::api::App;
use crate::api::options::WriteQuery;
use crate::api::preconditions::{ReadHeaders, WriteHeaders};

/// An endpoint that every kind has.
pub(super) struct Endpoint {
    method: HttpMethod,
    /// Its path below the kind's own.
    below: &'static str,
    /// The verb of its id.
    id: &'static str,
    /// With `{}` where one artifact of the kind is named.
    summary: &'static str,
    /// Its query parameters and headers.
    asks: &'static [fn() -> Vec<Parameter>],
    body: Option<Shape>,
    answers: &'static [(u16, &'static str, Shape)],
}

/// What a body is.
#[derive(Clone, Copy)]
enum Shape {
    /// No body at all.
    Nothing,
    /// A document, or what the kind shows in its place.
    Document,
    /// The shape with this name.
    Named(&'static str),
}

/// What every write of one artifact asks.
const WRITE: &[fn() -> Vec<Parameter>] = &[query::<WriteQuery>, headers::<WriteHeaders>];

const ERROR: Shape = Shape::Named("ErrorBody");
const STORED: (u16, &str, Shape) =
    (200, "Stored; with `wait=live`, live. `status.rerendered` names what was made anew", Shape::Document);
const NOT_LIVE: (u16, &str, Shape) =
    (202, "Stored, and not live in time: `status.live` names the stragglers", Shape::Document);
const INVALID: (u16, &str, Shape) =
    (400, "The document, or an artifact that depends on it, is not valid: `errors` names each fault", ERROR);
const ABSENT: (u16, &str, Shape) = (404, "There is none with this handle", ERROR);
const UNREADABLE: (u16, &str, Shape) = (404, "It did not exist then, or is not readable any more", ERROR);
const LATE: (u16, &str, Shape) = (408, "The body did not arrive in time", ERROR);
const TAKEN: (u16, &str, Shape) = (409, "The handle, or what no two artifacts may hold, is taken", ERROR);
const STALE: (u16, &str, Shape) =
    (412, "`If-Match` names other revisions, or `If-None-Match` the present one", ERROR);
const KNOWN: (u16, &str, Shape) = (304, "The client has it: `If-None-Match` names its tag", Shape::Nothing);
const TOO_LARGE: (u16, &str, Shape) = (413, "The document is too large", ERROR);
const UNAVAILABLE: (u16, &str, Shape) = (503, "The store is unavailable, or the outcome unknown", ERROR);

pub(super) const CREATE: Endpoint = Endpoint {
    method: HttpMethod::Post,
    below: "",
    id: "create",
    summary: "Creates {}.",
    asks: WRITE,
    body: Some(Shape::Document),
    answers: &[
        (200, "A dry run: the document would be stored", Shape::Document),
        (201, STORED.1, Shape::Document),
        NOT_LIVE,
        INVALID,
        LATE,
        TAKEN,
        TOO_LARGE,
        UNAVAILABLE,
    ],
};

pub(super) const GET: Endpoint = Endpoint {
    method: HttpMethod::Get,
    below: "/{id}",
    id: "get",
    summary: "Gets {}.",
    asks: &[headers::<ReadHeaders>],
    body: None,
    answers: &[
        (200, "As stored, with its status", Shape::Document),
        KNOWN,
        ABSENT,
        (503, "Nothing has been read from the store yet", ERROR),
    ],
};

pub(super) const REPLACE: Endpoint = Endpoint {
    method: HttpMethod::Put,
    below: "/{id}",
    id: "replace",
    summary: "Replaces {}, and makes anew what names it.",
    asks: WRITE,
    body: Some(Shape::Document),
    answers: &[STORED, NOT_LIVE, INVALID, ABSENT, LATE, TAKEN, STALE, TOO_LARGE, UNAVAILABLE],
};

pub(super) const DELETE: Endpoint = Endpoint {
    method: HttpMethod::Delete,
    below: "/{id}",
    id: "delete",
    summary: "Deletes {}.",
    asks: WRITE,
    body: None,
    answers: &[
        (200, "Deleted", Shape::Document),
        (202, "Deleted, and still served in places: `live` names them", Shape::Document),
        ABSENT,
        STALE,
        UNAVAILABLE,
    ],
};

pub(super) const HISTORY: Endpoint = Endpoint {
    method: HttpMethod::Get,
    below: "/{id}/revisions",
    id: "history",
    summary: "Lists the revisions of {}, newest first.",
    asks: &[query::<HistoryQuery>],
    body: None,
    answers: &[
        (200, "Those still readable", Shape::Named("RevisionList")),
        (404, "There never was one, as far as is still readable", ERROR),
        UNAVAILABLE,
    ],
};

pub(super) const PAST: Endpoint = Endpoint {
    method: HttpMethod::Get,
    below: "/{id}/revisions/{revision}",
    id: "past",
    summary: "Gets {} as it was at a revision.",
    asks: &[headers::<ReadHeaders>],
    body: None,
    answers: &[
        (200, "As it was, without what is secret of it", Shape::Document),
        KNOWN,
        UNREADABLE,
        UNAVAILABLE,
    ],
};

pub(super) const ROLLBACK: Endpoint = Endpoint {
    method: HttpMethod::Post,
    below: "/{id}/rollback",
    id: "rollback",
    summary: "Makes a new revision of {} with the content it had, and makes anew what names it.",
    asks: WRITE,
    body: Some(Shape::Named("RollbackRequest")),
    answers: &[STORED, NOT_LIVE, INVALID, UNREADABLE, LATE, TAKEN, STALE, UNAVAILABLE],
};

impl Endpoint {
    /// The endpoint of a kind, served by this handler.
    pub(super) fn of<C: Collection>(&self, handler: MethodRouter<Arc<App>>) -> UtoipaMethodRouter<Arc<App>> {
        let path = format!("/{}{}", C::KIND.path_name(), self.below);
        let mut operation = OperationBuilder::new()
            .tag(C::NAMES.0)
            .summary(Some(self.summary.replace("{}", C::NAMES.1)))
            .operation_id(Some(format!("{}{}", self.id, C::KIND.document_name())))
            .request_body(self.body.map(Shape::request))
            .responses(self.responses::<C>());
        for (name, description, of) in [
            ("id", "The handle", Type::String),
            ("revision", "A revision of the gateway's line", Type::Integer),
        ] {
            if path.contains(&format!("{{{name}}}")) {
                operation = operation.parameter(segment(name, description, of));
            }
        }
        for parameter in self.asks.iter().flat_map(|asks| asks()) {
            operation = operation.parameter(parameter);
        }
        let mut paths = Paths::new();
        paths.paths.insert(path, PathItem::new(self.method.clone(), operation));
        let shapes = [shape::<RevisionList>(), shape::<RollbackRequest>()].concat();
        (shapes, paths, handler)
    }

    fn responses<C: Collection>(&self) -> utoipa::openapi::Responses {
        let mut responses = ResponsesBuilder::new();
        for (status, description, shape) in self.answers {
            // Where the contract answers 400 instead, the size is one fault among others.
            if *status == TOO_LARGE.0 && C::TOO_LARGE.as_u16() != TOO_LARGE.0 {
                continue;
            }
            let mut response = ResponseBuilder::new().description(*description);
            if let Some(content) = shape.content() {
                response = response.content("application/json", content);
            }
            responses = responses.response(status.to_string(), response.build());
        }
        responses.build()
    }
}

impl Shape {
    fn request(self) -> utoipa::openapi::request_body::RequestBody {
        let mut body = RequestBodyBuilder::new().required(Some(Required::True));
        for format in ["application/yaml", "application/json"] {
            if let Some(content) = self.content() {
                body = body.content(format, content);
            }
        }
        body.build()
    }

    fn content(self) -> Option<Content> {
        let schema: RefOr<Schema> = match self {
            Shape::Nothing => return None,
            Shape::Document => Value::schema(),
            Shape::Named(name) => Ref::from_schema_name(name).into(),
        };
        Some(ContentBuilder::new().schema(Some(schema)).build())
    }
}

fn headers<H: IntoParams>() -> Vec<Parameter> {
    H::into_params(|| Some(ParameterIn::Header))
}

fn query<Q: IntoParams>() -> Vec<Parameter> {
    Q::into_params(|| Some(ParameterIn::Query))
}

fn segment(name: &str, description: &str, of: Type) -> Parameter {
    let schema = RefOr::T(Schema::Object(ObjectBuilder::new().schema_type(of).build()));
    let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Path);
    parameter.required(Required::True).description(Some(description)).schema(Some(schema)).build()
}

/// A type's shape and those it is made of.
fn shape<T: ToSchema>() -> Vec<(String, RefOr<Schema>)> {
    let mut all = vec![(T::name().into_owned(), T::schema())];
    T::schemas(&mut all);
    all
}
