//! Argument templates: how an attempt becomes the arguments of a program.
//!
//! Promises that one template makes exactly one argument, that no shell is involved, and that a value from
//! outside cannot become an option: an argument may begin with `-` only by its own literal text or where the
//! template says `dash-ok`.
//!
//! *Shape*: literal text with `{dataset_id}`, `{parameters_file}`, `{job_id}`, `{attempt}`, `{user_id}` or
//! `{parameter:NAME}`; each may end in `:dash-ok`; `{{` and `}}` stand for braces.

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
         `:dash-ok` or without, got `{0}`"
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

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Placeholder { source: Source, dash: LeadingDash },
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
    /// *Errors*: [`ValueError`] when a value is missing, holds a control character, is too long or would make
    /// the argument an option.
    pub(crate) fn render(&self, spec: &AttemptSpec, parameters_file: &Path) -> Result<String, ValueError> {
        let mut argument = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(text) => argument.push_str(text),
                Part::Placeholder { source, dash } => {
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
                    argument.push_str(&value);
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
        Ok(argument)
    }
}

/// How much of a refused value an error shows, in characters.
const SHOWN_CHARACTERS: usize = 40;

fn shown(value: &str) -> String {
    value.chars().take(SHOWN_CHARACTERS).collect()
}

fn parse_placeholder(text: &str) -> Result<Part, TemplateError> {
    let (name, dash) = match text.strip_suffix(":dash-ok") {
        Some(name) => (name, LeadingDash::Allowed),
        None => (text, LeadingDash::Refused),
    };
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
    Ok(Part::Placeholder { source, dash })
}

impl Source {
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

    proptest! {
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
