//! The agents that users may submit jobs to, as the configuration declares them.
//!
//! Promises an [`Agent`] whose fields are within range and whose texts can be passed to a program. Knows no
//! scheduler: what a template may name, and whether the program exists on the machine that runs it, the
//! scheduler checks, through [`AgentCheck`].

use std::collections::BTreeMap;
use std::time::Duration;

use horizons_actors::ids::AgentName;

use super::error::{Fault, Origin, Problem};
use super::keys::nearest;
use super::raw::{AGENTS_SECTION, Given, RawValue};

/// An agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// The program's absolute path; no shell is involved.
    pub program: String,
    /// Its arguments: texts with placeholders, each of which becomes exactly one argument.
    pub arguments: Vec<String>,
    /// An attempt that runs longer is ended.
    pub time_limit: Duration,
    /// Memory that all processes of an attempt may have resident together.
    pub memory_limit_bytes: u64,
    /// Attempts of this agent that run at once; none means as many as there are slots.
    pub slot_limit: Option<u32>,
    /// Variables that the program sees.
    pub environment: BTreeMap<String, String>,
    /// What standard output and standard error of an attempt may take together.
    pub output_limit_bytes: u64,
    /// What happens to output beyond that.
    pub output_overflow: OutputOverflow,
    /// What the work folder of an attempt may take.
    pub work_limit_bytes: u64,
    /// The user, and the group after a colon, that the agent runs as; none is the user of `serve`.
    pub run_as: Option<String>,
}

/// What happens to output beyond its limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OutputOverflow {
    /// The attempt is ended.
    #[default]
    End,
    /// The oldest output is given up.
    Rotate,
}

/// What is wrong with an agent beyond its ranges: the field's name and a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentProblem {
    /// The field, for instance `arguments` or `arguments[1]`.
    pub field: String,
    /// What was wanted and what was got.
    pub detail: String,
}

/// Checks an agent by rules that only its scheduler knows; finds every problem at once.
pub type AgentCheck = dyn Fn(&Agent) -> Vec<AgentProblem>;

/// Time limit of an agent that states none: one hour.
pub const TIME_LIMIT_DEFAULT: Duration = Duration::from_secs(3_600);

/// Memory limit of an agent that states none: generous for a tool, and still below what small machines have.
pub const MEMORY_LIMIT_DEFAULT_BYTES: u64 = 4 << 30;

/// Least and greatest time limit: under 100 ms nothing starts reliably, over 30 days is a slip of the unit.
const TIME_LIMIT_MS: (u64, u64) = (100, 30 * 86_400_000);

/// Least and greatest memory limit: under 4 MiB not even a shell starts reliably.
const MEMORY_LIMIT_BYTES: (u64, u64) = (4 << 20, 1 << 50);

/// Output limit of an agent that states none: far more than anybody reads.
const OUTPUT_LIMIT_DEFAULT_BYTES: u64 = 1 << 30;

/// Limit of the work folder of an agent that states none.
const WORK_LIMIT_DEFAULT_BYTES: u64 = 32 << 30;

/// Least and greatest limit of output and work folder: under a block or two nothing fits.
const SPACE_LIMIT_BYTES: (u64, u64) = (64 << 10, 1 << 50);

/// Least and greatest slot limit.
const SLOT_LIMIT: (u64, u64) = (1, 4_096);

/// Every field of an agent with its unit, whether it must be set, and its meaning.
pub(super) const FIELDS: [(&str, &str, &str, &str); 10] = [
    ("program", "", "must be set", "Absolute path of the program. No shell is involved."),
    ("arguments", "", "`[]`", "List of arguments; each stays one argument, whatever is put into it."),
    ("time_limit_ms", "milliseconds", "`3600000`", "An attempt that runs longer is ended."),
    (
        "memory_limit_bytes",
        "bytes",
        "`4294967296`",
        "Memory that all processes of an attempt may hold together; what they share counts once.",
    ),
    ("slot_limit", "", "all slots", "Attempts of this agent that run at once."),
    ("environment", "", "`{}`", "Table of variables that the program sees."),
    (
        "output_limit_bytes",
        "bytes",
        "`1073741824`",
        "Standard output and standard error that an attempt may leave.",
    ),
    (
        "output_overflow",
        "",
        "`\"end\"`",
        "What happens beyond that: `end` ends the attempt as `output_limit`; `rotate` gives up the oldest output.",
    ),
    (
        "work_limit_bytes",
        "bytes",
        "`34359738368`",
        "What an attempt's work folder may take; beyond it the attempt ends as `work_limit`.",
    ),
    (
        "run_as",
        "",
        "the user of `serve`",
        "`USER` or `USER:GROUP` that the agent runs as; `serve` needs root's rights for it. Without it the agent can \
         read the data folder.",
    ),
];

/// Reads and checks every agent.
pub(super) fn check_agents(
    raw: &[(String, Given)],
    check: &AgentCheck,
    problems: &mut Vec<Problem>,
) -> BTreeMap<AgentName, Agent> {
    let mut agents = BTreeMap::new();
    for (name, given) in raw {
        let known = problems.len();
        let mut reader = AgentReader { path: format!("{AGENTS_SECTION}.{name}"), given, problems };
        let agent_name = reader.name(name);
        let agent = reader.agent();
        if let (Some(agent_name), Some(agent), true) = (agent_name, agent, problems.len() == known) {
            problems.extend(check(&agent).into_iter().map(|problem| Problem {
                key: format!("{AGENTS_SECTION}.{name}.{}", problem.field),
                origin: field_origin(given, &problem.field),
                fault: Fault::Rule(problem.detail),
            }));
            agents.insert(agent_name, agent);
        }
    }
    agents
}

/// Finds where a field was set, else where its agent was.
fn field_origin(agent: &Given, field: &str) -> Origin {
    let field = field.split(['[', '.']).next().unwrap_or(field);
    if let RawValue::Table(entries) = &agent.value
        && let Some((_, given)) = entries.iter().find(|(name, _)| name == field)
    {
        return given.origin.clone();
    }
    agent.origin.clone()
}

/// Reads one agent and gathers its problems.
struct AgentReader<'a> {
    path: String,
    given: &'a Given,
    problems: &'a mut Vec<Problem>,
}

impl AgentReader<'_> {
    fn name(&mut self, name: &str) -> Option<AgentName> {
        match AgentName::parse(name) {
            Ok(name) => Some(name),
            Err(error) => {
                self.problems.push(Problem {
                    key: self.path.clone(),
                    origin: self.given.origin.clone(),
                    fault: Fault::Rule(format!("the name is no agent name: {error}")),
                });
                None
            }
        }
    }

    fn agent(&mut self) -> Option<Agent> {
        let RawValue::Table(entries) = &self.given.value else {
            self.wrong("", "a table with at least `program`", self.given);
            return None;
        };
        for (name, given) in entries {
            let names = FIELDS.map(|(field, ..)| field);
            if !names.contains(&name.as_str()) {
                let nearest = nearest(name, names).map(str::to_owned);
                self.problem(name, given.origin.clone(), Fault::Unknown { nearest });
            }
        }
        let find = |field: &str| entries.iter().find(|(name, _)| name == field).map(|(_, given)| given);
        let program = self.program(find("program"));
        let arguments = self.arguments(find("arguments"));
        let time_limit = self.number("time_limit_ms", TIME_LIMIT_MS, find("time_limit_ms"));
        let memory_limit = self.number("memory_limit_bytes", MEMORY_LIMIT_BYTES, find("memory_limit_bytes"));
        let slot_limit = self.number("slot_limit", SLOT_LIMIT, find("slot_limit"));
        let environment = self.environment(find("environment"));
        let output_limit = self.number("output_limit_bytes", SPACE_LIMIT_BYTES, find("output_limit_bytes"));
        let output_overflow = self.overflow(find("output_overflow"));
        let run_as = self.run_as(find("run_as"));
        let work_limit = self.number("work_limit_bytes", SPACE_LIMIT_BYTES, find("work_limit_bytes"));
        Some(Agent {
            program: program?,
            arguments,
            time_limit: time_limit.map_or(TIME_LIMIT_DEFAULT, Duration::from_millis),
            memory_limit_bytes: memory_limit.unwrap_or(MEMORY_LIMIT_DEFAULT_BYTES),
            slot_limit: slot_limit.and_then(|slots| u32::try_from(slots).ok()),
            environment,
            output_limit_bytes: output_limit.unwrap_or(OUTPUT_LIMIT_DEFAULT_BYTES),
            output_overflow,
            work_limit_bytes: work_limit.unwrap_or(WORK_LIMIT_DEFAULT_BYTES),
            run_as,
        })
    }

    fn run_as(&mut self, given: Option<&Given>) -> Option<String> {
        let given = given?;
        match &given.value {
            RawValue::Text(text) if !text.is_empty() && !text.contains('\0') => Some(text.clone()),
            _ => {
                self.wrong("run_as", "`USER` or `USER:GROUP`", given);
                None
            }
        }
    }

    fn overflow(&mut self, given: Option<&Given>) -> OutputOverflow {
        let Some(given) = given else { return OutputOverflow::default() };
        match &given.value {
            RawValue::Text(text) if text == "end" => OutputOverflow::End,
            RawValue::Text(text) if text == "rotate" => OutputOverflow::Rotate,
            _ => {
                self.wrong("output_overflow", "one of `end`, `rotate`", given);
                OutputOverflow::default()
            }
        }
    }

    fn program(&mut self, given: Option<&Given>) -> Option<String> {
        let wanted = "the absolute path of a program";
        let Some(given) = given else {
            let fault = Fault::Missing { wanted: wanted.to_owned() };
            self.problem("program", self.given.origin.clone(), fault);
            return None;
        };
        match &given.value {
            RawValue::Text(text) if text.starts_with('/') && !text.contains('\0') => Some(text.clone()),
            _ => {
                self.wrong("program", wanted, given);
                None
            }
        }
    }

    fn arguments(&mut self, given: Option<&Given>) -> Vec<String> {
        let Some(given) = given else { return Vec::new() };
        let RawValue::List(items) = &given.value else {
            self.wrong("arguments", "a list of texts", given);
            return Vec::new();
        };
        let mut arguments = Vec::with_capacity(items.len());
        for item in items {
            match item {
                RawValue::Text(text) if !text.contains('\0') => arguments.push(text.clone()),
                other => {
                    let fault = Fault::Wrong {
                        wanted: "a list of texts without NUL".to_owned(),
                        got: format!("{} in it", other.shown()),
                    };
                    self.problem("arguments", given.origin.clone(), fault);
                }
            }
        }
        arguments
    }

    fn number(&mut self, field: &str, (min, max): (u64, u64), given: Option<&Given>) -> Option<u64> {
        let given = given?;
        let number = match &given.value {
            RawValue::Number(number) => u64::try_from(*number).ok(),
            _ => None,
        };
        let number = number.filter(|number| (min..=max).contains(number));
        if number.is_none() {
            self.wrong(field, &format!("{min}..={max}"), given);
        }
        number
    }

    fn environment(&mut self, given: Option<&Given>) -> BTreeMap<String, String> {
        let Some(given) = given else { return BTreeMap::new() };
        let RawValue::Table(entries) = &given.value else {
            self.wrong("environment", "a table of texts", given);
            return BTreeMap::new();
        };
        let mut environment = BTreeMap::new();
        for (name, given) in entries {
            let is_name = !name.is_empty() && !name.contains(['=', '\0']);
            match &given.value {
                RawValue::Text(text) if is_name && !text.contains('\0') => {
                    environment.insert(name.clone(), text.clone());
                }
                _ => {
                    self.wrong(
                        &format!("environment.{name}"),
                        "a variable's name and a text without NUL",
                        given,
                    );
                }
            }
        }
        environment
    }

    fn wrong(&mut self, field: &str, wanted: &str, given: &Given) {
        let fault = Fault::Wrong { wanted: wanted.to_owned(), got: given.value.shown() };
        self.problem(field, given.origin.clone(), fault);
    }

    fn problem(&mut self, field: &str, origin: Origin, fault: Fault) {
        let separator = if field.is_empty() { "" } else { "." };
        self.problems.push(Problem { key: format!("{}{separator}{field}", self.path), origin, fault });
    }
}
