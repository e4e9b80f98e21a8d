//! The event log as it is configured: in the store, or on Kafka.
//!
//! Promises that serving does not start on topics that are not what Horizons needs, and that brokers which are
//! away at a start hold nothing up that does not need them: they are asked for until they answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use horizons_actors::ids::LogId;
use horizons_actors::ports::log::{EventLog, RecordSource};

use super::kafka::{identify_log, kafka_config, planned_topics};
use crate::config::{Config, EventLogKind};
use crate::db::log_choice::LogChoice;
use crate::embedded_log::{BatchLimits, EmbeddedLog};
use crate::exit::{Exit, Failure, end_now};
use crate::kafka::KafkaLog;
use crate::kafka::error::KafkaLogError;
use crate::kafka::topics::{Difference, TopicAdmin};
use crate::periodic;

/// How long a start waits for brokers.
const START_LIMIT: Duration = Duration::from_secs(5);

/// How long brokers that were away at the start are waited for in one go.
const WATCH_LIMIT: Duration = Duration::from_secs(30);

/// Whether brokers have answered since the start.
#[derive(Debug, Clone, Default)]
pub(super) struct BrokersSeen(Arc<AtomicBool>);

impl BrokersSeen {
    fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Tells whether they have.
    pub(super) fn have_answered(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Decides which log the store is opened for. Asks the brokers, where the log is on Kafka, and checks the topics.
///
/// *Errors*: [`Exit::Failed`] for topics that are not what Horizons needs, [`Exit::Config`] for settings that no
/// client can be made of.
pub(super) fn choose(config: &Config, brokers: &BrokersSeen) -> Result<LogChoice, Failure> {
    if config.event_log == EventLogKind::Embedded {
        return Ok(LogChoice::Embedded);
    }
    match identify(config, START_LIMIT) {
        Ok(log_id) => {
            brokers.set();
            Ok(LogChoice::Kafka(log_id))
        }
        Err(Unusable::Away(error)) => {
            tracing::warn!(error = %error, "brokers do not answer: the start goes on without them");
            watch(config.clone(), brokers.clone());
            Ok(LogChoice::RememberedKafka)
        }
        Err(Unusable::ForGood(failure)) => Err(failure),
    }
}

/// Why the log on Kafka cannot be used.
enum Unusable {
    /// The brokers do not answer now.
    Away(KafkaLogError),
    /// Somebody must change something.
    ForGood(Failure),
}

/// Asks the brokers who they are, and checks the topics.
fn identify(config: &Config, within: Duration) -> Result<LogId, Unusable> {
    let judge = |error: KafkaLogError| match error.is_transient() {
        true => Unusable::Away(error),
        false => Unusable::ForGood(Failure::new(Exit::Config, &error)),
    };
    let log_id = identify_log(config, within).map_err(judge)?;
    let planned = planned_topics(config);
    let checked = TopicAdmin::new(kafka_config(config)).and_then(|admin| admin.check(&planned));
    let differences = checked.map_err(judge)?;
    let (fatal, others): (Vec<_>, Vec<_>) = differences.iter().partition(|difference| difference.is_fatal());
    // Whether added partitions are adopted, the store knows, which is not open yet: the watch on topics tells.
    for difference in others {
        if matches!(difference, Difference::Partitions { .. }) {
            continue;
        }
        tracing::warn!(%difference, "a topic is not as Horizons makes it");
    }
    if fatal.is_empty() {
        return Ok(log_id);
    }
    let listed: Vec<String> = fatal.iter().map(ToString::to_string).collect();
    let text = format!(
        "topics are not what Horizons needs: {}; run `horizons topics create`, or change them",
        listed.join(", ")
    );
    Err(Unusable::ForGood(Failure::text(Exit::Failed, text)))
}

/// Asks brokers that were away at the start until they answer, and ends the process if they turn out to be
/// others than the store remembers, or without the topics.
fn watch(config: Config, brokers: BrokersSeen) {
    let thread = periodic::once("brokers", "brokers that answer", move || {
        loop {
            match identify(&config, WATCH_LIMIT) {
                Ok(log_id) => {
                    tracing::info!(log.id = %log_id, "brokers answer");
                    brokers.set();
                    return;
                }
                Err(Unusable::Away(error)) => tracing::warn!(error = %error, "brokers do not answer yet"),
                Err(Unusable::ForGood(failure)) => {
                    tracing::error!(error = %failure, "the event log cannot be used: the process ends");
                    end_now(failure.exit);
                }
            }
        }
    });
    if let Err(error) = thread {
        tracing::error!(error = %error, "failed to start a thread: brokers that come back are not checked");
    }
}

/// Opens the log that groups read.
pub(super) fn open(
    config: &Config,
    log_id: LogId,
    source: Arc<dyn RecordSource>,
) -> Result<Arc<dyn EventLog>, Failure> {
    match config.event_log {
        EventLogKind::Embedded => {
            let limits = BatchLimits { records: config.lanes.batch_records, bytes: config.lanes.batch_bytes };
            Ok(Arc::new(EmbeddedLog::new(log_id, source, limits)))
        }
        EventLogKind::Kafka => {
            let log = KafkaLog::new(log_id, kafka_config(config))
                .map_err(|error| Failure::new(Exit::Config, &error))?;
            Ok(Arc::new(log))
        }
    }
}
