//! Answers hold to `schemas/openapi.json`: what is required is there, what is there is described.

use serde_json::Value;

const OPEN_API: &str = include_str!("../../../schemas/openapi.json");

/// Holds an answer against the schema of an operation's status.
pub(super) fn check_answer(method: &str, template: &str, status: u16, answer: &Value) {
    let document: Value = serde_json::from_str(OPEN_API).unwrap();
    let response = &document["paths"][template][method.to_ascii_lowercase()]["responses"][status.to_string()];
    let schema = &response["content"]["application/json"]["schema"];
    assert!(schema.is_object(), "{method} {template} {status} is not described");
    if let Err(fault) = check(&document, schema, answer, "$") {
        unreachable!("{method} {template} {status}: {fault} in {answer}");
    }
}

/// Checks types, enumerations, required and undescribed fields: as much of JSON Schema as our file uses.
fn check(document: &Value, schema: &Value, value: &Value, path: &str) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document.pointer(reference.trim_start_matches('#')).unwrap();
        return check(document, target, value, path);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let fits = choices.iter().filter(|choice| check(document, choice, value, path).is_ok()).count();
        return if fits == 1 { Ok(()) } else { Err(format!("{path}: {fits} of oneOf fit")) };
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        single => single.as_str().into_iter().collect(),
    };
    if !types.iter().any(|wanted| is_type(value, wanted)) {
        return Err(format!("{path}: wanted {types:?}, got {value}"));
    }
    if schema["enum"].as_array().is_some_and(|allowed| !allowed.contains(value)) {
        return Err(format!("{path}: {value} is not in the enumeration"));
    }
    if let (Some(items), Some(schema)) = (value.as_array(), schema.get("items")) {
        for (index, item) in items.iter().enumerate() {
            check(document, schema, item, &format!("{path}[{index}]"))?;
        }
    }
    let (Some(fields), Some(described)) = (value.as_object(), schema["properties"].as_object()) else {
        return Ok(());
    };
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    if let Some(missing) = required.into_iter().find(|name| !fields.contains_key(*name)) {
        return Err(format!("{path}: `{missing}` is missing"));
    }
    for (name, field) in fields {
        let schema = described.get(name).ok_or_else(|| format!("{path}: `{name}` is not described"))?;
        check(document, schema, field, &format!("{path}.{name}"))?;
    }
    Ok(())
}

fn is_type(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}

#[test]
fn check_faults_are_found() {
    let document = serde_json::json!({});
    let schema = serde_json::json!({"type": "object", "required": ["a"], "properties": {
        "a": {"type": ["integer", "null"]}, "b": {"type": "string", "enum": ["x"]}}});
    let faults = [
        (serde_json::json!({}), "$: `a` is missing"),
        (serde_json::json!({"a": 1, "c": 2}), "$: `c` is not described"),
        (serde_json::json!({"a": "1"}), "$.a: wanted [\"integer\", \"null\"], got \"1\""),
        (serde_json::json!({"a": null, "b": "y"}), "$.b: \"y\" is not in the enumeration"),
    ];

    for (value, wanted) in faults {
        assert_eq!(check(&document, &schema, &value, "$"), Err(wanted.to_owned()));
    }
    assert_eq!(check(&document, &schema, &serde_json::json!({"a": 1, "b": "x"}), "$"), Ok(()));
}
