//! A server on a free port over the kit's store, with a scripted receiver of commands and a raw client.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use horizons::disk::{AttemptSpace, DiskState};
use horizons::http::{AppState, HttpLimits, ServeError, Served, serve};
use horizons::metrics::ProcessMetrics;
use horizons::probes::{
    DiskProbe, EventLogProbe, LaneProbes, OPENING_LIMIT, ProbeSource, Probes, RelayProbe, SchedulerProbe,
    StoreProbe,
};
use horizons_actors::clock::Timestamp;
use horizons_actors::command::{Command, CommandKind, LayoutAdoption};
use horizons_actors::effect::Effects;
use horizons_actors::event::{JobStatus, TaccSystem};
use horizons_actors::ids::{
    AgentName, Attempt, CorrelationId, DatasetId, Generation, JobId, LaneKey, LogId, LogTopic, Offset,
    Partition, Sequence, Topic, UserId,
};
use horizons_actors::lane::status::StatusBoard;
use horizons_actors::layout::Layout;
use horizons_actors::metrics::LaneMetrics;
use horizons_actors::ports::Reply;
use horizons_actors::ports::commands::{
    AcceptedGap, Cancelling, CommandError, Commands, ExternalRecord, Submitted, Verdict,
};
use horizons_actors::ports::outbox::{OutboxPartition, SetAsideRecord};
use horizons_actors::ports::output::{AttemptOutput, OutputCursor, OutputError, OutputPage, OutputQuery};
use horizons_actors::ports::page::Page;
use horizons_actors::ports::relay::{RelayPartition, RelaySnapshot, RelayView};
use horizons_actors::ports::store::{
    AppendedAt, JobExpectation, JobRow, JobStore, JobWrite, LaneStore, LaneTransaction, StoreError,
};
use horizons_actors::probes::{ProbeBoard, ProbeState};
use horizons_actors::record::{Headers, LogRecord, TimestampType};
use horizons_actors::testkit::event::DEFAULT_TIME;
use horizons_actors::testkit::{ManualClock, MemoryStore, SeededRandomness};
use prometheus::Registry;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::schemas::check_answer;

/// No step of a test takes longer unless something hangs.
pub(super) const LIMIT: Duration = Duration::from_secs(20);

/// How long the store's probe waits.
pub(super) const STORE_LIMIT: Duration = Duration::from_millis(50);

/// What the receiver of commands answers.
#[derive(Debug, Clone)]
pub(super) struct Script {
    pub(super) verdict: Verdict,
    pub(super) is_repeat: bool,
    pub(super) status: JobStatus,
    pub(super) error: Option<CommandError>,
    /// Never answers.
    pub(super) hangs: bool,
    pub(super) panics: bool,
}

/// Notes commands and answers as scripted.
#[derive(Debug)]
pub(super) struct FakeCommands {
    pub(super) script: Mutex<Script>,
    pub(super) seen: Mutex<Vec<Command>>,
    pub(super) records: Mutex<Vec<ExternalRecord>>,
}

impl FakeCommands {
    fn answer<T: Send + 'static>(
        &self,
        command: Command,
        make: impl FnOnce(Script) -> T + Send + 'static,
    ) -> Reply<T, CommandError> {
        self.seen.lock().unwrap().push(command);
        let script = self.script.lock().unwrap().clone();
        async move {
            assert!(!script.panics, "a scripted panic");
            if script.hangs {
                std::future::pending::<()>().await;
            }
            match script.error.clone() {
                Some(error) => Err(error),
                None => Ok(make(script)),
            }
        }
        .boxed()
    }
}

impl Commands for FakeCommands {
    fn submit(&self, command: Command) -> Reply<Submitted, CommandError> {
        let user = command.principal.user_id.clone();
        self.answer(command, move |script| Submitted {
            job: JobRow { user_id: user, status: script.status, ..job_row("job-1", 0) },
            is_repeat: script.is_repeat,
            verdict: script.verdict,
        })
    }

    fn cancel(&self, command: Command) -> Reply<Cancelling, CommandError> {
        let CommandKind::CancelJob { job_id } = command.kind.clone() else { unreachable!("{command:?}") };
        self.answer(command, move |script| Cancelling {
            job: JobRow { status: script.status, ..job_row(job_id.as_str(), 0) },
            is_repeat: script.is_repeat,
        })
    }

    fn append_records(
        &self,
        command: Command,
        records: Vec<ExternalRecord>,
    ) -> Reply<Vec<AppendedAt>, CommandError> {
        let CommandKind::AppendRecord { topic, .. } = command.kind else { unreachable!("{command:?}") };
        self.records.lock().unwrap().clone_from(&records);
        let at = move |index| AppendedAt {
            topic: LogTopic::Record(topic),
            partition: Partition(2),
            offset: Offset(index),
        };
        self.answer(command, move |_| (0..records.len() as u64).map(at).collect())
    }

    fn set_parked_wish(&self, command: Command) -> Reply<(), CommandError> {
        self.answer(command, |_| ())
    }

    fn resume_lane(&self, command: Command) -> Reply<(), CommandError> {
        self.answer(command, |_| ())
    }

    fn set_aside_record(&self, command: Command) -> Reply<(), CommandError> {
        self.answer(command, |_| ())
    }

    fn send_record_again(&self, command: Command) -> Reply<(), CommandError> {
        self.answer(command, |_| ())
    }

    fn accept_gap(&self, command: Command) -> Reply<AcceptedGap, CommandError> {
        let CommandKind::AcceptGap(gap) = command.kind.clone() else { unreachable!("{command:?}") };
        self.answer(command, move |_| AcceptedGap { generation: Generation(0), resumes_at: gap.low })
    }

    fn look_at_topic(&self, topic: Topic) -> Reply<LayoutAdoption, CommandError> {
        let (what, reason) = (format!("topic `{topic}`"), "its topics do not grow here".to_owned());
        std::future::ready(Err(CommandError::NotPossible { what, reason })).boxed()
    }

    fn adopt_layout(&self, _command: Command) -> Reply<Layout, CommandError> {
        let (what, reason) = ("layout".to_owned(), "its topics do not grow here".to_owned());
        std::future::ready(Err(CommandError::NotPossible { what, reason })).boxed()
    }
}

/// Gives one output, or the prepared error, and notes what was asked for.
#[derive(Debug, Default)]
pub(super) struct FakeOutput {
    pub(super) error: Mutex<Option<OutputError>>,
    pub(super) seen: Mutex<Vec<OutputQuery>>,
}

impl AttemptOutput for FakeOutput {
    fn read(&self, query: OutputQuery) -> Reply<OutputPage, OutputError> {
        self.seen.lock().unwrap().push(query);
        let answer = self.error.lock().unwrap().clone().map_or_else(
            || {
                let (content, next) = (Bytes::from_static(b"\xff\n"), OutputCursor::Current(2));
                Ok(OutputPage { content, next, has_more: true, was_cut: false })
            },
            Err,
        );
        std::future::ready(answer).boxed()
    }
}

/// A relay with one partition that stands and one record that was set aside.
struct FakeRelay;

impl RelayView for FakeRelay {
    fn snapshot(&self) -> RelaySnapshot {
        RelaySnapshot {
            is_leader: true,
            trouble: None,
            waiting_records: 3,
            oldest_seconds: 1.5,
            in_flight_records: 0,
            in_flight_bytes: 0,
            rebuilds: 1,
            partitions: vec![RelayPartition {
                topic: "job-metrics".to_owned(),
                partition: Partition(4),
                next: Offset(7),
                end: Offset(10),
                condition: "stopped",
                detail: Some("message is too large".to_owned()),
            }],
        }
    }

    fn set_aside_records(
        &self,
        after: Option<(OutboxPartition, Offset)>,
        limit: usize,
    ) -> Reply<Page<SetAsideRecord>, StoreError> {
        let partition =
            OutboxPartition { topic: LogTopic::DeadLetter(Topic::JobMetrics), partition: Partition(4) };
        let record = LogRecord {
            offset: Offset(6),
            timestamp: at(0),
            timestamp_type: TimestampType::CreateTime,
            key: None,
            headers: Headers::new([]),
            payload: Some(Bytes::from_static(b"large")),
        };
        let kept = SetAsideRecord { partition, record, command_id: Uuid::from_u128(5), set_aside_at: at(1) };
        let behind = after.is_none_or(|after| (partition, Offset(6)) > after);
        let page = Page::of([kept].into_iter().filter(|_| behind), limit);
        async move { Ok(page) }.boxed()
    }

    fn look_again(&self, _partition: OutboxPartition) {}
}

/// A job of `ada`, submitted so many seconds after the kit's time.
pub(super) fn job_row(job_id: &str, second: u64) -> JobRow {
    JobRow {
        job_id: JobId::parse(job_id).unwrap(),
        user_id: UserId::parse("ada").unwrap(),
        agent: AgentName::parse("imaging").unwrap(),
        dataset_id: DatasetId::parse("dataset-1").unwrap(),
        parameters: "{\"depth\":3}".to_owned(),
        home: horizons_actors::state::JobHome::by(
            &JobId::parse(job_id).unwrap(),
            horizons_actors::layout::Layout::first_of,
        ),
        tacc_system: TaccSystem::Local,
        correlation_id: CorrelationId(Uuid::from_u128(7)),
        status: JobStatus::Queued,
        attempt: Attempt(1),
        will_retry: false,
        lifecycle_sequence: Sequence(3),
        metrics_sequence: Sequence(0),
        scheduler_job_id: None,
        samples_published: 0,
        cancel: None,
        failure: None,
        execution_time_seconds: None,
        submitted_at: at(second),
        updated_at: at(second),
    }
}

/// A time so many seconds after the kit's.
pub(super) fn at(second: u64) -> Timestamp {
    DEFAULT_TIME.plus(Duration::from_secs(second))
}

pub(super) struct World {
    pub(super) address: SocketAddr,
    pub(super) store: MemoryStore,
    pub(super) board: Arc<StatusBoard>,
    pub(super) commands: Arc<FakeCommands>,
    pub(super) output: Arc<FakeOutput>,
    pub(super) clock: Arc<ManualClock>,
    pub(super) stop: Option<oneshot::Sender<()>>,
    pub(super) server: JoinHandle<Result<Served, ServeError>>,
    pub(super) state: AppState,
}

impl World {
    pub(super) async fn start() -> Self {
        Self::with_limits(HttpLimits::default()).await
    }

    pub(super) async fn with_limits(limits: HttpLimits) -> Self {
        Self::with(limits, None).await
    }

    /// Serves as a program whose event log is on Kafka does.
    pub(super) async fn on_kafka() -> Self {
        Self::with(HttpLimits::default(), Some(Arc::new(FakeRelay))).await
    }

    async fn with(limits: HttpLimits, relay: Option<Arc<dyn RelayView>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let store = MemoryStore::new();
        let board = Arc::new(StatusBoard::default());
        let clock = Arc::new(ManualClock::at(DEFAULT_TIME));
        let script = Script {
            verdict: Verdict::Accepted,
            is_repeat: false,
            status: JobStatus::Queued,
            error: None,
            hangs: false,
            panics: false,
        };
        let commands = Arc::new(FakeCommands {
            script: Mutex::new(script),
            seen: Mutex::default(),
            records: Mutex::default(),
        });
        let disk: Arc<DiskState> = Arc::default();
        let mut sources: Vec<Arc<dyn ProbeSource>> = vec![
            Arc::new(StoreProbe::new(Arc::new(store.clone()), STORE_LIMIT)),
            Arc::new(DiskProbe::new(Arc::clone(&disk))),
            Arc::new(EventLogProbe::embedded(Arc::clone(&board))),
            Arc::new(LaneProbes::new(Arc::clone(&board), clock.clone(), OPENING_LIMIT)),
            Arc::new(SchedulerProbe::new(|| (ProbeState::Ok, "takes jobs".to_owned()))),
        ];
        sources.extend(relay.clone().map(|relay| Arc::new(RelayProbe::new(relay)) as Arc<dyn ProbeSource>));
        let probes = Probes::new(Arc::new(ProbeBoard::default()), clock.clone(), sources, Duration::ZERO);
        let output = Arc::new(FakeOutput::default());
        let registry = Registry::new();
        let state = AppState {
            queries: Arc::new(store.clone()),
            commands: commands.clone(),
            output: output.clone(),
            relay,
            board: Arc::clone(&board),
            probes: Arc::new(probes),
            log_id: LogId::parse("log-1").unwrap(),
            lane_metrics: LaneMetrics::register(&registry).unwrap(),
            process_metrics: ProcessMetrics::register(&registry).unwrap(),
            registry,
            disk,
            attempt_troubles: Arc::new(BTreeMap::new),
            attempt_space: Arc::new(|_| Some(AttemptSpace { output_bytes: 7, work_bytes: 8 })),
            clock: clock.clone(),
            randomness: Arc::new(SeededRandomness::new(1)),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move {
            let _stopped_or_dropped = stopped.await;
        };
        let server = tokio::spawn(serve(listener, state.clone(), limits, shutdown));
        Self { address, store, board, commands, output, clock, stop: Some(stop), server, state }
    }

    /// Serves the same state on another listener, until it is refused.
    pub(super) async fn serve_again(&self, listener: TcpListener) -> Result<Served, ServeError> {
        serve(listener, self.state.clone(), HttpLimits::default(), std::future::ready(())).await
    }

    pub(super) fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.commands.script.lock().unwrap());
    }

    pub(super) fn last_command(&self) -> Command {
        self.commands.seen.lock().unwrap().last().cloned().unwrap()
    }

    pub(super) fn command_count(&self) -> usize {
        self.commands.seen.lock().unwrap().len()
    }

    pub(super) async fn add_job(&self, row: JobRow) {
        let write = JobWrite {
            expectation: JobExpectation::New,
            row,
            events: Vec::new(),
            orders: Vec::new(),
            answered: Vec::new(),
            idempotency: None,
        };
        self.store.write_job(write).await.unwrap();
    }

    /// Commits effects on a lane, as its owner would.
    pub(super) async fn commit(&self, lane: &LaneKey, effects: Effects) {
        let opened = self
            .store
            .open_lane(lane.clone(), horizons_actors::testkit::contract::sample::PROCESS)
            .await
            .unwrap();
        let transaction = LaneTransaction {
            lane: lane.clone(),
            fence: opened.fence,
            from: opened.next,
            next: Offset(opened.next.map_or(1, |next| next.0 + 1)),
            last_fingerprint: None,
            now: at(1),
            effects,
        };
        self.store.commit(transaction).await.unwrap();
    }

    pub(super) async fn connect(&self) -> Connection {
        let stream = TcpStream::connect(self.address).await.unwrap();
        Connection { stream, buffer: Vec::new() }
    }

    /// Sends one request with `Host` and whatever else is given, and reads the answer.
    pub(super) async fn send(&self, method: &str, target: &str, headers: &str, body: &str) -> Answer {
        let mut connection = self.connect().await;
        let length =
            if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let request = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{headers}{length}\r\n{body}");
        connection.write(request.as_bytes()).await;
        let answer = connection.read(method != "HEAD").await;
        if method != "HEAD" && answer.header("content-type") == Some("application/json") {
            check_answer(method, &template_of(target), answer.status, &answer.json());
        }
        answer
    }

    pub(super) async fn get(&self, target: &str) -> Answer {
        self.send("GET", target, "", "").await
    }

    pub(super) async fn post(&self, target: &str, body: &Value) -> Answer {
        self.send("POST", target, JSON, &body.to_string()).await
    }
}

/// Finds the template of a path.
fn template_of(target: &str) -> String {
    let path = target.split('?').next().unwrap();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    match segments.as_slice() {
        ["jobs", _] => "/jobs/{job_id}".to_owned(),
        ["jobs", _, rest] => format!("/jobs/{{job_id}}/{rest}"),
        ["topics", _, rest] => format!("/topics/{{topic}}/{rest}"),
        _ => path.to_owned(),
    }
}

/// The header line of a JSON body.
pub(super) const JSON: &str = "Content-Type: application/json\r\n";

pub(super) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(super) async fn write(&mut self, bytes: &[u8]) {
        tokio::time::timeout(LIMIT, self.stream.write_all(bytes)).await.unwrap().unwrap();
    }

    /// Waits until the server closes the connection; gives what it sent before.
    pub(super) async fn read_to_end(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.buffer);
        // A reset ends the connection as well as a close.
        let _end = tokio::time::timeout(LIMIT, self.stream.read_to_end(&mut bytes)).await.unwrap();
        bytes
    }

    /// Reads one answer; the one to a `HEAD` has no body.
    pub(super) async fn read(&mut self, has_body: bool) -> Answer {
        tokio::time::timeout(LIMIT, self.read_answer(has_body)).await.unwrap()
    }

    async fn read_answer(&mut self, has_body: bool) -> Answer {
        let head_end = loop {
            if let Some(position) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break position + 4;
            }
            self.fill().await;
        };
        let head = String::from_utf8(self.buffer.drain(..head_end).collect()).unwrap();
        let mut lines = head.trim_end().lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let mut answer = Answer { status, headers, body: Vec::new() };
        if has_body {
            let length: usize = answer.header("content-length").unwrap().parse().unwrap();
            while self.buffer.len() < length {
                self.fill().await;
            }
            answer.body = self.buffer.drain(..length).collect();
        }
        answer
    }

    async fn fill(&mut self) {
        let read = self.stream.read_buf(&mut self.buffer).await.unwrap();
        assert!(read > 0, "the connection was closed after {:?}", String::from_utf8_lossy(&self.buffer));
    }
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// Reads a problem and checks what every problem has; the request's id is masked.
    pub(super) fn problem(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let mut problem: Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(problem["status"], self.status);
        let id = problem.as_object_mut().unwrap().remove("request_id").unwrap();
        Uuid::parse_str(id.as_str().unwrap()).unwrap();
        problem
    }

    /// Gives status, field and detail of a problem, in one line.
    pub(super) fn refusal(&self) -> String {
        let problem = self.problem();
        let field = problem["field"].as_str().unwrap_or("-");
        format!("{} {field}: {}", self.status, problem["detail"].as_str().unwrap())
    }
}
