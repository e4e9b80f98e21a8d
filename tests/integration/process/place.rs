//! Where a world keeps its rows and its events: SQLite or PostgreSQL, the embedded log or Kafka.

/// Where rows are kept.
#[derive(Debug, Clone)]
pub(crate) enum Rows {
    /// In the world's own folder.
    Sqlite,
    /// In a schema of a server.
    Postgres {
        /// How the program reaches it.
        url: String,
        /// How the checker reaches it, past any proxy.
        direct: String,
        schema: String,
    },
}

/// Where events are.
#[derive(Debug, Clone)]
pub(crate) enum Events {
    /// In the store itself.
    Embedded,
    /// In topics of a cluster.
    Kafka {
        /// How the program reaches it.
        bootstrap: String,
        /// How the checker reaches it, past any proxy.
        direct: String,
        /// Put before the names of topics and groups.
        prefix: String,
        replication_factor: u16,
    },
}

/// A place for rows and events, and what else the program is told by its environment.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) rows: Rows,
    pub(crate) events: Events,
    /// Further variables; they win over the configuration file.
    pub(crate) variables: Vec<(&'static str, String)>,
}

impl Place {
    /// SQLite with the embedded log.
    pub(crate) const fn embedded() -> Self {
        Self { rows: Rows::Sqlite, events: Events::Embedded, variables: Vec::new() }
    }

    /// Tells the program one more thing.
    pub(crate) fn with(mut self, variable: &'static str, value: impl ToString) -> Self {
        self.variables.push((variable, value.to_string()));
        self
    }

    /// Gives the schema of the rows, where they are on a server.
    pub(crate) fn schema(&self) -> &str {
        let Rows::Postgres { schema, .. } = &self.rows else { panic!("the rows are in a folder") };
        schema
    }

    /// Gives everything that the program is told by its environment.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        let mut all = Vec::new();
        if let Rows::Postgres { url, schema, .. } = &self.rows {
            all.push(("HORIZONS_STORE_ENGINE", "postgres".to_owned()));
            all.push(("HORIZONS_POSTGRES_URL", url.clone()));
            all.push(("HORIZONS_POSTGRES_SCHEMA", schema.clone()));
        }
        if let Events::Kafka { bootstrap, prefix, replication_factor, .. } = &self.events {
            all.push(("HORIZONS_EVENT_LOG_KIND", "kafka".to_owned()));
            all.push(("HORIZONS_KAFKA_BOOTSTRAP", bootstrap.clone()));
            all.push(("HORIZONS_KAFKA_TOPIC_PREFIX", prefix.clone()));
            all.push(("HORIZONS_KAFKA_GROUP_PREFIX", prefix.clone()));
            all.push(("HORIZONS_KAFKA_REPLICATION_FACTOR", replication_factor.to_string()));
        }
        all.extend(self.variables.iter().cloned());
        all
    }
}
