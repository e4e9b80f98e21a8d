//! `horizons topics`: the topics of an event log on Kafka, created, checked and shown.

use std::io::IsTerminal;

use serde_json::{Value, json};

use super::kafka::{kafka_config, planned_topics_under};
use super::store::stored_layouts;
use crate::cli::{Colour, Form, Output, TopicsAct};
use crate::config::{Config, EventLogKind};
use crate::exit::{Exit, Failure};
use crate::kafka::error::KafkaLogError;
use crate::kafka::topics::{Created, FoundTopic, PlannedTopic, TopicAdmin};

/// Columns of what was created.
const CREATED: [(&str, &str); 2] = [("TOPIC", "topic"), ("RESULT", "result")];

/// Columns of what is not as planned.
const DIFFERENCES: [(&str, &str); 2] = [("DIFFERENCE", "difference"), ("SERVING", "serving")];

/// Columns of what there is.
const FOUND: [(&str, &str); 6] = [
    ("TOPIC", "topic"),
    ("PARTITIONS", "partitions"),
    ("REPLICATION", "replication_factor"),
    ("RETENTION MS", "retention_ms"),
    ("MESSAGE MAX BYTES", "max_message_bytes"),
    ("CLEANUP", "cleanup_policy"),
];

/// Does what is asked with the topics.
///
/// *Errors*: [`Exit::Config`] where the event log is not on Kafka, [`Exit::Unreachable`] where no broker answers.
pub fn topics(config: Config, act: TopicsAct, form: Form) -> Result<Exit, Failure> {
    if config.event_log != EventLogKind::Kafka {
        let text = "`event_log.kind` is `embedded`: an embedded event log has no topics to look after";
        return Err(Failure::text(Exit::Config, text));
    }
    let admin = TopicAdmin::new(kafka_config(&config)).map_err(failure)?;
    let planned = planned_topics_under(&config, &stored_layouts(&config));
    let stdout = std::io::stdout();
    let colour = if stdout.is_terminal() { Colour::On } else { Colour::Off };
    let mut stdout = stdout.lock();
    let mut output = Output::new(&mut stdout, form, colour);
    match act {
        TopicsAct::Create => {
            let created = admin.create(&planned).map_err(failure)?;
            output.rows(&CREATED, &created.iter().map(created_json).collect::<Vec<_>>())?;
            Ok(Exit::Done)
        }
        TopicsAct::Check => check(&admin, &planned, &mut output),
        TopicsAct::Describe => {
            let names: Vec<&str> = planned.iter().map(|topic| topic.name.as_str()).collect();
            let found = admin.describe(&names).map_err(failure)?;
            output.rows(&FOUND, &found.iter().map(found_json).collect::<Vec<_>>())?;
            Ok(Exit::Done)
        }
    }
}

fn check(admin: &TopicAdmin, planned: &[PlannedTopic], output: &mut Output<'_>) -> Result<Exit, Failure> {
    let differences = admin.check(planned).map_err(failure)?;
    if differences.is_empty() && output.form() == Form::Text {
        output.line(&format!("{} topics are as Horizons makes them", planned.len()))?;
    }
    if differences.is_empty() {
        return Ok(Exit::Done);
    }
    let rows: Vec<Value> = differences
        .iter()
        .map(|difference| {
            let serving = if difference.is_fatal() { "refused" } else { "warned" };
            json!({ "difference": difference.to_string(), "serving": serving })
        })
        .collect();
    output.rows(&DIFFERENCES, &rows)?;
    Ok(Exit::Failed)
}

fn created_json((topic, created): &(String, Created)) -> Value {
    let result = match created {
        Created::Made => "created",
        Created::Existed => "exists",
    };
    json!({ "topic": topic, "result": result })
}

fn found_json(topic: &FoundTopic) -> Value {
    json!({
        "topic": topic.name,
        "partitions": topic.partitions,
        "replication_factor": topic.replication,
        "retention_ms": topic.settings.get("retention.ms"),
        "max_message_bytes": topic.settings.get("max.message.bytes"),
        "cleanup_policy": topic.settings.get("cleanup.policy"),
    })
}

/// Gives the exit code of a cluster that does not do what was asked.
pub(super) fn failure(error: KafkaLogError) -> Failure {
    let exit = match error {
        _ if error.is_transient() => Exit::Unreachable,
        KafkaLogError::Topic { .. } => Exit::Refused,
        _ => Exit::Config,
    };
    Failure::new(exit, &error)
}
