//! The rules of the house that a compiler does not know: who may use whom, file sizes, banned calls, module
//! documents, and the dependencies.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Packages that would tie the core to the outside world.
const BANNED_IN_CORE: [&str; 7] = ["rdkafka", "diesel", "r2d2", "warp", "lettre", "nix", "libsqlite3-sys"];

/// Folders and files of `src` that talk to one outside thing each; only `app.rs` knows them all.
const ADAPTERS: [&str; 8] =
    ["db", "scheduler", "http", "embedded_log", "orchestrator", "kafka", "mail", "live"];

/// Pure files and folders of the core: no actor framework in them.
const PURE: [&str; 10] = [
    "ids.rs",
    "clock.rs",
    "record.rs",
    "rejection.rs",
    "effect.rs",
    "state.rs",
    "command.rs",
    "backoff.rs",
    "snapshot.rs",
    "event",
];

/// A file is split before it grows longer; 500 is the soft limit.
const LINES_MAX: usize = 700;

/// Calls that lose messages or block, by what they look like. The lints know the plain forms of them only.
const BANNED_CALLS: [&str; 2] = ["do_send", "thread::sleep"];

/// Files that start a thread which gives the watchdog no sign, or gives it elsewhere, and why that is right.
const UNWATCHED_THREADS: [(&str, &str); 4] = [
    ("src/telemetry/queue.rs", "the log's reader may stop reading, which harms no work"),
    ("src/kafka/relay/mod.rs", "the thread registers in run.rs"),
    ("src/app/bench/latency.rs", "sends the load of a measurement"),
    ("actors/src/supervisor/watchdog.rs", "is the watchdog"),
];

/// Least versions of packages whose earlier ones have published vulnerabilities that concern us, checked here
/// because the advisory database needs a network.
///
/// *Source*: RUSTSEC-2023-0065 (tungstenite); lettre's is set by the project's own research.
const LEAST_VERSIONS: [(&str, [u64; 3]); 2] = [("tungstenite", [0, 20, 1]), ("lettre", [0, 11, 24])];

/// Packages that must be in the lock file once: two of them would be two runtimes or two SQLite.
const ONLY_ONCE: [&str; 8] =
    ["actix", "actix-rt", "tokio", "hyper", "diesel", "libsqlite3-sys", "serde", "tracing"];

/// Dependencies that are listed to set their features or version, and that no line of ours names.
const UNNAMED_DEPENDENCIES: [(&str, &str); 3] = [
    ("pq-sys", "chooses between libpq from source and the system's"),
    ("libsqlite3-sys", "chooses between SQLite from source and the system's"),
    ("horizons-actors", "lists itself for its tests, to switch the test kit on"),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Lists the Rust files under a folder, with their text.
fn sources(folder: &str) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut open = vec![root().join(folder)];
    while let Some(folder) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                files.insert(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned(), text);
            }
        }
    }
    files
}

fn all_sources() -> BTreeMap<String, String> {
    ["src", "actors/src", "actors/tests", "tests", "benches"].into_iter().flat_map(sources).collect()
}

/// Gives the code of a file, without comments.
fn code(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

fn manifest(path: &str) -> toml::Table {
    std::fs::read_to_string(root().join(path)).unwrap().parse().unwrap()
}

/// Lists the packages that a manifest depends on, for whatever purpose.
fn listed(manifest: &toml::Table) -> BTreeSet<String> {
    ["dependencies", "dev-dependencies", "build-dependencies"]
        .iter()
        .filter_map(|section| manifest.get(*section).and_then(toml::Value::as_table))
        .flat_map(|table| table.keys().cloned())
        .collect()
}

/// Tells whether code uses a module of this crate: `crate::NAME`, alone or in a nested import.
fn uses_module(code: &str, module: &str) -> bool {
    let is_word_end = |rest: &str| !rest.starts_with(|next: char| next.is_alphanumeric() || next == '_');
    let plain = format!("crate::{module}");
    if code.match_indices(&plain).any(|(at, _)| is_word_end(&code[at + plain.len()..])) {
        return true;
    }
    code.match_indices("use crate::{").any(|(at, found)| {
        let list = code[at + found.len()..].split(';').next().unwrap();
        // Names at the outermost level of the list only: inner ones belong to another module.
        let mut depth = 0_usize;
        let mut names = vec![String::new()];
        for character in list.chars() {
            match character {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                ',' if depth == 0 => names.push(String::new()),
                other if depth == 0 => names.last_mut().unwrap().push(other),
                _ => {}
            }
        }
        names.iter().any(|name| name.trim().split([':', ' ']).next() == Some(module))
    })
}

#[test]
fn core_lists_no_dependency_on_the_outside_world() {
    let listed = listed(&manifest("actors/Cargo.toml"));

    let breaches: Vec<&str> = BANNED_IN_CORE.into_iter().filter(|name| listed.contains(*name)).collect();

    assert_eq!(breaches, Vec::<&str>::new());
    assert!(listed.contains("actix"), "the manifest was not read");
}

#[test]
fn pure_files_import_no_actors_and_read_no_clock() {
    let mut checked = 0;
    for (path, text) in sources("actors/src") {
        let first = path.trim_start_matches("actors/src/").split('/').next().unwrap();
        if !PURE.contains(&first) {
            continue;
        }
        let code = code(&text);
        for banned in ["use actix", "actix::", "SystemTime::now"] {
            assert!(!code.contains(banned), "{path} uses {banned}");
        }
        for clock in ["Utc::now", "Instant::now"] {
            assert!(path.ends_with("clock.rs") || !code.contains(clock), "{path} reads a clock");
        }
        checked += 1;
    }
    assert!(checked >= PURE.len(), "only {checked} pure files were found");
}

#[test]
fn adapters_do_not_use_one_another() {
    for (path, text) in sources("src") {
        let first = path.trim_start_matches("src/").split('/').next().unwrap();
        let own = first.trim_end_matches(".rs");
        // A test may put a real part behind a port.
        let is_test = path.contains("/tests/") || path.ends_with("tests.rs");
        if is_test || !ADAPTERS.contains(&own) {
            continue;
        }
        let code = code(&text);
        for other in ADAPTERS.into_iter().filter(|other| *other != own) {
            assert!(!uses_module(&code, other), "{path} uses `{other}`: go through a port");
        }
        assert!(!uses_module(&code, "app"), "{path} uses `app`");
    }
}

#[test]
fn adapter_rule_finds_every_form_of_import() {
    for (code, wanted) in [
        ("use crate::db::Pool;", true),
        ("use crate::{config, db::Pool};", true),
        ("use crate::{config, db};", true),
        ("let pool = crate::db::open();", true),
        ("use crate::dbx::Pool;", false),
        ("use crate::{config::{db, log}, exit};", false),
        ("use horizons_actors::db;", false),
    ] {
        assert_eq!(uses_module(code, "db"), wanted, "{code}");
    }
}

#[test]
fn files_stay_short() {
    let long: Vec<String> = all_sources()
        .into_iter()
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(path, lines)| format!("{path}: {lines}"))
        .collect();

    assert_eq!(long, Vec::<String>::new(), "wanted at most {LINES_MAX} lines");
}

#[test]
fn modules_open_with_what_they_promise() {
    let silent: Vec<String> = all_sources()
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//!") && !text.starts_with("#![doc = include_str!"))
        .map(|(path, _)| path)
        .collect();

    assert_eq!(silent, Vec::<String>::new(), "wanted every module to open with `//!`");
}

#[test]
fn banned_calls_stand_nowhere() {
    for (path, text) in all_sources() {
        if path.ends_with("architecture.rs") {
            continue;
        }
        let code = code(&text);
        for call in BANNED_CALLS {
            assert!(!code.contains(call), "{path} calls {call}");
        }
    }
}

#[test]
fn threads_give_the_watchdog_signs() {
    let starts_one = |code: &str| code.contains("thread::Builder::new") || code.contains("thread::spawn");
    let unwatched: BTreeSet<String> = ["src", "actors/src"]
        .into_iter()
        .flat_map(sources)
        .map(|(path, text)| (path, code(text.split("#[cfg(test)]").next().unwrap_or_default())))
        .filter(|(path, code)| {
            !path.contains("test") && starts_one(code) && !code.contains("heartbeat::register(")
        })
        .map(|(path, _)| path)
        .collect();

    let known = UNWATCHED_THREADS.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(unwatched, known, "wanted every thread to be registered, or a reason why not");
}

#[test]
fn dependencies_are_all_used() {
    let packages =
        [("Cargo.toml", vec!["src", "tests", "benches"]), ("actors/Cargo.toml", vec!["actors/src"])];
    let mut unused = Vec::new();
    for (path, folders) in packages {
        let code: String = folders.into_iter().flat_map(sources).map(|(_, text)| code(&text)).collect();
        for name in listed(&manifest(path)) {
            let is_excused = UNNAMED_DEPENDENCIES.iter().any(|(excused, _)| *excused == name);
            if !is_excused && !names_crate(&code, &name.replace('-', "_")) {
                unused.push(format!("{path}: {name}"));
            }
        }
    }

    assert_eq!(unused, Vec::<String>::new(), "listed, and used by nothing");
}

/// Tells whether code names a crate: as the head of a path, or in an import of the crate itself.
fn names_crate(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let is_whole = !code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_');
        let rest = &code[at + word.len()..];
        is_whole && (rest.starts_with("::") || rest.starts_with(';'))
    })
}

#[test]
fn workspace_dependencies_are_all_listed_by_a_package() {
    let workspace = manifest("Cargo.toml");
    let shared = workspace["workspace"]["dependencies"].as_table().unwrap();
    let all: BTreeSet<String> = ["Cargo.toml", "actors/Cargo.toml"]
        .into_iter()
        .map(manifest)
        .flat_map(|manifest| listed(&manifest))
        .collect();

    for name in shared.keys() {
        assert!(all.contains(name), "the workspace shares `{name}`, and no package lists it");
    }
}

/// Gives every version of every package in the lock file.
fn locked() -> BTreeMap<String, Vec<String>> {
    let lock = manifest("Cargo.lock");
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in lock["package"].as_array().unwrap() {
        let text = |field: &str| package[field].as_str().unwrap().to_owned();
        versions.entry(text("name")).or_default().push(text("version"));
    }
    versions
}

fn version_numbers(version: &str) -> Vec<u64> {
    let core = version.split(['-', '+']).next().unwrap();
    core.split('.').map(|part| part.parse().unwrap()).collect()
}

#[test]
fn locked_versions_are_not_known_to_be_vulnerable() {
    let locked = locked();
    for (name, least) in LEAST_VERSIONS {
        for version in locked.get(name).into_iter().flatten() {
            assert!(
                version_numbers(version) >= least.to_vec(),
                "{name} {version}: wanted {least:?} or later"
            );
        }
    }
}

#[test]
fn locked_foundations_are_there_once() {
    let locked = locked();
    for name in ONLY_ONCE {
        assert_eq!(locked.get(name).map_or(0, Vec::len), 1, "{name}: {:?}", locked.get(name));
    }
}

#[test]
fn integration_files_are_all_in_the_binary() {
    let folder = root().join("tests/integration");
    let main = std::fs::read_to_string(folder.join("main.rs")).unwrap();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = Path::new(&path).file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(name == "main" || main.contains(&format!("mod {name};")), "`{name}` is not in main.rs");
    }
}
