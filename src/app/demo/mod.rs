//! `horizons demo`: everything at once in a temporary folder, or on brokers and a database under names of its
//! own, and a report of whether it adds up.
//!
//! Promises that the jobs are real processes, that the poison comes in by the same door as any external
//! record, and that every figure of the report is read back from the store, not from what the demonstration
//! believes it did. The exit code is 0 only if every check holds.

mod check;
mod latency;
mod report;
mod stage;

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use horizons_actors::command::{Command, CommandKind, JobRequest, Principal};
use horizons_actors::event::{JobStatus, TaccSystem, new_correlation_id, new_event_id};
use horizons_actors::ids::{AgentName, CommandId, DatasetId, JobId, Topic, UserId};
use horizons_actors::parameters::Parameters;
use horizons_actors::ports::commands::{ExternalRecord, Verdict};
use horizons_actors::ports::query::QueryStore;
use horizons_actors::record::Headers;
use horizons_actors::snapshot::ActorState;

use self::check::{Facts, followers};
use self::latency::LatencyListener;
use self::stage::Stage;
use super::serve::until_signal;
use super::{Extras, OpenStore, Running, bind};
use crate::cli::{Afterwards, Colour, DemoOptions, Form, Output};
use crate::config::Config;
use crate::exit::{Exit, Failure};

/// How long the demonstration may take beside a second a job; past it something is wrong.
const TIME_LIMIT: Duration = Duration::from_secs(120);

/// How often the progress line is drawn and conditions are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Requests that are on their way at once.
const SUBMITS_AT_ONCE: usize = 8;

/// The agents of the example configuration that the demonstration runs.
const AGENTS: [&str; 4] = ["calibrate", "image", "fail", "observe"];

/// Bytes that are no event in any encoding.
const POISON: &[u8] = b"\xff\x00 these bytes are no event";

/// What the demonstration means to happen to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    /// Its agent ends well.
    Succeeds,
    /// Its agent ends badly.
    Fails,
    /// It is cancelled while it runs.
    IsCancelled,
    /// It ends well, but a poison record carries its key.
    IsPoisoned,
}

impl Role {
    /// Gives the role of the job with this number: one is cancelled, one poisoned, every sixth fails.
    const fn of(number: u32) -> Self {
        match number {
            0 => Role::IsCancelled,
            1 => Role::IsPoisoned,
            _ if number % 6 == 2 => Role::Fails,
            _ => Role::Succeeds,
        }
    }

    const fn agent(self, number: u32) -> &'static str {
        match self {
            Role::IsCancelled => "observe",
            Role::Fails => "fail",
            Role::Succeeds | Role::IsPoisoned if number.is_multiple_of(2) => "image",
            Role::Succeeds | Role::IsPoisoned => "calibrate",
        }
    }

    const fn outcome(self) -> JobStatus {
        match self {
            Role::Succeeds | Role::IsPoisoned => JobStatus::Completed,
            Role::Fails => JobStatus::Failed,
            Role::IsCancelled => JobStatus::Cancelled,
        }
    }
}

/// Runs the demonstration.
pub fn demo(mut config: Config, options: DemoOptions) -> Result<Exit, Failure> {
    for agent in AGENTS {
        let name = AgentName::parse(agent).map_err(|error| Failure::new(Exit::Failed, &error))?;
        if !config.agents.contains_key(&name) {
            return Err(Failure::text(
                Exit::Config,
                format!("the demonstration needs agent `agents.{agent}`"),
            ));
        }
    }
    let keeps = options.afterwards == Afterwards::KeepServing;
    if !keeps {
        config.http.listen = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    }
    let listener = bind(config.http.listen)?;
    let stage = Stage::set(&mut config)?;
    let exit = play(&config, &options, listener);
    if keeps {
        let (folder, names) = stage.keep();
        eprintln_line(&format!("the data folder is kept: {}", folder.display()));
        for name in names {
            eprintln_line(&format!("kept as well: {name}"));
        }
    } else {
        stage.strike();
    }
    exit
}

/// Starts everything, runs the demonstration and ends everything.
fn play(config: &Config, options: &DemoOptions, listener: TcpListener) -> Result<Exit, Failure> {
    let store = OpenStore::open(config, None)?;
    actix::System::new().block_on(async move {
        let latency = Arc::new(LatencyListener::over(store.store.heads()));
        let extras = Extras { listeners: vec![Arc::clone(&latency) as _], ..Extras::default() };
        let running = Running::start(config, store, extras)?;
        let server = super::serve::start_http(&running, config, listener)?;
        let outcome = tokio::select! {
            outcome = show(config, &running, options, &latency) => Some(outcome),
            () = until_signal() => None,
        };
        if let (Afterwards::KeepServing, Some(Ok(_))) = (options.afterwards, &outcome) {
            eprintln_line(&format!("serving at http://{} until Ctrl-C", server.address));
            until_signal().await;
        }
        server.stop(running).await;
        outcome.unwrap_or(Ok(Exit::Interrupted))
    })
}

/// Runs the jobs, waits for everything to settle, checks and reports.
async fn show(
    config: &Config,
    running: &Running,
    options: &DemoOptions,
    latency: &LatencyListener,
) -> Result<Exit, Failure> {
    let started = Instant::now();
    let limit = TIME_LIMIT + Duration::from_secs(u64::from(options.jobs));
    let mut progress = Progress::new(options.form);
    until_assigned(running, started, limit, &mut progress).await?;
    let started = Instant::now();
    let jobs = submit_all(running, options.jobs, &mut progress).await?;
    if let Some((job_id, _)) = jobs.iter().find(|(_, role)| **role == Role::IsCancelled) {
        wait_until_running(running, job_id, started, limit).await?;
        let cancel = command(running, CommandKind::CancelJob { job_id: job_id.clone() });
        running.orchestrator.cancel(cancel).await.map_err(|error| Failure::new(Exit::Failed, &error))?;
    }
    let is_in_time = settle(running, &jobs, started, limit, &mut progress).await?;
    let elapsed = started.elapsed();
    progress.end();
    let facts = Facts::read(config, running, &jobs).await?;
    let mut checks = facts.checks();
    checks.push(("everything settled in time".to_owned(), is_in_time));
    let adds_up = checks.iter().all(|(_, holds)| *holds);
    let stdout = std::io::stdout();
    let colour = if stdout.is_terminal() { Colour::On } else { Colour::Off };
    let mut stdout = stdout.lock();
    let mut output = Output::new(&mut stdout, options.form, colour);
    report::print(&mut output, &facts, &checks, &latency.summaries(elapsed), elapsed)?;
    Ok(if adds_up { Exit::Done } else { Exit::Failed })
}

/// Waits until every lane works, so that the latencies that are shown are not those of a start.
async fn until_assigned(
    running: &Running,
    started: Instant,
    limit: Duration,
    progress: &mut Progress,
) -> Result<(), Failure> {
    let wanted: usize =
        Topic::ALL.iter().map(|topic| followers(*topic).len() * usize::from(topic.partitions())).sum();
    loop {
        let lanes = running.board.lanes();
        let working = lanes.iter().filter(|(_, lane)| lane.state() == ActorState::Running).count();
        if working == wanted {
            return Ok(());
        }
        if started.elapsed() > limit {
            let text = format!("only {working} of {wanted} lanes work");
            return Err(Failure::text(Exit::Failed, text));
        }
        progress.draw(&format!("{working} of {wanted} lanes work"));
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

fn command(running: &Running, kind: CommandKind) -> Command {
    Command {
        command_id: CommandId(running.randomness.next_uuid()),
        correlation_id: new_correlation_id(running.randomness.as_ref()),
        principal: Principal { user_id: UserId::parse("demo").expect("the name is a valid user id") },
        reason: Some("demonstration".to_owned()),
        idempotency_key: None,
        requested_at: running.clock.now(),
        kind,
    }
}

/// Submits every job, some at a time; the poison comes in right behind its job's submission.
async fn submit_all(
    running: &Running,
    count: u32,
    progress: &mut Progress,
) -> Result<BTreeMap<JobId, Role>, Failure> {
    let mut jobs = BTreeMap::new();
    let mut submits = futures_util::stream::iter((0..count).map(|number| submit(running, number)))
        .buffer_unordered(SUBMITS_AT_ONCE);
    while let Some(submitted) = submits.next().await {
        let (job_id, role) = submitted?;
        jobs.insert(job_id, role);
        progress.draw(&format!("submitted {} of {count} jobs", jobs.len()));
    }
    Ok(jobs)
}

async fn submit(running: &Running, number: u32) -> Result<(JobId, Role), Failure> {
    let role = Role::of(number);
    let request = JobRequest {
        agent: AgentName::parse(role.agent(number)).expect("the example agents have valid names"),
        dataset_id: DatasetId::parse(&format!("field-{number:04}")).expect("the name is a valid data set id"),
        parameters: Parameters::from_iter([("number".to_owned(), number.to_string().as_str().into())]),
        tacc_system: TaccSystem::Local,
    };
    let submit = command(running, CommandKind::SubmitJob(request));
    let submitted =
        running.orchestrator.submit(submit).await.map_err(|error| Failure::new(Exit::Failed, &error))?;
    if let Verdict::Refused { reason, .. } = submitted.verdict {
        return Err(Failure::text(Exit::Failed, format!("the scheduler refused a job: {reason}")));
    }
    let job_id = submitted.job.job_id;
    if role == Role::IsPoisoned {
        append_poison(running, &job_id).await?;
    }
    Ok((job_id, role))
}

/// Lets bytes in that are no event, under a job's key, as an external producer could.
async fn append_poison(running: &Running, job_id: &JobId) -> Result<(), Failure> {
    let record = ExternalRecord {
        key: Some(Bytes::copy_from_slice(job_id.as_str().as_bytes())),
        headers: Headers::new([(&b"content-type"[..], Some(&b"application/json"[..]))]),
        payload: Some(Bytes::from_static(POISON)),
    };
    let record_id = new_event_id(running.randomness.as_ref());
    let append = command(running, CommandKind::AppendRecord { topic: Topic::JobLifecycle, record_id });
    running
        .orchestrator
        .append_records(append, vec![record])
        .await
        .map(drop)
        .map_err(|error| Failure::new(Exit::Failed, &error))
}

async fn wait_until_running(
    running: &Running,
    job_id: &JobId,
    started: Instant,
    limit: Duration,
) -> Result<(), Failure> {
    loop {
        let job =
            running.orchestrator.job(job_id).await.map_err(|error| Failure::new(Exit::Failed, &error))?;
        if job.status == JobStatus::Running {
            return Ok(());
        }
        if started.elapsed() > limit || job.status.is_attempt_end() {
            return Err(Failure::text(Exit::Failed, format!("job {job_id} never ran: it is {}", job.status)));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Waits until every job has ended and every lane has applied the whole log. Tells whether it did in time.
async fn settle(
    running: &Running,
    jobs: &BTreeMap<JobId, Role>,
    started: Instant,
    limit: Duration,
    progress: &mut Progress,
) -> Result<bool, Failure> {
    let away = |error| Failure::new(Exit::Failed, &error);
    let queries: Arc<dyn QueryStore> = Arc::clone(&running.store) as _;
    while started.elapsed() < limit {
        let mut by_status: BTreeMap<JobStatus, usize> = BTreeMap::new();
        for job_id in jobs.keys() {
            if let Some(job) = queries.job(job_id.clone()).await.map_err(away)? {
                *by_status.entry(job.status).or_default() += 1;
            }
        }
        let ended: usize =
            by_status.iter().filter(|(status, _)| status.is_attempt_end()).map(|(_, n)| n).sum();
        let ends = queries.log_ends().await.map_err(away)?;
        let events: u64 = ends.iter().map(|(_, end)| end.0).sum();
        let behind = check::records_behind(running, &ends).await?;
        let shown: Vec<String> =
            by_status.iter().map(|(status, count)| format!("{count} {status}")).collect();
        progress.draw(&format!("{}; {events} events, {behind} still to apply", shown.join(", ")));
        if ended == jobs.len() && behind == 0 {
            return Ok(true);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    Ok(false)
}

/// The line that shows how far the demonstration is; only on a terminal and only for people.
struct Progress {
    is_shown: bool,
    width: usize,
}

impl Progress {
    fn new(form: Form) -> Self {
        Self { is_shown: form == Form::Text && std::io::stderr().is_terminal(), width: 0 }
    }

    fn draw(&mut self, text: &str) {
        if self.is_shown {
            let padding = self.width.saturating_sub(text.len());
            self.width = text.len();
            // A terminal that went away is no reason to stop.
            let _shown = write!(std::io::stderr(), "\r{text}{:padding$}", "");
        }
    }

    fn end(&mut self) {
        if self.is_shown && self.width > 0 {
            let _shown = write!(std::io::stderr(), "\r{:width$}\r", "", width = self.width);
        }
    }
}

/// Writes a line for people to standard error.
fn eprintln_line(text: &str) {
    // A standard error that is closed has nobody to tell.
    let _shown = writeln!(std::io::stderr(), "{text}");
}
