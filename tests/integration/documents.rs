//! The documents tell the truth: every link and path resolves, every command and option exists, and what is
//! listed (events, rejections, metrics, states, exit codes) is complete.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use horizons::exit::Exit;
use horizons::kafka::relay::PartitionCondition;
use horizons_actors::event::EventType;
use horizons_actors::ids::Topic;
use horizons_actors::lane::turn::Late;
use horizons_actors::orchestrator::FailureCode;
use horizons_actors::probes::ProbeKind;
use horizons_actors::rejection::Rejection;
use horizons_actors::snapshot::ActorState;
use serde_json::Value;

/// Folders whose paths are held against the tree where a document names them.
const TREE: [&str; 9] =
    ["src/", "actors/", "docs/", "docker/", "migrations/", "schemas/", "tests/", "benches/", ".ci/"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// Gives every document, by its path from the root.
fn documents() -> BTreeMap<String, String> {
    let folders = ["", "actors", "docs", "docs/decisions", "migrations", "schemas", "tests"];
    let mut documents = BTreeMap::new();
    for folder in folders {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
                let text = read(&name);
                documents.insert(name, text);
            }
        }
    }
    assert!(documents.contains_key("README.md") && documents.contains_key("docs/architecture.md"));
    documents
}

/// Splits a document into its prose and its fenced blocks.
fn prose_and_blocks(text: &str) -> (String, Vec<String>) {
    let (mut prose, mut blocks, mut open) = (String::new(), Vec::new(), None::<String>);
    for line in text.lines() {
        match (&mut open, line.trim_start().starts_with("```")) {
            (None, true) => open = Some(String::new()),
            (Some(_), true) => blocks.extend(open.take()),
            (Some(block), false) => *block += &format!("{line}\n"),
            (None, false) => prose += &format!("{line}\n"),
        }
    }
    assert!(open.is_none(), "a block is not closed");
    (prose, blocks)
}

/// Gives the texts in back quotes.
fn code_spans(prose: &str) -> Vec<String> {
    prose.split('`').skip(1).step_by(2).map(|span| span.replace('\n', " ")).collect()
}

/// Gives the name that a heading is linked by.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn documents_every_relative_link_resolves() {
    let documents = documents();
    let mut broken = Vec::new();
    let mut checked = 0;

    for (name, text) in &documents {
        let (prose, _) = prose_and_blocks(text);
        let targets = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://")) {
            checked += 1;
            let (path, fragment) = target.split_once('#').unwrap_or((target, ""));
            let file = match path {
                "" => root().join(name),
                path => root().join(name).parent().unwrap().join(path),
            };
            let is_there = match fragment {
                "" => file.exists(),
                fragment => std::fs::read_to_string(&file)
                    .is_ok_and(|text| text.lines().any(|l| l.starts_with('#') && anchor(l) == fragment)),
            };
            if !is_there {
                broken.push(format!("{name}: {target}"));
            }
        }
    }

    assert!(checked > 10, "{checked} links were found");
    assert_eq!(broken, Vec::<String>::new());
}

#[test]
fn documents_every_named_path_exists() {
    let mut missing = Vec::new();
    let mut checked = 0;

    for (name, text) in documents() {
        for span in code_spans(&prose_and_blocks(&text).0) {
            let is_pattern = span.contains(['*', '<', '{', '…', ' ']);
            if is_pattern || !TREE.iter().any(|folder| span.starts_with(folder)) {
                continue;
            }
            checked += 1;
            if !root().join(&span).exists() {
                missing.push(format!("{name}: {span}"));
            }
        }
    }

    assert!(checked > 20, "{checked} paths were found");
    assert_eq!(missing, Vec::<String>::new());
}

/// Gives every text that may name a decision by its number, by its path from the root.
fn texts() -> Vec<(String, String)> {
    const FOLDERS: [&str; 9] =
        [".cargo", ".ci", "actors", "benches", "docs", "migrations", "schemas", "src", "tests"];
    let mut texts = Vec::new();
    let mut open: Vec<PathBuf> = FOLDERS.iter().map(|folder| root().join(folder)).collect();
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path()).collect();
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                files.push(path);
            }
        }
    }
    for path in files {
        let extension = path.extension().and_then(std::ffi::OsStr::to_str);
        if extension.is_some_and(|extension| matches!(extension, "md" | "rs" | "sh" | "sql" | "toml")) {
            let name = path.strip_prefix(root()).unwrap().display().to_string();
            texts.push((name, std::fs::read_to_string(&path).unwrap()));
        }
    }
    texts
}

/// Gives the decisions that a text names: a `D` and one or two digits, as a word.
fn decisions_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
    let is_number =
        |digits: &str| (1..=2).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    words.filter(|word| word.strip_prefix('D').is_some_and(is_number)).map(str::to_owned).collect()
}

#[test]
fn decisions_that_are_named_stand_in_the_log_once() {
    let log = documents().into_iter().filter(|(name, _)| name.starts_with("docs/decisions/"));
    let headings: Vec<String> = log
        .flat_map(|(_, text)| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|line| line.strip_prefix("## ").map(str::to_owned))
        .filter(|heading| decisions_in(heading).contains(heading))
        .collect();
    let told: BTreeSet<String> = headings.iter().cloned().collect();
    let mut named = BTreeSet::new();
    let mut missing = Vec::new();

    for (name, text) in texts() {
        let decisions = decisions_in(&text);
        missing.extend(decisions.difference(&told).map(|decision| format!("{name}: {decision}")));
        named.extend(decisions);
    }

    assert_eq!(missing, Vec::<String>::new(), "wanted a heading `## D…` in docs/decisions/");
    assert_eq!(headings.len(), told.len(), "a decision has two headings: {headings:?}");
    assert!(named.len() > 10, "only {named:?} were found");
    // The index lists each one; the test of links holds its anchors.
    let index = read("docs/decisions/README.md");
    for decision in told {
        assert!(
            index.contains(&format!("| [{decision}](")),
            "docs/decisions/README.md: no row for {decision}"
        );
    }
}

#[test]
fn decision_is_found_as_a_word_only() {
    for (text, wanted) in [
        ("(design D2, D14).", vec!["D14", "D2"]),
        ("a heading `## D7`", vec!["D7"]),
        ("%D3 ID4 D123 xD5 D_6 d7 2D8", vec!["D3"]),
    ] {
        assert_eq!(decisions_in(text).into_iter().collect::<Vec<_>>(), wanted, "{text}");
    }
}

#[test]
fn contributing_names_every_alias_and_the_toolchain() {
    let contributing = read("docs/contributing.md");
    let table = |path: &str| -> toml::Table { read(path).parse().unwrap() };
    let toolchain = table("rust-toolchain.toml");
    let workspace = table("Cargo.toml");

    for alias in aliases() {
        assert!(contributing.contains(&format!("| `cargo {alias}")), "wanted a row for `cargo {alias}`");
    }
    let pinned = toolchain["toolchain"]["channel"].as_str().unwrap();
    let least = workspace["workspace"]["package"]["rust-version"].as_str().unwrap();
    for wanted in [format!("tested with, {pinned} now"), format!("needs {least} (`rust-version`")] {
        assert!(contributing.contains(&wanted), "docs/contributing.md: wanted `{wanted}`");
    }
}

/// Gives the names of our own tasks of cargo's.
fn aliases() -> Vec<String> {
    let config: toml::Table = read(".cargo/config.toml").parse().unwrap();
    config["alias"].as_table().unwrap().keys().cloned().collect()
}

#[test]
fn documents_every_task_of_cargo_exists() {
    const BUILT_IN: [&str; 8] = ["build", "clippy", "doc", "fmt", "metadata", "run", "test", "tree"];
    let aliases = aliases();
    let mut unknown = Vec::new();
    let mut checked = 0;

    for (name, text) in documents() {
        let (prose, blocks) = prose_and_blocks(&text);
        for code in code_spans(&prose).into_iter().chain(blocks) {
            let words: Vec<&str> = code.split_whitespace().collect();
            for pair in words.windows(2) {
                let (program, task) = (pair[0], pair[1]);
                if !program.ends_with("cargo") || !is_command_word(task) {
                    continue;
                }
                checked += 1;
                if !BUILT_IN.contains(&task) && !aliases.iter().any(|alias| alias == task) {
                    unknown.push(format!("{name}: cargo {task}"));
                }
            }
        }
    }

    assert!(checked > 8, "{checked} tasks were found");
    assert_eq!(unknown, Vec::<String>::new());
}

#[test]
fn licences_that_the_manifest_names_are_there() {
    let workspace: toml::Table = read("Cargo.toml").parse().unwrap();
    let licence = workspace["workspace"]["package"]["license"].as_str().unwrap();

    assert_eq!(licence, "MIT OR Apache-2.0");
    assert!(read("LICENSE-MIT").contains("The Horizons authors"));
    assert!(read("LICENSE-APACHE").contains("Version 2.0, January 2004"));
}

/// Gives the help of a command, or nothing when there is no such command.
fn help_of(command: &[&str]) -> Option<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_horizons"))
        .args(command)
        .arg("--help")
        .current_dir(std::env::temp_dir())
        .output()
        .unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

/// Gives the words after the program's name, wherever a line runs it.
fn commands_in(code: &str) -> Vec<Vec<String>> {
    let mut commands = Vec::new();
    for line in code.lines() {
        let line = line.split(" #").next().unwrap_or(line);
        let words: Vec<&str> = line.split_whitespace().collect();
        for (index, word) in words.iter().enumerate() {
            // Before the program itself the word names an image or a service that it runs in.
            let is_place = words.get(index + 1) == Some(&"horizons");
            let is_program = (word.ends_with("/horizons") || *word == "horizons") && !is_place;
            let is_run = *word == "--" && words.get(1) == Some(&"run");
            if is_program || is_run {
                let rest = words.iter().skip(index + 1).map(|word| (*word).to_owned());
                commands
                    .push(rest.take_while(|word| !matches!(word.as_str(), "|" | ">" | "&" | "&&")).collect());
            }
        }
    }
    commands
}

fn is_command_word(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-')
}

#[test]
fn documents_every_command_and_option_exists() {
    let mut unknown = BTreeSet::new();
    let mut checked = 0;

    for (name, text) in documents() {
        let (prose, blocks) = prose_and_blocks(&text);
        let code = code_spans(&prose).into_iter().chain(blocks);
        for words in code.flat_map(|code| commands_in(&code)) {
            let Some(first) = words.first().filter(|word| is_command_word(word)) else { continue };
            checked += 1;
            let shown = format!("{name}: horizons {}", words.join(" "));
            let Some(mut help) = help_of(&[first]) else {
                unknown.insert(shown);
                continue;
            };
            if help.contains("\nCommands:\n")
                && let Some(second) = words.get(1)
            {
                for second in second.split('|') {
                    match help_of(&[first, second]) {
                        Some(text) => help = text,
                        None => drop(unknown.insert(shown.clone())),
                    }
                }
            }
            let options = words.iter().filter(|word| word.starts_with("--") && word.len() > 2);
            for option in options.filter_map(|option| option.split('=').next()) {
                let is_known = help.split_whitespace().any(|word| word.trim_end_matches(',') == option);
                if !is_known {
                    unknown.insert(format!("{shown}: {option}"));
                }
            }
        }
    }

    assert!(checked > 20, "{checked} commands were found");
    assert_eq!(unknown, BTreeSet::new());
}

/// Says what a field holds, in the words of the reference.
fn wanted(schema: &Value) -> String {
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<String> =
            values.iter().map(|value| format!("`{}`", value.as_str().unwrap())).collect();
        return format!("one of {}", values.join(", "));
    }
    match schema["$ref"].as_str() {
        Some("#/$defs/time") => return "time".to_owned(),
        Some("#/$defs/identifier" | "#/$defs/key") => return "identifier".to_owned(),
        _ => {}
    }
    let bounds = match (&schema["minimum"], schema["maximum"].as_u64()) {
        (Value::Null, _) => String::new(),
        (from, Some(to)) if to <= 1 => format!(", {from} to {to}"),
        (from, _) => format!(", {from} or more"),
    };
    // Null is as good as absent where a field is optional.
    let name = schema["type"].as_array().map_or(&schema["type"], |types| &types[0]);
    match name.as_str().unwrap() {
        "string" => "text".to_owned(),
        "integer" => format!("whole number{bounds}"),
        "number" => format!("number{bounds}"),
        "boolean" => "true or false".to_owned(),
        "array" => format!("list of {}s", wanted(&schema["items"])),
        "object" => match schema["properties"].as_object() {
            None if schema["additionalProperties"].is_object() => {
                format!("object of {}s", wanted(&schema["additionalProperties"]))
            }
            None => "free object".to_owned(),
            Some(fields) => {
                let fields = fields.iter().map(|(name, schema)| format!("`{name}` ({})", wanted(schema)));
                format!("object of {}", fields.collect::<Vec<_>>().join(", "))
            }
        },
        other => unreachable!("no schema of ours has `{other}`"),
    }
}

/// Renders the fields of one version of a type from its schema.
fn fields_of(payload: &Value) -> String {
    let required = payload["required"].as_array().unwrap();
    let mut text = "| field | holds | required |\n|---|---|---|\n".to_owned();
    for (name, schema) in payload["properties"].as_object().unwrap() {
        let is_required = required.iter().any(|field| field == name);
        let or_else = if is_required { "yes".to_owned() } else { format!("no: {}", schema["default"]) };
        text += &format!("| `{name}` | {} | {or_else} |\n", wanted(schema));
    }
    text
}

#[test]
fn events_reference_is_what_the_schemas_say() {
    let page = read("docs/events.md");
    let mut types = BTreeSet::new();

    for entry in std::fs::read_dir(root().join("schemas/events")).unwrap() {
        let schema: Value = serde_json::from_str(&read(entry.unwrap().path())).unwrap();
        let title = schema["title"].as_str().unwrap();
        types.insert(title.split(',').next().unwrap().to_owned());
        let fields = fields_of(&schema["properties"]["payload"]);
        let section = page.split("\n### ").find(|section| section.starts_with(&format!("{title}\n")));
        let table = section.and_then(|section| section.split("\n\n").find(|part| part.starts_with('|')));
        assert_eq!(table.map(str::trim), Some(fields.trim()), "docs/events.md: `{title}`");
    }

    assert_eq!(types, EventType::ALL.into_iter().map(|one| one.name().to_owned()).collect());
}

#[test]
fn events_topics_and_rejections_are_complete() {
    let page = read("docs/events.md");

    for topic in Topic::ALL {
        let days = topic.retention().as_secs() / 86_400;
        let row = format!("| `{}` | {} | {days} days |", topic.name(), topic.partitions());
        assert!(page.contains(&row), "docs/events.md: wanted `{row}`");
    }
    for name in Rejection::NAMES {
        assert!(page.contains(&format!("| `{name}` |")), "docs/events.md: wanted a row for `{name}`");
    }
}

/// Gives the texts in quotes of a function's body.
fn quoted_in(file: &str, function: &str) -> Vec<String> {
    let text = read(file);
    let body = text.split(&format!("fn {function}(")).nth(1).unwrap().split("\n    }\n").next().unwrap();
    body.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn events_refusals_are_those_of_the_code() {
    let page = read("docs/events.md");
    let section = page.split("\n## Refusals\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let told = |group: &str| -> BTreeSet<String> {
        let rows = section.lines().filter(|line| line.starts_with(&format!("| `{group}` |")));
        rows.flat_map(|row| code_spans(row.split('|').nth(2).unwrap())).collect()
    };

    for (group, files) in [
        ("jobs", &["actors/src/jobs/judge.rs", "actors/src/jobs/state.rs"][..]),
        ("job-metrics", &["actors/src/aggregator/mod.rs"]),
    ] {
        let mut named: BTreeSet<String> = files.iter().flat_map(|file| quoted_in(file, "reason")).collect();
        // Both hold a sequence against the last one by the lane's own rule.
        named.insert(Late::REASON.to_owned());
        assert_eq!(told(group), named, "docs/events.md: refusals of `{group}`");
    }
}

#[test]
fn api_problems_are_those_of_the_code() {
    let page = read("docs/api.md");
    let section = page.split("\n## Refusals\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| status"));
    let told: BTreeSet<String> = rows.flat_map(|row| code_spans(row.split('|').nth(2).unwrap())).collect();

    // Each kind is a name and a title.
    let named: BTreeSet<String> = quoted_in("src/http/error.rs", "kind").into_iter().step_by(2).collect();

    assert_eq!(told, named);
}

#[test]
fn operations_exit_codes_and_states_are_complete() {
    let operations = read("docs/operations.md");
    for exit in Exit::ALL {
        let row = format!("| {} | {} |", exit.code(), exit.meaning());
        assert!(operations.contains(&row), "docs/operations.md: wanted `{row}`");
    }
    // Who only has the first page finds them from there.
    assert!(read("README.md").contains("](docs/operations.md#exit-codes)"), "README.md: wanted a link");
    for state in ActorState::ALL {
        assert!(
            operations.contains(&format!("| `{}` |", state.name())),
            "wanted a row for `{}`",
            state.name()
        );
    }
}

#[test]
fn operations_probes_and_what_makes_unready_are_what_the_code_says() {
    let operations = read("docs/operations.md");
    let table =
        operations.split("| probe | degraded (200) | failed (503) |\n|---|---|---|\n").nth(1).unwrap();
    let rows: Vec<&str> = table.lines().take_while(|line| line.starts_with('|')).collect();

    let wanted = ProbeKind::ALL.map(|kind| {
        let cell = |words: Option<&'static str>| words.unwrap_or("-");
        format!("| `{}` | {} | {} |", kind.name(), cell(kind.degraded_means()), cell(kind.failed_means()))
    });

    assert_eq!(rows, wanted);
}

/// Gives the names of the metrics that a file declares.
fn metrics_in(file: &str) -> BTreeSet<String> {
    let text = read(file);
    let is_name = |text: &&str| {
        (text.starts_with("horizons_") || text.starts_with("process_"))
            && text.chars().all(|c| c.is_ascii_lowercase() || c == '_')
    };
    text.split('"').filter(is_name).map(str::to_owned).collect()
}

#[test]
fn operations_metrics_are_complete() {
    let operations = read("docs/operations.md");
    let mut names = metrics_in("actors/src/metrics.rs");
    names.append(&mut metrics_in("src/metrics.rs"));

    assert!(names.len() >= 13, "{names:?}");
    for name in names {
        assert!(
            operations.contains(&format!("| `{name}` |")),
            "docs/operations.md: wanted a row for `{name}`"
        );
    }
}

#[test]
fn production_metrics_of_the_relay_are_complete() {
    let production = read("docs/production.md");
    let names = metrics_in("src/kafka/relay/metrics.rs");

    assert!(names.len() >= 12, "{names:?}");
    for name in names {
        assert!(
            production.contains(&format!("| `{name}` |")),
            "docs/production.md: wanted a row for `{name}`"
        );
    }
}

/// Gives the names of the columns of every table that the program prints.
fn printed_columns() -> BTreeSet<Vec<String>> {
    let mut tables = BTreeSet::new();
    for folder in ["src/cli", "src/app"] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let text = read(&path);
            for kind in [": [(&str, &str); ", ": [Column; "] {
                for rest in text.split(kind).skip(1) {
                    let value = rest.split_once("] =").unwrap().1.split("];").next().unwrap();
                    tables.insert(value.split('"').skip(1).step_by(4).map(str::to_owned).collect());
                }
            }
        }
    }
    tables
}

#[test]
fn documents_output_examples_have_the_columns_that_are_printed() {
    let tables = printed_columns();
    let mut unknown = Vec::new();
    let mut checked = 0;

    for (name, text) in documents() {
        let (_, blocks) = prose_and_blocks(&text);
        for line in blocks.iter().flat_map(|block| block.lines()) {
            let is_capital =
                |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || matches!(c, ' ' | '/' | '-');
            let columns: Vec<String> =
                line.split("  ").map(str::trim).filter(|one| !one.is_empty()).map(str::to_owned).collect();
            let is_head = line.chars().all(is_capital) && line.starts_with(|c: char| c.is_ascii_uppercase());
            if columns.len() < 3 || !is_head {
                continue;
            }
            checked += 1;
            if !tables.contains(&columns) {
                unknown.push(format!("{name}: {line}"));
            }
        }
    }

    assert!(checked > 4 && tables.len() > 12, "{checked} examples and {} tables were found", tables.len());
    assert_eq!(unknown, Vec::<String>::new());
}

/// Gives the rows of a page's table, by its head.
fn rows_under<'a>(page: &'a str, head: &str) -> Vec<&'a str> {
    let table = page.split(&format!("{head}\n")).nth(1).expect("the page has the table");
    table.lines().skip(1).take_while(|line| line.starts_with('|')).collect()
}

#[test]
fn operations_error_codes_of_attempts_are_those_of_the_code() {
    let operations = read("docs/operations.md");
    let wanted = FailureCode::ALL.map(|code| format!("| `{}` | {} |", code.name(), code.meaning()));

    assert_eq!(rows_under(&operations, "| `error_code` | meaning |"), wanted);
}

#[test]
fn production_conditions_of_the_relay_are_those_of_the_code() {
    let production = read("docs/production.md");
    let wanted = PartitionCondition::EACH.map(|one| format!("| `{}` | {} |", one.name(), one.meaning()));

    assert_eq!(rows_under(&production, "| condition of a partition | meaning |"), wanted);
}

#[test]
fn faults_tests_that_are_named_exist() {
    let faults = read("docs/faults.md");
    let tests = rust_files(&root().join("tests/integration"));
    let is_test = |span: &String| {
        span.matches('_').count() > 2
            && span.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let named: Vec<String> = code_spans(&prose_and_blocks(&faults).0).into_iter().filter(is_test).collect();

    assert!(!named.is_empty());
    for test in named {
        let head = format!("#[test]\nfn {test}()");
        assert!(tests.iter().any(|text| text.contains(&head)), "docs/faults.md: there is no test `{test}`");
    }
}

/// Reads every file of code in a folder and those below it.
fn rust_files(folder: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(std::fs::read_to_string(&path).unwrap());
        }
    }
    files
}
