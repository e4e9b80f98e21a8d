//! A registry over a fake store on a paused clock, and ways to break what it keeps.

use std::future::Future;
use std::sync::Mutex;

use actix::Message;

use super::fake_query::{FakeQuery, NoRandomness, TokioClock};
use super::*;
use crate::backoff::{BackoffPolicy, RestartPolicy};
use crate::event::JobStatus;
use crate::ids::Sequence;
use crate::jobs::JobRegistryHandle;
use crate::jobs::fixture;
use crate::lane::behaviour::Notice;
use crate::lane::status::StatusBoard;

/// Looks at a condition so often before a test gives up; the paused clock makes each look free.
const LOOKS_MAX: u32 = 20_000;

/// Has the registry, or a job's supervisor, panic in a handler.
pub(super) struct Break(pub(super) Option<JobId>);

/// Has a job's supervisor end without a word to the registry.
pub(super) struct Vanish(pub(super) JobId);

impl Message for Vanish {
    type Result = ();
}

impl Handler<Vanish> for JobRegistry {
    type Result = ();

    fn handle(&mut self, message: Vanish, _ctx: &mut Self::Context) {
        let supervisor = &self.children[&message.0].supervisor;
        supervisor.try_send(message).expect("the supervisor lives");
    }
}

impl Handler<Vanish> for JobSupervisor {
    type Result = ();

    fn handle(&mut self, _message: Vanish, ctx: &mut Self::Context) {
        self.shared = Arc::default();
        ctx.stop();
    }
}

impl Message for Break {
    type Result = ();
}

impl Handler<Break> for JobRegistry {
    type Result = ();

    fn handle(&mut self, message: Break, ctx: &mut Self::Context) {
        let Break(target) = message;
        let _caught = self.guarded(ctx, |registry, _ctx| match &target {
            None => panic!("the registry breaks"),
            Some(job_id) => {
                let sent = registry.children[job_id].supervisor.try_send(Break(target.clone()));
                sent.expect("the supervisor lives");
            }
        });
    }
}

impl Handler<Break> for JobSupervisor {
    type Result = ();

    fn handle(&mut self, _message: Break, ctx: &mut Self::Context) {
        let _caught = self.guarded(ctx, |_supervisor| panic!("the supervisor breaks"));
    }
}

/// Gives the lane that follows a job.
pub(super) fn lane_of(job_id: &str) -> LaneKey {
    let partition = partition_among(Topic::JobLifecycle.partitions(), job_id.as_bytes());
    LaneKey {
        group: Group::jobs(),
        topic_partition: TopicPartition { topic: Topic::JobLifecycle, partition },
    }
}

/// Gives a board with every lane of the jobs group, as in a process that is alone.
fn all_lanes() -> StatusBoard {
    let board = StatusBoard::default();
    for topic_partition in Topic::JobLifecycle.all_partitions() {
        board.lane(&LaneKey { group: Group::jobs(), topic_partition });
    }
    board
}

pub(super) struct Bench {
    pub(super) board: Arc<StatusBoard>,
    pub(super) query: Arc<FakeQuery>,
    pub(super) jobs: JobRegistryHandle,
    pub(super) escalated: Arc<Mutex<Vec<String>>>,
}

impl Bench {
    pub(super) fn start(query: FakeQuery) -> Self {
        let query = Arc::new(query);
        let escalated = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&escalated);
        let board = Arc::new(all_lanes());
        let parts = JobRegistryParts {
            query: Arc::clone(&query) as Arc<dyn crate::ports::query::QueryStore>,
            board: Arc::clone(&board),
            clock: Arc::new(TokioClock(tokio::time::Instant::now())),
            randomness: Arc::new(NoRandomness),
            restarts: RestartPolicy {
                budget: 3,
                window: Duration::from_secs(60),
                backoff: BackoffPolicy {
                    initial: Duration::from_millis(5),
                    limit: Duration::from_millis(500),
                },
            },
            escalate: Arc::new(move |error| told.lock().expect("not poisoned").push(error)),
        };
        let jobs = JobRegistryHandle::start(&actix::Arbiter::current(), parts).expect("the arbiter runs");
        Self { board, query, jobs, escalated }
    }

    /// Commits views as a lane does: the store first, then the notice.
    pub(super) fn commit(&self, views: &[JobView]) {
        for view in views {
            self.query.put(view);
        }
        let notices: Vec<Notice> = views.iter().cloned().map(Notice::JobChanged).collect();
        self.jobs.on_notices(&notices);
    }

    pub(super) async fn counts(&self) -> JobCounts {
        until(|| async { self.jobs.job_counts().await.ok() }).await
    }

    pub(super) async fn supervisor(&self, job_id: &str) -> Option<JobSupervisorSnapshot> {
        let job_id = fixture::job(job_id);
        until(|| async { self.jobs.job_supervisor(job_id.clone()).await.ok() }).await
    }

    pub(super) async fn until_status(&self, job_id: &str, status: JobStatus) -> JobSupervisorSnapshot {
        until(|| async { self.supervisor(job_id).await.filter(|found| found.status == status) }).await
    }

    pub(super) async fn until_retired(&self, job_id: &str) {
        until(|| async { self.supervisor(job_id).await.is_none().then_some(()) }).await;
    }

    pub(super) async fn until_read(&self, resyncs: u64) {
        until(|| async { (self.counts().await.resyncs >= resyncs).then_some(()) }).await;
    }

    pub(super) async fn break_actor(&self, target: Option<&str>) {
        let registry = until(|| async { self.jobs.registry().ok() }).await;
        registry.send(Break(target.map(fixture::job))).await.expect("the registry took it");
    }
}

/// Waits for a condition, with a limit.
pub(super) async fn until<T, F: Future<Output = Option<T>>>(mut look: impl FnMut() -> F) -> T {
    for _ in 0..LOOKS_MAX {
        if let Some(found) = look().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("the condition did not come true");
}

pub(super) fn run(test: impl Future<Output = ()>) {
    actix::System::new().block_on(async {
        tokio::time::pause();
        test.await;
    });
}

pub(super) fn view(job_id: &str, status: JobStatus, sequence: u64) -> JobView {
    let sequence = Sequence(sequence);
    JobView {
        last_sequence: sequence,
        status_since: fixture::at(sequence.0),
        ..fixture::view(job_id, status)
    }
}
