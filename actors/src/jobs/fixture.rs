//! Objects with sensible defaults for the tests of the jobs group.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use uuid::Uuid;

use crate::clock::Timestamp;
use crate::effect::{Effects, Timer};
use crate::event::{
    Event, JobCancelled, JobCompleted, JobFailed, JobQueued, JobRunning, JobStatus, JobStatusChanged,
    JobSubmitted, Payload, TaccSystem,
};
use crate::ids::{
    AgentName, Attempt, CorrelationId, DatasetId, EventId, JobId, LaneKey, LogId, Offset, Partition,
    SchedulerJobId, Sequence, TopicPartition, UserId,
};
use crate::lane::behaviour::{Applied, Behaviour, Entry, Notice, Verdict, Workspace};
use crate::record::{Headers, LogRecord, TimestampType};
use crate::state::{JobOrigin, JobView, LifecycleOwner, StateKey, StateValue};

pub(crate) fn job(text: &str) -> JobId {
    JobId::parse(text).expect("a job id")
}

pub(crate) fn user() -> UserId {
    UserId::parse("ada").expect("a user id")
}

/// Makes the id of an event out of job and sequence, so that a test can say whose it is.
pub(crate) fn event_id(job_id: &JobId, sequence: u64) -> EventId {
    let mut bytes = [0_u8; 16];
    for (index, byte) in job_id.as_str().bytes().enumerate() {
        bytes[index % 8] ^= byte.rotate_left(u32::try_from(index / 8 % 8).expect("below 8"));
    }
    bytes[8..].copy_from_slice(&sequence.to_be_bytes());
    EventId(Uuid::from_bytes(bytes))
}

/// Gives an event time that tells the sequence.
pub(crate) fn at(sequence: u64) -> Timestamp {
    Timestamp::from_millis(1_000 * i64::try_from(sequence).expect("a small sequence"))
}

pub(crate) fn event(job_id: &JobId, sequence: u64, payload: Payload) -> Event {
    Event {
        event_id: event_id(job_id, sequence),
        timestamp: at(sequence),
        correlation_id: CorrelationId(Uuid::nil()),
        user_id: user(),
        job_id: Some(job_id.clone()),
        sequence: Some(Sequence(sequence)),
        payload,
    }
}

pub(crate) fn changed(
    job_id: &JobId,
    sequence: u64,
    previous: JobStatus,
    current: JobStatus,
    attempt: u32,
    will_retry: bool,
) -> Event {
    let payload = Payload::JobStatusChanged(JobStatusChanged {
        previous_status: previous,
        current_status: current,
        status_changed_timestamp: at(sequence),
        attempt: Attempt(attempt),
        will_retry,
    });
    event(job_id, sequence, payload)
}

/// Makes the event that a status has as its own.
pub(crate) fn typed(
    job_id: &JobId,
    sequence: u64,
    status: JobStatus,
    attempt: u32,
    will_retry: bool,
) -> Event {
    let (at, attempt) = (at(sequence), Attempt(attempt));
    let payload = match status {
        JobStatus::Submitted => Payload::JobSubmitted(JobSubmitted {
            agent: AgentName::parse("calibrate").expect("an agent"),
            dataset_id: DatasetId::parse("vla-1").expect("a data set"),
            parameters: BTreeMap::new(),
            json_parameters: BTreeSet::new(),
            tacc_system: TaccSystem::Local,
        }),
        JobStatus::Queued => Payload::JobQueued(JobQueued {
            tac_job_id: SchedulerJobId::parse("slurm-1").expect("a scheduler id"),
            queued_timestamp: at,
            attempt,
        }),
        JobStatus::Running => Payload::JobRunning(JobRunning { running_timestamp: at, attempt }),
        JobStatus::Completed => Payload::JobCompleted(JobCompleted {
            execution_time_seconds: 1.5,
            completion_timestamp: at,
            attempt,
        }),
        JobStatus::Failed => Payload::JobFailed(JobFailed {
            error_code: "exit_code".to_owned(),
            error_message: "exit code 3".to_owned(),
            failure_timestamp: at,
            attempt,
            will_retry,
        }),
        JobStatus::Cancelled => Payload::JobCancelled(JobCancelled {
            cancelled_by: user(),
            cancellation_reason: "not needed".to_owned(),
            cancellation_timestamp: at,
            attempt,
        }),
    };
    event(job_id, sequence, payload)
}

/// Makes the pair of a transition, the first with this sequence.
pub(crate) fn pair(
    job_id: &JobId,
    sequence: u64,
    previous: JobStatus,
    current: JobStatus,
    attempt: u32,
    will_retry: bool,
) -> [Event; 2] {
    [
        changed(job_id, sequence, previous, current, attempt, will_retry),
        typed(job_id, sequence + 1, current, attempt, will_retry),
    ]
}

pub(crate) fn view(job_id: &str, status: JobStatus) -> JobView {
    JobView {
        job_id: job(job_id),
        origin: JobOrigin::Owned,
        user_id: user(),
        agent: None,
        tacc_system: None,
        status,
        attempt: Attempt(1),
        will_retry: false,
        is_confirmed: true,
        last_sequence: Sequence(1),
        last_event_id: event_id(&job(job_id), 1),
        submitted_at: at(1),
        status_since: at(1),
        updated_at: at(1),
    }
}

/// One lane over rows in memory: loads only what a behaviour announces, and keeps all it writes.
pub(crate) struct Rows<B> {
    behaviour: B,
    log_id: LogId,
    lane: LaneKey,
    next: Offset,
    pub(crate) now: Timestamp,
    pub(crate) rows: HashMap<StateKey, StateValue>,
    /// The effects of all batches, in order.
    pub(crate) committed: Vec<Effects>,
    pub(crate) notices: Vec<Notice>,
}

impl<B: Behaviour> Rows<B> {
    pub(crate) fn new(behaviour: B) -> Self {
        let topic = behaviour.topics()[0];
        let topic_partition = TopicPartition { topic, partition: Partition(0) };
        let lane = LaneKey { group: behaviour.group(), topic_partition };
        let log_id = LogId::parse("log").expect("a log id");
        Self {
            behaviour,
            log_id,
            lane,
            next: Offset(0),
            now: at(1_000),
            rows: HashMap::new(),
            committed: Vec::new(),
            notices: Vec::new(),
        }
    }

    /// Remembers events as the orchestrator's own, as its transaction does.
    pub(crate) fn own(&mut self, events: &[Event]) {
        for event in events {
            let key = StateKey::LifecycleOwner(
                event.job_id.clone().expect("a job's event"),
                event.sequence.expect("a job's event"),
            );
            let owner = LifecycleOwner { event_id: Some(event.event_id) };
            self.rows.insert(key, StateValue::LifecycleOwner(owner));
        }
    }

    /// Applies one batch and commits it. Answers the reason of each refusal, nothing for what was applied.
    pub(crate) fn apply(&mut self, events: &[Event]) -> Vec<Option<&'static str>> {
        let entries: Vec<Entry> = events.iter().map(|event| self.entry(event)).collect();
        let mut keys = Vec::new();
        for entry in &entries {
            self.behaviour.keys(entry, &mut keys);
        }
        let loaded = self.load(&keys);
        let mut work = Workspace::new(&self.log_id, &self.lane, self.now, &loaded);
        let answers = entries
            .iter()
            .map(|entry| match self.behaviour.apply(entry, &mut work) {
                Applied::Applied => None,
                Applied::Refused { reason, .. } => Some(reason),
            })
            .collect();
        self.behaviour.finish(&mut work);
        let (effects, notices) = work.finish();
        self.commit(effects, notices);
        answers
    }

    /// Applies events in batches of these sizes, over and over.
    pub(crate) fn apply_in_batches(
        &mut self,
        events: &[Event],
        sizes: &[usize],
    ) -> Vec<Option<&'static str>> {
        let mut answers = Vec::new();
        let mut rest = events;
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (batch, after) = rest.split_at((*size).min(rest.len()));
            answers.extend(self.apply(batch));
            rest = after;
        }
        answers
    }

    /// Fires a timer and commits what it did.
    pub(crate) fn tick(&mut self, timer: &Timer) {
        let mut keys = Vec::new();
        self.behaviour.timer_keys(timer, &mut keys);
        let loaded = self.load(&keys);
        let mut work = Workspace::new(&self.log_id, &self.lane, self.now, &loaded);
        self.behaviour.tick(timer, &mut work);
        let (effects, notices) = work.finish();
        self.commit(effects, notices);
    }

    pub(crate) fn view(&self, job_id: &JobId) -> Option<&JobView> {
        match self.rows.get(&StateKey::JobView(job_id.clone())) {
            Some(StateValue::JobView(view)) => Some(view),
            _ => None,
        }
    }

    fn entry(&mut self, event: &Event) -> Entry {
        let offset = self.next;
        self.next = offset.following();
        let record = LogRecord {
            offset,
            timestamp: event.timestamp,
            timestamp_type: TimestampType::CreateTime,
            key: event.partition_key().map(|key| key.to_owned().into()),
            headers: Headers::none(),
            payload: None,
        };
        Entry { record, verdict: Verdict::Event(event.clone()) }
    }

    fn load(&self, keys: &[StateKey]) -> HashMap<StateKey, StateValue> {
        keys.iter().filter_map(|key| Some((key.clone(), self.rows.get(key)?.clone()))).collect()
    }

    fn commit(&mut self, effects: Effects, notices: Vec<Notice>) {
        self.rows.extend(effects.states.iter().cloned());
        self.committed.push(effects);
        self.notices.extend(notices);
    }
}
