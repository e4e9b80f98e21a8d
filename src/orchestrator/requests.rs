//! What users and operators ask, carried to the store.
//!
//! Promises that a request is answered after its commit, that nothing is stored for one that is refused, and
//! that every act is stored with its audit entry.

use std::future::Future;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use horizons_actors::command::{Command, CommandKind, ParkedKeyId};
use horizons_actors::event::{RECORD_MAX_BYTES, partition_for};
use horizons_actors::ids::{AttemptId, EventId, JobId, LogTopic, Topic};
use horizons_actors::orchestrator::{Decision, Input, Refusal, audit_event};
use horizons_actors::parameters::Parameters;
use horizons_actors::ports::commands::AcceptedGap;
use horizons_actors::ports::scheduler::AttemptSpec;
use horizons_actors::ports::store::{
    AppendedAt, GapAccepted, JobRow, JobWrite, JobWritten, LayoutBegun, ParkedWish, ResumeAnswer, StoreError,
    WishAnswer,
};
use horizons_actors::record::OutgoingRecord;
use serde_json::{Map, Value, json};
use tracing::Instrument;

use super::apply::{Applied, log_change};
use super::verdict::verdict_of;
use super::{Cancelling, ExternalRecord, Orchestrator, OrchestratorError, Shared, Submitted, Verdict, error};

/// How many records one request may append: what fits a transaction that does not hold up others.
pub const APPEND_RECORDS_MAX: usize = 1000;

/// The header that names an event.
const EVENT_ID_HEADER: &str = "event-id";

fn weight_bytes(record: &ExternalRecord) -> usize {
    record.key.as_ref().map_or(0, Bytes::len)
        + record.headers.as_block().len()
        + record.payload.as_ref().map_or(0, Bytes::len)
}

/// Gives the id that chooses the partition of a record without a key.
fn event_id(record: &ExternalRecord) -> Option<EventId> {
    let text = std::str::from_utf8(record.headers.get(EVENT_ID_HEADER)?).ok()?;
    EventId::parse(text).ok()
}

impl Orchestrator {
    /// Submits a job: stores it, then waits a moment for the scheduler's verdict.
    ///
    /// *Errors*: `Invalid` with the field, `KeyReused`, `Busy`, `DiskLimit`; nothing is stored then. After
    /// `Unknown` the job it names may exist; the same idempotency key finds it.
    pub async fn submit(&self, command: Command) -> Result<Submitted, OrchestratorError> {
        let shared = &self.shared;
        let write = match shared.decide(None, &Input::Submit(command))? {
            Decision::Write(write) => *write,
            Decision::Nothing => return Err(OrchestratorError::Broken("a submit without effect".to_owned())),
        };
        let spec = spec_of(&write.row).map_err(|error| shared.store_error(error))?;
        shared.scheduler.check(&spec).map_err(|error| shared.scheduler_error(error))?;

        let job = write.row.clone();
        let mut waiting = shared.verdicts.wait_for(&job.job_id);
        let has_key = write.idempotency.is_some();
        let written = shared.write_submit(write).await;
        match written.map_err(|error| shared.submit_error(error, &job.job_id, has_key))? {
            JobWritten::Written => {
                log_change(None, &job);
                shared.orders_written.notify_one();
                let told = shared.wait(waiting.told()).await;
                let (job, verdict) = told.unwrap_or((job, Verdict::Pending));
                Ok(Submitted { job, is_repeat: false, verdict })
            }
            JobWritten::Repeated(job_id) => {
                drop(waiting);
                self.repeated(job_id).await
            }
            JobWritten::KeyReused(job_id) => Err(OrchestratorError::KeyReused { job_id }),
            JobWritten::Conflict => {
                Err(OrchestratorError::Broken(format!("a new job id `{}` exists already", job.job_id)))
            }
        }
    }

    /// Answers a repeated submit.
    async fn repeated(&self, job_id: JobId) -> Result<Submitted, OrchestratorError> {
        // The place is taken before the row is read: a verdict in between is not missed.
        let mut waiting = self.shared.verdicts.wait_for(&job_id);
        let job = self.job(&job_id).await?;
        let verdict = verdict_of(&job);
        if verdict != Verdict::Pending {
            return Ok(Submitted { job, is_repeat: true, verdict });
        }
        let told = self.shared.wait(waiting.told()).await;
        let (job, verdict) = told.unwrap_or((job, Verdict::Pending));
        Ok(Submitted { job, is_repeat: true, verdict })
    }

    /// Asks for a job's end. Asking again gives the same answer.
    ///
    /// *Errors*: `NotFound`, `Conflict` with the state when the job has ended, `Invalid`, `Busy`, `Unknown`.
    pub async fn cancel(&self, command: Command) -> Result<Cancelling, OrchestratorError> {
        let CommandKind::CancelJob { job_id } = &command.kind else {
            return Err(wrong_kind(&command));
        };
        let (job_id, input) = (job_id.clone(), Input::CancelRequested(command));
        let what = format!("job `{job_id}`");
        // In a task of its own, because a caller who goes away must not cut a turn short between read and write.
        let applied = self.detached(|shared| async move { shared.apply(&job_id, &input).await }).await?;
        let find_out = "ask again: it asks for the same end";
        match applied.map_err(|error| self.shared.act_error(error, find_out))? {
            Applied::Written(job) => {
                self.shared.orders_written.notify_one();
                Ok(Cancelling { job: *job, is_repeat: false })
            }
            Applied::Unchanged(job) => Ok(Cancelling { job: *job, is_repeat: true }),
            Applied::Refused(Refusal::UnknownJob) => Err(OrchestratorError::NotFound { what }),
            Applied::Refused(refusal) => Err(refusal.into()),
        }
    }

    /// Reads a job.
    ///
    /// *Errors*: `NotFound`, `Busy`.
    pub async fn job(&self, job_id: &JobId) -> Result<JobRow, OrchestratorError> {
        let row = self.shared.store.read_job(job_id.clone()).await;
        row.map_err(|error| self.shared.store_error(error))?
            .ok_or_else(|| OrchestratorError::NotFound { what: format!("job `{job_id}`") })
    }

    /// Appends records that somebody else made, byte for byte, with one audit entry. The command says the
    /// topic; key or event id choose the partition.
    ///
    /// *Errors*: `Invalid` with the record's number, `Busy`, `DiskLimit`; nothing is stored then. `Unknown`.
    pub async fn append_records(
        &self,
        command: Command,
        records: Vec<ExternalRecord>,
    ) -> Result<Vec<AppendedAt>, OrchestratorError> {
        let CommandKind::AppendRecord { topic, record_id } = &command.kind else {
            return Err(wrong_kind(&command));
        };
        check_records(&records)?;
        let mut changes = Map::new();
        changes.insert("records".to_owned(), json!(records.len()));
        changes.insert("record_id".to_owned(), json!(record_id));
        let bytes: usize = records.iter().map(weight_bytes).sum();
        changes.insert("record_bytes".to_owned(), json!(bytes));
        let audit = self.shared.audit(&command, changes)?;
        let records = records.into_iter().map(|record| self.shared.outgoing(*topic, record)).collect();

        let appended = self.shared.store.append_records(records, vec![audit]).await;
        let find_out = "look for its records, or append them again: an event whose id was there shortly before \
                        has no second effect";
        appended.map_err(|error| self.shared.act_error(error, find_out))
    }

    /// Stores what an operator wants of a parked key: to release it, or to give its head up.
    ///
    /// *Errors*: `NotFound` when the key is not parked, `NotPossible` when its head was tried too often, `Invalid`,
    /// `Busy`, `Unknown`.
    pub async fn set_parked_wish(&self, command: Command) -> Result<(), OrchestratorError> {
        let (key, wish) = match &command.kind {
            CommandKind::ReleaseKey(key) => (key.clone(), ParkedWish::Release),
            CommandKind::DiscardHead(key) => (key.clone(), ParkedWish::DiscardHead),
            CommandKind::SubmitJob(_)
            | CommandKind::CancelJob { .. }
            | CommandKind::AppendRecord { .. }
            | CommandKind::ResumeLane(_)
            | CommandKind::AdoptLayout(_)
            | CommandKind::AcceptGap(_)
            | CommandKind::SetAsideRecord { .. }
            | CommandKind::SendRecordAgain { .. } => return Err(wrong_kind(&command)),
        };
        let shown = shown_key(&key);
        let mut changes = Map::new();
        changes.insert("key".to_owned(), json!(shown));
        changes.insert("wish".to_owned(), json!(wish.name()));
        let audit = self.shared.audit(&command, changes)?;
        let lane = key.lane.to_string();
        let limit = self.shared.config.release_attempts;
        let what = format!("parked key `{shown}` of `{lane}`");
        match self.shared.store.set_parked_wish(command, key, wish, limit, audit).await {
            Ok(WishAnswer::Stored) => Ok(()),
            Ok(WishAnswer::NotParked) => Err(OrchestratorError::NotFound { what }),
            Ok(WishAnswer::TriedTooOften { attempts }) => {
                let reason = format!(
                    "tried {attempts} times, and {limit} are allowed (`lanes.release_attempts`): discard it, or raise the limit"
                );
                Err(OrchestratorError::NotPossible { what, reason })
            }
            Err(error) => {
                let find_out = match wish {
                    ParkedWish::DiscardHead => {
                        "look at the head of the parked key: a second discard may meet another"
                    }
                    ParkedWish::Release | ParkedWish::Wait => "look at the parked key; asking again is safe",
                };
                Err(self.shared.act_error(error, find_out))
            }
        }
    }

    /// Lets a lane go on that is held.
    ///
    /// *Errors*: `NotFound` when the lane is unknown, `NotPossible` when nothing holds it, `Invalid`, `Busy`,
    /// `Unknown`.
    pub async fn resume_lane(&self, command: Command) -> Result<(), OrchestratorError> {
        let CommandKind::ResumeLane(lane) = &command.kind else {
            return Err(wrong_kind(&command));
        };
        let lane = lane.clone();
        let audit = self.shared.audit(&command, Map::new())?;
        let what = format!("lane `{lane}`");
        match self.shared.store.resume_lane(lane, audit).await {
            Ok(ResumeAnswer::Resumed) => Ok(()),
            Ok(ResumeAnswer::NotHeld) => {
                Err(OrchestratorError::NotPossible { what, reason: "it is not paused".to_owned() })
            }
            Ok(ResumeAnswer::NoLane) => Err(OrchestratorError::NotFound { what }),
            Err(error) => {
                let find_out = "ask again: a lane that goes on already is refused as not paused";
                Err(self.shared.act_error(error, find_out))
            }
        }
    }

    /// Lets a lane go on behind the gap that the command names, as it was shown.
    ///
    /// *Errors*: `NotFound` without an open gap, `Moved` when it is another one by now, `Invalid`, `Busy`;
    /// nothing is stored then. `Unknown`.
    pub async fn accept_gap(&self, command: Command) -> Result<AcceptedGap, OrchestratorError> {
        let CommandKind::AcceptGap(acceptance) = &command.kind else {
            return Err(wrong_kind(&command));
        };
        let acceptance = acceptance.clone();
        let mut changes = Map::new();
        changes.insert("kind".to_owned(), json!(acceptance.kind));
        changes.insert("next".to_owned(), json!(acceptance.next));
        changes.insert("low".to_owned(), json!(acceptance.low));
        changes.insert("remedy".to_owned(), json!(acceptance.kind.remedy()));
        let audit = self.shared.audit(&command, changes)?;
        let lane = acceptance.lane.to_string();
        match self.shared.store.accept_gap(command, acceptance, audit).await {
            Ok(GapAccepted::Accepted { generation, resumes_at }) => {
                Ok(AcceptedGap { generation, resumes_at })
            }
            Ok(GapAccepted::NoGap) => {
                Err(OrchestratorError::NotFound { what: format!("open gap of `{lane}`") })
            }
            Ok(GapAccepted::Changed(gap)) => Err(OrchestratorError::Moved {
                what: format!("gap of `{lane}`"),
                reason: format!(
                    "it is `{}` now, from {} with the low watermark {}",
                    gap.kind.name(),
                    gap.next,
                    gap.low
                ),
            }),
            Err(error) => {
                let find_out = "ask again: a gap that was accepted is not open any more";
                Err(self.shared.act_error(error, find_out))
            }
        }
    }

    /// Begins to let partitions count that were added to a topic, as they were seen; gives how many.
    ///
    /// *Errors*: `Moved` when the layout is another one by now or has them already, `Invalid`, `Busy`; nothing is
    /// stored then. `Unknown`.
    pub async fn begin_layout(&self, command: Command) -> Result<u16, OrchestratorError> {
        let CommandKind::AdoptLayout(adoption) = &command.kind else {
            return Err(wrong_kind(&command));
        };
        let adoption = adoption.clone();
        let mut changes = Map::new();
        changes.insert("partitions".to_owned(), json!(adoption.partitions));
        changes.insert("ends".to_owned(), json!(adoption.ends));
        let audit = self.shared.audit(&command, changes)?;
        let topic = adoption.topic;
        match self.shared.store.begin_layout(adoption, audit).await {
            Ok(LayoutBegun::Begun { partitions }) => Ok(partitions),
            Ok(LayoutBegun::Changed(layout)) => Err(OrchestratorError::Moved {
                what: format!("layout of `{topic}`"),
                reason: format!("it has {} partitions now", layout.partitions()),
            }),
            Err(error) => {
                let find_out = "ask again: what was begun stays as it is, and partitions that count are not adopted twice";
                Err(self.shared.act_error(error, find_out))
            }
        }
    }

    /// Runs work to its end even when the caller goes away.
    async fn detached<F, T>(&self, work: impl FnOnce(Arc<Shared>) -> F) -> Result<T, OrchestratorError>
    where
        F: Future<Output = T> + Send + 'static,
        T: Send + 'static,
    {
        let task = tokio::spawn(work(Arc::clone(&self.shared)).in_current_span());
        task.await.map_err(|error| OrchestratorError::Broken(format!("request handler ended: {error}")))
    }
}

impl Shared {
    /// Writes a new job. When the answer is lost the store is asked whether the job is there; that it is not there
    /// yet tells nothing, as the commit may still be on its way.
    async fn write_submit(&self, write: JobWrite) -> Result<JobWritten, StoreError> {
        let job_id = write.row.job_id.clone();
        match self.store.write_job(write).await {
            Err(StoreError::Unknown(reason)) => match self.store.read_job(job_id).await {
                Ok(Some(_)) => Ok(JobWritten::Written),
                Ok(None) | Err(_) => Err(StoreError::Unknown(reason)),
            },
            answer => answer,
        }
    }

    /// Waits as long as a submit may.
    async fn wait<T>(&self, told: impl Future<Output = Option<T>>) -> Option<T> {
        tokio::time::timeout(self.config.verdict_wait, told).await.ok().flatten()
    }

    pub(super) fn audit(
        &self,
        command: &Command,
        changes: Map<String, Value>,
    ) -> Result<OutgoingRecord, OrchestratorError> {
        let event = audit_event(command, None, changes, &self.context());
        (self.encoder)(&event)
            .map_err(|error| OrchestratorError::Invalid { field: error.field, reason: error.reason })
    }

    fn outgoing(&self, topic: Topic, record: ExternalRecord) -> OutgoingRecord {
        let partition = match &record.key {
            Some(key) => (self.layouts)(topic).home_now(key),
            None => {
                let event_id = event_id(&record).unwrap_or_else(|| EventId(self.randomness.next_uuid()));
                partition_for(topic, None, event_id)
            }
        };
        OutgoingRecord {
            topic: LogTopic::Record(topic),
            partition,
            timestamp: self.clock.now(),
            key: record.key,
            headers: record.headers,
            payload: record.payload,
        }
    }

    /// Takes an error of the store about an act, of which the caller is told how to find out what became of it.
    pub(super) fn act_error(&self, error: StoreError, find_out: &str) -> OrchestratorError {
        match error {
            StoreError::Unknown(reason) => {
                OrchestratorError::Unknown { find_out: find_out.to_owned(), job_id: None, reason }
            }
            error => self.store_error(error),
        }
    }

    fn submit_error(&self, error: StoreError, job_id: &JobId, has_key: bool) -> OrchestratorError {
        let StoreError::Unknown(reason) = error else { return self.store_error(error) };
        let find_out = if has_key {
            format!(
                "repeat it with the same `Idempotency-Key`, which never makes a second job, or look for job `{job_id}`"
            )
        } else {
            format!("look for job `{job_id}`; repeated without an `Idempotency-Key` it makes another job")
        };
        OrchestratorError::Unknown { find_out, job_id: Some(job_id.clone()), reason }
    }

    pub(super) fn store_error(&self, error: StoreError) -> OrchestratorError {
        error::from_store(error, self.config.retry_after)
    }

    fn scheduler_error(&self, error: horizons_actors::ports::scheduler::SchedulerError) -> OrchestratorError {
        error::from_scheduler(error, self.config.retry_after)
    }
}

/// Gives what the scheduler is to run.
pub(super) fn spec_of(row: &JobRow) -> Result<AttemptSpec, StoreError> {
    let parameters = Parameters::from_json(&row.parameters)
        .map_err(|error| StoreError::Broken(format!("parameters of job `{}`: {error}", row.job_id)))?;
    Ok(AttemptSpec {
        id: AttemptId { job_id: row.job_id.clone(), attempt: row.attempt },
        agent: row.agent.clone(),
        dataset_id: row.dataset_id.clone(),
        parameters,
        tacc_system: row.tacc_system,
        user_id: row.user_id.clone(),
        correlation_id: row.correlation_id,
    })
}

fn check_records(records: &[ExternalRecord]) -> Result<(), OrchestratorError> {
    let count = records.len();
    if count == 0 || count > APPEND_RECORDS_MAX {
        let reason = format!("wanted 1..={APPEND_RECORDS_MAX} records, got {count}");
        return Err(OrchestratorError::Invalid { field: "records".to_owned(), reason });
    }
    for (index, record) in records.iter().enumerate() {
        let got = weight_bytes(record);
        if got > RECORD_MAX_BYTES {
            let reason = format!("wanted at most {RECORD_MAX_BYTES} bytes, got {got}");
            return Err(OrchestratorError::Invalid { field: format!("records[{index}]"), reason });
        }
    }
    Ok(())
}

/// Gives a key as text, as base64 where it is none.
fn shown_key(key: &ParkedKeyId) -> String {
    std::str::from_utf8(&key.key).map_or_else(|_| BASE64.encode(&key.key), str::to_owned)
}

pub(super) fn wrong_kind(command: &Command) -> OrchestratorError {
    let reason = format!("`{}` is not asked for here", command.kind.action());
    OrchestratorError::Invalid { field: "kind".to_owned(), reason }
}
