//! The OpenAPI document at `/openapi.json`: its schemas are the wire types', its paths a table that a
//! test holds to the router's.

mod operation;
mod operations;

use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use http::header;
use muster_api as api;
use utoipa::ToSchema;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    Components, ComponentsBuilder, Info, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, Paths, RefOr,
    Schema,
};

/// The name of the security scheme: an API key as a bearer token.
const KEY: &str = "key";

const LICENSE: &str = env!("CARGO_PKG_LICENSE");

/// Needs no key: it tells nothing about this cluster.
pub(super) async fn serve() -> Response {
    static TEXT: LazyLock<String> = LazyLock::new(|| document().to_json().expect("a document is plain data"));
    ([(header::CONTENT_TYPE, "application/json")], TEXT.as_str()).into_response()
}

fn document() -> OpenApi {
    let mut paths = Paths::new();
    for operation in operations::all() {
        for (method, described) in operation.describe() {
            paths.add_path_operation(operation.path, vec![method], described);
        }
    }
    OpenApiBuilder::new().info(info()).paths(paths).components(Some(components())).build()
}

fn info() -> Info {
    InfoBuilder::new()
        .title("Muster")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Every node answers all of it. Times are RFC 3339 in UTC, durations are numbers with the unit in \
             the name. Unknown fields and query parameters are refused. A path that exists answers other \
             methods with 405 and `Allow`; GET includes HEAD. docs/API.md says more.",
        ))
        .license(Some(LicenseBuilder::new().name(LICENSE).identifier(Some(LICENSE)).build()))
        .build()
}

fn components() -> Components {
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("mk_<id>_<secret>")
        .description(Some("An API key: `Authorization: Bearer mk_…`."))
        .build();
    let mut schemas = Vec::new();
    with::<api::Account>(&mut schemas);
    with::<api::Cluster>(&mut schemas);
    with::<api::CreateAccount>(&mut schemas);
    with::<api::CreateKey>(&mut schemas);
    with::<api::CreateToken>(&mut schemas);
    with::<api::CreatedKey>(&mut schemas);
    with::<api::CreatedToken>(&mut schemas);
    with::<api::Transfer>(&mut schemas);
    with::<api::Transferred>(&mut schemas);
    with::<api::Decision>(&mut schemas);
    with::<api::Function>(&mut schemas);
    with::<api::Grain>(&mut schemas);
    with::<api::Instance>(&mut schemas);
    with::<api::LogLine>(&mut schemas);
    with::<api::Node>(&mut schemas);
    with::<api::Package>(&mut schemas);
    with::<api::Problem>(&mut schemas);
    with::<api::PutGrant>(&mut schemas);
    with::<api::Usage>(&mut schemas);
    let builder = ComponentsBuilder::new().schemas_from_iter(schemas);
    builder.security_scheme(KEY, SecurityScheme::Http(bearer)).build()
}

/// Adds a type and those it is made of.
fn with<T: ToSchema>(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    schemas.push((T::name().into_owned(), T::schema()));
    T::schemas(schemas);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    /// Where invocations enter; the gateway's, not the router's.
    const INVOCATIONS: &str = "/function/";

    fn json() -> Value {
        serde_json::to_value(document()).unwrap()
    }

    /// Each operation with its method and path.
    fn operations(document: &Value) -> Vec<(String, String, &Value)> {
        let paths = document["paths"].as_object().unwrap();
        let each = paths.iter().flat_map(|(path, item)| {
            item.as_object()
                .unwrap()
                .iter()
                .map(move |(method, op)| (method.to_uppercase(), path.clone(), op))
        });
        each.collect()
    }

    #[test]
    fn every_route_is_described_and_nothing_else() {
        let routed: BTreeSet<(String, String)> = super::super::routes()
            .into_iter()
            .map(|route| (route.method.to_string(), route.path.to_owned()))
            .collect();
        let document = json();
        let (invocations, described): (Vec<_>, Vec<_>) =
            operations(&document).into_iter().partition(|(_, path, _)| path.starts_with(INVOCATIONS));
        let described: BTreeSet<_> = described.into_iter().map(|(method, path, _)| (method, path)).collect();
        assert_eq!(described, routed);
        assert_eq!(invocations.len(), 14, "seven methods, with and without a path behind the name");
    }

    #[test]
    fn every_operation_is_whole() {
        let document = json();
        assert_eq!(document["openapi"], "3.1.0");
        let mut ids = BTreeSet::new();
        for (method, path, operation) in operations(&document) {
            let at = format!("{method} {path}");
            assert!(
                ids.insert(operation["operationId"].as_str().unwrap().to_owned()),
                "{at}: its id is not its own"
            );
            assert!(
                operation["summary"].as_str().is_some_and(|text| text.ends_with('.')),
                "{at}: no summary"
            );
            let none = Vec::new();
            let parameters = operation["parameters"].as_array().unwrap_or(&none);
            let in_path: BTreeSet<&str> = parameters
                .iter()
                .filter(|parameter| parameter["in"] == "path")
                .map(|parameter| parameter["name"].as_str().unwrap())
                .collect();
            let wanted: BTreeSet<&str> =
                path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}')).collect();
            assert_eq!(in_path, wanted, "{at}");
            let answers = operation["responses"].as_object().unwrap();
            assert!(
                answers.keys().any(|status| status.starts_with('2') || *status == "default"),
                "{at}: never succeeds"
            );
            let shows_index = |answer: &Value| answer["headers"].get("Muster-Applied").is_some();
            let versioned = path.starts_with(super::super::VERSIONED);
            let done = answers.iter().find(|(status, _)| status.starts_with('2'));
            assert_eq!(done.is_some_and(|(_, answer)| shows_index(answer)), versioned, "{at}");
            let keyed = !operation["security"].as_array().unwrap().is_empty();
            assert_eq!(answers.contains_key("401"), keyed, "{at}");
        }
    }

    #[test]
    fn every_reference_resolves() {
        fn check(value: &Value, document: &Value, seen: &mut usize) {
            match value {
                Value::Object(fields) => {
                    if let Some(Value::String(target)) = fields.get("$ref") {
                        let pointer = target.strip_prefix('#').unwrap();
                        assert!(document.pointer(pointer).is_some(), "{target} leads nowhere");
                        *seen += 1;
                    }
                    fields.values().for_each(|field| check(field, document, seen));
                }
                Value::Array(items) => items.iter().for_each(|item| check(item, document, seen)),
                _ => {}
            }
        }
        let (document, mut seen) = (json(), 0);
        check(&document, &document, &mut seen);
        assert!(seen > 50, "only {seen} references were found");
    }

    #[test]
    fn schemas_say_what_the_types_do() {
        let document = json();
        let spec = &document["components"]["schemas"]["FunctionSpec"];
        assert_eq!(spec["additionalProperties"], false);
        assert_eq!(spec["properties"]["timeout_ms"]["default"], 30_000);
        assert_eq!(spec.get("required"), None, "every field has a default or may be left out");
        assert_eq!(document["components"]["schemas"]["Scaling"]["properties"]["max"]["default"], 10);
        assert_eq!(
            document["components"]["schemas"]["Instance"]["properties"]["launched_at"]["format"],
            "date-time"
        );
    }
}
