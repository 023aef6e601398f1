//! One operation's description, and what it is in OpenAPI.

use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation as Described, OperationBuilder, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{ArrayBuilder, KnownFormat, ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{ContentBuilder, HttpMethod, Ref, RefOr, Required, Schema};

use super::super::VERSIONED;
use super::KEY;

/// What an operation does, for one path and one or more methods.
pub(super) struct Operation {
    pub(super) path: &'static str,
    methods: Vec<HttpMethod>,
    id: &'static str,
    summary: &'static str,
    notes: Vec<&'static str>,
    needs_key: bool,
    query: Vec<(&'static str, RefOr<Schema>, &'static str)>,
    /// What it is, and its schema; bytes have none.
    body: Option<(&'static str, Option<RefOr<Schema>>)>,
    answers: Vec<(u16, &'static str, Content)>,
    failures: Vec<u16>,
    invocation: bool,
}

/// What an answer carries.
pub(super) enum Content {
    Nothing,
    Text,
    /// A value of this type of `muster-api`.
    One(&'static str),
    List(&'static str),
    /// Bytes that are no text.
    Binary,
    /// Values of this type, one per line.
    Lines(&'static str),
    /// Whatever the function answers.
    Any,
}

/// A type of `muster-api`, by its name in the components.
pub(super) fn type_(name: &str) -> RefOr<Schema> {
    Ref::from_schema_name(name).into()
}

fn list_of(name: &str) -> RefOr<Schema> {
    Schema::Array(ArrayBuilder::new().items(type_(name)).build()).into()
}

pub(super) fn text() -> RefOr<Schema> {
    Schema::Object(ObjectBuilder::new().schema_type(Type::String).build()).into()
}

pub(super) fn time() -> RefOr<Schema> {
    let format = SchemaFormat::KnownFormat(KnownFormat::DateTime);
    Schema::Object(ObjectBuilder::new().schema_type(Type::String).format(Some(format)).build()).into()
}

pub(super) fn flag() -> RefOr<Schema> {
    let object = ObjectBuilder::new().schema_type(Type::Boolean).default(Some(false.into()));
    Schema::Object(object.build()).into()
}

fn one_of(values: &[&str]) -> RefOr<Schema> {
    let object = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(values.to_vec()));
    Schema::Object(object.default(values.first().map(|first| (*first).into())).build()).into()
}

impl Operation {
    /// An operation that needs no key.
    pub(super) fn open(
        method: HttpMethod,
        path: &'static str,
        id: &'static str,
        summary: &'static str,
    ) -> Self {
        Operation {
            path,
            methods: vec![method],
            id,
            summary,
            notes: Vec::new(),
            needs_key: false,
            query: Vec::new(),
            body: None,
            answers: Vec::new(),
            failures: Vec::new(),
            invocation: false,
        }
    }

    /// A read of the cluster's state.
    pub(super) fn read(path: &'static str, id: &'static str, summary: &'static str) -> Self {
        let consistency =
            "`linearizable` asks a quorum first; `local` answers at once from what this node knows.";
        Operation { needs_key: true, ..Operation::open(HttpMethod::Get, path, id, summary) }
            .query("consistency", one_of(&["linearizable", "local"]), consistency)
            .fails(&[400, 401, 503])
    }

    /// A change of the cluster's state.
    pub(super) fn change(
        method: HttpMethod,
        path: &'static str,
        id: &'static str,
        summary: &'static str,
    ) -> Self {
        Operation { needs_key: true, ..Operation::open(method, path, id, summary) }
            .note("Answers once the change is committed and applied on this node.")
            .fails(&[400, 401, 403, 429, 503])
    }

    pub(super) fn invocation(
        methods: Vec<HttpMethod>,
        path: &'static str,
        id: &'static str,
        summary: &'static str,
    ) -> Self {
        let first = HttpMethod::Get;
        Operation { methods, needs_key: true, invocation: true, ..Operation::open(first, path, id, summary) }
    }

    pub(super) fn note(mut self, text: &'static str) -> Self {
        self.notes.push(text);
        self
    }

    pub(super) fn query(
        mut self,
        name: &'static str,
        schema: RefOr<Schema>,
        description: &'static str,
    ) -> Self {
        self.query.push((name, schema, description));
        self
    }

    pub(super) fn body(mut self, description: &'static str, schema: RefOr<Schema>) -> Self {
        self.body = Some((description, Some(schema)));
        self.fails(&[408, 413])
    }

    /// The body is bytes.
    pub(super) fn bytes(mut self, description: &'static str) -> Self {
        self.body = Some((description, None));
        self.fails(&[408, 413])
    }

    pub(super) fn answers(mut self, status: u16, description: &'static str, content: Content) -> Self {
        self.answers.push((status, description, content));
        self
    }

    pub(super) fn fails(mut self, statuses: &[u16]) -> Self {
        self.failures.extend(statuses);
        self
    }

    /// One description for each method: their ids must differ.
    pub(super) fn describe(&self) -> Vec<(HttpMethod, Described)> {
        self.methods.iter().map(|method| (method.clone(), self.describe_one(method))).collect()
    }

    fn describe_one(&self, method: &HttpMethod) -> Described {
        let mut to = OperationBuilder::new()
            .operation_id(Some(match self.methods.len() {
                1 => self.id.to_owned(),
                _ => format!("{}_{}", self.id, name(method)),
            }))
            .summary(Some(self.summary))
            .description((!self.notes.is_empty()).then(|| self.notes.join(" ")))
            .tag(if self.invocation { "invocations" } else { "administration" })
            .securities(Some(
                self.needs_key.then(|| SecurityRequirement::new::<_, [String; 0], String>(KEY, [])),
            ));
        for segment in self.path.split('/').filter_map(|s| s.strip_prefix('{')?.strip_suffix('}')) {
            let parameter = ParameterBuilder::new().name(segment).parameter_in(ParameterIn::Path);
            to = to.parameter(parameter.required(Required::True).schema(Some(text())));
        }
        for (name, schema, description) in &self.query {
            let parameter = ParameterBuilder::new().name(*name).parameter_in(ParameterIn::Query);
            let parameter = parameter.required(Required::False).schema(Some(schema.clone()));
            to = to.parameter(parameter.description(Some(*description)));
        }
        if let Some((description, schema)) = &self.body {
            let content = ContentBuilder::new().schema(schema.clone()).build();
            let kind = if schema.is_some() { "application/json" } else { "application/octet-stream" };
            let body = RequestBodyBuilder::new().description(Some(*description));
            to = to.request_body(Some(body.content(kind, content).build()));
        }
        for (status, description, content) in &self.answers {
            let code = if self.invocation { "default".to_owned() } else { status.to_string() };
            to = to.response(code, self.answer(description, content));
        }
        for status in &self.failures {
            to = to.response(status.to_string(), self.failure(*status));
        }
        to.build()
    }

    fn answer(&self, description: &str, content: &Content) -> Response {
        let mut to = ResponseBuilder::new().description(description);
        if self.path.starts_with(VERSIONED) {
            let index = ObjectBuilder::new().schema_type(Type::Integer).build();
            let header = HeaderBuilder::new().schema(Some(Schema::Object(index)));
            to = to.header("Muster-Applied", header.description(Some(APPLIED)).build());
        }
        let (kind, schema) = match content {
            Content::Nothing => return to.build(),
            Content::Text => ("text/plain", Some(text())),
            Content::One(name) => ("application/json", Some(type_(name))),
            Content::List(name) => ("application/json", Some(list_of(name))),
            Content::Binary => ("application/octet-stream", None),
            Content::Lines(name) => (muster_api::NDJSON, Some(type_(name))),
            Content::Any => ("*/*", None),
        };
        if self.invocation {
            for (name, description) in INVOCATION_HEADERS {
                let header = HeaderBuilder::new().schema(Some(text())).description(Some(*description));
                to = to.header(*name, header.build());
            }
        }
        to.content(kind, ContentBuilder::new().schema(schema).build()).build()
    }

    fn failure(&self, status: u16) -> Response {
        let content = ContentBuilder::new().schema(Some(type_("Problem"))).build();
        let mut to = ResponseBuilder::new()
            .description(meaning(status, self.invocation))
            .content(muster_api::PROBLEM_JSON, content);
        let seconds = ObjectBuilder::new().schema_type(Type::Integer).build();
        if matches!(status, 429 | 503) {
            let header = HeaderBuilder::new().schema(Some(Schema::Object(seconds)));
            to = to.header(
                "Retry-After",
                header.description(Some("Seconds to wait before trying again.")).build(),
            );
        }
        to.build()
    }
}

const APPLIED: &str = "The index of the last log entry that the answering node had applied.";

const INVOCATION_HEADERS: &[(&str, &str)] = &[
    ("Muster-Invocation-Id", "Unique in the cluster."),
    ("Muster-Node", "The node that the instance runs on; absent if the function was not reached."),
    ("Muster-Instance", "The instance that answered; absent if the function was not reached."),
    ("Muster-Cold-Start", "`true` if the request waited for the launch of its instance."),
];

fn meaning(status: u16, invocation: bool) -> &'static str {
    match (status, invocation) {
        (400, false) => "Malformed: the detail names the field, parameter or name at fault.",
        (400, true) => "Malformed, or the body broke off.",
        (401, _) => "No key, or one that is malformed, unknown, revoked or expired.",
        (403, false) => "The caller's account may not do this.",
        (403, true) => "The caller's account has no grant to invoke the function.",
        (404, false) => "There is no such thing.",
        (404, true) => "There is no such function.",
        (408, _) => "The request's body came too slowly.",
        (409, _) => "It contradicts what exists, or a limit is reached.",
        (413, _) => "The request's body is too large.",
        (429, false) => "Too many changes, or readers of logs, are under way.",
        (429, true) => "Too many requests wait for the function at this node.",
        (502, _) => "The function broke off, answered nonsense, or keeps failing to start.",
        (503, false) => "No quorum answers.",
        (503, true) => "No quorum, no capacity, or the usage could not be recorded.",
        (504, _) => "The function's deadline passed.",
        _ => unreachable!("the operations name only these statuses"),
    }
}

fn name(method: &HttpMethod) -> &'static str {
    match method {
        HttpMethod::Get => "get",
        HttpMethod::Post => "post",
        HttpMethod::Put => "put",
        HttpMethod::Delete => "delete",
        HttpMethod::Options => "options",
        HttpMethod::Head => "head",
        HttpMethod::Patch => "patch",
        HttpMethod::Trace => "trace",
    }
}
