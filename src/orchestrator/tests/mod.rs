//! The orchestrator over a store in memory and a scheduler in the test's hands, under a paused clock.

mod cancel;
mod crash;
mod operators;
mod progress;
mod sqlite;
mod starving;
mod submit;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use horizons_actors::clock::{Clock, Timestamp};
use horizons_actors::command::{Command, CommandKind, JobRequest, Principal};
use horizons_actors::event::{Event, JobStatus, Payload, TaccSystem, decode};
use horizons_actors::ids::{
    AgentName, Attempt, AttemptId, CommandId, CorrelationId, DatasetId, JobId, LogTopic, Sequence, Topic,
    UserId,
};
use horizons_actors::parameters::Parameters;
use horizons_actors::ports::scheduler::Scheduler;
use horizons_actors::ports::store::{JobRow, JobStore};
use horizons_actors::testkit::{FakeScheduler, ManualClock, MemoryStore, SeededRandomness};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::{Orchestrator, OrchestratorConfig};

/// How long a test waits at most for what it expects (tokio's time, so it costs nothing).
const LIMIT: Duration = Duration::from_secs(600);

/// Everything around an orchestrator, and the orchestrator.
struct House {
    store: MemoryStore,
    scheduler: FakeScheduler,
    outer_scheduler: Arc<dyn Scheduler>,
    clock: Arc<ManualClock>,
    randomness: Arc<SeededRandomness>,
    orchestrator: Orchestrator,
    driver: Option<JoinHandle<()>>,
}

impl House {
    /// Makes a house whose driver does not run yet.
    fn idle() -> Self {
        Self::with_scheduler(|scheduler| Arc::new(scheduler))
    }

    /// Makes a house whose driver runs.
    fn driven() -> Self {
        let mut house = Self::idle();
        house.start_driver();
        house
    }

    /// Makes an idle house whose orchestrator sees the scheduler through something else.
    fn with_scheduler(wrap: impl FnOnce(FakeScheduler) -> Arc<dyn Scheduler>) -> Self {
        let clock = Arc::new(ManualClock::following_tokio(Timestamp::from_millis(1_700_000_000_000)));
        let store = MemoryStore::new();
        let scheduler = FakeScheduler::new(Arc::clone(&clock) as Arc<dyn Clock>);
        let outer_scheduler = wrap(scheduler.clone());
        let randomness = Arc::new(SeededRandomness::new(7));
        let orchestrator = orchestrator(&store, &outer_scheduler, &clock, &randomness);
        Self { store, scheduler, outer_scheduler, clock, randomness, orchestrator, driver: None }
    }

    fn start_driver(&mut self) {
        let run = self.orchestrator.clone().run(std::future::pending());
        self.driver = Some(tokio::spawn(run));
    }

    /// Kills the driver in whatever it does, and everything that is only in memory with it.
    async fn crash(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.abort();
            assert!(driver.await.unwrap_err().is_cancelled());
        }
        self.orchestrator = orchestrator(&self.store, &self.outer_scheduler, &self.clock, &self.randomness);
    }

    /// Kills the driver and starts another one.
    async fn restart(&mut self) {
        self.crash().await;
        self.start_driver();
    }

    /// Submits a job and gives its attempt, whatever the verdict.
    async fn submit(&self) -> AttemptId {
        let submitted = self.orchestrator.submit(submit_command()).await.unwrap();
        attempt_of(&submitted.job.job_id)
    }

    /// Submits a job and starts it at the scheduler.
    async fn submit_running(&self) -> AttemptId {
        let id = self.submit().await;
        self.scheduler.start(&id).unwrap();
        self.reach(&id, JobStatus::Running).await;
        id
    }

    async fn row(&self, id: &AttemptId) -> JobRow {
        self.store.read_job(id.job_id.clone()).await.unwrap().unwrap()
    }

    /// Waits until the job has a status.
    async fn reach(&self, id: &AttemptId, status: JobStatus) -> JobRow {
        let reached = async {
            loop {
                // A store that is away for a moment is what some of these tests are about.
                if let Ok(Some(row)) = self.store.read_job(id.job_id.clone()).await
                    && row.status == status
                {
                    return row;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        match tokio::time::timeout(LIMIT, reached).await {
            Ok(row) => row,
            Err(_) => panic!("wanted {status}, got {:?}", self.row(id).await),
        }
    }

    /// Gives every event of a topic, in order of partition and offset.
    fn events(&self, topic: Topic) -> Vec<Event> {
        topic
            .all_partitions()
            .flat_map(|at| self.store.records(LogTopic::Record(topic), at.partition))
            .map(|record| decode(topic, &record).unwrap())
            .collect()
    }

    fn events_of(&self, topic: Topic, id: &AttemptId) -> Vec<Event> {
        let of_job = |event: &Event| event.job_id.as_ref() == Some(&id.job_id);
        self.events(topic).into_iter().filter(of_job).collect()
    }

    /// Gives the names of a job's lifecycle events.
    fn lifecycle(&self, id: &AttemptId) -> Vec<&'static str> {
        names(&self.events_of(Topic::JobLifecycle, id))
    }

    /// Gives the actions of the audit trail.
    fn actions(&self) -> Vec<String> {
        let action = |event: Event| match event.payload {
            Payload::AuditActionRecorded(recorded) => recorded.action,
            other => panic!("`{}` in the audit trail", other.event_type()),
        };
        self.events(Topic::AuditTrail).into_iter().map(action).collect()
    }

    /// Checks what holds for every job at every time.
    fn check_order(&self) {
        for topic in [Topic::JobLifecycle, Topic::JobMetrics] {
            let mut counters: BTreeMap<JobId, u64> = BTreeMap::new();
            for event in self.events(topic) {
                let counter = counters.entry(event.job_id.clone().unwrap()).or_default();
                *counter += 1;
                assert_eq!(event.sequence, Some(Sequence(*counter)), "{event:?}");
            }
        }
    }
}

fn orchestrator(
    store: &MemoryStore,
    scheduler: &Arc<dyn Scheduler>,
    clock: &Arc<ManualClock>,
    randomness: &Arc<SeededRandomness>,
) -> Orchestrator {
    Orchestrator::new(
        Arc::new(store.clone()),
        Arc::clone(scheduler),
        Arc::clone(clock) as Arc<dyn Clock>,
        Arc::clone(randomness) as _,
        OrchestratorConfig::default(),
    )
}

fn names(events: &[Event]) -> Vec<&'static str> {
    events.iter().map(|event| event.payload.event_type().name()).collect()
}

fn attempt_of(job_id: &JobId) -> AttemptId {
    AttemptId { job_id: job_id.clone(), attempt: Attempt(1) }
}

fn command(kind: CommandKind) -> Command {
    Command {
        command_id: CommandId(Uuid::from_u128(1)),
        correlation_id: CorrelationId(Uuid::from_u128(2)),
        principal: Principal { user_id: UserId::parse("ada").unwrap() },
        reason: None,
        idempotency_key: None,
        requested_at: Timestamp::from_millis(1_700_000_000_000),
        kind,
    }
}

fn request() -> JobRequest {
    let mut parameters = Parameters::default();
    parameters.insert("niter", "100".into());
    JobRequest {
        agent: AgentName::parse("imager").unwrap(),
        dataset_id: DatasetId::parse("ngc-1275").unwrap(),
        parameters,
        tacc_system: TaccSystem::Local,
    }
}

fn submit_command() -> Command {
    command(CommandKind::SubmitJob(request()))
}

fn cancel_command(id: &AttemptId) -> Command {
    Command {
        principal: Principal { user_id: UserId::parse("grace").unwrap() },
        reason: Some("wrong data set".to_owned()),
        ..command(CommandKind::CancelJob { job_id: id.job_id.clone() })
    }
}
