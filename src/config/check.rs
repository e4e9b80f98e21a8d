//! Judges what was given and makes the configuration of it.
//!
//! Promises that every value of the result is within its range and that the rules between keys hold, or all
//! the problems at once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use horizons_actors::backoff::{BackoffPolicy, RestartPolicy};
use horizons_actors::ids::Topic;

use super::agents::{AgentCheck, check_agents};
use super::error::{ConfigError, Fault, Origin, Problem};
use super::keys::{DefaultValue, KEYS, Key, Kind};
use super::raw::{Given, RawConfig, RawValue};
use super::{
    Audit, Config, EventEncoding, Events, Http, Jobs, Lanes, Loaded, Log, LogFormat, LogLevel, Scheduler,
    SchedulerKind, ShownValue, Store,
};

/// A value that fits its key.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Number(u64),
    Text(String),
    Topics(Vec<Topic>),
}

impl Value {
    fn as_number(&self) -> Option<u64> {
        if let Value::Number(number) = self { Some(*number) } else { None }
    }

    fn as_text(&self) -> Option<&str> {
        if let Value::Text(text) = self { Some(text) } else { None }
    }

    fn as_topics(&self) -> Option<&[Topic]> {
        if let Value::Topics(topics) = self { Some(topics) } else { None }
    }
}

/// Judges everything.
///
/// *Errors*: [`ConfigError::Invalid`] with every problem, in order of key.
pub(super) fn check(raw: RawConfig, check_agent: &AgentCheck) -> Result<Loaded, ConfigError> {
    let mut problems = raw.problems;
    let mut values = Values { by_path: BTreeMap::new() };
    for key in &KEYS {
        let (value, origin) = judge(key, raw.values.get(&key.path()), &mut problems);
        values.by_path.insert(key.path(), (value, origin));
    }
    let broken = broken_rules(&values, &problems);
    problems.extend(broken);
    let agents = check_agents(&raw.agents, check_agent, &mut problems);
    if !problems.is_empty() {
        problems.sort_by(|left, right| left.key.cmp(&right.key));
        return Err(ConfigError::Invalid(problems));
    }
    let config = Config {
        http: http(&values),
        store: store(&values),
        lanes: lanes(&values),
        audit: Audit { topics: values.topics("audit.topics") },
        jobs: Jobs { clean_after: values.duration("jobs.clean_after_ms") },
        scheduler: scheduler(&values),
        agents,
        events: Events { encoding: encoding(&values) },
        log: log(&values),
    };
    Ok(Loaded { config, values: values.shown() })
}

/// Judges one key's value; after a problem its default stands in.
fn judge(key: &Key, given: Option<&Given>, problems: &mut Vec<Problem>) -> (Value, Origin) {
    let default = || match key.default {
        DefaultValue::Number(number) => Value::Number(number),
        DefaultValue::Text(text) => Value::Text(text.to_owned()),
        DefaultValue::AllTopics => Value::Topics(Topic::ALL.to_vec()),
    };
    let Some(Given { value, origin }) = given else { return (default(), Origin::Default) };
    if let Some(value) = fit(key, value) {
        return (value, origin.clone());
    }
    let fault = match (key.kind, value) {
        (Kind::LoopbackAddress, RawValue::Text(text)) if text.parse::<SocketAddr>().is_ok() => {
            Fault::Rule(format!(
                "wanted {}, got `{text}`: while there are no tokens, whoever reaches the port may start programs",
                key.wanted()
            ))
        }
        _ => Fault::Wrong { wanted: key.wanted(), got: shown_item(key, value) },
    };
    problems.push(Problem { key: key.path(), origin: origin.clone(), fault });
    (default(), origin.clone())
}

/// Names the item of a list that does not fit, else the value.
fn shown_item(key: &Key, value: &RawValue) -> String {
    let RawValue::List(items) = value else { return value.shown() };
    if key.kind != Kind::Topics {
        return value.shown();
    }
    let is_topic = |item: &&RawValue| matches!(item, RawValue::Text(name) if Topic::parse(name).is_ok());
    match items.iter().find(|item| !is_topic(item)) {
        Some(item) => format!("{} in it", item.shown()),
        None if items.is_empty() => "an empty list".to_owned(),
        None => "the same topic twice".to_owned(),
    }
}

/// Reads a value as what its key takes.
fn fit(key: &Key, value: &RawValue) -> Option<Value> {
    match (key.kind, value) {
        (Kind::Number { min, max }, RawValue::Number(number)) => {
            let number = u64::try_from(*number).ok()?;
            (min..=max).contains(&number).then_some(Value::Number(number))
        }
        (Kind::OneOf(names), RawValue::Text(text)) => {
            names.contains(&text.as_str()).then(|| Value::Text(text.clone()))
        }
        (Kind::LoopbackAddress, RawValue::Text(text)) => {
            let address: SocketAddr = text.parse().ok()?;
            address.ip().is_loopback().then(|| Value::Text(text.clone()))
        }
        (Kind::Folder, RawValue::Text(text)) => {
            (!text.is_empty() && !text.contains('\0')).then(|| Value::Text(text.clone()))
        }
        (Kind::Topics, RawValue::List(items)) => {
            let mut topics = Vec::with_capacity(items.len());
            for item in items {
                let RawValue::Text(name) = item else { return None };
                let topic = Topic::parse(name).ok()?;
                if topics.contains(&topic) {
                    return None;
                }
                topics.push(topic);
            }
            (!topics.is_empty()).then_some(Value::Topics(topics))
        }
        _ => None,
    }
}

/// Two keys of which the left must not exceed the right.
const NOT_ABOVE: [(&str, &str); 5] = [
    ("lanes.batch_records", "lanes.credit_lane_records"),
    ("lanes.batch_bytes", "lanes.credit_lane_bytes"),
    ("lanes.credit_lane_bytes", "lanes.credit_total_bytes"),
    ("lanes.retry_initial_ms", "lanes.retry_limit_ms"),
    ("lanes.restart_initial_ms", "lanes.restart_limit_ms"),
];

/// Two keys of which the left must be less than the right: the reserve is a part of the limit, and restarts
/// whose delay exceeds their window would never spend the budget.
const BELOW: [(&str, &str); 2] = [
    ("store.disk_reserve_bytes", "store.disk_limit_bytes"),
    ("lanes.restart_limit_ms", "lanes.restart_window_ms"),
];

/// Finds the rules between keys that do not hold. A key that has a problem already is left out: its default
/// stands in for it, and nobody chose that.
fn broken_rules(values: &Values, known: &[Problem]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let is_known = |path: &str| known.iter().any(|problem| problem.key == path);
    let rules = NOT_ABOVE
        .iter()
        .map(|pair| (pair, "at most", false))
        .chain(BELOW.iter().map(|pair| (pair, "less than", true)));
    for ((left, right), words, is_strict) in rules {
        if is_known(left) || is_known(right) {
            continue;
        }
        let (low, high) = (values.number(left), values.number(right));
        if low > high || (is_strict && low == high) {
            // The key that somebody set is the one to blame; where both were, the left.
            let blamed = if *values.origin(left) == Origin::Default { right } else { left };
            problems.push(Problem {
                key: (*blamed).to_owned(),
                origin: values.origin(blamed).clone(),
                fault: Fault::Rule(format!(
                    "wanted `{left}` {words} `{right}`, got `{low}` and `{high}` ({})",
                    values.origin(if blamed == left { right } else { left })
                )),
            });
        }
    }
    problems
}

/// Every key's value, by path.
struct Values {
    by_path: BTreeMap<String, (Value, Origin)>,
}

impl Values {
    fn get(&self, path: &str) -> &(Value, Origin) {
        self.by_path.get(path).expect("every key that is read is in the table of keys")
    }

    fn origin(&self, path: &str) -> &Origin {
        &self.get(path).1
    }

    fn number(&self, path: &str) -> u64 {
        self.get(path).0.as_number().expect("a key is read as the kind that the table of keys gives it")
    }

    fn text(&self, path: &str) -> &str {
        self.get(path).0.as_text().expect("a key is read as the kind that the table of keys gives it")
    }

    fn topics(&self, path: &str) -> Vec<Topic> {
        let topics = self.get(path).0.as_topics();
        topics.expect("a key is read as the kind that the table of keys gives it").to_vec()
    }

    fn duration(&self, path: &str) -> Duration {
        Duration::from_millis(self.number(path))
    }

    fn size(&self, path: &str) -> usize {
        usize::try_from(self.number(path)).unwrap_or(usize::MAX)
    }

    fn shown(&self) -> Vec<ShownValue> {
        let shown = KEYS.iter().map(|key| {
            let path = key.path();
            let (value, origin) = self.get(&path);
            let value = match value {
                Value::Number(number) => serde_json::Value::from(*number),
                Value::Text(text) => serde_json::Value::from(text.as_str()),
                Value::Topics(topics) => topics.iter().map(|topic| topic.name()).collect(),
            };
            ShownValue { key: path, value, origin: origin.clone() }
        });
        shown.collect()
    }
}

fn http(values: &Values) -> Http {
    Http {
        listen: values.text("http.listen").parse().expect("the address was parsed when it was judged"),
        body_limit_bytes: values.number("http.body_limit_bytes"),
        header_read_timeout: values.duration("http.header_read_timeout_ms"),
        connection_limit: values.size("http.connection_limit"),
        submit_wait: values.duration("http.submit_wait_ms"),
    }
}

fn store(values: &Values) -> Store {
    Store {
        folder: PathBuf::from(values.text("store.folder")),
        disk_limit_bytes: values.number("store.disk_limit_bytes"),
        disk_reserve_bytes: values.number("store.disk_reserve_bytes"),
        command_queue: values.size("store.command_queue"),
    }
}

fn lanes(values: &Values) -> Lanes {
    Lanes {
        batch_records: values.size("lanes.batch_records"),
        batch_bytes: values.size("lanes.batch_bytes"),
        credit_lane_records: values.size("lanes.credit_lane_records"),
        credit_lane_bytes: values.size("lanes.credit_lane_bytes"),
        credit_total_bytes: values.size("lanes.credit_total_bytes"),
        duplicate_window_records: values.size("lanes.duplicate_window_records"),
        arbiters: values.size("lanes.arbiters"),
        drain_timeout: values.duration("lanes.drain_timeout_ms"),
        stuck_after: values.duration("lanes.stuck_after_ms"),
        retry: BackoffPolicy {
            initial: values.duration("lanes.retry_initial_ms"),
            limit: values.duration("lanes.retry_limit_ms"),
        },
        restart: RestartPolicy {
            budget: u32::try_from(values.number("lanes.restart_budget"))
                .expect("the budget's range lies within 32 bits"),
            window: values.duration("lanes.restart_window_ms"),
            backoff: BackoffPolicy {
                initial: values.duration("lanes.restart_initial_ms"),
                limit: values.duration("lanes.restart_limit_ms"),
            },
        },
    }
}

fn scheduler(values: &Values) -> Scheduler {
    Scheduler {
        kind: SchedulerKind::Local,
        slots: values.size("scheduler.slots"),
        sample_interval: values.duration("scheduler.sample_interval_ms"),
        kill_grace: values.duration("scheduler.kill_grace_ms"),
        poll_interval: values.duration("scheduler.poll_interval_ms"),
    }
}

fn encoding(values: &Values) -> EventEncoding {
    match values.text("events.encoding") {
        "msgpack" => EventEncoding::MessagePack,
        _ => EventEncoding::Json,
    }
}

fn log(values: &Values) -> Log {
    Log {
        format: match values.text("log.format") {
            "json" => LogFormat::Json,
            _ => LogFormat::Text,
        },
        level: match values.text("log.level") {
            "error" => LogLevel::Error,
            "warn" => LogLevel::Warn,
            "debug" => LogLevel::Debug,
            "trace" => LogLevel::Trace,
            _ => LogLevel::Info,
        },
    }
}
