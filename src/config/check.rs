//! Judges what was given and makes the configuration of it.
//!
//! Promises that every value of the result is within its range and that the rules between keys hold, or all
//! the problems at once.

use std::net::SocketAddr;
use std::path::PathBuf;

use horizons_actors::backoff::{BackoffPolicy, RestartPolicy};
use horizons_actors::ids::Topic;
use horizons_actors::lane::brake::FloodLimit;

use super::agents::{AgentCheck, check_agents};
use super::error::{ConfigError, Fault, Origin, Problem};
use super::keys::{DefaultValue, KEYS, Key, Kind};
use super::raw::{Given, RawConfig, RawValue};
use super::rules::broken_rules;
use super::values::{Value, Values, fit};
use super::{
    Audit, Config, EventEncoding, EventLogKind, Events, Http, Jobs, Kafka, KafkaSecurity, KafkaUser, Lanes,
    Loaded, Log, LogFormat, LogLevel, Migrations, Postgres, Scheduler, SchedulerKind, Secret, Store,
    StoreEngine,
};

/// Judges everything.
///
/// *Errors*: [`ConfigError::Invalid`] with every problem, in order of key.
pub(super) fn check(raw: RawConfig, check_agent: &AgentCheck) -> Result<Loaded, ConfigError> {
    let mut problems = raw.problems;
    let mut values = Values::default();
    for key in &KEYS {
        let (value, origin) = judge(key, raw.values.get(&key.path()), &mut problems);
        values.insert(key, value, origin);
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
        postgres: postgres(&values),
        event_log: match values.text("event_log.kind") {
            "kafka" => EventLogKind::Kafka,
            _ => EventLogKind::Embedded,
        },
        kafka: kafka(&values),
        lanes: lanes(&values),
        audit: Audit { topics: values.topics("audit.topics") },
        jobs: Jobs {
            clean_after: values.duration("jobs.clean_after_ms"),
            external_silent: values.duration("jobs.external_silent_ms"),
            external_forgotten: values.duration("jobs.external_forgotten_ms"),
        },
        scheduler: scheduler(&values),
        agents,
        events: Events { encoding: encoding(&values) },
        log: log(&values),
    };
    Ok(Loaded { config, values: values.shown() })
}

/// Judges the address to listen on, and nothing else.
///
/// *Errors*: [`ConfigError::Invalid`] with what is wrong with it.
pub(super) fn listen_address(raw: &RawConfig) -> Result<SocketAddr, ConfigError> {
    let path = "http.listen";
    let key = KEYS.iter().find(|key| key.path() == path).expect("the table of keys has the address");
    let mut problems: Vec<Problem> =
        raw.problems.iter().filter(|problem| problem.key == path).cloned().collect();
    let (value, origin) = judge(key, raw.values.get(path), &mut problems);
    if !problems.is_empty() {
        return Err(ConfigError::Invalid(problems));
    }
    let mut values = Values::default();
    values.insert(key, value, origin);
    Ok(address(&values, path))
}

/// Judges one key's value; after a problem its default stands in.
fn judge(key: &Key, given: Option<&Given>, problems: &mut Vec<Problem>) -> (Value, Origin) {
    let default = || match key.default {
        DefaultValue::Number(number) => Value::Number(number),
        DefaultValue::Text(text) => Value::Text(text.to_owned()),
        DefaultValue::AllTopics => Value::Topics(Topic::ALL.to_vec()),
    };
    let Some(Given { value, origin }) = given else { return (default(), Origin::Default) };
    if key.kind == Kind::Secret && matches!(origin, Origin::File { .. }) {
        let fault = Fault::Rule(format!("a secret does not belong into a file: set {}", key.variable()));
        problems.push(Problem { key: key.path(), origin: origin.clone(), fault });
        return (default(), origin.clone());
    }
    if let Some(value) = fit(key, value) {
        return (value, origin.clone());
    }
    let fault = match (key.kind, value) {
        // Whatever it holds may be a password.
        (Kind::DatabaseUrl, RawValue::Text(_)) => Fault::Rule(format!("wanted {}", key.wanted())),
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

fn address(values: &Values, path: &str) -> SocketAddr {
    values.text(path).parse().expect("the address was parsed when it was judged")
}

fn http(values: &Values) -> Http {
    Http {
        listen: address(values, "http.listen"),
        body_limit_bytes: values.number("http.body_limit_bytes"),
        header_read_timeout: values.duration("http.header_read_timeout_ms"),
        connection_limit: values.size("http.connection_limit"),
        submit_wait: values.duration("http.submit_wait_ms"),
    }
}

fn store(values: &Values) -> Store {
    Store {
        engine: match values.text("store.engine") {
            "postgres" => StoreEngine::Postgres,
            _ => StoreEngine::Sqlite,
        },
        folder: PathBuf::from(values.text("store.folder")),
        disk_limit_bytes: values.number("store.disk_limit_bytes"),
        disk_reserve_bytes: values.number("store.disk_reserve_bytes"),
        ballast_bytes: values.number("store.ballast_bytes"),
        command_queue: values.size("store.command_queue"),
    }
}

fn postgres(values: &Values) -> Postgres {
    Postgres {
        url: values.text("postgres.url").to_owned(),
        password: Secret::new(values.text("postgres.password")),
        schema: values.text("postgres.schema").to_owned(),
        migrations: match values.text("postgres.migrations") {
            "by_operator" => Migrations::ByOperator,
            _ => Migrations::AtStart,
        },
        grant_to: Some(values.text("postgres.grant_to")).filter(|role| !role.is_empty()).map(str::to_owned),
        connections: u32::try_from(values.number("postgres.connections"))
            .expect("the range of connections lies within 32 bits"),
        timeout: values.duration("postgres.timeout_ms"),
    }
}

fn kafka(values: &Values) -> Kafka {
    let given = |path: &str| Some(values.text(path)).filter(|text| !text.is_empty());
    let user = || KafkaUser {
        mechanism: values.text("kafka.sasl_mechanism").to_ascii_uppercase(),
        user: values.text("kafka.sasl_user").to_owned(),
        password: Secret::new(values.text("kafka.sasl_password")),
    };
    Kafka {
        bootstrap: values.text("kafka.bootstrap").to_owned(),
        topic_prefix: values.text("kafka.topic_prefix").to_owned(),
        group_prefix: values.text("kafka.group_prefix").to_owned(),
        replication_factor: u16::try_from(values.number("kafka.replication_factor"))
            .expect("the range of replication factors lies within 16 bits"),
        instance_id: given("kafka.instance_id").map(str::to_owned),
        session_timeout: values.duration("kafka.session_timeout_ms"),
        rebalance_timeout: values.duration("kafka.rebalance_timeout_ms"),
        compression: values.text("kafka.compression").to_owned(),
        security: match values.text("kafka.security") {
            "tls" => KafkaSecurity::Tls,
            "sasl_plaintext" => KafkaSecurity::SaslPlaintext(user()),
            "sasl_tls" => KafkaSecurity::SaslTls(user()),
            _ => KafkaSecurity::Plaintext,
        },
        ca_file: given("kafka.ca_file").map(PathBuf::from),
        certificate: given("kafka.certificate_file")
            .zip(given("kafka.key_file"))
            .map(|(certificate, key)| (PathBuf::from(certificate), PathBuf::from(key))),
        relay_lease: values.duration("kafka.relay_lease_ms"),
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
        flood: FloodLimit {
            records: values.size("lanes.flood_records"),
            poison: values.size("lanes.flood_poison"),
        },
        release_attempts: u32::try_from(values.number("lanes.release_attempts"))
            .expect("the range of attempts lies within 32 bits"),
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
        kind: match values.text("scheduler.kind") {
            "none" => SchedulerKind::Elsewhere,
            _ => SchedulerKind::Local,
        },
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
