//! The layouts of topics: read at the start, and held against what the brokers have while the process runs.
//!
//! Promises that partitions which were added to a topic are told within [`LOOK_EVERY`], in the log once, in `/ready` and as
//! a metric, and that nothing is done about them by itself: from where on they count, only an operator can say, who knows
//! which producers have seen them.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use horizons_actors::command::LayoutAdoption;
use horizons_actors::ids::{Partition, Topic, TopicPartition};
use horizons_actors::lane::status::StatusBoard;
use horizons_actors::ports::commands::CommandError;
use horizons_actors::ports::store::LaneStore;
use prometheus::Registry;
use tokio::runtime::Runtime;

use super::kafka::kafka_config;
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::kafka::config::KafkaConfig;
use crate::kafka::error::KafkaLogError;
use crate::kafka::topics::TopicAdmin;
use crate::metrics::TopicMetrics;

/// How often the brokers are asked how many partitions topics have.
const LOOK_EVERY: Duration = Duration::from_secs(10);

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
    metrics: TopicMetrics,
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
        let watch = Arc::new(Self { config: kafka_config(config), board, metrics });
        let watched = Arc::downgrade(&watch);
        std::thread::Builder::new()
            .name("topics".to_owned())
            .spawn(move || keep_looking(&watched))
            .map_err(|error| failed(&error))?;
        Ok(watch)
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
        let all: Vec<TopicPartition> =
            (0..found).map(|number| TopicPartition { topic, partition: Partition(number) }).collect();
        let ends = admin.ends(&all).map_err(busy)?;
        let ends = ends.into_iter().map(|(_, end)| end).collect();
        Ok(LayoutAdoption { topic, epochs: layout.count(), partitions: found, ends })
    }
}

fn keep_looking(watched: &Weak<TopicWatch>) {
    let mut admin = None;
    let mut told = BTreeMap::new();
    loop {
        let Some(watch) = watched.upgrade() else { return };
        let looked = match admin.take() {
            Some(admin) => Ok(admin),
            None => TopicAdmin::new(watch.config.clone()),
        }
        .and_then(|made| watch.look(&made, &mut told).map(|()| made));
        match looked {
            Ok(made) => admin = Some(made),
            // Readers and the relay say that brokers are away.
            Err(error) => tracing::debug!(error = %error, "failed to look at the topics: later again"),
        }
        drop(watch);
        std::thread::park_timeout(LOOK_EVERY);
    }
}
