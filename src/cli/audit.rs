//! `horizons audit`: reads the audit trail and recomputes it.
//!
//! Promises that verification trusts no stored hash: every leaf, the chain and the tree are computed from the
//! records, by the core's verifier. Works with a running server, or on a data folder
//! where none runs.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use horizons_actors::auditor::verify::{LogVerifier, VerificationReport};
use horizons_actors::ids::{Generation, JobId, Partition, Topic, TopicPartition};
use horizons_actors::ports::query::{AuditFilter, AuditPosition, StoredAuditEntry, StoredAuditLog};
use horizons_actors::ports::store::StoreError;
use serde_json::Value;

use crate::config::StoreEngine;
use crate::exit::{Exit, Failure};
use crate::shown::shown;

use super::audit_json::{JsonFieldError, entry_from_json, entry_to_json, log_from_json};
use super::client::{Call, Client, ClientError, ClientOptions};
use super::hooks::OpenedStore;
use super::output::Form;
use super::{Context, PageOptions, converse, hint, print_page, with_output};

/// Read the audit trail and verify it
#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// List entries by topic, partition, position or job
    #[command(after_help = "Examples:\n  horizons audit query --topic job-lifecycle --limit 20\n  \
        horizons audit query --job JOB --json\n  horizons audit query --data copy      a copied folder")]
    Query(QueryArguments),
    /// Recompute every hash, chain and tree from the records
    #[command(after_help = "Examples:\n  horizons audit verify\n  \
        horizons audit verify --data copy      a copied folder\n\n\
        Where no server answers and none is named, the folder that `horizons serve` would use is read.\n\
        Exit code 1 when anything does not verify; each finding names topic, partition and index.")]
    Verify {
        /// Read this data folder itself; while a server runs, as of now
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
    /// About this job only; its whole id, as records have it for their key, whether the job is still known or not
    #[arg(long, value_name = "JOB", value_parser = JobId::asked_for)]
    job: Option<JobId>,
    #[command(flatten)]
    page: PageOptions,
    /// Read this data folder itself; while a server runs, as of now
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

const VERIFY_COLUMNS: [(&str, &str); 6] = [
    ("TOPIC", "topic"),
    ("PARTITION", "partition"),
    ("ENTRIES", "entries_total"),
    ("RESULT", "result"),
    ("FINDINGS", "findings_total"),
    ("ROOT", "root"),
];

/// Runs one of the commands.
pub(super) fn run(command: AuditCommand, context: &Context<'_>) -> Result<Exit, Failure> {
    match command {
        AuditCommand::Query(arguments) => query(&arguments, context),
        AuditCommand::Verify { data, client } => {
            let source = Source::choose(data.as_deref(), &client, context)?;
            let reports = converse(verify(&source))?;
            print_reports(&reports, Form::from_flag(client.json), context)?;
            let is_intact = reports.iter().all(|report| report.is_intact);
            Ok(if is_intact { Exit::Done } else { Exit::Failed })
        }
    }
}

fn print_reports(reports: &[VerificationReport], form: Form, context: &Context<'_>) -> Result<(), Failure> {
    let mut rows = Vec::with_capacity(reports.len());
    for report in reports {
        let mut row = serde_json::to_value(report).map_err(|error| Failure::new(Exit::Failed, &error))?;
        if let Some(fields) = row.as_object_mut() {
            fields.insert("result".to_owned(), if report.is_intact { "verified" } else { "broken" }.into());
        }
        rows.push(row);
    }
    with_output(form, context, |output| {
        output.rows(&VERIFY_COLUMNS, &rows)?;
        if form == Form::Json {
            return Ok(());
        }
        let findings =
            reports.iter().flat_map(|report| report.findings.iter().map(move |finding| (report, finding)));
        for (report, finding) in findings {
            let kind = serde_json::to_value(finding.tampering).unwrap_or_default();
            let kind = kind.as_str().unwrap_or_default();
            output.line(&format!(
                "{} index {}: {kind}: {}",
                report.topic_partition,
                finding.index,
                shown(&finding.detail)
            ))?;
        }
        Ok(())
    })
}

fn query(arguments: &QueryArguments, context: &Context<'_>) -> Result<Exit, Failure> {
    let client = &arguments.client;
    let opened = match Source::choose(arguments.data.as_deref(), client, context)? {
        Source::Store(opened) => opened,
        Source::Server(server) => {
            let call = Call::get("/audit/entries")
                .query("topic", arguments.topic)
                .query("partition", arguments.partition)
                .query("job", arguments.job.as_ref())
                .query("limit", Some(arguments.page.limit))
                .query("cursor", arguments.page.cursor.as_ref());
            let answer = converse(async { Ok(server.call(call).await?) })?;
            return print_page(client, context, &COLUMNS, &answer);
        }
    };
    let filter = AuditFilter {
        topic: arguments.topic,
        partition: arguments.partition,
        generation: None,
        job_id: arguments.job.clone(),
        after: arguments.page.cursor.as_deref().map(parse_position).transpose()?,
        limit: usize::try_from(arguments.page.limit).unwrap_or(usize::MAX),
    };
    let page =
        converse(async { opened.store.audit_entries(filter).await.map_err(|error| store_failure(&error)) })?;
    let rows: Vec<Value> = page.entries.iter().map(entry_to_json).collect();
    with_output(Form::from_flag(client.json), context, |output| output.rows(&COLUMNS, &rows))?;
    if let Some(next) = page.next {
        hint(&format!("more: --cursor {}:{}:{}", next.topic_partition, next.generation, next.index));
    }
    Ok(Exit::Done)
}

/// Reads a cursor of a data folder: `TOPIC-PARTITION:GENERATION:INDEX`.
fn parse_position(cursor: &str) -> Result<AuditPosition, Failure> {
    let parts = || {
        let (place, index) = cursor.rsplit_once(':')?;
        let (lane, generation) = place.rsplit_once(':')?;
        let generation = Generation(generation.parse().ok()?);
        let (topic, partition) = lane.rsplit_once('-')?;
        let topic_partition = TopicPartition {
            topic: Topic::parse(topic).ok()?,
            partition: Partition(partition.parse().ok()?),
        };
        Some(AuditPosition { topic_partition, generation, index: index.parse().ok()? })
    };
    parts().ok_or_else(|| {
        let message =
            format!("failed to read `--cursor`: wanted `TOPIC-PARTITION:GENERATION:INDEX`, got `{cursor}`");
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

/// Entries of one page while verifying.
const VERIFY_PAGE: usize = 500;

/// Recomputes every log up to the size that it had when the verification began.
async fn verify(source: &Source) -> Result<Vec<VerificationReport>, Failure> {
    let logs = source.logs().await?;
    let mut reports = Vec::with_capacity(logs.len());
    for log in logs {
        let verifier = LogVerifier::new(log.log_id.clone(), log.topic_partition);
        reports.push(verify_log(source, &log, verifier).await?);
    }
    Ok(reports)
}

async fn verify_log(
    source: &Source,
    log: &StoredAuditLog,
    mut verifier: LogVerifier,
) -> Result<VerificationReport, Failure> {
    let state = &log.state;
    let mut cursor = None;
    loop {
        let (page, next) = source.page(log, cursor.take()).await?;
        // A running server appends meanwhile; where none runs, what lies beyond the state is a finding.
        let is_late = |entry: &StoredAuditEntry| source.is_growing() && entry.position.index >= state.size;
        page.iter().filter(|entry| !is_late(entry)).for_each(|entry| verifier.push(entry));
        match next {
            Some(next) if !page.last().is_some_and(is_late) => cursor = Some(next),
            _ => return Ok(verifier.finish(state)),
        }
    }
}

impl Source {
    /// Chooses the folder that is named, else the server; else, where no server answers and nobody named one, the
    /// folder that `horizons serve` would use.
    fn choose(data: Option<&Path>, options: &ClientOptions, context: &Context<'_>) -> Result<Self, Failure> {
        if let Some(folder) = data {
            return Ok(Source::Store((context.hooks.open_store)(folder)?));
        }
        let server = Client::new(options, context)?;
        if options.named_url(context).is_some() {
            return Ok(Source::Server(server));
        }
        let alive = converse(async { Ok(server.call(Call::get("/live")).await) })?;
        let Err(away @ ClientError::Connect { .. }) = alive else { return Ok(Source::Server(server)) };
        let Ok(loaded) = options.config.load(context) else { return Err(away.into()) };
        let store = loaded.config.store;
        if store.engine != StoreEngine::Sqlite || !store.folder.is_dir() {
            return Err(away.into());
        }
        let opened = (context.hooks.open_store)(&store.folder)?;
        hint(&format!("no server answers: this is read from the folder `{}`", store.folder.display()));
        Ok(Source::Store(opened))
    }

    /// Tells whether logs may grow while they are read.
    const fn is_growing(&self) -> bool {
        matches!(self, Source::Server(_))
    }

    async fn logs(&self) -> Result<Vec<StoredAuditLog>, Failure> {
        match self {
            Source::Store(opened) => opened.store.audit_logs().await.map_err(|error| store_failure(&error)),
            Source::Server(client) => {
                let path = "/audit/logs";
                let answer = client.call(Call::get(path)).await?;
                let foreign = |error: JsonFieldError| client.foreign(path, error.to_string());
                let mut logs = Vec::new();
                for row in answer.rows() {
                    logs.push(log_from_json(&row).map_err(foreign)?);
                }
                Ok(logs)
            }
        }
    }

    async fn page(
        &self,
        log: &StoredAuditLog,
        cursor: Option<Cursor>,
    ) -> Result<(Vec<StoredAuditEntry>, Option<Cursor>), Failure> {
        let (topic_partition, generation) = (log.topic_partition, log.generation);
        match self {
            Source::Store(opened) => {
                let filter = AuditFilter {
                    topic: Some(topic_partition.topic),
                    partition: Some(topic_partition.partition.0),
                    generation: Some(generation),
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
                    .query("generation", Some(generation))
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

#[cfg(test)]
mod tests;
