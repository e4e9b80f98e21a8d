//! `horizons bench`: how close the real path comes to the limits of this machine, in the same run (figures 1 and
//! 3 of the design: one group on each store and log, and latencies).
//!
//! Promises that every round measures the limits and the real path after each other on the same records, that
//! what the real path wrote is verified whole in every round (a fast wrong run fails), and that what is
//! printed is what was measured. What is compared with what is described in `benches/README.md`. Does not
//! promise quiet neighbours: on a shared machine look at the spread.

mod group;
mod kafka;
mod latency;
mod lens;
mod load;
mod meter;
mod report;
#[cfg(test)]
mod tests;
mod timeline;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use horizons_actors::clock::{Clock, SystemClock};
use horizons_actors::ids::{Offset, Topic, TopicPartition};
use horizons_actors::ports::log::RecordSource;
use horizons_actors::ports::query::QueryStore;
use horizons_actors::ports::store::{JobStore, StoreError};
use horizons_actors::record::LogRecord;

use self::group::{Ended, Subject};
use self::lens::Lens;
use self::load::Load;
use self::report::{Figure, per_second};
use super::store::open_sqlite;
use super::{audit, log, open_failure};
use crate::cli::{BenchOptions, Colour, Form, Output};
use crate::config::Config;
use crate::db::sqlite::{BareInsert, SqliteStore, WriterTimes};
use crate::exit::{Exit, Failure};

/// Records of one transaction when the log is filled: large, because filling is not measured.
const FILL_RECORDS: u64 = 10_000;

/// Threads that take less of the wall time are not shown in the profile.
const THREAD_SHARE_MIN: f64 = 0.01;

/// Room in the database for a record beside its payload: key, headers, entry, and both copies' overhead.
const RECORD_ROOM_BYTES: u64 = 2_048;

/// What one round measured.
#[derive(Debug, Clone, Copy)]
struct Round {
    bare_read: Duration,
    bare_insert: Duration,
    bare_copy: Duration,
    group: Duration,
    group_processor: Duration,
    group_memory: Option<Memory>,
}

/// Measures and prints.
///
/// *Errors*: [`Exit::Failed`] when what was audited does not add up.
pub fn bench(config: Config, options: BenchOptions) -> Result<Exit, Failure> {
    let temporary = match &options.folder {
        Some(folder) => std::fs::create_dir_all(folder).and_then(|()| tempfile::tempdir_in(folder)),
        None => tempfile::tempdir(),
    }
    .map_err(|error| Failure::new(Exit::Store, &error))?;
    let mut stdout = std::io::stdout().lock();
    let mut output = Output::new(&mut stdout, options.form, Colour::Off);
    actix::System::new().block_on(async {
        match (&options.kafka, options.latency) {
            (None, _) => measure(config, &options, temporary.path(), &mut output).await,
            (Some(kafka), None) => {
                kafka::measure(config, &options, kafka, temporary.path(), &mut output).await
            }
            (Some(kafka), Some(open_loop)) => {
                latency::measure(config, &options, kafka, open_loop, temporary.path(), &mut output).await
            }
        }
    })
}

/// Fills a log, measures the rounds, watches one more for the profile, and prints.
async fn measure(
    mut config: Config,
    options: &BenchOptions,
    folder: &Path,
    output: &mut Output<'_>,
) -> Result<Exit, Failure> {
    let records = options.records.get();
    let room = records.saturating_mul(2 * u64::from(options.payload_bytes) + RECORD_ROOM_BYTES);
    config.store.disk_limit_bytes =
        config.store.disk_limit_bytes.max(room.saturating_add(config.store.disk_reserve_bytes));
    let filled = folder.join("log");
    let payload_bytes = fill(&config, &filled, records, options.payload_bytes).await?;
    if output.form() == Form::Text {
        output.line(&format!(
            "{records} records, payloads of {payload_bytes} bytes in the mean, {} rounds",
            options.rounds
        ))?;
    }

    // Not counted: it warms the machine up, and tells how many records the store puts into one commit.
    let (_, warm) = audited(&config, &filled, &folder.join("warm"), records, None).await?;
    let per_commit = records.div_ceil(warm.commits.max(1)).max(config.lanes.batch_records as u64);
    let mut rounds = Vec::new();
    for number in 0..options.rounds {
        let round = folder.join(format!("round-{number}"));
        rounds.push(one_round(&config, &filled, &round, records, per_commit).await?);
    }
    let lens = Arc::new(Lens::default());
    let (watched, writer) = audited(&config, &filled, &folder.join("watched"), records, Some(&lens)).await?;

    let mut figures = figures(records, &rounds);
    figures.extend(profile("", &lens, &watched, writer));
    print(&figures, output)?;
    if output.form() == Form::Text {
        output.line(&format!(
            "verified: {records} audit entries in each round; about {per_commit} records a commit"
        ))?;
    }
    Ok(Exit::Done)
}

/// Prints figures in the form that is wanted.
fn print(figures: &[Figure], output: &mut Output<'_>) -> Result<(), Failure> {
    for figure in figures {
        match output.form() {
            Form::Text => output.line(&figure.line())?,
            Form::Json => output.json(&figure.json())?,
        }
    }
    Ok(())
}

/// Writes the events into a new store's log; gives the mean size of their payloads.
async fn fill(config: &Config, folder: &Path, records: u64, payload_bytes: u32) -> Result<u64, Failure> {
    let store = open(config, folder)?;
    let mut load = Load::new(SystemClock.now(), payload_bytes as usize);
    let (mut left, mut bytes) = (records, 0);
    while left > 0 {
        let count = left.min(FILL_RECORDS);
        let mut batch = Vec::new();
        for _ in 0..count {
            let record = load.next_record().map_err(|error| Failure::new(Exit::Failed, &error))?;
            bytes += record.payload.as_ref().map_or(0, |payload| payload.len() as u64);
            batch.push(record);
        }
        store.append_records(batch, Vec::new()).await.map_err(failed)?;
        left -= count;
    }
    Ok(bytes / records)
}

/// Measures the limits and the group on copies of the same log.
async fn one_round(
    config: &Config,
    filled: &Path,
    folder: &Path,
    records: u64,
    per_commit: u64,
) -> Result<Round, Failure> {
    let (bare_read, bare_insert) = bare(config, filled, &folder.join("rows"), per_commit)?;
    let bare_copy = bare_copied(config, filled, &folder.join("copied"), records, per_commit)?;
    let (group, _) = audited(config, filled, &folder.join("group"), records, None).await?;
    if bare_read.records != records || bare_insert.records != records {
        let (read, inserted) = (bare_read.records, bare_insert.records);
        let text =
            format!("limits do not add up: wanted {records} records, read {read}, inserted {inserted}");
        return Err(Failure::text(Exit::Failed, text));
    }
    remove(folder)?;
    Ok(Round {
        bare_read: bare_read.time,
        bare_insert: bare_insert.time,
        bare_copy,
        group: group.time,
        group_processor: group.processor,
        group_memory: group.memory,
    })
}

/// How long some records took.
#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    records: u64,
    time: Duration,
}

/// Reads the log in a loop, and inserts what was read outside that time.
fn bare(
    config: &Config,
    filled: &Path,
    folder: &Path,
    per_commit: u64,
) -> Result<(Counted, Counted), Failure> {
    let source = open(config, filled)?;
    let mut sink = BareInsert::open(folder).map_err(|error| open_failure(&error))?;
    let (mut read, mut inserted) = (Counted::default(), Counted::default());
    let mut waiting: Vec<(TopicPartition, Vec<LogRecord>)> = Vec::new();
    let mut waiting_records = 0;
    let mut commit = |waiting: &mut Vec<_>| -> Result<(), Failure> {
        inserted.time += sink.insert(waiting).map_err(failed)?;
        waiting.clear();
        Ok(())
    };
    for partition in Topic::ALL.into_iter().flat_map(Topic::all_partitions) {
        let end = source.heads().end(partition);
        let mut from = Offset(0);
        while from < end {
            let start = Instant::now();
            let records = source
                .read(partition, from, config.lanes.batch_records, config.lanes.batch_bytes)
                .map_err(failed)?;
            read.time += start.elapsed();
            from = records.last().map_or(end, |record| record.offset.following());
            read.records += records.len() as u64;
            waiting_records += records.len() as u64;
            waiting.push((partition, records));
            if waiting_records >= per_commit {
                commit(&mut waiting)?;
                waiting_records = 0;
            }
        }
    }
    commit(&mut waiting)?;
    inserted.records = counted(&mut sink)?;
    Ok((read, inserted))
}

/// Inserts by the engine's own statements from the attached log.
fn bare_copied(
    config: &Config,
    filled: &Path,
    folder: &Path,
    records: u64,
    per_commit: u64,
) -> Result<Duration, Failure> {
    let source = open(config, filled)?;
    let mut sink = BareInsert::open(folder).map_err(|error| open_failure(&error))?;
    sink.attach(filled).map_err(failed)?;
    let mut time = Duration::ZERO;
    for partition in Topic::ALL.into_iter().flat_map(Topic::all_partitions) {
        let end = source.heads().end(partition);
        let mut from = Offset(0);
        while from < end {
            let last = Offset((from.0 + per_commit).min(end.0) - 1);
            time += sink.copy(&[(partition, from, last)]).map_err(failed)?;
            from = last.following();
        }
    }
    let copied = counted(&mut sink)?;
    if copied == records {
        Ok(time)
    } else {
        Err(Failure::text(
            Exit::Failed,
            format!("limit does not add up: wanted {records} records, copied {copied}"),
        ))
    }
}

/// Counts the records of a bare store by both its tables.
fn counted(sink: &mut BareInsert) -> Result<u64, Failure> {
    let (entries, bodies) = sink.rows().map_err(failed)?;
    Ok(entries.min(bodies))
}

/// How the group did.
#[derive(Debug, Clone)]
struct Audited {
    time: Duration,
    processor: Duration,
    memory: Option<Memory>,
    /// Processor time by kind of thread.
    threads: BTreeMap<String, Duration>,
}

/// Resident memory around a run, in bytes.
#[derive(Debug, Clone, Copy)]
struct Memory {
    before: u64,
    peak: u64,
}

/// Lets the auditor alone read a copy of the log, and verifies what it wrote.
async fn audited(
    config: &Config,
    filled: &Path,
    folder: &Path,
    records: u64,
    lens: Option<&Arc<Lens>>,
) -> Result<(Audited, WriterTimes), Failure> {
    copy_folder(filled, folder)?;
    let store = open(config, folder)?;
    let source: Arc<dyn RecordSource> = match lens {
        None => Arc::clone(&store) as _,
        Some(lens) => lens.source(Arc::clone(&store) as _),
    };
    let log = log::open(config, store.log_id(), source)?;
    let subject = Subject { log, log_id: store.log_id(), store: Arc::clone(&store) as _ };
    let result = watched(config, subject, records, lens, || store.writer_times()).await?;
    drop(store);
    remove(folder)?;
    Ok(result)
}

/// Runs the group on a store and a log, measures around it, and verifies what it wrote.
async fn watched(
    config: &Config,
    subject: Subject,
    records: u64,
    lens: Option<&Arc<Lens>>,
    writer_times: impl Fn() -> WriterTimes,
) -> Result<(Audited, WriterTimes), Failure> {
    let queries: Arc<dyn QueryStore> = Arc::clone(&subject.store) as _;
    let memory_before = meter::resident_bytes().filter(|_| meter::reset_peak());
    let processor_before = meter::processor_time();
    let before = writer_times();
    let Ended { time, threads } = group::run(config, subject, records, lens).await?;
    let writer = since(before, writer_times());
    let processor = meter::processor_time().saturating_sub(processor_before);
    let memory = memory_before.zip(meter::peak_bytes()).map(|(before, peak)| Memory { before, peak });
    verify(&queries, records).await?;
    Ok((Audited { time, processor, memory, threads }, writer))
}

/// Recomputes every audit log and counts its entries.
async fn verify(queries: &Arc<dyn QueryStore>, records: u64) -> Result<(), Failure> {
    let reports = audit::verify_all(queries).await.map_err(failed)?;
    let entries: u64 = reports.iter().map(|report| report.entries_total).sum();
    let unlike_events: u64 =
        reports.iter().map(|report| report.duplicates_total + report.malformed_total).sum();
    if let Some(broken) = reports.iter().find(|report| !report.is_intact) {
        let text =
            format!("audit log of `{}` does not verify: {:?}", broken.topic_partition, broken.findings);
        return Err(Failure::text(Exit::Failed, text));
    }
    if entries != records || unlike_events != 0 {
        let text = format!(
            "audit does not add up: wanted {records} events, got {entries} entries, {unlike_events} of them no events"
        );
        return Err(Failure::text(Exit::Failed, text));
    }
    Ok(())
}

/// Gives the figures of the rounds.
fn figures(records: u64, rounds: &[Round]) -> Vec<Figure> {
    let speeds = |limit: fn(&Round) -> Duration| -> Vec<(f64, f64)> {
        rounds
            .iter()
            .map(|round| (per_second(records, round.group), per_second(records, limit(round))))
            .collect()
    };
    let insert: fn(&Round) -> Duration = |round| round.bare_insert.min(round.bare_copy);
    let mut figures = vec![
        Figure::of_rounds("one_group_sqlite", "records/s", "bare_insert", &speeds(insert)),
        Figure::of_rounds(
            "one_group_sqlite",
            "records/s",
            "bare_insert_rows",
            &speeds(|round| round.bare_insert),
        ),
        Figure::of_rounds(
            "one_group_sqlite",
            "records/s",
            "bare_insert_copy",
            &speeds(|round| round.bare_copy),
        ),
        Figure::of_rounds("one_group_sqlite", "records/s", "bare_read", &speeds(|round| round.bare_read)),
    ];
    let processor: Vec<(f64, f64)> = rounds
        .iter()
        .map(|round| {
            let per_million = 1e6 / records as f64;
            let limit = insert(round) + round.bare_read;
            (round.group_processor.as_secs_f64() * per_million, limit.as_secs_f64() * per_million)
        })
        .collect();
    figures.push(Figure::of_rounds("one_group_processor", "s/million", "bare_read_and_insert", &processor));
    let peaks: Vec<(f64, f64)> = rounds
        .iter()
        .filter_map(|round| round.group_memory)
        .map(|memory| (memory.peak as f64, memory.before as f64))
        .collect();
    if !peaks.is_empty() {
        figures.push(Figure::of_rounds("one_group_peak_memory", "bytes", "before_it", &peaks));
    }
    figures
}

/// Gives where the watched run spent its time, as parts of its wall time; threads work side by side, so the
/// parts may add up to more than one.
fn profile(of: &str, lens: &Lens, watched: &Audited, writer: WriterTimes) -> Vec<Figure> {
    let parts = [
        ("profile_read", lens.reading.sum()),
        ("profile_decode", lens.decoding.sum()),
        ("profile_apply", lens.applying.sum()),
        ("profile_hash", lens.hashing.sum()),
        ("profile_write_rows", writer.writing),
        ("profile_commit", writer.committing),
        ("profile_writer_waits", writer.waiting),
        ("profile_processor", watched.processor),
    ]
    .into_iter()
    .map(|(part, spent)| (part.to_owned(), spent));
    let threads = watched
        .threads
        .iter()
        .filter(|(_, spent)| spent.as_secs_f64() >= THREAD_SHARE_MIN * watched.time.as_secs_f64())
        .map(|(name, spent)| (format!("profile_thread_{name}"), *spent));
    parts
        .chain(threads)
        // Nothing can be read where the log is not in the store.
        .filter(|(part, spent)| part != "profile_read" || !spent.is_zero())
        .map(|(part, spent)| Figure::share(format!("{part}{of}"), spent, "wall", watched.time))
        .collect()
}

fn since(before: WriterTimes, now: WriterTimes) -> WriterTimes {
    WriterTimes {
        commits: now.commits - before.commits,
        waiting: now.waiting - before.waiting,
        writing: now.writing - before.writing,
        committing: now.committing - before.committing,
    }
}

fn open(config: &Config, folder: &Path) -> Result<Arc<SqliteStore>, Failure> {
    let mut config = config.clone();
    config.store.folder = folder.to_owned();
    open_sqlite(&config, None)
}

fn failed(error: StoreError) -> Failure {
    Failure::new(Exit::Store, &error)
}

/// Copies the files of a closed store.
fn copy_folder(from: &Path, to: &Path) -> Result<(), Failure> {
    let copy = || -> std::io::Result<()> {
        std::fs::create_dir_all(to)?;
        for file in std::fs::read_dir(from)? {
            let file = file?;
            let copied = to.join(file.file_name());
            std::fs::copy(file.path(), &copied)?;
            // Nobody is to pay for what this copy left to be written.
            std::fs::File::open(copied)?.sync_all()?;
        }
        Ok(())
    };
    copy().map_err(|error| Failure::new(Exit::Store, &error))
}

fn remove(folder: &Path) -> Result<(), Failure> {
    std::fs::remove_dir_all(folder).map_err(|error| Failure::new(Exit::Store, &error))
}
