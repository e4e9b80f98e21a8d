//! The payloads field by field, for the reader in one pass.
//!
//! Promises the names, defaults and forms of [`super::super::decode`]; a name that it does not know refuses
//! the payload. The compiler holds the fields against those of the types they are read into.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer};
use serde_json::{Map, Value};

use super::{Free, Text, Texts, parsed};
use crate::clock::Timestamp;
use crate::event::decode::ATTEMPT_DEFAULT;
use crate::event::fields::wire_time;
use crate::event::{
    AuditActionRecorded, JobCancelled, JobCompleted, JobFailed, JobMetricsRecorded, JobQueued, JobRunning,
    JobStatus, JobStatusChanged, JobSubmitted, NotificationChannel, NotificationOutcome, NotificationSent,
    SystemHealthCheck, TaccSystem,
};
use crate::ids::{AgentName, Attempt, DatasetId, IdError, ResourceId, SchedulerJobId, UserId};

fn id<'de, D: Deserializer<'de>, T: FromStr<Err = IdError>>(deserializer: D) -> Result<T, D::Error> {
    Text(parsed).deserialize(deserializer)
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    Text(wire_time).deserialize(deserializer)
}

fn free_object<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map<String, Value>, D::Error> {
    deserializer.deserialize_map(Free(PhantomData::<Map<String, Value>>))
}

fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    deserializer.deserialize_map(Texts)
}

fn names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn default_attempt() -> Attempt {
    Attempt(ATTEMPT_DEFAULT)
}

fn attempt<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Attempt, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_else(default_attempt))
}

fn is_true<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(false))
}

fn status<'de, D: Deserializer<'de>>(deserializer: D) -> Result<JobStatus, D::Error> {
    Text(JobStatus::from_name).deserialize(deserializer)
}

fn system<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TaccSystem, D::Error> {
    Text(TaccSystem::from_name).deserialize(deserializer)
}

fn channel<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NotificationChannel, D::Error> {
    Text(NotificationChannel::from_name).deserialize(deserializer)
}

fn outcome<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NotificationOutcome, D::Error> {
    Text(NotificationOutcome::from_name).deserialize(deserializer)
}

#[derive(Deserialize)]
#[serde(remote = "JobSubmitted", deny_unknown_fields)]
pub(super) struct JobSubmittedFields {
    #[serde(deserialize_with = "id")]
    agent: AgentName,
    #[serde(deserialize_with = "id")]
    dataset_id: DatasetId,
    #[serde(deserialize_with = "texts")]
    parameters: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "names")]
    json_parameters: BTreeSet<String>,
    #[serde(deserialize_with = "system")]
    tacc_system: TaccSystem,
}

#[derive(Deserialize)]
#[serde(remote = "JobQueued", deny_unknown_fields)]
pub(super) struct JobQueuedFields {
    #[serde(deserialize_with = "id")]
    tac_job_id: SchedulerJobId,
    #[serde(deserialize_with = "time")]
    queued_timestamp: Timestamp,
    #[serde(default = "default_attempt", deserialize_with = "attempt")]
    attempt: Attempt,
}

#[derive(Deserialize)]
#[serde(remote = "JobRunning", deny_unknown_fields)]
pub(super) struct JobRunningFields {
    #[serde(deserialize_with = "time")]
    running_timestamp: Timestamp,
    #[serde(default = "default_attempt", deserialize_with = "attempt")]
    attempt: Attempt,
}

#[derive(Deserialize)]
#[serde(remote = "JobStatusChanged", deny_unknown_fields)]
pub(super) struct JobStatusChangedFields {
    #[serde(deserialize_with = "status")]
    previous_status: JobStatus,
    #[serde(deserialize_with = "status")]
    current_status: JobStatus,
    #[serde(deserialize_with = "time")]
    status_changed_timestamp: Timestamp,
    #[serde(default = "default_attempt", deserialize_with = "attempt")]
    attempt: Attempt,
    #[serde(default, deserialize_with = "is_true")]
    will_retry: bool,
}

#[derive(Deserialize)]
#[serde(remote = "JobCompleted", deny_unknown_fields)]
pub(super) struct JobCompletedFields {
    execution_time_seconds: f64,
    #[serde(deserialize_with = "time")]
    completion_timestamp: Timestamp,
    #[serde(default = "default_attempt", deserialize_with = "attempt")]
    attempt: Attempt,
}

#[derive(Deserialize)]
#[serde(remote = "JobFailed", deny_unknown_fields)]
pub(super) struct JobFailedFields {
    error_code: String,
    error_message: String,
    #[serde(deserialize_with = "time")]
    failure_timestamp: Timestamp,
    #[serde(default = "default_attempt", deserialize_with = "attempt")]
    attempt: Attempt,
    #[serde(default, deserialize_with = "is_true")]
    will_retry: bool,
}

#[derive(Deserialize)]
#[serde(remote = "JobCancelled", deny_unknown_fields)]
pub(super) struct JobCancelledFields {
    #[serde(deserialize_with = "id")]
    cancelled_by: UserId,
    cancellation_reason: String,
    #[serde(deserialize_with = "time")]
    cancellation_timestamp: Timestamp,
    #[serde(default = "default_attempt", deserialize_with = "attempt")]
    attempt: Attempt,
}

#[derive(Deserialize)]
#[serde(remote = "JobMetricsRecorded", deny_unknown_fields)]
pub(super) struct JobMetricsRecordedFields {
    cpu_usage_percent: f64,
    memory_usage_mb: f64,
    io_operations: u64,
    execution_time_seconds: f64,
    #[serde(default = "default_attempt", deserialize_with = "attempt")]
    attempt: Attempt,
    #[serde(default, deserialize_with = "is_true")]
    summary: bool,
}

#[derive(Deserialize)]
#[serde(remote = "NotificationSent", deny_unknown_fields)]
pub(super) struct NotificationSentFields {
    #[serde(deserialize_with = "channel")]
    channel: NotificationChannel,
    recipient: String,
    #[serde(deserialize_with = "outcome")]
    outcome: NotificationOutcome,
}

#[derive(Deserialize)]
#[serde(remote = "AuditActionRecorded", deny_unknown_fields)]
pub(super) struct AuditActionRecordedFields {
    action: String,
    #[serde(deserialize_with = "id")]
    resource_id: ResourceId,
    #[serde(deserialize_with = "id")]
    user_id: UserId,
    #[serde(deserialize_with = "free_object")]
    changes: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(remote = "SystemHealthCheck", deny_unknown_fields)]
pub(super) struct SystemHealthCheckFields {
    broker_count: u32,
    topic_count: u32,
    consumer_lag: u64,
    error_rate: f64,
}
