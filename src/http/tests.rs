//! The routes and `schemas/openapi.json` say the same.

use std::collections::BTreeSet;

use serde_json::Value;

use super::access::{Access, Reach, Role};
use super::route::RouteMethod;

const OPEN_API: &str = include_str!("../../schemas/openapi.json");

fn document() -> Value {
    serde_json::from_str(OPEN_API).unwrap()
}

/// Walks every value of a document.
fn walk<'a>(value: &'a Value, seen: &mut Vec<&'a Value>) {
    seen.push(value);
    match value {
        Value::Object(fields) => fields.values().for_each(|field| walk(field, seen)),
        Value::Array(items) => items.iter().for_each(|item| walk(item, seen)),
        _ => {}
    }
}

fn operations(document: &Value) -> Vec<(String, String, &Value)> {
    let paths = document["paths"].as_object().unwrap().iter();
    let all = paths.flat_map(|(path, methods)| {
        let methods = methods.as_object().unwrap().iter();
        methods.map(move |(method, operation)| (method.clone(), path.clone(), operation))
    });
    all.collect()
}

#[test]
fn openapi_and_routes_are_the_same_both_ways() {
    let document = document();

    let described: BTreeSet<(String, String)> =
        operations(&document).into_iter().map(|(method, path, _)| (method, path)).collect();
    let served: BTreeSet<(String, String)> = super::routes()
        .iter()
        .map(|route| match route.method {
            RouteMethod::Get => ("get".to_owned(), route.template.to_owned()),
            RouteMethod::Post => ("post".to_owned(), route.template.to_owned()),
        })
        .collect();

    assert_eq!(described, served);
    assert_eq!(served.len(), super::routes().len(), "a route stands twice");
}

#[test]
fn openapi_operations_have_their_path_parameters_and_bodies() {
    let document = document();
    let mut ids = BTreeSet::new();

    for (method, path, operation) in operations(&document) {
        let in_path: Vec<String> = path
            .split('/')
            .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
            .map(str::to_owned)
            .collect();
        let parameters = operation["parameters"].as_array().unwrap().iter();
        let declared: Vec<String> = parameters
            .filter(|parameter| parameter["in"] == "path")
            .map(|parameter| parameter["name"].as_str().unwrap().to_owned())
            .collect();

        assert_eq!(in_path, declared, "{method} {path}");
        assert_eq!(operation.get("requestBody").is_some(), method == "post", "{method} {path}");
        assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{method} {path}");
    }
}

#[test]
fn openapi_references_all_exist_and_every_schema_is_used() {
    let document = document();
    let mut values = Vec::new();
    walk(&document, &mut values);

    let references: BTreeSet<&str> = values.iter().filter_map(|value| value.get("$ref")?.as_str()).collect();

    for reference in &references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    for name in document["components"]["schemas"].as_object().unwrap().keys() {
        assert!(references.contains(format!("#/components/schemas/{name}").as_str()), "{name} is not used");
    }
}

#[test]
fn openapi_says_of_each_operation_what_it_demands() {
    let document = document();

    for route in super::routes() {
        let method = match route.method {
            RouteMethod::Get => "get",
            RouteMethod::Post => "post",
        };
        let told = &document["paths"][route.template][method]["x-access"];
        assert_eq!(told, route.access.name(), "{method} {}", route.template);
        assert!(
            route.method == RouteMethod::Post || route.access.reach(Role::Viewer) == Reach::All,
            "{}: who only looks sees everything",
            route.template
        );
    }
}

#[test]
fn guide_says_what_each_role_may_do() {
    let guide = include_str!("../../docs/api.md");

    for access in Access::ALL {
        let reaches = Role::ALL.map(|role| access.reach(role).name()).join(" | ");
        let row = format!("| `{}` | ", access.name());
        let told = guide.lines().find(|line| line.starts_with(&row));
        assert!(
            told.is_some_and(|line| line.ends_with(&format!(" | {reaches} |"))),
            "wanted `{row}… | {reaches} |`"
        );
    }
    let header = Role::ALL.map(Role::name).join(" | ");
    assert!(guide.contains(&format!(" | {header} |")), "wanted the roles in this order: {header}");
}

#[test]
fn access_grows_from_role_to_role() {
    for access in Access::ALL {
        assert_eq!(access.reach(Role::Admin), Reach::All, "{access:?}");
        assert!(
            access.reach(Role::Operator) == Reach::All || access == Access::Bring,
            "{access:?}: an operator does all but bring records in"
        );
        let is_all = access.reach(Role::Submitter) == Reach::All;
        assert_eq!(is_all, access == Access::Open, "{access:?}: a submitter has its own jobs");
    }
}
