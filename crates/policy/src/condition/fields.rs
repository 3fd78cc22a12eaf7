// SPDX-License-Identifier: Apache-2.0
//! Which variables and fields a condition names, found once in its syntax tree, so that
//! evaluating it builds no others. A name that does not exist is refused here, when the
//! artifact is deployed. Fields are capitalised in the contract; the same names with a
//! small first letter are accepted too.

use std::collections::HashMap;

use cel::Value;
use cel::common::ast::{ComprehensionExpr, EntryExpr, Expr, IdedEntryExpr, IdedExpr};

use super::{ConditionError, Phase};
use crate::client_certificate::ClientCertificate;

/// How deep iterations may nest. Two suffice for "any header with any value that …".
const MAX_ITERATION_DEPTH: usize = 2;

/// The most that evaluating a condition may take, in parts of its syntax tree: within an iteration
/// each counts once for every element written in the condition. A few milliseconds, which every
/// request may cost; what 4 KiB can say otherwise would take a second.
pub(super) const MAX_STEPS: usize = 100_000;

/// Names that are types of the language, not variables.
const TYPE_NAMES: [&str; 11] =
    ["bool", "bytes", "double", "dyn", "int", "list", "map", "null_type", "string", "type", "uint"];

/// What a condition can begin a look-up with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variable {
    Processing,
    Request,
    Response,
}

/// What it can look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Phase,
    Headers,
    Body,
    Path,
    Method,
    RequestId,
    ClientCertificate,
    Metadata,
    RequestHeaders,
    RequestBody,
    RequestPath,
    RequestMethod,
    ResponseHeaders,
    ResponseBody,
    ResponseStatus,
}

/// What one condition names, as it spells it.
#[derive(Default)]
pub(super) struct Uses {
    named: Vec<(Variable, String, Field)>,
    /// What was walked, as often as it is evaluated.
    steps: usize,
}

/// Where a part of a condition stands.
#[derive(Clone, Copy)]
struct Place {
    /// In so many iterations.
    depth: usize,
    /// How often it is evaluated: as far as the condition says, not the request.
    times: usize,
}

/// An iteration variable, and how much its values hold at most.
type Local<'e> = (&'e str, usize);

impl Variable {
    pub(super) const ALL: [Variable; 3] = [Variable::Processing, Variable::Request, Variable::Response];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Variable::Processing => "processing",
            Variable::Request => "request",
            Variable::Response => "response",
        }
    }

    /// The fields by the contract's names.
    const fn members(self) -> &'static [(&'static str, Field)] {
        match self {
            Variable::Processing => &[("Phase", Field::Phase)],
            Variable::Request => &[
                ("Headers", Field::Headers),
                ("Body", Field::Body),
                ("Path", Field::Path),
                ("Method", Field::Method),
                ("RequestID", Field::RequestId),
                ("ClientCertificate", Field::ClientCertificate),
                ("Metadata", Field::Metadata),
            ],
            Variable::Response => &[
                ("RequestHeaders", Field::RequestHeaders),
                ("RequestBody", Field::RequestBody),
                ("RequestPath", Field::RequestPath),
                ("RequestMethod", Field::RequestMethod),
                ("ResponseHeaders", Field::ResponseHeaders),
                ("ResponseBody", Field::ResponseBody),
                ("ResponseStatus", Field::ResponseStatus),
                ("RequestID", Field::RequestId),
                ("Metadata", Field::Metadata),
            ],
        }
    }

    fn member(self, spelled: &str) -> Option<Field> {
        self.members()
            .iter()
            .find(|(name, _)| *name == spelled || decapitalised(name) == spelled)
            .map(|(_, field)| *field)
    }
}

impl Field {
    /// A plausible value, for trying a condition out at deployment.
    pub(super) fn sample(self, phase: Phase) -> Value {
        match self {
            Field::Phase => phase.as_str().into(),
            Field::RequestId => "00000000-0000-4000-8000-000000000000".into(),
            // Most clients have none, and a condition must be sound for them.
            Field::ClientCertificate => Value::Null,
            Field::Path | Field::RequestPath => "/".into(),
            Field::Method | Field::RequestMethod => "GET".into(),
            Field::ResponseStatus => Value::Int(match phase {
                Phase::RequestHeaders | Phase::RequestBody => 0,
                Phase::ResponseHeaders | Phase::ResponseBody => 200,
            }),
            Field::Headers | Field::RequestHeaders | Field::ResponseHeaders | Field::Metadata => {
                HashMap::<String, Value>::new().into()
            }
            Field::Body | Field::RequestBody | Field::ResponseBody => match phase {
                Phase::RequestHeaders | Phase::ResponseHeaders => Value::Null,
                Phase::RequestBody | Phase::ResponseBody => {
                    body_value(&Value::Bytes(std::sync::Arc::new(Vec::new())), true)
                }
            },
        }
    }
}

impl Uses {
    /// What this expression names.
    pub(super) fn of(expression: &IdedExpr) -> Result<Uses, ConditionError> {
        let mut uses = Uses::default();
        uses.walk(expression, &mut Vec::new(), Place { depth: 0, times: 1 })?;
        Ok(uses)
    }

    /// Whether this field is named, in any spelling.
    pub(super) fn has(&self, variable: Variable, field: Field) -> bool {
        self.fields(variable).any(|(_, named)| named == field)
    }

    /// The named fields of a variable, as spelled; none when the variable is not named.
    pub(super) fn fields(&self, variable: Variable) -> impl Iterator<Item = (&str, Field)> {
        self.named
            .iter()
            .filter(move |(named, _, _)| *named == variable)
            .map(|(_, spelled, field)| (spelled.as_str(), *field))
    }

    fn add(&mut self, variable: Variable, spelled: &str, field: Field) {
        let known =
            |(named, as_spelled, _): &(Variable, String, Field)| *named == variable && as_spelled == spelled;
        if !self.named.iter().any(known) {
            self.named.push((variable, spelled.to_owned(), field));
        }
    }

    /// `locals` are the iteration variables in scope: they hide ours.
    fn walk<'e>(
        &mut self,
        expression: &'e IdedExpr,
        locals: &mut Vec<Local<'e>>,
        place: Place,
    ) -> Result<(), ConditionError> {
        self.steps = self.steps.saturating_add(place.times);
        if self.steps > MAX_STEPS {
            return Err(ConditionError::TooCostly(MAX_STEPS));
        }
        match &expression.expr {
            Expr::Unspecified | Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.bare(name, locals),
            Expr::Select(select) => match &select.operand.expr {
                Expr::Ident(name) if !hidden(name, locals) => self.selected(name, &select.field),
                _ => self.walk(&select.operand, locals, place),
            },
            Expr::Call(call) => {
                call.target.iter().try_for_each(|target| self.walk(target, locals, place))?;
                call.args.iter().try_for_each(|arg| self.walk(arg, locals, place))
            }
            Expr::List(list) => {
                list.elements.iter().try_for_each(|element| self.walk(element, locals, place))
            }
            Expr::Map(map) => self.entries(&map.entries, locals, place),
            Expr::Struct(literal) => self.entries(&literal.entries, locals, place),
            Expr::Comprehension(iteration) => self.iteration(iteration, locals, place),
        }
    }

    fn iteration<'e>(
        &mut self,
        iteration: &'e ComprehensionExpr,
        locals: &mut Vec<Local<'e>>,
        place: Place,
    ) -> Result<(), ConditionError> {
        if place.depth >= MAX_ITERATION_DEPTH {
            return Err(ConditionError::TooDeep(MAX_ITERATION_DEPTH));
        }
        self.walk(&iteration.iter_range, locals, place)?;
        self.walk(&iteration.accu_init, locals, place)?;
        let size = written(&iteration.iter_range, locals);
        let within = Place { depth: place.depth + 1, times: place.times.saturating_mul(size.max(1)) };
        let outer = locals.len();
        locals.extend([(iteration.iter_var.as_str(), size), (iteration.accu_var.as_str(), 0)]);
        locals.extend(iteration.iter_var2.as_deref().map(|name| (name, size)));
        for part in [&iteration.loop_cond, &iteration.loop_step, &iteration.result] {
            self.walk(part, locals, within)?;
        }
        locals.truncate(outer);
        Ok(())
    }

    fn entries<'e>(
        &mut self,
        entries: &'e [IdedEntryExpr],
        locals: &mut Vec<Local<'e>>,
        place: Place,
    ) -> Result<(), ConditionError> {
        for entry in entries {
            match &entry.expr {
                EntryExpr::StructField(field) => self.walk(&field.value, locals, place)?,
                EntryExpr::MapEntry(entry) => {
                    self.walk(&entry.key, locals, place)?;
                    self.walk(&entry.value, locals, place)?;
                }
            }
        }
        Ok(())
    }

    /// `variable.field`.
    fn selected(&mut self, name: &str, field: &str) -> Result<(), ConditionError> {
        let unknown = |name: String| Err(ConditionError::Unknown(name));
        let Some(variable) = variable(name) else { return unknown(name.to_owned()) };
        let Some(member) = variable.member(field) else { return unknown(format!("{name}.{field}")) };
        self.add(variable, field, member);
        Ok(())
    }

    /// A name by itself: of a variable, it may be used in any way, so every field is needed.
    fn bare(&mut self, name: &str, locals: &[Local<'_>]) -> Result<(), ConditionError> {
        if hidden(name, locals) || TYPE_NAMES.contains(&name) || name.starts_with('@') {
            return Ok(());
        }
        let Some(variable) = variable(name) else { return Err(ConditionError::Unknown(name.to_owned())) };
        for (spelled, field) in variable.members() {
            self.add(variable, spelled, *field);
            self.add(variable, &decapitalised(spelled), *field);
        }
        Ok(())
    }
}

/// Whether an iteration variable hides what else has this name.
fn hidden(name: &str, locals: &[Local<'_>]) -> bool {
    locals.iter().any(|(local, _)| *local == name)
}

/// How many elements of lists and maps an expression's value holds at most, at any depth: those
/// that the condition writes out, however it puts them together. What the request brings is none.
fn written(expression: &IdedExpr, locals: &[Local<'_>]) -> usize {
    let sum =
        |parts: &[IdedExpr]| parts.iter().map(|part| written(part, locals)).fold(0, usize::saturating_add);
    match &expression.expr {
        Expr::Unspecified | Expr::Literal(_) => 0,
        Expr::Ident(name) => {
            locals.iter().rev().find(|(local, _)| local == name).map_or(0, |(_, size)| *size)
        }
        Expr::Select(select) => written(&select.operand, locals),
        Expr::Call(call) => {
            let target = call.target.as_deref().map_or(0, |target| written(target, locals));
            sum(&call.args).saturating_add(target)
        }
        Expr::List(list) => sum(&list.elements).saturating_add(list.elements.len()),
        Expr::Map(map) => written_entries(&map.entries, locals),
        Expr::Struct(literal) => written_entries(&literal.entries, locals),
        Expr::Comprehension(iteration) => {
            let range = written(&iteration.iter_range, locals);
            let each = written(&iteration.loop_step, locals);
            range.max(1).saturating_mul(each).saturating_add(range)
        }
    }
}

fn written_entries(entries: &[IdedEntryExpr], locals: &[Local<'_>]) -> usize {
    let held = |entry: &IdedEntryExpr| match &entry.expr {
        EntryExpr::StructField(field) => written(&field.value, locals),
        EntryExpr::MapEntry(entry) => written(&entry.value, locals),
    };
    entries.iter().map(held).fold(entries.len(), usize::saturating_add)
}

/// A certificate as conditions see it, its fields in both spellings.
pub(super) fn certificate_value(certificate: &ClientCertificate) -> Value {
    let list =
        |values: &[String]| Value::from(values.iter().map(|one| one.as_str().into()).collect::<Vec<Value>>());
    let fields = [
        ("Subject", certificate.subject.as_str().into()),
        ("Issuer", certificate.issuer.as_str().into()),
        ("Serial", certificate.serial.as_str().into()),
        ("Fingerprint", certificate.fingerprint.as_str().into()),
        ("DnsNames", list(&certificate.dns_names)),
        ("Uris", list(&certificate.uris)),
        ("Emails", list(&certificate.emails)),
    ];
    in_both_spellings(fields)
}

/// A body as conditions see it, its fields in both spellings.
pub(super) fn body_value(content: &Value, last: bool) -> Value {
    let present = matches!(content, Value::Bytes(bytes) if !bytes.is_empty());
    let fields = [("Content", content.clone()), ("EndOfStream", last.into()), ("Present", present.into())];
    in_both_spellings(fields)
}

fn in_both_spellings<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let mut map: HashMap<String, Value> = HashMap::with_capacity(2 * fields.len());
    for (name, value) in fields {
        map.insert(decapitalised(name), value.clone());
        map.insert(name.to_owned(), value);
    }
    map.into()
}

fn variable(name: &str) -> Option<Variable> {
    Variable::ALL.into_iter().find(|variable| variable.as_str() == name.trim_start_matches('.'))
}

fn decapitalised(name: &str) -> String {
    let mut chars = name.chars();
    chars.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(chars).collect()
}
