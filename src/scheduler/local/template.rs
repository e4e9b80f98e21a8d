//! Argument templates: how an attempt becomes the arguments of a program.
//!
//! Promises that one template makes exactly one argument, that no shell is involved, and that a value from
//! outside cannot become an option: an argument may begin with `-` only by its own literal text or where the
//! template says `dash-ok`. Nor can it lead a path elsewhere: inside a larger argument it names something below
//! what stands before it, but where the template says `path-ok`.
//!
//! Does not judge a value that is an argument of its own, or the whole value of an option (`--data={dataset_id}`):
//! there the template has promised no place that it could leave.
//!
//! *Shape*: literal text with `{dataset_id}`, `{parameters_file}`, `{job_id}`, `{attempt}`, `{user_id}` or
//! `{parameter:NAME}`; each may end in `:dash-ok` and `:path-ok`; `{{` and `}}` stand for braces.

use std::path::Path;

use horizons_actors::parameters::ParameterValue;
use horizons_actors::ports::scheduler::AttemptSpec;

/// The longest argument that is accepted, in bytes: Linux allows 32 pages with the final NUL.
///
/// *Source*: `MAX_ARG_STRLEN` in execve(2).
pub const ARGUMENT_MAX_BYTES: usize = 32 * 4096 - 1;

/// Tells why a text is not a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A brace has no partner.
    #[error("wanted `{{{{` or `}}}}` for a brace, got a single `{0}`")]
    LoneBrace(char),
    /// The name between braces is not known.
    #[error(
        "wanted `dataset_id`, `parameters_file`, `job_id`, `attempt`, `user_id` or `parameter:NAME`, each with \
         `:dash-ok` and `:path-ok` or without, got `{0}`"
    )]
    UnknownPlaceholder(String),
    /// The literal text holds a NUL byte, which no argument can carry.
    #[error("wanted text without NUL")]
    Nul,
}

/// Tells which value of an attempt cannot stand in an argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ValueError {
    pub(crate) field: &'static str,
    pub(crate) reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    DatasetId,
    ParametersFile,
    JobId,
    Attempt,
    UserId,
    /// The name, and the field that an error names.
    Parameter {
        name: &'static str,
        field: &'static str,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LeadingDash {
    Refused,
    Allowed,
}

/// Where a value inside a larger argument may lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PathRule {
    /// Below what stands before it.
    Inside,
    /// Anywhere.
    Anywhere,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Placeholder { source: Source, dash: LeadingDash, path: PathRule },
}

/// Where a value from outside stands in an argument.
struct Span {
    start: usize,
    end: usize,
    field: &'static str,
}

/// One argument, before an attempt's values are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ArgumentTemplate {
    parts: Vec<Part>,
}

impl ArgumentTemplate {
    /// Reads a template.
    ///
    /// The names of parameters are kept for the life of the process: errors name fields by static text, and
    /// the number of templates is bounded by the configuration.
    pub(crate) fn parse(text: &str) -> Result<Self, TemplateError> {
        if text.contains('\0') {
            return Err(TemplateError::Nul);
        }
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from_brace) = rest.split_at(at);
            literal.push_str(before);
            if let Some(after) = from_brace.strip_prefix("{{") {
                literal.push('{');
                rest = after;
            } else if let Some(after) = from_brace.strip_prefix("}}") {
                literal.push('}');
                rest = after;
            } else if let Some(inner) = from_brace.strip_prefix('{') {
                let (name, after) = inner.split_once('}').ok_or(TemplateError::LoneBrace('{'))?;
                if !literal.is_empty() {
                    parts.push(Part::Literal(std::mem::take(&mut literal)));
                }
                parts.push(parse_placeholder(name)?);
                rest = after;
            } else {
                return Err(TemplateError::LoneBrace('}'));
            }
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self { parts })
    }

    /// Makes the argument.
    ///
    /// *Errors*: [`ValueError`] when a value is missing, holds a control character, is too long, would make
    /// the argument an option or lead its path elsewhere.
    pub(crate) fn render(&self, spec: &AttemptSpec, parameters_file: &Path) -> Result<String, ValueError> {
        let mut argument = String::new();
        let mut spans = Vec::new();
        for part in &self.parts {
            match part {
                Part::Literal(text) => argument.push_str(text),
                Part::Placeholder { source, dash, path } => {
                    let value = source.value(spec, parameters_file)?;
                    let field = source.field();
                    if let Some(character) = value.chars().find(|character| character.is_control()) {
                        return Err(ValueError {
                            field,
                            reason: format!("wanted text without control characters, got {character:?}"),
                        });
                    }
                    if argument.is_empty() && value.starts_with('-') && *dash == LeadingDash::Refused {
                        return Err(ValueError {
                            field,
                            reason: format!(
                                "wanted text that does not begin with `-`, got `{}`",
                                shown(&value)
                            ),
                        });
                    }
                    let start = argument.len();
                    argument.push_str(&value);
                    if *path == PathRule::Inside && source.is_from_outside() {
                        spans.push(Span { start, end: argument.len(), field });
                    }
                    if argument.len() > ARGUMENT_MAX_BYTES {
                        return Err(ValueError {
                            field,
                            reason: format!(
                                "wanted an argument of at most {ARGUMENT_MAX_BYTES} bytes, got {}",
                                argument.len()
                            ),
                        });
                    }
                }
            }
        }
        if !self.is_value_alone() {
            check_path(&argument, &spans)?;
        }
        Ok(argument)
    }

    /// Tells whether the argument is one value, or an option with one value.
    fn is_value_alone(&self) -> bool {
        match self.parts.as_slice() {
            [Part::Placeholder { .. }] => true,
            [Part::Literal(option), Part::Placeholder { .. }] => {
                option.starts_with('-') && option.ends_with('=') && !option.contains('/')
            }
            _ => false,
        }
    }
}

/// Holds the values in an argument against what a path would make of them, put together as they are: two
/// values, or a value and the text beside it, can be `..` only together.
///
/// *Errors*: [`ValueError`] when a part between two `/` is `.` or `..` and a value has to do with it, or when a
/// value begins with `/` or is empty where a part begins.
fn check_path(argument: &str, spans: &[Span]) -> Result<(), ValueError> {
    let mut start = 0;
    for part in argument.split('/') {
        let end = start + part.len();
        // Behind the `=` of an option a path begins as well.
        let name = part.rsplit('=').next().unwrap_or(part);
        let touching = spans.iter().rfind(|span| match name {
            "." | ".." => span.start <= end && span.end >= start,
            "" => span.start == end,
            _ => false,
        });
        if let Some(Span { start, end, field }) = touching {
            let got = shown(argument.get(*start..*end).unwrap_or_default());
            let reason = format!(
                "wanted a name below its place, without `.` and `..` and no `/` in front, got `{got}`"
            );
            return Err(ValueError { field, reason });
        }
        start = end + 1;
    }
    Ok(())
}

/// How much of a refused value an error shows, in characters.
const SHOWN_CHARACTERS: usize = 40;

fn shown(value: &str) -> String {
    value.chars().take(SHOWN_CHARACTERS).collect()
}

fn parse_placeholder(text: &str) -> Result<Part, TemplateError> {
    let (mut name, mut dash, mut path) = (text, LeadingDash::Refused, PathRule::Inside);
    loop {
        name = match (name.strip_suffix(":dash-ok"), name.strip_suffix(":path-ok")) {
            (Some(name), _) if dash == LeadingDash::Refused => {
                dash = LeadingDash::Allowed;
                name
            }
            (_, Some(name)) if path == PathRule::Inside => {
                path = PathRule::Anywhere;
                name
            }
            _ => break,
        };
    }
    let source = match name {
        "dataset_id" => Source::DatasetId,
        "parameters_file" => Source::ParametersFile,
        "job_id" => Source::JobId,
        "attempt" => Source::Attempt,
        "user_id" => Source::UserId,
        other => match other.strip_prefix("parameter:") {
            Some(name) if !name.is_empty() && !name.contains([':', '{']) => Source::Parameter {
                name: String::leak(name.to_owned()),
                field: String::leak(format!("parameters.{name}")),
            },
            _ => return Err(TemplateError::UnknownPlaceholder(text.to_owned())),
        },
    };
    Ok(Part::Placeholder { source, dash, path })
}

impl Source {
    /// Tells whether somebody else than Horizons chose the value.
    const fn is_from_outside(self) -> bool {
        match self {
            Source::DatasetId | Source::JobId | Source::UserId | Source::Parameter { .. } => true,
            Source::ParametersFile | Source::Attempt => false,
        }
    }

    const fn field(self) -> &'static str {
        match self {
            Source::DatasetId => "dataset_id",
            Source::ParametersFile => "parameters",
            Source::JobId => "job_id",
            Source::Attempt => "attempt",
            Source::UserId => "user_id",
            Source::Parameter { field, .. } => field,
        }
    }

    fn value(self, spec: &AttemptSpec, parameters_file: &Path) -> Result<String, ValueError> {
        match self {
            Source::DatasetId => Ok(spec.dataset_id.as_str().to_owned()),
            Source::JobId => Ok(spec.id.job_id.as_str().to_owned()),
            Source::Attempt => Ok(spec.id.attempt.to_string()),
            Source::UserId => Ok(spec.user_id.as_str().to_owned()),
            Source::ParametersFile => parameters_file.to_str().map(str::to_owned).ok_or_else(|| ValueError {
                field: self.field(),
                reason: "wanted a folder for attempts whose path is UTF-8".to_owned(),
            }),
            Source::Parameter { name, field } => {
                let argument = spec.parameters.get(name).map_or(Err("nothing"), ParameterValue::as_argument);
                argument.map(str::to_owned).map_err(|got| ValueError {
                    field,
                    reason: format!("wanted text, a number or a boolean, got {got}"),
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use horizons_actors::event::TaccSystem;
    use horizons_actors::ids::{AgentName, Attempt, AttemptId, CorrelationId, DatasetId, JobId, UserId};
    use horizons_actors::parameters::Parameters;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn spec(dataset: &str, parameters: Value) -> AttemptSpec {
        AttemptSpec {
            id: AttemptId { job_id: JobId::parse("job 1").unwrap(), attempt: Attempt(2) },
            agent: AgentName::parse("imaging").unwrap(),
            dataset_id: DatasetId::parse(dataset).unwrap(),
            parameters: Parameters::from_json(&parameters.to_string()).unwrap(),
            tacc_system: TaccSystem::Local,
            user_id: UserId::parse("ada").unwrap(),
            correlation_id: CorrelationId::parse("00000000-0000-4000-8000-000000000000").unwrap(),
        }
    }

    fn render(template: &str, spec: &AttemptSpec) -> Result<String, ValueError> {
        ArgumentTemplate::parse(template).unwrap().render(spec, Path::new("/a/parameters.json"))
    }

    #[test]
    fn template_with_every_placeholder_makes_one_argument() {
        let spec = spec("data; rm -rf $HOME", json!({"n": 3, "deep": true}));

        let argument = render(
            "{{{dataset_id}}}|{parameters_file}|{job_id}|{attempt}|{user_id}|{parameter:n}|{parameter:deep}",
            &spec,
        );

        assert_eq!(argument.unwrap(), "{data; rm -rf $HOME}|/a/parameters.json|job 1|2|ada|3|true");
    }

    #[test]
    fn template_that_is_wrong_is_refused() {
        assert_eq!(ArgumentTemplate::parse("{"), Err(TemplateError::LoneBrace('{')));
        assert_eq!(ArgumentTemplate::parse("a}"), Err(TemplateError::LoneBrace('}')));
        assert_eq!(ArgumentTemplate::parse("a\0"), Err(TemplateError::Nul));
        for name in ["", "data", "parameter:", "parameter", "parameter:a:b", "dataset_id:x", ":dash-ok"] {
            assert_eq!(
                ArgumentTemplate::parse(&format!("{{{name}}}")),
                Err(TemplateError::UnknownPlaceholder(name.to_owned()))
            );
        }
    }

    #[test]
    fn value_with_leading_dash_is_refused_unless_the_template_allows_it() {
        let spec = spec("-rf", json!({"p": "--exec", "empty": ""}));

        assert_eq!(render("{dataset_id}", &spec).unwrap_err().field, "dataset_id");
        assert_eq!(render("{parameter:p}", &spec).unwrap_err().field, "parameters.p");
        assert_eq!(render("{parameter:empty}{parameter:p}", &spec).unwrap_err().field, "parameters.p");
        assert_eq!(render("--data={dataset_id}", &spec).unwrap(), "--data=-rf");
        assert_eq!(render("{parameter:p:dash-ok}", &spec).unwrap(), "--exec");
    }

    #[test]
    fn value_that_no_argument_can_carry_is_refused_with_its_field() {
        let long = "x".repeat(ARGUMENT_MAX_BYTES + 1);
        let spec =
            spec("d", json!({"nul": "a\0b", "line": "a\nb", "o": {}, "l": [], "z": null, "long": long}));

        for name in ["nul", "line", "o", "l", "z", "long", "absent"] {
            let error = render(&format!("{{parameter:{name}}}"), &spec).unwrap_err();
            assert_eq!(error.field, format!("parameters.{name}"));
        }
    }

    #[test]
    fn value_that_leads_a_path_elsewhere_is_refused_with_its_field() {
        let refused = [
            ("/data/{dataset_id}", "../etc/passwd", "dataset_id"),
            ("/data/{dataset_id}", "..", "dataset_id"),
            ("/data/{dataset_id}", ".", "dataset_id"),
            ("/data/{dataset_id}", "a/../../etc", "dataset_id"),
            ("/data/{dataset_id}", "/etc/passwd", "dataset_id"),
            ("/data/{dataset_id}/out", "..", "dataset_id"),
            ("/data/.{dataset_id}", "./etc", "dataset_id"),
            ("/data/{dataset_id}.", ".", "dataset_id"),
            ("/data/{parameter:a}{parameter:b}", ".", "parameters.b"),
            ("/data/{parameter:empty}", "d", "parameters.empty"),
            ("--in={dataset_id}/raw", "..", "dataset_id"),
            ("--in={dataset_id}/raw", "/etc", "dataset_id"),
            ("{dataset_id}.ms", "/etc/passwd", "dataset_id"),
            ("{dataset_id}.ms", "../secret", "dataset_id"),
            ("/home/{user_id}/x", "..", "user_id"),
        ];
        let parameters = json!({"a": ".", "b": ".", "empty": ""});

        for (template, value, field) in refused {
            let mut spec = spec(value, parameters.clone());
            spec.user_id = UserId::parse(value).unwrap();

            let error = render(template, &spec).unwrap_err();

            assert_eq!(error.field, field, "{template} with {value}");
        }
    }

    #[test]
    fn value_that_stays_in_its_place_or_may_lead_anywhere_is_taken() {
        let taken = [
            ("/data/{dataset_id}", "ngc-1300", "/data/ngc-1300"),
            ("/data/{dataset_id}", "2026/ngc..1300/", "/data/2026/ngc..1300/"),
            ("/data/{dataset_id}", "uid://A002/X1", "/data/uid://A002/X1"),
            ("/data/{dataset_id}", "...", "/data/..."),
            ("../{dataset_id}/./x", "d", "../d/./x"),
            ("{dataset_id}", "/corral/../d", "/corral/../d"),
            ("--data={dataset_id}", "../d", "--data=../d"),
            ("/data/{dataset_id:path-ok}", "../d", "/data/../d"),
            ("{dataset_id:path-ok:dash-ok}.ms", "-/../d", "-/../d.ms"),
            ("{dataset_id:dash-ok:path-ok}.ms", "-/../d", "-/../d.ms"),
            ("{parameters_file}.bak", "d", "/a/parameters.json.bak"),
        ];

        for (template, value, wanted) in taken {
            assert_eq!(render(template, &spec(value, json!({}))).unwrap(), wanted, "{template}");
        }
        assert!(ArgumentTemplate::parse("{dataset_id:path-ok:path-ok}").is_err());
    }

    /// Where a path leads, by its text alone.
    fn normalised(path: &str) -> Vec<&str> {
        let mut names = Vec::new();
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(names.pop()),
                name => names.push(name),
            }
        }
        names
    }

    proptest! {
        #[test]
        fn path_of_any_values_stays_below_its_place(
            first in "[./a=]{0,8}",
            second in "[./a=]{0,8}",
            template in prop::sample::select(&["/data/in/{parameter:a}", "/data/in/.{parameter:a}/{parameter:b}", "/data/in/{parameter:a}{parameter:b}.x"][..]),
        ) {
            let spec = spec("d", json!({"a": first, "b": second}));

            if let Ok(argument) = render(template, &spec) {
                let names = normalised(&argument);
                prop_assert!(names.len() > 2 && names.starts_with(&["data", "in"]), "{}", argument);
            }
        }

        #[test]
        fn argument_of_any_value_never_begins_with_a_dash(first in ".*", second in ".*") {
            let spec = spec("d", json!({"a": first, "b": second}));

            if let Ok(argument) = render("{parameter:a}{parameter:b}", &spec) {
                prop_assert!(!argument.starts_with('-'));
                prop_assert_eq!(argument, first + &second);
            }
        }

        #[test]
        fn template_of_any_text_never_panics(text in ".*") {
            let _ = ArgumentTemplate::parse(&text);
        }
    }
}
