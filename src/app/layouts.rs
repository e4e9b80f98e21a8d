//! The layouts of topics: read at the start, and held against what the brokers have while the process runs.
//!
//! Promises that partitions which were added to a topic are told within [`LOOK_EVERY`], in the log once, in `/ready` and as
//! a metric, and that nothing is done about them by itself: from where on they count, only an operator can say, who knows
//! which producers have seen them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use horizons_actors::command::{Command, CommandKind, LayoutAdoption};
use horizons_actors::ids::{Offset, Partition, Topic, TopicPartition};
use horizons_actors::lane::status::StatusBoard;
use horizons_actors::layout::Layout;
use horizons_actors::ports::commands::CommandError;
use horizons_actors::ports::store::{JobStore, LaneStore, LayoutAdopted, StoreError, Unsent, UnsentRows};
use prometheus::Registry;
use tokio::runtime::Runtime;

use super::kafka::kafka_config;
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::kafka::config::KafkaConfig;
use crate::kafka::error::KafkaLogError;
use crate::kafka::topics::TopicAdmin;
use crate::metrics::TopicMetrics;
use crate::orchestrator::Orchestrator;
use crate::periodic::{Periodic, RoundLimit, Rounds};

/// How often the brokers are asked how many partitions topics have.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Requests of a round: a client that knows no broker yet, and one for each topic.
const REQUESTS_A_ROUND: u32 = 6;

/// How long rows that wait in the outbox are waited for.
const SENT_LIMIT: Duration = Duration::from_secs(10);

/// Between two looks at them.
const SENT_LOOK: Duration = Duration::from_millis(20);

/// When whoever asks for an adoption while no broker answers may come back.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Puts the stored layouts on the board, before anybody chooses a partition by them.
pub(super) fn learn(store: &dyn LaneStore, board: &StatusBoard, runtime: &Runtime) -> Result<(), Failure> {
    let read = store.read_layouts();
    // The caller's thread may be one that must not wait for a future itself.
    let layouts = std::thread::scope(|scope| scope.spawn(|| runtime.block_on(read)).join());
    match layouts {
        Ok(Ok(layouts)) => {
            layouts.into_iter().for_each(|layout| board.learn_layout(layout));
            Ok(())
        }
        Ok(Err(error)) => Err(Failure::new(Exit::Store, &error)),
        Err(_panic) => Err(Failure::text(Exit::Store, "failed to read the layouts of topics".to_owned())),
    }
}

/// Looks at the topics of an event log on Kafka.
pub(super) struct TopicWatch {
    config: KafkaConfig,
    board: Arc<StatusBoard>,
    _thread: Periodic,
}

impl TopicWatch {
    /// Starts to look, as long as somebody holds the watch.
    pub(super) fn start(
        config: &Config,
        board: Arc<StatusBoard>,
        registry: &Registry,
    ) -> Result<Arc<Self>, Failure> {
        let failed = |error: &dyn std::error::Error| Failure::new(Exit::Failed, error);
        let metrics = TopicMetrics::register(registry).map_err(|error| failed(&error))?;
        let config = kafka_config(config);
        let look = Look { config: config.clone(), board: Arc::clone(&board), metrics };
        // Brokers that are away are waited for as long as a request may take, and not at the end.
        let limit = RoundLimit::AtMost(config.request_limit * REQUESTS_A_ROUND);
        let thread = Periodic::start("topics", limit, move |rounds| look.keep_looking(rounds))
            .map_err(|error| failed(&error))?
            .not_waited_for();
        Ok(Arc::new(Self { config, board, _thread: thread }))
    }

    /// Gives what an adoption of a topic's added partitions would be. Blocks.
    ///
    /// *Errors*: `NotPossible` where none were added, `Busy` while no broker answers.
    pub(super) fn adoption(&self, topic: Topic) -> Result<LayoutAdoption, CommandError> {
        let busy =
            |error: KafkaLogError| CommandError::Busy { retry_after: RETRY_AFTER, reason: error.to_string() };
        let admin = TopicAdmin::new(self.config.clone()).map_err(busy)?;
        let layout = self.board.layout(topic);
        let found = admin.partitions(topic).map_err(busy)?.unwrap_or_default();
        if found <= layout.partitions() {
            return Err(CommandError::NotPossible {
                what: format!("topic `{topic}`"),
                reason: format!("it has {found} partitions, and its layout counts {}", layout.partitions()),
            });
        }
        let ends = ends(&admin, topic, found).map_err(busy)?;
        Ok(LayoutAdoption { topic, epochs: layout.count(), partitions: found, ends })
    }

    /// Reads where so many partitions of a topic end. Blocks.
    fn ends(&self, topic: Topic, partitions: u16) -> Result<Vec<Offset>, KafkaLogError> {
        ends(&TopicAdmin::new(self.config.clone())?, topic, partitions)
    }
}

fn ends(admin: &TopicAdmin, topic: Topic, partitions: u16) -> Result<Vec<Offset>, KafkaLogError> {
    let all: Vec<TopicPartition> =
        (0..partitions).map(|number| TopicPartition { topic, partition: Partition(number) }).collect();
    Ok(admin.ends(&all)?.into_iter().map(|(_, end)| end).collect())
}

/// Brings the layout of a topic from one epoch to the next.
///
/// What waits in the outbox was placed by the layout of before, and has to stand in Kafka before the next one begins there:
/// so the next one is first begun in the store, from where on rows go by it and are held back; when those of before
/// are sent, the ends in Kafka are where it begins. Whoever finds one that was begun brings it to its end.
pub(super) struct Adopter {
    pub(super) topics: Arc<TopicWatch>,
    pub(super) acts: Arc<dyn JobStore>,
    pub(super) layouts: Arc<dyn LaneStore>,
    pub(super) board: Arc<StatusBoard>,
}

/// Why a layout that was begun does not count yet.
#[derive(Debug, thiserror::Error)]
enum Unfinished {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Kafka(#[from] KafkaLogError),
    #[error("{} of `{topic}` wait in the outbox to be sent first{}", places.len(), first_of(places))]
    Unsent { topic: Topic, places: Vec<UnsentRows> },
    #[error("failed to look at the brokers: {0}")]
    Look(tokio::task::JoinError),
}

fn first_of(places: &[UnsentRows]) -> String {
    let first = places.first();
    first.map_or_else(String::new, |rows| {
        format!(", those of partition {} from {} on", rows.partition, rows.next)
    })
}

impl Adopter {
    /// Looks what an adoption would be.
    pub(super) async fn look(self: Arc<Self>, topic: Topic) -> Result<LayoutAdoption, CommandError> {
        let looked = tokio::task::spawn_blocking(move || self.topics.adoption(topic)).await;
        looked.map_err(|error| CommandError::Broken(error.to_string()))?
    }

    /// Begins an adoption and brings it to its end.
    ///
    /// *Errors*: `Busy` where rows wait that are not sent within [`SENT_LIMIT`]: nothing is begun, or what was begun is
    /// finished when they are, and may be asked for again.
    pub(super) async fn adopt(
        &self,
        orchestrator: &Orchestrator,
        command: Command,
    ) -> Result<Layout, CommandError> {
        let CommandKind::AdoptLayout(adoption) = &command.kind else {
            return Err(CommandError::Broken("wanted an adoption".to_owned()));
        };
        let topic = adoption.topic;
        let busy = |error: Unfinished, what: &str| CommandError::Busy {
            retry_after: RETRY_AFTER,
            reason: format!("{what}: {error}"),
        };
        // While nothing is sent nothing is begun: rows would be held back for as long.
        self.wait_until_sent(topic).await.map_err(|error| busy(error, "nothing was begun"))?;
        let partitions = orchestrator.begin_layout(command).await?;
        let finished = async {
            self.wait_until_sent(topic).await?;
            self.finish(topic, partitions).await
        };
        finished.await.map_err(|error| busy(error, "it was begun, and counts when it can"))
    }

    /// Waits until what is in the outbox of a topic now, as far as it may be sent, was sent.
    async fn wait_until_sent(&self, topic: Topic) -> Result<(), Unfinished> {
        let mut places = self.acts.read_unsent(topic).await?.places;
        let give_up_at = Instant::now() + SENT_LIMIT;
        loop {
            if places.is_empty() {
                return Ok(());
            }
            if Instant::now() >= give_up_at {
                return Err(Unfinished::Unsent { topic, places });
            }
            tokio::time::sleep(SENT_LOOK).await;
            let now = self.acts.read_unsent(topic).await?.places;
            let next = |partition| now.iter().find(|rows| rows.partition == partition).map(|rows| rows.next);
            places.retain(|rows| next(rows.partition).is_some_and(|next| next < rows.end));
        }
    }

    /// Lets a layout count that was begun, if all of before is sent.
    async fn finish(&self, topic: Topic, partitions: u16) -> Result<Layout, Unfinished> {
        let unsent = self.acts.read_unsent(topic).await?;
        if unsent.begun.is_some() && !unsent.places.is_empty() {
            return Err(Unfinished::Unsent { topic, places: unsent.places });
        }
        let stored = self.layouts.read_layouts().await?;
        let epochs = stored.iter().find(|layout| layout.topic() == topic).map_or(1, Layout::count);
        let topics = Arc::clone(&self.topics);
        let looked = tokio::task::spawn_blocking(move || topics.ends(topic, partitions)).await;
        let ends = looked.map_err(Unfinished::Look)??;
        let layout = match self.acts.adopt_layout(LayoutAdoption { topic, epochs, partitions, ends }).await? {
            // Another process may have brought it to its end.
            LayoutAdopted::Adopted(layout) | LayoutAdopted::Changed(layout) => layout,
            LayoutAdopted::Unsent(Unsent { places, .. }) => return Err(Unfinished::Unsent { topic, places }),
        };
        tracing::info!(%topic, partitions = layout.partitions(), "a layout counts");
        // New records go by it at once; lanes, here and elsewhere, find it in the store.
        self.board.learn_layout(layout.clone());
        Ok(layout)
    }

    /// Brings to its end what was begun by whoever did not, until told to stop.
    pub(super) async fn keep_finishing(self: Arc<Self>, stopped: impl Future<Output = ()>) {
        let work = async {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                for topic in Topic::ALL {
                    let finished = match self.acts.read_unsent(topic).await.map(|unsent| unsent.begun) {
                        Ok(None) => continue,
                        Ok(Some(partitions)) => self.finish(topic, partitions).await.map(drop),
                        Err(error) => Err(error.into()),
                    };
                    if let Err(error) = finished {
                        tracing::warn!(%topic, %error, "a layout that was begun does not count yet");
                    }
                }
            }
        };
        tokio::select! {
            () = stopped => {}
            () = work => {}
        }
    }
}

/// What the thread looks with.
struct Look {
    config: KafkaConfig,
    board: Arc<StatusBoard>,
    metrics: TopicMetrics,
}

impl Look {
    fn keep_looking(&self, rounds: &Rounds) {
        let mut admin = None;
        let mut told = BTreeMap::new();
        let mut pause = Duration::ZERO;
        while rounds.next(pause) {
            pause = LOOK_EVERY;
            let looked = match admin.take() {
                Some(admin) => Ok(admin),
                None => TopicAdmin::new(self.config.clone()),
            }
            .and_then(|made| self.look(&made, &mut told).map(|()| made));
            match looked {
                Ok(made) => admin = Some(made),
                // Readers and the relay say that brokers are away.
                Err(error) => tracing::debug!(error = %error, "failed to look at the topics: later again"),
            }
        }
    }

    /// Compares what the brokers have with what the layouts count.
    fn look(&self, admin: &TopicAdmin, told: &mut BTreeMap<Topic, u16>) -> Result<(), KafkaLogError> {
        for topic in Topic::ALL {
            let Some(found) = admin.partitions(topic)? else { continue };
            let counted = self.board.layout(topic).partitions();
            self.metrics.set_partitions(topic, found, counted);
            self.board.note_partitions(topic, found);
            if found == counted || told.insert(topic, found) == Some(found) {
                continue;
            }
            if found > counted {
                tracing::warn!(%topic, found, counted, "partitions were added to a topic: nothing is read of them until `horizons topics adopt-layout`");
            } else {
                tracing::error!(%topic, found, counted, "a topic has fewer partitions than its layout counts");
            }
        }
        Ok(())
    }
}
