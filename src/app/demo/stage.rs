//! Where the demonstration plays: names of its own on brokers and in a database, and nothing left behind.

use std::path::PathBuf;

use horizons_actors::ids::Group;
use tempfile::TempDir;
use uuid::Uuid;

use crate::app::kafka::{kafka_config, planned_topics};
use crate::app::store::postgres_config;
use crate::app::topics;
use crate::config::{Config, EventLogKind, StoreEngine};
use crate::db::postgres::remove_schema;
use crate::exit::{Exit, Failure};
use crate::kafka::topics::TopicAdmin;

/// Letters that tell one demonstration from another.
const NAME_LETTERS: usize = 8;

/// The folder, topics, groups and schema of one demonstration.
pub(super) struct Stage {
    folder: TempDir,
    config: Config,
}

impl Stage {
    /// Gives the demonstration names of its own, and makes its topics.
    pub(super) fn set(config: &mut Config) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new()
            .prefix("horizons-demo-")
            .tempdir()
            .map_err(|error| Failure::new(Exit::Store, &error))?;
        config.store.folder = folder.path().to_path_buf();
        let name: String = Uuid::new_v4().simple().to_string().chars().take(NAME_LETTERS).collect();
        config.postgres.schema = format!("horizons_demo_{name}");
        config.kafka.topic_prefix = format!("horizons-demo-{name}-");
        config.kafka.group_prefix.clone_from(&config.kafka.topic_prefix);
        if config.event_log == EventLogKind::Kafka {
            let admin = TopicAdmin::new(kafka_config(config)).map_err(topics::failure)?;
            // A demonstration is not refused for want of brokers.
            let brokers = admin.brokers().map_err(topics::failure)?;
            let brokers = u16::try_from(brokers).unwrap_or(u16::MAX);
            config.kafka.replication_factor = config.kafka.replication_factor.min(brokers).max(1);
            admin.create(&planned_topics(config)).map_err(topics::failure)?;
        }
        Ok(Self { folder, config: config.clone() })
    }

    /// Removes everything but the folder, which goes with this.
    pub(super) fn strike(self) {
        if let Err(error) = self.remove_topics() {
            tracing::warn!(error = %error, prefix = self.config.kafka.topic_prefix, "topics of the demonstration are left");
        }
        if self.config.store.engine == StoreEngine::Postgres
            && let Err(error) = remove_schema(&postgres_config(&self.config))
        {
            tracing::warn!(error = %error, schema = self.config.postgres.schema, "schema of the demonstration is left");
        }
    }

    fn remove_topics(&self) -> Result<(), Failure> {
        if self.config.event_log == EventLogKind::Embedded {
            return Ok(());
        }
        let admin = TopicAdmin::new(kafka_config(&self.config)).map_err(topics::failure)?;
        let groups: Vec<String> = [Group::audit_trail(), Group::jobs(), Group::job_metrics()]
            .iter()
            .map(|group| format!("{}{group}", self.config.kafka.group_prefix))
            .collect();
        let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
        admin.remove(&planned_topics(&self.config), &groups).map_err(topics::failure)
    }

    /// Leaves everything where it is, and tells the folder and the names that are not in it.
    pub(super) fn keep(self) -> (PathBuf, Vec<String>) {
        let mut names = Vec::new();
        if self.config.event_log == EventLogKind::Kafka {
            names.push(format!("topics and groups `{}…`", self.config.kafka.topic_prefix));
        }
        if self.config.store.engine == StoreEngine::Postgres {
            names.push(format!("schema `{}`", self.config.postgres.schema));
        }
        (self.folder.keep(), names)
    }
}
