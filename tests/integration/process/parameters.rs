//! Parameters through every layer: what the user wrote is what the agent gets, byte for byte.

use std::fs;

use horizons::exit::Exit;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::{Map, Value, json};

use super::server::{Server, World};

/// Parameters of a job.
const VALUES: usize = 12;

/// Values that a reader of numbers changes, and others that look like something else.
const TELLING: [&str; VALUES] = [
    "20200219123456789012",
    "1.10",
    "1e5",
    "1E+400",
    "007",
    "null",
    "true",
    "[1, 2]",
    "{\"a\": 1.0}",
    "",
    " two  spaces ",
    "'\"$(id)\\ é\u{1F680}",
];

/// Starts a server with an agent that writes its arguments, each ended by NUL, and copies its parameters.
fn world() -> World {
    let arguments = (0..VALUES).map(|index| format!("{{parameter:p{index}}}"));
    let script = "printf '%s\\0' \"$@\" > ../../../arguments; cat ../parameters.json > ../../../file";
    let fixed = ["-c", script, "echo"].map(str::to_owned);
    let arguments: Vec<String> = fixed.into_iter().chain(arguments).collect();
    let arguments = serde_json::to_string(&arguments).unwrap();
    let agent = format!("[agents.echo]\nprogram = \"/bin/sh\"\narguments = {arguments}\n");
    World::with(&agent, "slots = 1\n")
}

/// Submits with one option for each value, and gives what the agent saw.
fn submitted(world: &World, server: &Server, option: &str, values: &[String]) -> (Vec<String>, String) {
    let parameters: Vec<String> =
        values.iter().enumerate().map(|(index, value)| format!("p{index}={value}")).collect();
    let mut arguments = vec!["jobs", "submit", "echo", "d", "--wait"];
    for parameter in &parameters {
        arguments.extend([option, parameter]);
    }

    let output = world.cli(server, &arguments);

    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(i32::from(Exit::Done.code())), "{said}");
    let seen = fs::read(world.data().join("arguments")).unwrap();
    let seen = String::from_utf8(seen).unwrap();
    let seen = seen.strip_suffix('\0').unwrap().split('\0').map(str::to_owned).collect();
    (seen, fs::read_to_string(world.data().join("file")).unwrap())
}

#[test]
fn parameters_of_any_text_reach_the_agent_byte_for_byte() {
    let world = world();
    let server = world.serve();
    let mut runner = TestRunner::deterministic();
    let any_text = prop::collection::vec("([^\\p{Cc}\\-][^\\p{Cc}]{0,30})?", VALUES);
    let drawn: Vec<Vec<String>> = (0..3).map(|_| any_text.new_tree(&mut runner).unwrap().current()).collect();

    for values in [TELLING.map(str::to_owned).to_vec()].into_iter().chain(drawn) {
        let (arguments, file) = submitted(&world, &server, "--parameter", &values);

        assert_eq!(arguments, values);
        let named = values.iter().enumerate().map(|(index, value)| (format!("p{index}"), json!(value)));
        let wanted: Map<String, Value> = named.collect();
        assert_eq!(serde_json::from_str::<Value>(&file).unwrap(), Value::Object(wanted));
    }
    server.stop();
}

#[test]
fn parameters_of_any_number_reach_the_agent_as_they_are_written() {
    let world = world();
    let server = world.serve();
    let mut runner = TestRunner::deterministic();
    let number = "(0|[1-9][0-9]{0,40})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?";
    let values = prop::collection::vec(number, VALUES).new_tree(&mut runner).unwrap().current();

    let (arguments, file) = submitted(&world, &server, "--parameter-json", &values);

    assert_eq!(arguments, values);
    for (index, value) in values.iter().enumerate() {
        assert!(file.contains(&format!("\"p{index}\":{value}")), "{file}");
    }
    let shown = server.client().get("/jobs?limit=1").json();
    let job = &shown["jobs"][0];
    assert_eq!(job["parameters"]["p3"], values[3].as_str());
    assert_eq!(job["json_parameters"].as_array().unwrap().len(), VALUES);
    server.stop();
}
