//! What happened, read back from the store, and whether it adds up.

use std::collections::BTreeMap;
use std::sync::Arc;

use horizons_actors::auditor::verify::VerificationReport;
use horizons_actors::event::JobStatus;
use horizons_actors::ids::{Group, JobId, LaneKey, Offset, Topic, TopicPartition};
use horizons_actors::ports::query::{QueryStore, StoredDeadLetter, StoredParkedKey};
use horizons_actors::ports::store::{JobRow, StoreError};
use horizons_actors::state::JobView;

use super::Role;
use crate::app::Running;
use crate::app::audit::verify_all;
use crate::app::kafka::kafka_config;
use crate::app::topics;
use crate::config::{Config, EventLogKind};
use crate::exit::{Exit, Failure};
use crate::kafka::topics::TopicAdmin;

/// More of anything than a demonstration makes.
const ALL: usize = 10_000;

fn away(error: StoreError) -> Failure {
    Failure::new(Exit::Failed, &error)
}

/// Gives the groups that follow a topic.
pub(super) fn followers(topic: Topic) -> Vec<Group> {
    match topic {
        Topic::JobLifecycle => vec![Group::audit_trail(), Group::jobs(), Group::job_metrics()],
        Topic::JobMetrics => vec![Group::audit_trail(), Group::job_metrics()],
        Topic::Notifications | Topic::AuditTrail | Topic::SystemHealth => vec![Group::audit_trail()],
    }
}

/// Counts the records that some group has not answered yet.
pub(super) async fn records_behind(
    running: &Running,
    ends: &[(TopicPartition, Offset)],
) -> Result<u64, Failure> {
    let progress = running.store.progress().await.map_err(away)?;
    let next: BTreeMap<LaneKey, Offset> =
        progress.into_iter().filter_map(|lane| Some((lane.lane, lane.next?))).collect();
    let mut behind = 0;
    for (partition, end) in ends {
        for group in followers(partition.topic) {
            let lane = LaneKey { group, topic_partition: *partition };
            behind += end.0 - next.get(&lane).copied().unwrap_or_default().0.min(end.0);
        }
    }
    Ok(behind)
}

/// One job after its end.
pub(super) struct JobFacts {
    pub(super) role: Role,
    pub(super) row: Option<JobRow>,
    pub(super) view: Option<JobView>,
    /// The sequences of its steps, in order.
    pub(super) steps: Vec<u64>,
    /// Samples in its aggregates, and whether each attempt has its totals.
    pub(super) samples: u64,
    pub(super) has_totals: bool,
}

/// Everything that the report tells.
pub(super) struct Facts {
    pub(super) jobs: BTreeMap<JobId, JobFacts>,
    pub(super) events: BTreeMap<Topic, u64>,
    pub(super) dead_letters: Vec<StoredDeadLetter>,
    pub(super) parked: Vec<StoredParkedKey>,
    pub(super) audit: Vec<VerificationReport>,
    pub(super) records_behind: u64,
    /// Records that Kafka holds in the topics of record, by topic, where the log is there.
    pub(super) in_kafka: Option<BTreeMap<Topic, u64>>,
}

impl Facts {
    /// Reads everything back.
    pub(super) async fn read(
        config: &Config,
        running: &Running,
        jobs: &BTreeMap<JobId, Role>,
    ) -> Result<Self, Failure> {
        let queries: Arc<dyn QueryStore> = Arc::clone(&running.store) as _;
        let mut read = BTreeMap::new();
        for (job_id, role) in jobs {
            let aggregates = queries.aggregates(job_id.clone(), ALL).await.map_err(away)?;
            let timeline = queries.timeline(job_id.clone(), ALL).await.map_err(away)?;
            let facts = JobFacts {
                role: *role,
                row: queries.job(job_id.clone()).await.map_err(away)?,
                view: queries.job_view(job_id.clone()).await.map_err(away)?,
                steps: timeline.iter().map(|step| step.sequence.0).collect(),
                samples: aggregates.iter().map(|attempt| attempt.cpu_usage_percent.count).sum(),
                has_totals: aggregates.iter().any(|attempt| attempt.summary.is_some()),
            };
            read.insert(job_id.clone(), facts);
        }
        let ends = queries.log_ends().await.map_err(away)?;
        let mut events = BTreeMap::new();
        for (partition, end) in &ends {
            *events.entry(partition.topic).or_default() += end.0;
        }
        Ok(Self {
            jobs: read,
            events,
            dead_letters: queries.dead_letters(None, None, ALL).await.map_err(away)?.rows,
            parked: queries.parked_keys(ALL).await.map_err(away)?.rows,
            audit: verify_all(&queries).await.map_err(away)?,
            records_behind: records_behind(running, &ends).await?,
            in_kafka: count_in_kafka(config)?,
        })
    }

    /// Counts the jobs by what became of them.
    pub(super) fn by_status(&self) -> BTreeMap<JobStatus, usize> {
        let mut counts = BTreeMap::new();
        for row in self.jobs.values().filter_map(|job| job.row.as_ref()) {
            *counts.entry(row.status).or_default() += 1;
        }
        counts
    }

    /// Compares what happened with what was meant, and the parts of the store with each other.
    pub(super) fn checks(&self) -> Vec<(String, bool)> {
        let all = |holds: &dyn Fn(&JobFacts) -> bool| self.jobs.values().all(holds);
        let is_poisoned = |job: &JobFacts| job.role == Role::IsPoisoned;
        let poisoned: Vec<&JobId> =
            self.jobs.iter().filter(|(_, job)| is_poisoned(job)).map(|(job_id, _)| job_id).collect();
        let events: u64 = self.events.values().sum();
        let entries: u64 = self.audit.iter().map(|log| log.entries_total).sum();
        let malformed: u64 = self.audit.iter().map(|log| log.malformed_total).sum();
        let metrics = self.events.get(&Topic::JobMetrics).copied().unwrap_or_default();
        let samples: u64 = self.jobs.values().map(|job| job.samples + u64::from(job.has_totals)).sum();
        let parked_groups = |key: &StoredParkedKey| {
            poisoned.iter().any(|job_id| key.key == job_id.as_str().as_bytes())
                && key.reason == "malformed_bytes"
        };
        let mut checks = vec![
            (
                "every job ended as it was meant to".to_owned(),
                all(&|job| job.row.as_ref().is_some_and(|row| row.status == job.role.outcome())),
            ),
            (
                "the jobs group sees every job as the orchestrator does".to_owned(),
                all(&|job| match (&job.row, &job.view) {
                    (Some(row), Some(view)) => is_poisoned(job) || row.status == view.status,
                    _ => false,
                }),
            ),
            (
                "every job's steps are applied once, in order".to_owned(),
                all(&|job| {
                    let applied = u64::try_from(job.steps.len()).unwrap_or(u64::MAX);
                    let last = job.row.as_ref().map_or(0, |row| row.lifecycle_sequence.0);
                    job.steps.iter().copied().eq(1..=applied) && (is_poisoned(job) || applied == last)
                }),
            ),
            ("every group applied the whole log".to_owned(), self.records_behind == 0),
            ("every metrics event is in an aggregate, once".to_owned(), samples == metrics),
            ("every event has one audit entry".to_owned(), events == entries),
            (
                "the audit trail verifies".to_owned(),
                !self.audit.is_empty() && self.audit.iter().all(|log| log.is_intact),
            ),
            ("the poison event is in the audit trail, marked".to_owned(), malformed == 1),
            (
                "the poison event is dead-lettered and parks its job alone".to_owned(),
                self.dead_letters.len() == 2
                    && self.parked.len() == 2
                    && self.parked.iter().all(parked_groups),
            ),
        ];
        if let Some(in_kafka) = &self.in_kafka {
            checks.push(("every event is in Kafka, once".to_owned(), *in_kafka == self.events));
        }
        checks
    }
}

/// Asks the brokers how many records each topic of record holds; topics without any are left out.
fn count_in_kafka(config: &Config) -> Result<Option<BTreeMap<Topic, u64>>, Failure> {
    if config.event_log == EventLogKind::Embedded {
        return Ok(None);
    }
    let admin = TopicAdmin::new(kafka_config(config)).map_err(topics::failure)?;
    let partitions: Vec<TopicPartition> = Topic::ALL.into_iter().flat_map(Topic::all_partitions).collect();
    let mut counts = BTreeMap::new();
    for (partition, end) in admin.ends(&partitions).map_err(topics::failure)? {
        if end.0 > 0 {
            *counts.entry(partition.topic).or_default() += end.0;
        }
    }
    Ok(Some(counts))
}
