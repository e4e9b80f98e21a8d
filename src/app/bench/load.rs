//! The events that the benchmark writes into the log.
//!
//! Promises real events through the real encoder: lives of jobs, many at a time, each event with its pair and
//! its numbers as the orchestrator writes them; the same events on every run but for their times.

use std::collections::BTreeSet;

use bytes::Bytes;
use horizons_actors::clock::{Randomness, Timestamp};
use horizons_actors::event::{
    EncodeError, Encoding, Event, JobCompleted, JobMetricsRecorded, JobQueued, JobRunning, JobStatus,
    JobStatusChanged, JobSubmitted, Payload, TaccSystem, encode, new_correlation_id, new_event_id,
    new_job_id,
};
use horizons_actors::ids::{
    AgentName, Attempt, CorrelationId, DatasetId, JobId, SchedulerJobId, Sequence, UserId,
};
use horizons_actors::record::OutgoingRecord;

/// Jobs that live at the same time.
const JOBS_AT_ONCE: usize = 64;

/// Users that the jobs belong to.
const USERS: u64 = 20;

/// The seed of every run.
const SEED: u64 = 0x5EED_0FBE;

/// Microseconds between two events.
const EVENT_GAP_MICROS: i64 = 100;

/// What a life consists of, in order; the second number tells which sample or status it is about.
const LIFE: [Step; 12] = [
    Step::Submitted,
    Step::Changed(JobStatus::Submitted, JobStatus::Queued),
    Step::Queued,
    Step::Changed(JobStatus::Queued, JobStatus::Running),
    Step::Running,
    Step::Sample,
    Step::Sample,
    Step::Sample,
    Step::Sample,
    Step::Summary,
    Step::Changed(JobStatus::Running, JobStatus::Completed),
    Step::Completed,
];

#[derive(Debug, Clone, Copy)]
enum Step {
    Submitted,
    Changed(JobStatus, JobStatus),
    Queued,
    Running,
    Sample,
    Summary,
    Completed,
}

/// Random bits that are the same on every run (splitmix64).
#[derive(Debug, Default)]
struct Seeded(std::sync::atomic::AtomicU64);

/// What splitmix64 adds for each draw.
const GOLDEN_GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

impl Randomness for Seeded {
    fn next_u64(&self) -> u64 {
        let state = self.0.fetch_add(GOLDEN_GAMMA, std::sync::atomic::Ordering::Relaxed);
        let mut mixed = state.wrapping_add(SEED);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

/// One of the jobs that live.
struct Life {
    job_id: JobId,
    user_id: UserId,
    correlation_id: CorrelationId,
    steps_done: usize,
    lifecycle: u64,
    metrics: u64,
}

/// Makes events without end.
pub(super) struct Load {
    randomness: Seeded,
    lives: Vec<Life>,
    made: usize,
    now: Timestamp,
    payload_bytes: usize,
}

impl Load {
    /// Begins at a time; payloads that are smaller than `payload_bytes` are filled up.
    pub(super) fn new(start: Timestamp, payload_bytes: usize) -> Self {
        let randomness = Seeded::default();
        let lives = (0..JOBS_AT_ONCE).map(|_| Life::begin(&randomness)).collect();
        Self { randomness, lives, made: 0, now: start, payload_bytes }
    }

    /// Makes the next record.
    ///
    /// *Errors*: when an event breaks its schema or is too large, which depends on `payload_bytes`.
    pub(super) fn next_record(&mut self) -> Result<OutgoingRecord, EncodeError> {
        let index = self.made % JOBS_AT_ONCE;
        self.made += 1;
        self.now = Timestamp::from_micros(self.now.as_micros() + EVENT_GAP_MICROS);
        let Self { randomness, lives, now, .. } = self;
        let life = lives.get_mut(index).expect("a remainder is below the number of lives");
        if life.steps_done == LIFE.len() {
            *life = Life::begin(randomness);
        }
        let event = life.next_event(randomness, *now);
        let mut record = encode(&event, Encoding::Json)?;
        record.payload = record.payload.map(|payload| filled(&payload, self.payload_bytes));
        Ok(record)
    }
}

impl Life {
    fn begin(randomness: &dyn Randomness) -> Self {
        let user = randomness.next_u64() % USERS;
        Self {
            job_id: new_job_id(randomness),
            user_id: UserId::parse(&format!("astronomer-{user}"))
                .expect("a plain name is a valid identifier"),
            correlation_id: new_correlation_id(randomness),
            steps_done: 0,
            lifecycle: 0,
            metrics: 0,
        }
    }

    fn next_event(&mut self, randomness: &dyn Randomness, now: Timestamp) -> Event {
        let step = LIFE.get(self.steps_done).copied().unwrap_or(Step::Completed);
        self.steps_done += 1;
        let counter = match step {
            Step::Sample | Step::Summary => &mut self.metrics,
            _ => &mut self.lifecycle,
        };
        *counter += 1;
        let sequence = Sequence(*counter);
        Event {
            event_id: new_event_id(randomness),
            timestamp: now,
            correlation_id: self.correlation_id,
            user_id: self.user_id.clone(),
            job_id: Some(self.job_id.clone()),
            sequence: Some(sequence),
            payload: payload(step, randomness, now),
        }
    }
}

fn payload(step: Step, randomness: &dyn Randomness, now: Timestamp) -> Payload {
    let attempt = Attempt(1);
    match step {
        Step::Submitted => Payload::JobSubmitted(JobSubmitted {
            agent: AgentName::parse("calibrate").expect("a plain name is a valid identifier"),
            dataset_id: DatasetId::parse("vlass-2-1").expect("a plain name is a valid identifier"),
            parameters: [("robust", "0.5"), ("channels", "1024")]
                .map(|(name, text)| (name.to_owned(), text.to_owned()))
                .into(),
            json_parameters: BTreeSet::new(),
            tacc_system: TaccSystem::Frontera,
        }),
        Step::Changed(previous_status, current_status) => Payload::JobStatusChanged(JobStatusChanged {
            previous_status,
            current_status,
            status_changed_timestamp: now,
            attempt,
            will_retry: false,
        }),
        Step::Queued => Payload::JobQueued(JobQueued {
            tac_job_id: SchedulerJobId::parse("4711").expect("a plain number is a valid identifier"),
            queued_timestamp: now,
            attempt,
        }),
        Step::Running => Payload::JobRunning(JobRunning { running_timestamp: now, attempt }),
        Step::Sample | Step::Summary => {
            let draw = (randomness.next_u64() % 10_000) as f64;
            Payload::JobMetricsRecorded(JobMetricsRecorded {
                cpu_usage_percent: draw / 100.0,
                memory_usage_mb: draw / 8.0,
                io_operations: randomness.next_u64() % 1_000_000,
                execution_time_seconds: draw / 10.0,
                attempt,
                summary: matches!(step, Step::Summary),
            })
        }
        Step::Completed => Payload::JobCompleted(JobCompleted {
            execution_time_seconds: 1_042.25,
            completion_timestamp: now,
            attempt,
        }),
    }
}

/// Fills an object up to a size with a field that no reader knows, as a newer producer's event has one.
fn filled(payload: &Bytes, wanted: usize) -> Bytes {
    const FIELD: &str = ",\"note\":\"";
    const END: &str = "\"}";
    let Some(object) = payload.strip_suffix(b"}") else { return payload.clone() };
    let Some(fill) = wanted.checked_sub(object.len() + FIELD.len() + END.len()) else {
        return payload.clone();
    };
    let mut bytes = Vec::with_capacity(wanted);
    bytes.extend_from_slice(object);
    bytes.extend_from_slice(FIELD.as_bytes());
    bytes.resize(bytes.len() + fill, b'x');
    bytes.extend_from_slice(END.as_bytes());
    Bytes::from(bytes)
}

#[cfg(test)]
mod tests {
    use horizons_actors::event::decode;
    use horizons_actors::ids::{LogTopic, Offset};
    use horizons_actors::record::{LogRecord, TimestampType};

    use super::*;

    fn decoded(record: OutgoingRecord) -> Event {
        let LogTopic::Record(topic) = record.topic else { panic!("a dead letter: {record:?}") };
        let OutgoingRecord { timestamp, key, headers, payload, .. } = record;
        let timestamp_type = TimestampType::CreateTime;
        decode(topic, &LogRecord { offset: Offset(0), timestamp, timestamp_type, key, headers, payload })
            .unwrap()
    }

    #[test]
    fn load_every_record_is_an_event_of_the_wanted_size() {
        let wanted = 700;
        let mut load = Load::new(Timestamp::from_micros(1_700_000_000_000_000), wanted);

        let records: Vec<_> =
            (0..2 * JOBS_AT_ONCE * LIFE.len()).map(|_| load.next_record().unwrap()).collect();

        assert!(records.iter().all(|record| record.payload.as_ref().unwrap().len() == wanted));
        let completed = records
            .into_iter()
            .map(decoded)
            .filter(|event| matches!(event.payload, Payload::JobCompleted(_)))
            .count();
        assert_eq!(completed, 2 * JOBS_AT_ONCE);
    }

    #[test]
    fn load_small_payload_wanted_keeps_the_event_whole() {
        let mut load = Load::new(Timestamp::from_micros(1_700_000_000_000_000), 64);

        let event = decoded(load.next_record().unwrap());

        assert!(matches!(event.payload, Payload::JobSubmitted(_)));
    }

    #[test]
    fn load_sequences_of_a_job_count_from_one() {
        let mut load = Load::new(Timestamp::from_micros(1_700_000_000_000_000), 64);
        let first_job: Vec<Event> = (0..JOBS_AT_ONCE * LIFE.len())
            .map(|_| decoded(load.next_record().unwrap()))
            .step_by(JOBS_AT_ONCE)
            .collect();

        let sequences: Vec<(u64, bool)> = first_job
            .iter()
            .map(|event| {
                let is_sample = matches!(event.payload, Payload::JobMetricsRecorded(_));
                (event.sequence.unwrap().0, is_sample)
            })
            .collect();

        let lifecycle: Vec<u64> =
            sequences.iter().filter(|(_, is_sample)| !is_sample).map(|(n, _)| *n).collect();
        let metrics: Vec<u64> =
            sequences.iter().filter(|(_, is_sample)| *is_sample).map(|(n, _)| *n).collect();
        assert_eq!(lifecycle, [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(metrics, [1, 2, 3, 4, 5]);
    }
}
