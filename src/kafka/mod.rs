//! Apache Kafka as the event log (design D8): one member of a consumer group per group, and one thread that
//! looks at single records.
//!
//! Promises what the log port promises. Positions come from the store alone; what the group commits is for lag
//! tools. A gap is never passed over in silence: where the log no longer holds what a lane read there, the
//! lane is told to look again. Without brokers nothing ends: readers wait, say so, and go on by themselves.
//!
//! Does not promise to know a topic that was made anew with the very same records at the same offsets.

pub mod bare;
mod batch;
mod block;
mod commits;
pub mod config;
mod context;
mod doubts;
pub mod error;
mod holdings;
mod inspector;
mod look;
pub mod names;
pub mod producer;
mod prove;
mod reader;
pub mod record;
pub mod relay;
mod shared;
mod survey;
pub mod topics;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use horizons_actors::ids::{Group, Incarnation, LogId, Offset, Topic, TopicPartition};
use horizons_actors::lane::credit::CreditPool;
use horizons_actors::ports::Reply;
use horizons_actors::ports::log::{EventLog, Inspection, LogError, LogReader, LogSink};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tokio::sync::oneshot;

use self::commits::{Positions, Proof};
use self::config::KafkaConfig;
use self::context::GroupContext;
use self::doubts::Doubts;
use self::error::{KafkaLogError, unavailable};
use self::holdings::Holdings;
use self::inspector::{Inspector, InspectorContext};
use self::names::TopicNames;
use self::prove::Prover;
use self::reader::Reader;
use self::shared::{Command, Hole, Shared};
use self::survey::Seen;
use crate::periodic;

/// How long closing a reader may take before whoever closes it goes on without it.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// The event log in a Kafka cluster.
pub struct KafkaLog {
    id: LogId,
    config: KafkaConfig,
    names: TopicNames,
    inspector: Arc<Inspector>,
}

/// Asks a cluster for its id. Blocks.
///
/// *Errors*: [`KafkaLogError::Unreachable`] when no broker answers in time; others when the settings cannot
/// work.
pub fn cluster_id(config: &KafkaConfig, within: Duration) -> Result<LogId, KafkaLogError> {
    config.check()?;
    let client = BaseConsumer::from_config_and_context(&config.client("start"), InspectorContext)
        .map_err(KafkaLogError::Client)?;
    let id = client
        .client()
        .fetch_cluster_id(within)
        .ok_or_else(|| KafkaLogError::Unreachable { bootstrap: config.bootstrap.clone(), within })?;
    LogId::parse(&id).map_err(KafkaLogError::ClusterId)
}

impl KafkaLog {
    /// Opens the log in a cluster whose id is known. Nothing is asked of the cluster yet.
    ///
    /// *Errors*: [`KafkaLogError`] when the settings cannot work.
    pub fn new(id: LogId, config: KafkaConfig) -> Result<Self, KafkaLogError> {
        config.check()?;
        let names = TopicNames::new(&config.topic_prefix)?;
        let inspector = Arc::new(Inspector::new(config.clone(), names.clone()));
        Ok(Self { id, config, names, inspector })
    }
}

impl EventLog for KafkaLog {
    fn id(&self) -> LogId {
        self.id.clone()
    }

    fn subscribe(
        &self,
        group: Group,
        topics: Vec<Topic>,
        sink: Arc<dyn LogSink>,
        credits: Arc<CreditPool>,
    ) -> Result<Arc<dyn LogReader>, LogError> {
        let shared = Shared::new(group.clone(), sink);
        let context =
            GroupContext::new(Arc::clone(&shared), self.names.clone(), self.config.rebalance_wait());
        let mut consumer =
            BaseConsumer::from_config_and_context(&self.config.member(group.as_str()), context)
                .map_err(unavailable)?;
        let ring = |shared: &Arc<Shared>| {
            let rung = Arc::downgrade(shared);
            move || {
                if let Some(shared) = rung.upgrade() {
                    shared.bell.ring();
                }
            }
        };
        consumer.set_nonempty_callback(ring(&shared));
        credits.on_return(ring(&shared));
        let names: Vec<&str> = topics.iter().map(|topic| self.names.name(*topic)).collect();
        consumer.subscribe(&names).map_err(unavailable)?;
        self.inspector.watch(&shared)?;
        let consumer = Arc::new(consumer);
        let prover = Prover {
            shared: Arc::clone(&shared),
            consumer: Arc::downgrade(&consumer),
            names: self.names.clone(),
        };
        let reader = Reader {
            shared: Arc::clone(&shared),
            consumer,
            names: self.names.clone(),
            config: self.config.clone(),
            credits,
            inspector: Arc::clone(&self.inspector),
            limits: self.config.batch,
            holdings: Holdings::default(),
            positions: Positions::default(),
            logged: Vec::new(),
            quiet_since: Instant::now(),
            doubts: Doubts::default(),
        };
        reader
            .start()
            .map_err(|error| LogError::Unavailable(format!("failed to start a reader thread: {error}")))?;
        let (inspector, limit) = (Arc::clone(&self.inspector), self.config.request_limit);
        let (config, names) = (self.config.clone(), self.names.clone());
        Ok(Arc::new(KafkaReader { shared, prover, inspector, limit, config, names }))
    }
}

/// A group's handle on its reader thread.
struct KafkaReader {
    shared: Arc<Shared>,
    prover: Prover,
    inspector: Arc<Inspector>,
    /// How long a question may take.
    limit: Duration,
    config: KafkaConfig,
    names: TopicNames,
}

impl LogReader for KafkaReader {
    fn inspect(&self, partition: TopicPartition, next: Option<Offset>) -> Reply<Inspection, LogError> {
        if let Err(error) = self.shared.is_open() {
            return async { Err(error) }.boxed();
        }
        let inspected = self.inspector.inspect(partition, next);
        let (shared, config, names) = (Arc::clone(&self.shared), self.config.clone(), self.names.clone());
        async move {
            let mut inspection = inspected.await?;
            let place = next.unwrap_or(inspection.low);
            shared.note_place(partition, next);
            if shared.hole_at(partition, place).is_some() {
                inspection.unreadable_until = look_again(&shared, config, names, partition, place).await?;
            }
            Ok(inspection)
        }
        .boxed()
    }

    fn confirm_ownership(&self, partition: TopicPartition, next: Offset) -> Reply<bool, LogError> {
        let (answer, heard) = oneshot::channel();
        let asked = self.prover.ask(Proof { partition, next, answer });
        let limit = self.limit;
        async move {
            asked?;
            match tokio::time::timeout(limit, heard).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(LogError::Closed),
                Err(_) => Err(LogError::Unavailable(format!("no answer within {limit:?}"))),
            }
        }
        .boxed()
    }

    fn start(
        &self,
        partition: TopicPartition,
        incarnation: Incarnation,
        from: Offset,
    ) -> Result<(), LogError> {
        self.shared.ask(Command::Start(partition, incarnation, from))
    }

    fn stop(&self, partition: TopicPartition, incarnation: Incarnation) {
        // A reader that is closed delivers nothing any more.
        let _stopped_anyway = self.shared.ask(Command::Stop(partition, incarnation));
    }

    fn log_end(&self, partition: TopicPartition) -> Reply<Offset, LogError> {
        match self.shared.is_open() {
            Ok(()) => self.inspector.end(partition),
            Err(error) => async { Err(error) }.boxed(),
        }
    }

    fn commit_advisory(&self, partition: TopicPartition, next: Offset) {
        self.shared.note_position(partition, next);
    }

    fn close(&self) -> Reply<(), LogError> {
        let ended = self.shared.close();
        async move {
            let Some(ended) = ended else { return Ok(()) };
            match tokio::time::timeout(CLOSE_LIMIT, ended).await {
                // A thread that is gone is closed as well.
                Ok(_) => Ok(()),
                Err(_) => {
                    Err(LogError::Unavailable(format!("the client did not close within {CLOSE_LIMIT:?}")))
                }
            }
        }
        .boxed()
    }
}

/// Looks whether a place that could not be read still cannot; gives where reading goes on behind it.
async fn look_again(
    shared: &Shared,
    config: KafkaConfig,
    names: TopicNames,
    partition: TopicPartition,
    place: Offset,
) -> Result<Option<Offset>, LogError> {
    let (answer, heard) = oneshot::channel();
    let looked = periodic::once(survey::THREAD, survey::THREAD_WAITS_FOR, move || {
        // Whoever asked may have given up.
        let _heard = answer.send(survey::examine(&config, &names, partition, place));
    });
    looked.map_err(|error| LogError::Unavailable(format!("failed to start a thread: {error}")))?;
    match heard.await.map_err(|_| LogError::Closed)? {
        Seen::Hole(until) => {
            shared.add_hole(partition, Hole { from: place, until });
            Ok(Some(until))
        }
        Seen::Readable | Seen::Nothing(_) => {
            shared.forget_hole(partition, place);
            Ok(None)
        }
        Seen::Unknown(reason) => Err(LogError::Unavailable(reason)),
    }
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        drop(self.close());
    }
}
