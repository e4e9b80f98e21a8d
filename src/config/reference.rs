//! Writes the reference of the configuration: the example file and the table of the documentation.
//!
//! Promises text that follows from the table of keys alone; tests hold `config.toml` and
//! `docs/configuration.md` against it, and `horizons config reference` prints it.

use std::fmt::Write as _;

use super::agents::FIELDS;
use super::keys::{KEYS, Kind, OTHER_VARIABLES};

/// Opens the example file.
const FILE_HEAD: &str = "\
# The configuration of Horizons: every key with its default, unit and meaning.
# A key that is left out has the default. An environment variable beats the file: HORIZONS_<SECTION>_<KEY>,
# for instance HORIZONS_HTTP_LISTEN. Unknown keys are refused. `horizons config check` names every problem,
# `horizons config show` prints what is in force and where it comes from.
";

/// Columns that a comment may take, as in the code.
const COMMENT_COLUMNS: usize = 110;

/// Writes the example file up to the agents.
pub fn example_file() -> String {
    let mut text = FILE_HEAD.to_owned();
    let mut section = "";
    for key in &KEYS {
        if key.section != section {
            section = key.section;
            let _ = write!(text, "\n[{section}]\n");
        }
        let unit = if key.unit().is_empty() { String::new() } else { format!(" In {}.", key.unit()) };
        let wanted = format!("{}{unit} Wanted: {}.", key.meaning, key.wanted());
        push_comment(&mut text, &wanted);
        if key.kind == Kind::Secret {
            let _ = writeln!(text, "# {}: in {} only", key.name, key.variable());
        } else {
            let _ = writeln!(text, "{} = {}", key.name, key.default_toml());
        }
    }
    text
}

/// Writes a comment, broken between words.
fn push_comment(text: &mut String, comment: &str) {
    let mut line = String::from("#");
    for word in comment.split(' ') {
        if line.len() + 1 + word.len() > COMMENT_COLUMNS {
            text.push_str(&line);
            text.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
}

/// Writes the tables of the documentation, as Markdown.
pub fn markdown_tables() -> String {
    let mut text =
        String::from("| key | variable | default | unit | wanted | meaning |\n|---|---|---|---|---|---|\n");
    for key in &KEYS {
        let _ = writeln!(
            text,
            "| `{}` | `{}` | `{}` | {} | {} | {} |",
            key.path(),
            key.variable(),
            key.default_toml(),
            key.unit(),
            key.wanted(),
            key.meaning
        );
    }
    text.push_str("\nAgents (`[agents.NAME]`, in the file only):\n\n| field | default | unit | meaning |\n|---|---|---|---|\n");
    for (field, unit, default, meaning) in FIELDS {
        let _ = writeln!(text, "| `{field}` | {default} | {unit} | {meaning} |");
    }
    text.push_str("\nVariables that are no keys:\n\n| variable | meaning |\n|---|---|\n");
    for (name, meaning) in OTHER_VARIABLES {
        let _ = writeln!(text, "| `{name}` | {meaning} |");
    }
    text
}
