//! One group from Kafka, on each store, beside what the client and the database give when nothing else is done.
//!
//! Promises that all of a round reads or writes the same records, one after the other; that what the group
//! wrote is verified whole in every round; and that topics and schemas of its own are removed at the end, also
//! of a run that fails, unless the topics are to be kept.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use horizons_actors::clock::{Clock, SystemClock, Timestamp};
use horizons_actors::ids::{LogId, LogTopic, Offset, Partition, Topic, TopicPartition};
use horizons_actors::record::{LogRecord, OutgoingRecord, TimestampType};

use super::group::Subject;
use super::lens::Lens;
use super::load::Load;
use super::report::{Figure, per_second};
use super::{Audited, failed, print, profile, remove, watched};
use crate::app::kafka::{identify_log, kafka_config, planned_topics};
use crate::app::store::{open_sqlite_for, postgres_config};
use crate::app::topics::failure as kafka_failure;
use crate::app::{Store, log, open_failure};
use crate::cli::{BenchOptions, Form, KafkaBench, Output};
use crate::config::{Config, EventLogKind, StoreEngine};
use crate::db::log_choice::LogChoice;
use crate::db::postgres::{self, BareCopy, PostgresConfig, PostgresStore};
use crate::db::sqlite::{BareInsert, WriterTimes};
use crate::exit::{Exit, Failure};
use crate::kafka::bare::{self, Filler};
use crate::kafka::error::KafkaLogError;
use crate::kafka::topics::TopicAdmin;

/// How long the brokers may take to say who they are.
const START_LIMIT: Duration = Duration::from_secs(20);

/// How long the filler's records wait for one another: filling is not measured.
const FILL_LINGER: Duration = Duration::from_millis(20);

/// What a run may write: the disk's own size is the limit here.
pub(super) const DISK_LIMIT_BYTES: u64 = 1 << 40;

/// What begins the names of topics, groups and schemas of a run.
const PREFIX: &str = "bench";

/// A run's own place on the services.
pub(super) struct Place {
    pub(super) config: Config,
    pub(super) log_id: LogId,
    keeps_topics: bool,
}

impl Place {
    /// Makes the topics under a prefix of their own.
    pub(super) fn make(config: &Config, services: &KafkaBench) -> Result<Self, Failure> {
        let name = uuid::Uuid::new_v4().simple().to_string();
        let own: String = format!("{PREFIX}-{}-", name.get(..8).unwrap_or(&name));
        let mut config = config.clone();
        config.event_log = EventLogKind::Kafka;
        config.kafka.bootstrap.clone_from(&services.bootstrap);
        config.kafka.topic_prefix = services.keep_topics.clone().unwrap_or_else(|| own.clone());
        config.kafka.group_prefix = own;
        config.kafka.replication_factor = services.replication;
        config.postgres.url = services.postgres.clone().unwrap_or_default();
        config.postgres.schema = format!("{PREFIX}_{}", name.get(..8).unwrap_or(&name));
        let log_id = identify_log(&config, START_LIMIT).map_err(kafka_failure)?;
        let place = Self { config, log_id, keeps_topics: services.keep_topics.is_some() };
        place
            .admin()
            .and_then(|admin| admin.create(&planned_topics(&place.config)))
            .map_err(kafka_failure)?;
        Ok(place)
    }

    /// Gives a client that looks at topics and removes them.
    pub(super) fn admin(&self) -> Result<TopicAdmin, KafkaLogError> {
        TopicAdmin::new(kafka_config(&self.config))
    }

    /// Gives what the store on PostgreSQL is told.
    pub(super) fn postgres(&self) -> PostgresConfig {
        let log = LogChoice::Kafka(self.log_id.clone());
        PostgresConfig { log, disk_limit_bytes: None, ..postgres_config(&self.config) }
    }

    /// Removes the topics and the schema.
    pub(super) fn clear(&self) {
        if !self.config.postgres.url.is_empty()
            && let Err(error) = postgres::remove_schema(&self.postgres())
        {
            tracing::warn!(%error, schema = self.config.postgres.schema, "failed to remove the schema");
        }
        if self.keeps_topics {
            return;
        }
        if let Err(error) = self.admin().and_then(|admin| admin.remove(&planned_topics(&self.config), &[])) {
            tracing::warn!(%error, prefix = self.config.kafka.topic_prefix, "failed to remove the topics");
        }
    }
}

/// What one round measured.
struct Round {
    consume: Duration,
    insert: Duration,
    sqlite: Audited,
    postgres: Option<(Duration, Audited)>,
}

/// Fills topics, measures the rounds, watches one more of each store for the profile, and prints.
pub(super) async fn measure(
    config: Config,
    options: &BenchOptions,
    services: &KafkaBench,
    folder: &Path,
    output: &mut Output<'_>,
) -> Result<Exit, Failure> {
    let place = Place::make(&config, services)?;
    let measured = measure_at(&place, options, folder, output).await;
    place.clear();
    measured
}

async fn measure_at(
    place: &Place,
    options: &BenchOptions,
    folder: &Path,
    output: &mut Output<'_>,
) -> Result<Exit, Failure> {
    let begin = SystemClock.now();
    let records = options.records.get();
    let kafka = kafka_config(&place.config);
    let partitions = fill(place, begin, options)?;
    let has_postgres = !place.config.postgres.url.is_empty();
    if output.form() == Form::Text {
        output.line(&format!(
            "{records} records in {} partitions of Kafka, {} rounds",
            partitions.len(),
            options.rounds
        ))?;
    }

    // Not counted: it warms everything up, and tells how many records the stores put into one commit.
    let warm = |writer: WriterTimes| {
        records.div_ceil(writer.commits.max(1)).max(place.config.lanes.batch_records as u64)
    };
    bare::read(&kafka, &partitions, records).map_err(kafka_failure)?;
    let (_, sqlite) = audited(place, StoreEngine::Sqlite, &folder.join("warm"), records, None).await?;
    let inserted_per_commit = warm(sqlite);
    let mut copied_per_commit = 0;
    if has_postgres {
        let (_, writer) = audited(place, StoreEngine::Postgres, folder, records, None).await?;
        copied_per_commit = warm(writer);
    }
    let mut rounds = Vec::new();
    for number in 0..options.rounds {
        let read = bare::read(&kafka, &partitions, records).map_err(kafka_failure)?;
        let own = folder.join(format!("round-{number}"));
        let insert = bare_inserted(begin, options, &own, inserted_per_commit)?;
        let (sqlite, _) = audited(place, StoreEngine::Sqlite, &own, records, None).await?;
        let postgres = match has_postgres {
            true => {
                let copied = bare_copied(place, begin, options, copied_per_commit)?;
                let (group, _) = audited(place, StoreEngine::Postgres, folder, records, None).await?;
                Some((copied, group))
            }
            false => None,
        };
        rounds.push(Round { consume: read.time, insert, sqlite, postgres });
    }

    let mut figures = figures(records, &rounds);
    let engines = [(StoreEngine::Sqlite, "_sqlite"), (StoreEngine::Postgres, "_postgres")];
    for (engine, name) in engines.into_iter().take(if has_postgres { 2 } else { 1 }) {
        let lens = Arc::new(Lens::default());
        let (group, writer) = audited(place, engine, &folder.join("watched"), records, Some(&lens)).await?;
        figures.extend(profile(name, &lens, &group, writer));
    }
    print(&figures, output)?;
    if output.form() == Form::Text {
        output.line(&format!(
            "verified: {records} audit entries in each run; about {} records a commit on SQLite{}",
            inserted_per_commit,
            if has_postgres { format!(", {copied_per_commit} on PostgreSQL") } else { String::new() }
        ))?;
    }
    Ok(Exit::Done)
}

/// Writes the events into the topics; gives the partitions that they are in.
fn fill(place: &Place, begin: Timestamp, options: &BenchOptions) -> Result<Vec<TopicPartition>, Failure> {
    let mut filler = Filler::new(&kafka_config(&place.config), FILL_LINGER).map_err(kafka_failure)?;
    let mut partitions = BTreeSet::new();
    for record in Records::new(begin, options).take_all() {
        let record = record?;
        filler.send(&record).map_err(kafka_failure)?;
        if let LogTopic::Record(topic) = record.topic {
            partitions.insert(TopicPartition { topic, partition: record.partition });
        }
    }
    filler.finish().map_err(kafka_failure)?;
    let partitions: Vec<TopicPartition> = partitions.into_iter().collect();
    let all: Vec<TopicPartition> = Topic::ALL.into_iter().flat_map(Topic::all_partitions).collect();
    let ends = place.admin().and_then(|admin| admin.ends(&all)).map_err(kafka_failure)?;
    let held: u64 = ends.iter().map(|(_, end)| end.0).sum();
    match held == options.records.get() {
        true => Ok(partitions),
        false => {
            let text = format!(
                "topics do not hold what was written: wanted {} records, got {held}",
                options.records
            );
            Err(Failure::text(Exit::Failed, text))
        }
    }
}

/// The same events on every call.
struct Records {
    load: Load,
    left: u64,
}

impl Records {
    fn new(begin: Timestamp, options: &BenchOptions) -> Self {
        Self { load: Load::new(begin, options.payload_bytes as usize), left: options.records.get() }
    }

    fn take_all(mut self) -> impl Iterator<Item = Result<OutgoingRecord, Failure>> {
        std::iter::from_fn(move || {
            self.left = self.left.checked_sub(1)?;
            Some(self.load.next_record().map_err(|error| Failure::new(Exit::Failed, &error)))
        })
    }
}

/// Gives records places in a bare store: all in one partition, so that every row goes to the end of its table.
pub(super) fn numbered<'a>(
    records: impl IntoIterator<Item = &'a OutgoingRecord>,
    first: u64,
) -> (TopicPartition, Vec<LogRecord>) {
    let partition = TopicPartition { topic: Topic::JobLifecycle, partition: Partition(0) };
    let place = |(offset, record): (u64, &OutgoingRecord)| {
        let OutgoingRecord { timestamp, key, headers, payload, .. } = record.clone();
        let timestamp_type = TimestampType::CreateTime;
        LogRecord { offset: Offset(offset), timestamp, timestamp_type, key, headers, payload }
    };
    (partition, (first..).zip(records).map(place).collect())
}

/// Inserts the rows of the same events into SQLite, so many in a commit.
fn bare_inserted(
    begin: Timestamp,
    options: &BenchOptions,
    folder: &Path,
    per_commit: u64,
) -> Result<Duration, Failure> {
    let mut sink = BareInsert::open(folder).map_err(|error| open_failure(&error))?;
    let mut time = Duration::ZERO;
    let (mut batch, mut first) = (Vec::new(), 0);
    let mut insert = |batch: &mut Vec<OutgoingRecord>| -> Result<(), Failure> {
        time += sink.insert(&[numbered(batch.iter(), first)]).map_err(failed)?;
        first += batch.len() as u64;
        batch.clear();
        Ok(())
    };
    for record in Records::new(begin, options).take_all() {
        batch.push(record?);
        if batch.len() as u64 >= per_commit {
            insert(&mut batch)?;
        }
    }
    insert(&mut batch)?;
    let (entries, bodies) = sink.rows().map_err(failed)?;
    drop(sink);
    remove(folder)?;
    let records = options.records.get();
    match entries == records && bodies == records {
        true => Ok(time),
        false => {
            let text =
                format!("limit does not add up: wanted {records} records, inserted {entries}, {bodies}");
            Err(Failure::text(Exit::Failed, text))
        }
    }
}

/// Copies the rows of the same events, so many in a commit.
fn bare_copied(
    place: &Place,
    begin: Timestamp,
    options: &BenchOptions,
    per_commit: u64,
) -> Result<Duration, Failure> {
    let settings = place.postgres();
    let opened = |error| open_failure(&error);
    postgres::remove_schema(&settings).map_err(opened)?;
    let mut sink = BareCopy::open(&settings).map_err(opened)?;
    postgres::checkpoint(&settings).map_err(opened)?;
    let mut time = Duration::ZERO;
    let mut batch = Vec::new();
    for record in Records::new(begin, options).take_all() {
        batch.push(record?);
        if batch.len() as u64 >= per_commit {
            time += sink.copy(&batch).map_err(failed)?;
            batch.clear();
        }
    }
    if !batch.is_empty() {
        time += sink.copy(&batch).map_err(failed)?;
    }
    let (entries, bodies) = sink.rows().map_err(failed)?;
    drop(sink);
    postgres::remove_schema(&settings).map_err(opened)?;
    let records = options.records.get();
    match entries == records && bodies == records {
        true => Ok(time),
        false => {
            let text = format!("limit does not add up: wanted {records} records, copied {entries}, {bodies}");
            Err(Failure::text(Exit::Failed, text))
        }
    }
}

/// Lets the auditor alone read the topics into a new store, and verifies what it wrote.
async fn audited(
    place: &Place,
    engine: StoreEngine,
    folder: &Path,
    records: u64,
    lens: Option<&Arc<Lens>>,
) -> Result<(Audited, WriterTimes), Failure> {
    let mut config = place.config.clone();
    // A group that nobody was a member of: the one before has left, and its broker may not know it yet.
    config.kafka.group_prefix = format!("{PREFIX}-{}-", uuid::Uuid::new_v4().simple());
    let log = LogChoice::Kafka(place.log_id.clone());
    match engine {
        StoreEngine::Sqlite => {
            config.store.folder = folder.to_owned();
            config.store.disk_limit_bytes = config.store.disk_limit_bytes.max(DISK_LIMIT_BYTES);
            let store = open_sqlite_for(&config, log, None)?;
            let times = Arc::clone(&store);
            let measured = audited_on(&config, place, store, records, lens, || times.writer_times()).await?;
            drop(times);
            remove(folder)?;
            Ok(measured)
        }
        StoreEngine::Postgres => {
            let settings = place.postgres();
            let opened = |error| open_failure(&error);
            postgres::remove_schema(&settings).map_err(opened)?;
            let store = Arc::new(PostgresStore::open(settings.clone()).map_err(opened)?);
            postgres::checkpoint(&settings).map_err(opened)?;
            let times = Arc::clone(&store);
            let measured = audited_on(&config, place, store, records, lens, || times.writer_times()).await?;
            drop(times);
            postgres::remove_schema(&settings).map_err(opened)?;
            Ok(measured)
        }
    }
}

async fn audited_on(
    config: &Config,
    place: &Place,
    store: Arc<dyn Store>,
    records: u64,
    lens: Option<&Arc<Lens>>,
    times: impl Fn() -> WriterTimes,
) -> Result<(Audited, WriterTimes), Failure> {
    let log_id = place.log_id.clone();
    let log = log::open(config, log_id.clone(), Arc::clone(&store) as _)?;
    watched(config, Subject { log, log_id, store }, records, lens, times).await
}

/// Gives the figures of the rounds.
fn figures(records: u64, rounds: &[Round]) -> Vec<Figure> {
    let speed = |time: Duration| per_second(records, time);
    let pairs =
        |pair: &dyn Fn(&Round) -> Option<(f64, f64)>| rounds.iter().filter_map(pair).collect::<Vec<_>>();
    let seconds = |time: Duration| time.as_secs_f64() * 1e6 / records as f64;
    let sqlite = pairs(&|round| Some((speed(round.sqlite.time), speed(round.consume))));
    let inserted = pairs(&|round| Some((speed(round.sqlite.time), speed(round.insert))));
    let processor =
        pairs(&|round| Some((seconds(round.sqlite.processor), seconds(round.consume + round.insert))));
    let mut figures = vec![
        Figure::of_rounds("one_group_kafka_sqlite", "records/s", "bare_consume", &sqlite),
        Figure::of_rounds("one_group_kafka_sqlite", "records/s", "bare_insert", &inserted),
        Figure::of_rounds(
            "one_group_kafka_sqlite_processor",
            "s/million",
            "bare_consume_and_insert",
            &processor,
        ),
    ];
    let copy = pairs(&|round| {
        let (copied, group) = round.postgres.as_ref()?;
        Some((speed(group.time), speed(*copied)))
    });
    if !copy.is_empty() {
        figures.push(Figure::of_rounds("one_group_postgres", "records/s", "bare_copy", &copy));
        let consume = pairs(&|round| {
            let (_, group) = round.postgres.as_ref()?;
            Some((speed(group.time), speed(round.consume)))
        });
        figures.push(Figure::of_rounds("one_group_postgres", "records/s", "bare_consume", &consume));
        let processor = pairs(&|round| {
            let (copied, group) = round.postgres.as_ref()?;
            Some((seconds(group.processor), seconds(round.consume + *copied)))
        });
        figures.push(Figure::of_rounds(
            "one_group_postgres_processor",
            "s/million",
            "bare_consume_and_copy",
            &processor,
        ));
    }
    let peaks = pairs(&|round| {
        let memory = round.sqlite.memory?;
        Some((memory.peak as f64, memory.before as f64))
    });
    if !peaks.is_empty() {
        figures.push(Figure::of_rounds("one_group_kafka_peak_memory", "bytes", "before_it", &peaks));
    }
    figures
}
