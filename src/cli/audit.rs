//! `horizons audit`: reads the audit trail and recomputes it.
//!
//! Promises that verification trusts no stored hash: every leaf, the chain and the tree are computed from the
//! records, through the verifier that the program is given. Works with a running server, or on a data folder
//! where none runs.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use horizons_actors::ids::{JobId, LogId, Partition, Topic, TopicPartition};
use horizons_actors::ports::query::{AuditFilter, AuditPosition, StoredAuditEntry};
use horizons_actors::ports::store::StoreError;
use serde_json::{Value, json};

use crate::exit::{Exit, Failure};

use super::audit_json::{
    JsonFieldError, digest, digest_from_hex, entry_from_json, entry_to_json, number, text,
    topic_partition_from_json,
};
use super::client::{Call, Client, ClientOptions};
use super::hooks::{LogEnd, LogVerifier, OpenedStore, VerifyFinding};
use super::output::Form;
use super::{Context, PageOptions, ask, converse, print_page, with_output};

/// Read the audit trail and verify it
#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// List entries by topic, partition, position or job
    #[command(after_help = "Examples:\n  horizons audit query --topic job-lifecycle --limit 20\n  \
        horizons audit query --job JOB --json\n  horizons audit query --data data      where no server runs")]
    Query(QueryArguments),
    /// Recompute every hash, chain and tree from the records
    #[command(after_help = "Examples:\n  horizons audit verify\n  \
        horizons audit verify --data data      where no server runs\n\n\
        Exit code 1 when anything does not verify; each finding names topic, partition and index.")]
    Verify {
        /// Read this data folder; no server may run on it
        #[arg(long, value_name = "FOLDER", conflicts_with = "url")]
        data: Option<PathBuf>,
        #[command(flatten)]
        client: ClientOptions,
    },
}

#[derive(Debug, Args)]
pub(super) struct QueryArguments {
    /// Of this topic only
    #[arg(long, value_parser = Topic::parse)]
    topic: Option<Topic>,
    /// Of this partition only
    #[arg(long, requires = "topic")]
    partition: Option<u16>,
    /// About this job only
    #[arg(long, value_name = "JOB", value_parser = JobId::parse)]
    job: Option<JobId>,
    #[command(flatten)]
    page: PageOptions,
    /// Read this data folder; no server may run on it
    #[arg(long, value_name = "FOLDER", conflicts_with = "url")]
    data: Option<PathBuf>,
    #[command(flatten)]
    client: ClientOptions,
}

const COLUMNS: [(&str, &str); 7] = [
    ("TOPIC", "topic"),
    ("PARTITION", "partition"),
    ("INDEX", "index"),
    ("OFFSET", "record.offset"),
    ("MARK", "mark"),
    ("APPENDED", "appended_at"),
    ("LEAF HASH", "leaf_hash"),
];

const VERIFY_COLUMNS: [(&str, &str); 5] = [
    ("TOPIC", "topic"),
    ("PARTITION", "partition"),
    ("ENTRIES", "entries"),
    ("RESULT", "result"),
    ("FINDING", "finding"),
];

/// Runs one of the commands.
pub(super) fn run(command: AuditCommand, context: &Context<'_>) -> Result<Exit, Failure> {
    match command {
        AuditCommand::Query(arguments) => query(&arguments, context),
        AuditCommand::Verify { data, client } => {
            let source = match data {
                Some(folder) => Source::Store((context.hooks.open_store)(&folder)?),
                None => Source::Server(Client::new(&client, context)?),
            };
            let results = converse(verify(&source, context.hooks.verifier))?;
            with_output(Form::from_flag(client.json), context, |output| {
                output.rows(&VERIFY_COLUMNS, &results.iter().map(LogResult::to_json).collect::<Vec<_>>())
            })?;
            let is_sound = results.iter().all(|result| result.finding.is_none());
            Ok(if is_sound { Exit::Done } else { Exit::Failed })
        }
    }
}

fn query(arguments: &QueryArguments, context: &Context<'_>) -> Result<Exit, Failure> {
    let client = &arguments.client;
    let Some(folder) = &arguments.data else {
        let call = Call::get("/audit/entries")
            .query("topic", arguments.topic)
            .query("partition", arguments.partition)
            .query("job", arguments.job.as_ref())
            .query("limit", Some(arguments.page.limit))
            .query("cursor", arguments.page.cursor.as_ref());
        return print_page(client, context, &COLUMNS, &ask(client, context, call)?);
    };
    let opened = (context.hooks.open_store)(folder)?;
    let filter = AuditFilter {
        topic: arguments.topic,
        partition: arguments.partition,
        job_id: arguments.job.clone(),
        after: arguments.page.cursor.as_deref().map(parse_position).transpose()?,
        limit: usize::try_from(arguments.page.limit).unwrap_or(usize::MAX),
    };
    let page =
        converse(async { opened.store.audit_entries(filter).await.map_err(|error| store_failure(&error)) })?;
    let rows: Vec<Value> = page.entries.iter().map(entry_to_json).collect();
    with_output(Form::from_flag(client.json), context, |output| {
        output.rows(&COLUMNS, &rows)?;
        let Some(next) = page.next else { return Ok(Exit::Done) };
        let cursor = format!("{}:{}", next.topic_partition, next.index);
        match output.form() {
            Form::Text => output.line(&format!("more: --cursor {cursor}"))?,
            Form::Json => output.json(&json!({ "next": cursor }))?,
        }
        Ok(Exit::Done)
    })
}

/// Reads a cursor of a data folder: `TOPIC-PARTITION:INDEX`.
fn parse_position(cursor: &str) -> Result<AuditPosition, Failure> {
    let parts = || {
        let (lane, index) = cursor.rsplit_once(':')?;
        let (topic, partition) = lane.rsplit_once('-')?;
        let topic_partition = TopicPartition {
            topic: Topic::parse(topic).ok()?,
            partition: Partition(partition.parse().ok()?),
        };
        Some(AuditPosition { topic_partition, index: index.parse().ok()? })
    };
    parts().ok_or_else(|| {
        let message = format!("failed to read `--cursor`: wanted `TOPIC-PARTITION:INDEX`, got `{cursor}`");
        Failure::text(Exit::Usage, message)
    })
}

fn store_failure(error: &StoreError) -> Failure {
    Failure::new(Exit::Store, error)
}

/// Where audit logs are read from.
enum Source {
    Server(Client),
    Store(OpenedStore),
}

/// Where the next page starts.
enum Cursor {
    Server(String),
    Store(AuditPosition),
}

/// How one log was found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct LogResult {
    topic_partition: TopicPartition,
    /// Entries that were recomputed.
    entries: u64,
    /// What is wrong, where anything is.
    finding: Option<String>,
}

impl LogResult {
    fn to_json(&self) -> Value {
        json!({
            "topic": self.topic_partition.topic,
            "partition": self.topic_partition.partition,
            "entries": self.entries,
            "result": if self.finding.is_none() { "verified" } else { "broken" },
            "finding": self.finding,
        })
    }
}

/// Entries of one page while verifying.
const VERIFY_PAGE: usize = 500;

/// Recomputes every log up to the size that it had when the verification began.
async fn verify(
    source: &Source,
    verifier: fn(&LogId, TopicPartition) -> Box<dyn LogVerifier>,
) -> Result<Vec<LogResult>, Failure> {
    let (log_id, logs) = source.logs().await?;
    let mut results = Vec::with_capacity(logs.len());
    for (topic_partition, end) in logs {
        results.push(verify_log(source, topic_partition, &end, verifier(&log_id, topic_partition)).await?);
    }
    Ok(results)
}

async fn verify_log(
    source: &Source,
    topic_partition: TopicPartition,
    end: &LogEnd,
    mut verifier: Box<dyn LogVerifier>,
) -> Result<LogResult, Failure> {
    let mut entries = 0;
    let mut cursor = None;
    let broken = |entries, finding: String| LogResult { topic_partition, entries, finding: Some(finding) };
    while entries < end.size {
        let (page, next) = source.page(topic_partition, cursor.take()).await?;
        let wanted = usize::try_from(end.size - entries).unwrap_or(usize::MAX);
        for entry in page.iter().take(wanted) {
            if let Err(finding) = check_entry(verifier.as_mut(), entry, topic_partition, entries) {
                return Ok(broken(entries, format!("index {entries}: {finding}")));
            }
            entries += 1;
        }
        match next {
            Some(next) => cursor = Some(next),
            None if entries < end.size => {
                let finding = format!("wanted {} entries, got {entries}: the log was truncated", end.size);
                return Ok(broken(entries, finding));
            }
            None => {}
        }
    }
    let finding = verifier.finish(end).err().map(|finding| finding.to_string());
    Ok(LogResult { topic_partition, entries, finding })
}

/// Checks that the entry is the next one of this log, then what it says.
fn check_entry(
    verifier: &mut dyn LogVerifier,
    entry: &StoredAuditEntry,
    topic_partition: TopicPartition,
    index: u64,
) -> Result<(), VerifyFinding> {
    let wanted = AuditPosition { topic_partition, index };
    if entry.position != wanted {
        let got = entry.position;
        return Err(VerifyFinding(format!(
            "wanted this entry next, got {}:{}",
            got.topic_partition, got.index
        )));
    }
    verifier.check(entry)
}

impl Source {
    async fn logs(&self) -> Result<(LogId, Vec<(TopicPartition, LogEnd)>), Failure> {
        match self {
            Source::Store(opened) => {
                let logs = opened.store.audit_logs().await.map_err(|error| store_failure(&error))?;
                let ends = logs.into_iter().map(|(topic_partition, state)| {
                    let end = LogEnd {
                        size: state.size,
                        chain_head: state.chain_head,
                        frontier: Some(state.frontier),
                    };
                    (topic_partition, end)
                });
                Ok((opened.log_id.clone(), ends.collect()))
            }
            Source::Server(client) => {
                let path = "/audit/logs";
                let answer = client.call(Call::get(path)).await?;
                let foreign = |error: JsonFieldError| client.foreign(path, error.to_string());
                let log_id = text(&answer.body, "log_id").map_err(foreign)?;
                let log_id = LogId::parse(log_id).map_err(|error| client.foreign(path, error.to_string()))?;
                let mut logs = Vec::new();
                for row in answer.rows() {
                    logs.push(log_from_json(&row).map_err(foreign)?);
                }
                Ok((log_id, logs))
            }
        }
    }

    async fn page(
        &self,
        topic_partition: TopicPartition,
        cursor: Option<Cursor>,
    ) -> Result<(Vec<StoredAuditEntry>, Option<Cursor>), Failure> {
        match self {
            Source::Store(opened) => {
                let filter = AuditFilter {
                    topic: Some(topic_partition.topic),
                    partition: Some(topic_partition.partition.0),
                    job_id: None,
                    after: if let Some(Cursor::Store(after)) = cursor { Some(after) } else { None },
                    limit: VERIFY_PAGE,
                };
                let page = opened.store.audit_entries(filter).await.map_err(|error| store_failure(&error))?;
                Ok((page.entries, page.next.map(Cursor::Store)))
            }
            Source::Server(client) => {
                let path = "/audit/entries";
                let cursor = if let Some(Cursor::Server(cursor)) = cursor { Some(cursor) } else { None };
                let call = Call::get(path)
                    .query("topic", Some(topic_partition.topic))
                    .query("partition", Some(topic_partition.partition))
                    .query("limit", Some(VERIFY_PAGE))
                    .query("cursor", cursor);
                let answer = client.call(call).await?;
                let mut entries = Vec::new();
                for row in answer.rows() {
                    let entry = entry_from_json(&row);
                    entries.push(entry.map_err(|error| client.foreign(path, error.to_string()))?);
                }
                Ok((entries, answer.next().map(Cursor::Server)))
            }
        }
    }
}

/// Reads what the server claims about a log: `topic`, `partition`, `size`, `chain_head`, and where it is told
/// `frontier`, digests in hexadecimal.
fn log_from_json(row: &Value) -> Result<(TopicPartition, LogEnd), JsonFieldError> {
    let frontier = row.get("frontier").and_then(Value::as_array).and_then(|digests| {
        digests.iter().map(|digest| digest.as_str().and_then(digest_from_hex)).collect::<Option<Vec<_>>>()
    });
    let end = LogEnd { size: number(row, "size")?, chain_head: digest(row, "chain_head")?, frontier };
    Ok((topic_partition_from_json(row)?, end))
}

#[cfg(test)]
mod tests;
