//! What the tests of the decisions share: a job, its commands, its reports, and a store that is one row.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::clock::{Randomness, Timestamp};
use crate::command::{Command, CommandKind, JobRequest, OrderKind, Principal};
use crate::event::{Event, JobStatus, Payload, TaccSystem};
use crate::ids::{
    AgentName, CommandId, CorrelationId, DatasetId, JobId, LogTopic, Partition, SchedulerJobId, UserId,
};
use crate::layout::Layout;
use crate::orchestrator::{Context, Decision, Ended, Input, Refusal, Unencodable, decide};
use crate::parameters::{ParameterValue, Parameters};
use crate::ports::scheduler::{AttemptEnd, AttemptExit, AttemptReport, AttemptSample, AttemptTotals};
use crate::ports::store::{JobExpectation, JobRow, JobWrite};
use crate::record::{Headers, OutgoingRecord};
use crate::state::JobHome;

/// A parameter that the encoder of these tests refuses, as a real one does a record that is too large.
pub(super) const UNENCODABLE_PARAMETER: &str = "unencodable";

/// The time of decisions in these tests; reports lie before it.
pub(super) const NOW: Timestamp = Timestamp::from_millis(100_000);

/// Counts, so that no two ids are the same.
#[derive(Default)]
struct Counter(AtomicU64);

impl Randomness for Counter {
    fn next_u64(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

fn encode(event: &Event) -> Result<OutgoingRecord, Unencodable> {
    if let Payload::JobSubmitted(submitted) = &event.payload
        && submitted.parameters.contains_key(UNENCODABLE_PARAMETER)
    {
        return Err(Unencodable { field: "parameters".to_owned(), reason: "wanted less".to_owned() });
    }
    Ok(OutgoingRecord {
        topic: LogTopic::Record(event.topic()),
        partition: Partition(0),
        timestamp: event.timestamp,
        key: event.partition_key().map(|key| Bytes::copy_from_slice(key.as_bytes())),
        headers: Headers::none(),
        payload: Some(Bytes::from(event.event_id.to_string())),
    })
}

/// One job as a store keeps it, with everything that was published about it.
#[derive(Default)]
pub(super) struct World {
    randomness: Counter,
    pub(super) row: Option<JobRow>,
    pub(super) published: Vec<Event>,
    pub(super) writes: Vec<JobWrite>,
}

impl World {
    /// Gives a world whose job came into `status` by the shortest way.
    pub(super) fn in_status(status: JobStatus) -> Self {
        let mut world = Self::default();
        let inputs = match status {
            JobStatus::Submitted => vec![],
            JobStatus::Queued => vec![accepted()],
            JobStatus::Running => vec![accepted(), started()],
            JobStatus::Completed => vec![accepted(), started(), ended(AttemptExit::Completed)],
            JobStatus::Failed => vec![accepted(), started(), ended(failed_exit())],
            JobStatus::Cancelled => vec![accepted(), started(), cancel(), ended(AttemptExit::Cancelled)],
        };
        world.apply(&submit()).unwrap();
        for input in inputs {
            world.apply(&input).unwrap();
        }
        world
    }

    /// Decides without writing.
    pub(super) fn decide(&self, input: &Input) -> Result<Decision, Refusal> {
        let home = |job_id: &JobId| JobHome::by(job_id, Layout::first_of);
        let context = Context { now: NOW, randomness: &self.randomness, encode: &encode, home: &home };
        decide(self.row.as_ref(), input, &context)
    }

    /// Decides and writes.
    pub(super) fn apply(&mut self, input: &Input) -> Result<(), Refusal> {
        match self.decide(input)? {
            Decision::Nothing => {}
            Decision::Write(write) => assert!(self.write(*write), "the row did not move in between"),
        }
        Ok(())
    }

    /// Writes if the expectation holds, as the store does.
    pub(super) fn write(&mut self, write: JobWrite) -> bool {
        let holds = match (write.expectation, &self.row) {
            (JobExpectation::New, row) => row.is_none(),
            (JobExpectation::Sequences { .. }, None) => false,
            (JobExpectation::Sequences { lifecycle, metrics }, Some(row)) => {
                row.lifecycle_sequence == lifecycle && row.metrics_sequence == metrics
            }
        };
        if holds {
            self.row = Some(write.row.clone());
            self.published.extend(write.events.iter().map(|outgoing| outgoing.event.clone()));
            self.writes.push(write);
        }
        holds
    }

    /// Gives the row.
    pub(super) fn job(&self) -> &JobRow {
        self.row.as_ref().unwrap()
    }

    /// Gives the write of the last input.
    pub(super) fn last(&self) -> &JobWrite {
        self.writes.last().unwrap()
    }

    /// Gives the names of the last write's events.
    pub(super) fn last_event_names(&self) -> Vec<&'static str> {
        self.last().events.iter().map(|outgoing| outgoing.event.payload.event_type().name()).collect()
    }

    /// Gives the kinds of orders that the last write answers.
    pub(super) fn last_answered(&self) -> Vec<OrderKind> {
        self.last().answered.iter().map(|(order, _)| order.kind).collect()
    }
}

pub(super) fn request() -> JobRequest {
    let mut parameters = Parameters::default();
    parameters.insert("niter", ParameterValue::from_json("100").unwrap());
    JobRequest {
        agent: AgentName::parse("imager").unwrap(),
        dataset_id: DatasetId::parse("ngc-1275").unwrap(),
        parameters,
        tacc_system: TaccSystem::Local,
    }
}

pub(super) fn command(kind: CommandKind) -> Command {
    Command {
        command_id: CommandId(uuid::Uuid::from_u128(1)),
        correlation_id: CorrelationId(uuid::Uuid::from_u128(2)),
        principal: Principal { user_id: UserId::parse("ada").unwrap() },
        reason: None,
        idempotency_key: None,
        requested_at: Timestamp::from_millis(90_000),
        kind,
    }
}

pub(super) fn submit() -> Input {
    Input::Submit(command(CommandKind::SubmitJob(request())))
}

/// The id that a world's counter gives its job.
pub(super) fn job_id() -> JobId {
    let world = World::default();
    JobId::parse(&world.randomness.next_uuid().hyphenated().to_string()).unwrap()
}

pub(super) fn cancel_by(user: &str, reason: Option<&str>) -> Input {
    Input::CancelRequested(Command {
        principal: Principal { user_id: UserId::parse(user).unwrap() },
        correlation_id: CorrelationId(uuid::Uuid::from_u128(3)),
        reason: reason.map(str::to_owned),
        ..command(CommandKind::CancelJob { job_id: job_id() })
    })
}

pub(super) fn cancel() -> Input {
    cancel_by("grace", Some("wrong data set"))
}

pub(super) fn report() -> AttemptReport {
    AttemptReport {
        scheduler_job_id: SchedulerJobId::parse("local-1").unwrap(),
        queued_at: Timestamp::from_millis(91_000),
        started_at: None,
        end: None,
        samples: 0,
    }
}

pub(super) fn accepted() -> Input {
    Input::SchedulerAccepted(report())
}

pub(super) fn refused() -> Input {
    Input::SchedulerRefused { field: "dataset_id".to_owned(), reason: "no such file".to_owned() }
}

pub(super) fn started() -> Input {
    Input::Started { started_at: Timestamp::from_millis(92_000) }
}

pub(super) fn sample(index: u64) -> AttemptSample {
    AttemptSample {
        index,
        taken_at: Timestamp::from_millis(92_000),
        cpu_usage_percent: index as f64,
        memory_usage_mb: 12.5,
        io_operations: 7,
        execution_time_seconds: 1.0,
    }
}

pub(super) fn samples(indexes: std::ops::Range<u64>) -> Vec<AttemptSample> {
    indexes.map(sample).collect()
}

pub(super) fn failed_exit() -> AttemptExit {
    AttemptExit::Failed { error_code: "exit_code".to_owned(), error_message: "exit code 3".to_owned() }
}

pub(super) fn end(exit: AttemptExit) -> Ended {
    Ended {
        started_at: Some(Timestamp::from_millis(92_000)),
        end: AttemptEnd {
            ended_at: Timestamp::from_millis(95_500),
            exit,
            totals: Some(AttemptTotals {
                cpu_usage_percent: 80.0,
                memory_usage_mb: 64.0,
                io_operations: 9,
                execution_time_seconds: 3.5,
            }),
        },
        samples_taken: 0,
        samples: Vec::new(),
    }
}

/// The end of an attempt that never started.
pub(super) fn end_unstarted(exit: AttemptExit) -> Ended {
    let mut ended = end(exit);
    ended.started_at = None;
    ended.end.totals = None;
    ended
}

pub(super) fn ended(exit: AttemptExit) -> Input {
    Input::Ended(end(exit))
}
