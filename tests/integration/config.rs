//! Files, variables and defaults: what is loaded, what is refused, and that the documents agree with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use horizons::config::{
    Agent, AgentProblem, Config, ConfigError, EventEncoding, KEYS, Key, Kind, Loaded, LogLevel,
    OTHER_VARIABLES, Origin, OutputOverflow, Source, example_file, load, markdown_tables,
};
use horizons_actors::ids::Topic;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn fixture(name: &str) -> Source {
    let path = root().join("tests/fixtures/config").join(name);
    Source::Text { name: name.to_owned(), text: std::fs::read_to_string(path).unwrap() }
}

fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn no_rules(_: &Agent) -> Vec<AgentProblem> {
    Vec::new()
}

fn loaded(source: &Source, pairs: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    load(source, &environment(pairs), &no_rules)
}

fn defaults() -> Config {
    loaded(&Source::Nothing, &[]).unwrap().config
}

#[test]
fn config_toml_loaded_equals_built_in_defaults() {
    let mut example = loaded(&Source::example(), &[]).unwrap().config;

    let agents: Vec<String> = example.agents.keys().map(ToString::to_string).collect();
    assert_eq!(agents, ["calibrate", "fail", "image", "observe"]);
    example.agents.clear();
    assert_eq!(example, defaults());
}

#[test]
fn config_toml_sets_every_key_in_the_file() {
    let example = loaded(&Source::example(), &[]).unwrap();

    let is_secret = |path: &str| KEYS.iter().any(|key| key.path() == path && key.kind == Kind::Secret);
    for shown in example.values.into_iter().filter(|shown| !is_secret(&shown.key)) {
        assert!(matches!(shown.origin, Origin::File { .. }), "{} is not in config.toml", shown.key);
    }
}

#[test]
fn config_toml_begins_with_the_generated_file() {
    let text = std::fs::read_to_string(root().join("config.toml")).unwrap();

    let wanted = example_file();
    assert!(text.starts_with(&wanted), "run `horizons config reference --format toml`:\n{wanted}");
}

#[test]
fn documentation_holds_the_generated_tables() {
    let text = std::fs::read_to_string(root().join("docs/configuration.md")).unwrap();

    let wanted = markdown_tables();
    assert!(text.contains(&wanted), "run `horizons config reference`:\n{wanted}");
}

#[test]
fn example_agents_run_programs_that_exist() {
    let example = loaded(&Source::example(), &[]).unwrap().config;

    for (name, agent) in example.agents {
        assert!(Path::new(&agent.program).exists(), "{name}: {}", agent.program);
    }
}

#[test]
fn file_good_sets_every_kind_of_key() {
    let config = loaded(&fixture("good.toml"), &[]).unwrap().config;

    assert_eq!(config.http.listen.to_string(), "[::1]:9000");
    assert_eq!(config.store.folder, PathBuf::from("/var/lib/horizons"));
    assert_eq!(config.store.disk_limit_bytes, 1 << 30);
    assert_eq!(config.audit.topics, [Topic::AuditTrail, Topic::JobLifecycle]);
    assert_eq!(config.events.encoding, EventEncoding::MessagePack);
    let agent = config.agents.values().next().unwrap();
    assert_eq!(
        *agent,
        Agent {
            program: "/usr/bin/env".to_owned(),
            arguments: vec!["--".to_owned(), "{dataset_id}".to_owned()],
            time_limit: Duration::from_millis(1500),
            memory_limit_bytes: 8_388_608,
            slot_limit: Some(1),
            environment: environment(&[("LC_ALL", "C")]),
            output_limit_bytes: 1_000_000,
            output_overflow: OutputOverflow::Rotate,
            work_limit_bytes: 2_000_000,
            run_as: Some("root:daemon".to_owned()),
        }
    );
}

#[test]
fn fixtures_wrong_use_names_every_problem() {
    let mut checked = 0;
    for entry in std::fs::read_dir(root().join("tests/fixtures/config")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let wanted: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("#> ")).collect();
        if wanted.is_empty() {
            continue;
        }

        let error = loaded(&fixture(name), &[]).unwrap_err().to_string();

        let got: Vec<&str> = error.lines().skip(1).map(str::trim_start).collect();
        if name == "syntax.toml" {
            // What the parser says is its own; that each place is named is ours.
            assert!(wanted.iter().all(|place| got.iter().any(|line| line.starts_with(place))), "{error}");
        } else {
            assert_eq!(got, wanted, "{name}");
        }
        checked += 1;
    }
    assert!(checked >= 9, "only {checked} fixtures say what they want");
}

#[test]
fn fixture_wrong_values_blames_every_key() {
    let Err(ConfigError::Invalid(problems)) = loaded(&fixture("wrong_values.toml"), &[]) else {
        panic!("the fixture must be refused");
    };

    let blamed: BTreeSet<String> = problems.into_iter().map(|problem| problem.key).collect();
    let keys: BTreeSet<String> = KEYS.iter().map(Key::path).collect();
    assert_eq!(blamed, keys);
}

#[test]
fn environment_beats_file_beats_default() {
    let source = Source::Text { name: "f".to_owned(), text: "[log]\nlevel = \"warn\"\n".to_owned() };

    let levels = [
        loaded(&Source::Nothing, &[]).unwrap().config.log.level,
        loaded(&source, &[]).unwrap().config.log.level,
        loaded(&source, &[("HORIZONS_LOG_LEVEL", "debug")]).unwrap().config.log.level,
    ];

    assert_eq!(levels, [LogLevel::Info, LogLevel::Warn, LogLevel::Debug]);
}

#[test]
fn environment_every_key_takes_its_default() {
    for key in KEYS {
        let text = key.default_toml().replace(['"', '[', ']'], "");

        let loaded = loaded(&Source::Nothing, &[(&key.variable(), &text)]).unwrap();

        let shown = loaded.values.iter().find(|shown| shown.key == key.path()).unwrap();
        assert_eq!(shown.origin, Origin::Environment(key.variable()));
        assert_eq!(loaded.config, defaults(), "{}", key.variable());
    }
}

#[test]
fn environment_every_number_refuses_text() {
    for key in KEYS.iter().filter(|key| key.default_toml().parse::<u64>().is_ok()) {
        let error = loaded(&Source::Nothing, &[(&key.variable(), "many")]).unwrap_err().to_string();

        let wanted =
            format!("`{}` (environment {}): wanted {}, got `many`", key.path(), key.variable(), key.wanted());
        assert!(error.contains(&wanted), "{error}");
    }
}

#[test]
fn environment_unknown_variables_are_refused_by_name() {
    let cases = [
        ("HORIZONS_HTTP_LISEN", "unknown key, did you mean `HORIZONS_HTTP_LISTEN`?"),
        ("HORIZONS_STORE_COLOUR", "unknown key"),
        ("HORIZONS_CONFG", "unknown key, did you mean `HORIZONS_CONFIG`?"),
        (
            "HORIZONS_AGENTS_CALIBRATE_PROGRAM",
            "agents are declared in the file only, because their names are free",
        ),
    ];
    for (name, wanted) in cases {
        let error = loaded(&Source::Nothing, &[(name, "x")]).unwrap_err().to_string();

        assert_eq!(error.lines().nth(1).unwrap().trim(), format!("`{name}` (environment {name}): {wanted}"));
    }
}

#[test]
fn environment_foreign_variables_are_left_alone() {
    // What a container platform sets for a service that is called `horizons`.
    let foreign =
        [("HORIZONS_PORT", "tcp://10.0.0.1:80"), ("HORIZONS_SERVICE_HOST", "10.0.0.1"), ("HOME", "/root")];
    let others: Vec<(&str, &str)> = OTHER_VARIABLES.iter().map(|(name, _)| (*name, "x")).collect();

    assert_eq!(loaded(&Source::Nothing, &foreign).unwrap().config, defaults());
    assert_eq!(loaded(&Source::Nothing, &others).unwrap().config, defaults());
}

#[test]
fn environment_of_services_that_are_called_like_our_sections_is_left_alone() {
    // What a container platform sets for services that are called `horizons-kafka`, `horizons-http`, …
    for service in ["KAFKA", "KAFKA_BOOTSTRAP", "HTTP", "STORE", "POSTGRES", "LOG", "AGENTS"] {
        let port = format!("HORIZONS_{service}_PORT");
        let set = [
            (format!("HORIZONS_{service}_SERVICE_HOST"), "10.0.0.1"),
            (format!("HORIZONS_{service}_SERVICE_PORT"), "9092"),
            (format!("HORIZONS_{service}_SERVICE_PORT_CLIENTS"), "9092"),
            (port.clone(), "tcp://10.0.0.1:9092"),
            (format!("{port}_9092_TCP"), "tcp://10.0.0.1:9092"),
            (format!("{port}_9092_TCP_PROTO"), "tcp"),
            (format!("{port}_9092_TCP_PORT"), "9092"),
            (format!("{port}_9092_TCP_ADDR"), "10.0.0.1"),
        ];
        let set: Vec<(&str, &str)> = set.iter().map(|(name, value)| (name.as_str(), *value)).collect();

        assert_eq!(loaded(&Source::Nothing, &set).unwrap().config, defaults(), "{service}");
    }
    // A slip of the pen is none of these.
    for (name, value) in
        [("HORIZONS_KAFKA_PORT", "9092"), ("HORIZONS_HTTP_PORT_8650", "1"), ("HORIZONS_KAFKA_HOST", "k")]
    {
        assert!(loaded(&Source::Nothing, &[(name, value)]).is_err(), "{name}");
    }
}

#[test]
fn environment_of_no_key_looks_like_that_of_a_service() {
    for key in KEYS {
        let variable = key.variable();
        assert!(!variable.contains("_SERVICE_") && !variable.contains("_PORT"), "{variable}");
    }
}

#[test]
fn environment_value_that_is_no_text_is_refused_and_not_changed() {
    // As the program gets it from the system's bytes.
    let folder = String::from_utf8_lossy(b"/data/\xff").into_owned();

    let error = loaded(&Source::Nothing, &[("HORIZONS_STORE_FOLDER", &folder)]).unwrap_err().to_string();

    assert!(
        error.contains("`store.folder` (environment HORIZONS_STORE_FOLDER): wanted text in UTF-8"),
        "{error}"
    );
}

#[test]
fn problems_of_file_environment_and_scheduler_come_together() {
    let text =
        "[http]\nconnection_limit = 0\n[agents.a]\nprogram = \"/bin/true\"\narguments = [\"{nope}\"]\n";
    let source = Source::Text { name: "f".to_owned(), text: text.to_owned() };
    let scheduler_rules = |_: &Agent| {
        vec![AgentProblem { field: "arguments[0]".to_owned(), detail: "wanted a known name".to_owned() }]
    };

    let error = load(&source, &environment(&[("HORIZONS_LOG_LEVEL", "loud")]), &scheduler_rules).unwrap_err();

    let error = error.to_string();
    let places: Vec<&str> =
        error.lines().skip(1).map(|line| line.split("): ").next().unwrap().trim()).collect();
    assert_eq!(
        places,
        [
            "`agents.a.arguments[0]` (f:5",
            "`http.connection_limit` (f:2",
            "`log.level` (environment HORIZONS_LOG_LEVEL"
        ]
    );
}

#[test]
fn environment_secret_is_taken_and_not_shown() {
    let pairs = [("HORIZONS_POSTGRES_PASSWORD", "swordfish")];

    let loaded = loaded(&Source::Nothing, &pairs).unwrap();

    assert_eq!(loaded.config.postgres.password.reveal(), "swordfish");
    let shown = loaded.values.iter().find(|shown| shown.key == "postgres.password").unwrap();
    assert_eq!(shown.value, serde_json::json!("***"));
    assert!(!format!("{:?}", loaded).contains("swordfish"));
}

#[test]
fn file_missing_is_named() {
    let error = loaded(&Source::File(PathBuf::from("/no/such/file.toml")), &[]).unwrap_err();

    assert!(
        error.to_string().starts_with("failed to read the configuration `/no/such/file.toml`: "),
        "{error}"
    );
}
