//! Carries orders to the scheduler.
//!
//! Promises that an order stays open until its answer is committed, that orders of one job are carried out one
//! after the other (submit, cancel, clean), and that an attempt is looked for before it is submitted.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use horizons_actors::command::{Order, OrderKind};
use horizons_actors::event::JobStatus;
use horizons_actors::ids::{AttemptId, JobId};
use horizons_actors::orchestrator::{Ended, Input, is_terminal};
use horizons_actors::ports::scheduler::{AttemptReport, SchedulerError};
use horizons_actors::ports::store::{JobRow, OrderAnswer, StoreError};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::super::Shared;
use super::super::apply::Applied;
use super::super::requests::spec_of;
use super::super::trouble::Asked;
use super::{HandlingError, guarded, is_never_started, stop_of};

/// How many orders are read at once.
const ORDER_PAGE: usize = 512;

/// How many jobs one listing makes ready: then it stops, and goes on when they are in hand. Those that are in hand or
/// wait for another try do not count, so that however many there are, they hide nobody behind them.
const READY_JOBS: usize = 512;

/// Orders that fall due for another try within so long are listed together.
const RETRY_GRAIN: Duration = Duration::from_millis(100);

/// When a job's orders are tried again.
struct Retry {
    failures: u32,
    at: Instant,
}

/// How the handling of one job's orders ended.
type Handled = (JobId, Result<(), HandlingError>);

/// What the worker knows; all of it may be forgotten.
struct Worker {
    shared: Arc<Shared>,
    tasks: JoinSet<Handled>,
    in_hand: HashSet<JobId>,
    ready: VecDeque<(JobId, Vec<Order>)>,
    retries: HashMap<JobId, Retry>,
    /// When to list open orders next.
    list_at: Instant,
    /// Listings take half of the time at most, however long one is.
    list_not_before: Instant,
    retry_not_before: Instant,
    list_failures: u32,
    /// Whether the last listing passed over a job in hand, or stopped before the end.
    is_list_partial: bool,
}

/// What one listing found.
#[derive(Default)]
struct Listed {
    /// The orders of jobs that can be worked on.
    ready: BTreeMap<JobId, Vec<Order>>,
    /// Those jobs, in the order in which their first orders stand.
    line: Vec<JobId>,
    /// Jobs with orders that wait for another try.
    waiting: HashSet<JobId>,
    has_in_hand: bool,
    /// Whether every open order was seen.
    is_whole: bool,
}

/// Works on orders until told to stop.
pub(super) async fn work(shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let mut worker = Worker {
        shared: Arc::clone(&shared),
        tasks: JoinSet::new(),
        in_hand: HashSet::new(),
        ready: VecDeque::new(),
        retries: HashMap::new(),
        list_at: Instant::now(),
        list_not_before: Instant::now(),
        retry_not_before: Instant::now(),
        list_failures: 0,
        is_list_partial: false,
    };
    while !*stopped.borrow() {
        if worker.ready.is_empty() && worker.list_at <= Instant::now() {
            worker.list().await;
        }
        worker.start_ready();
        let list_at = worker.list_at;
        let may_list = worker.ready.is_empty();
        tokio::select! {
            () = stop_of(&mut stopped) => {}
            () = shared.orders_written.notified() => worker.list_soon(),
            Some(done) = worker.tasks.join_next() => worker.settle(done),
            () = tokio::time::sleep_until(list_at), if may_list => {}
        }
    }
    // Work in hand ends by itself: every call of the scheduler has a limit, and the store answers or fails.
    while let Some(done) = worker.tasks.join_next().await {
        worker.settle(done);
    }
}

impl Worker {
    /// Lists open orders and sorts out what can be worked on.
    async fn list(&mut self) {
        let now = Instant::now();
        let listed = match self.read_orders(now).await {
            Ok(listed) => listed,
            Err(error) => {
                self.list_failures = self.list_failures.saturating_add(1);
                self.list_at = Instant::now() + self.shared.delay(self.list_failures);
                tracing::warn!(error = %error, failures = self.list_failures, "orders cannot be read");
                return;
            }
        };
        self.list_failures = 0;
        self.is_list_partial = !listed.is_whole || listed.has_in_hand;
        if listed.is_whole {
            self.retries
                .retain(|job_id, _| listed.waiting.contains(job_id) || listed.ready.contains_key(job_id));
        }
        let mut ready = listed.ready;
        for job_id in listed.line {
            if let Some(mut queue) = ready.remove(&job_id) {
                queue.sort_by_key(|order| (order.attempt, order.kind));
                self.ready.push_back((job_id, queue));
            }
        }
        let next_retry = self.retries.values().map(|retry| retry.at).filter(|at| *at > now).min();
        self.retry_not_before = now + RETRY_GRAIN;
        let next_retry = next_retry.map(|at| at.max(self.retry_not_before));
        let next_look = now + self.shared.config.look_interval;
        self.list_not_before = Instant::now() + now.elapsed();
        self.list_at = next_retry.map_or(next_look, |at| at.min(next_look)).max(self.list_not_before);
    }

    /// Reads open orders page by page, to their end or until enough jobs are ready.
    async fn read_orders(&self, now: Instant) -> Result<Listed, StoreError> {
        let mut listed = Listed::default();
        let mut after = None;
        while !listed.is_whole && listed.ready.len() < READY_JOBS {
            let page = self.shared.store.open_orders(after, ORDER_PAGE).await?;
            listed.is_whole = page.len() < ORDER_PAGE;
            after = page.last().map(|(place, _)| *place);
            for (_, order) in page {
                if self.in_hand.contains(&order.job_id) {
                    listed.has_in_hand = true;
                    if self.retries.contains_key(&order.job_id) {
                        listed.waiting.insert(order.job_id);
                    }
                } else if self.retries.get(&order.job_id).is_some_and(|retry| retry.at > now) {
                    listed.waiting.insert(order.job_id);
                } else {
                    let queue = listed.ready.entry(order.job_id.clone()).or_default();
                    if queue.is_empty() {
                        listed.line.push(order.job_id.clone());
                    }
                    queue.push(order);
                }
            }
        }
        Ok(listed)
    }

    /// Lists as soon as it may.
    fn list_soon(&mut self) {
        self.list_at = Instant::now().max(self.list_not_before);
    }

    /// Starts as many jobs as may be in hand.
    fn start_ready(&mut self) {
        while self.in_hand.len() < self.shared.config.parallel_jobs.max(1)
            && let Some((job_id, orders)) = self.ready.pop_front()
        {
            self.in_hand.insert(job_id.clone());
            let shared = Arc::clone(&self.shared);
            self.tasks.spawn(async move {
                let result = guarded(&job_id, shared.carry_out(&orders)).await;
                (job_id, result)
            });
        }
    }

    /// Takes the end of a job's handling.
    fn settle(&mut self, done: Result<Handled, JoinError>) {
        let (job_id, result) = match done {
            Ok(done) => done,
            Err(error) => {
                // Handlers are guarded, so only the end of the whole runtime leads here.
                tracing::error!(error = %error, "order task ended");
                return;
            }
        };
        self.in_hand.remove(&job_id);
        if self.is_list_partial {
            self.list_soon();
        }
        let Err(error) = result else {
            self.retries.remove(&job_id);
            return;
        };
        let failures = self.retries.get(&job_id).map_or(0, |retry| retry.failures).saturating_add(1);
        let at = Instant::now() + self.shared.delay(failures);
        if error.is_transient() {
            tracing::warn!(job.id = %job_id, error = %error, failures, "order waits for another try");
        } else {
            tracing::error!(job.id = %job_id, error = %error, failures, "order failed; it is tried again");
        }
        self.retries.insert(job_id, Retry { failures, at });
        self.list_at = self.list_at.min(at.max(self.retry_not_before));
    }
}

impl Shared {
    /// Carries a job's orders out, one after the other.
    async fn carry_out(&self, orders: &[Order]) -> Result<(), HandlingError> {
        for order in orders {
            let row = self.store.read_job(order.job_id.clone()).await?;
            match (order.kind, row) {
                (OrderKind::Submit, Some(row)) => self.submit_attempt(order, &row).await?,
                (OrderKind::Cancel, Some(row)) => self.cancel_attempt(order, &row).await?,
                (OrderKind::Clean, row) => self.clean_attempt(order, row.as_ref()).await?,
                (OrderKind::Submit | OrderKind::Cancel, None) => {
                    self.answer(order, OrderAnswer::Refused("the job does not exist".to_owned())).await?;
                }
            }
        }
        Ok(())
    }

    async fn submit_attempt(&self, order: &Order, row: &JobRow) -> Result<(), HandlingError> {
        if order.attempt != row.attempt {
            let reason = format!("the job is at attempt {} and no other is due", row.attempt);
            return self.answer(order, OrderAnswer::Refused(reason)).await;
        }
        if row.status != JobStatus::Submitted {
            return self.answer(order, OrderAnswer::Done).await;
        }
        let report = match self.limited(Asked::Find, self.scheduler.find(attempt_id(order))).await? {
            Some(report) => report,
            // The order to cancel comes next and answers both.
            None if row.cancel.is_some() => return Ok(()),
            None => match self.limited(Asked::Submit, self.scheduler.submit(spec_of(row)?)).await {
                Ok(report) => report,
                Err(HandlingError::Scheduler(SchedulerError::Refused { field, reason })) => {
                    let input = Input::SchedulerRefused { field: field.to_owned(), reason };
                    return self.settle_order(order, &input).await;
                }
                Err(error) => return Err(error),
            },
        };
        crate::faults::hit("orchestrator-after-accept");
        self.take_report(order, report).await
    }

    async fn cancel_attempt(&self, order: &Order, row: &JobRow) -> Result<(), HandlingError> {
        if order.attempt != row.attempt || is_terminal(row) {
            return self.answer(order, OrderAnswer::Done).await;
        }
        match self.limited(Asked::Cancel, self.scheduler.cancel(attempt_id(order))).await {
            Ok(()) => {}
            Err(HandlingError::Scheduler(SchedulerError::Refused { reason, .. })) => {
                tracing::error!(job.id = %order.job_id, error = %reason, "scheduler refuses to cancel");
                return self.answer(order, OrderAnswer::Refused(reason)).await;
            }
            Err(error) => return Err(error),
        }
        if row.status == JobStatus::Submitted {
            match self.limited(Asked::Find, self.scheduler.find(attempt_id(order))).await? {
                None => return self.settle_order(order, &Input::CancelAnswered).await,
                Some(report) => self.take_report(order, report).await?,
            }
        }
        self.answer(order, OrderAnswer::Done).await?;
        self.look_wanted.notify_one();
        Ok(())
    }

    async fn clean_attempt(&self, order: &Order, row: Option<&JobRow>) -> Result<(), HandlingError> {
        if row.is_some_and(|row| row.attempt == order.attempt && !row.status.is_attempt_end()) {
            return self.answer(order, OrderAnswer::Refused("the attempt has not ended".to_owned())).await;
        }
        match self.limited(Asked::Clean, self.scheduler.clean(attempt_id(order))).await {
            Ok(()) => self.answer(order, OrderAnswer::Done).await,
            Err(HandlingError::Scheduler(SchedulerError::Refused { reason, .. })) => {
                self.answer(order, OrderAnswer::Refused(reason)).await
            }
            Err(error) => Err(error),
        }
    }

    /// Takes in what the scheduler says about an attempt of a submitted job.
    async fn take_report(&self, order: &Order, report: AttemptReport) -> Result<(), HandlingError> {
        let is_under_way = report.started_at.is_some() || report.end.is_some();
        let input = match report.end.clone().filter(|_| is_never_started(&report)) {
            Some(end) => Input::Ended(Ended { started_at: None, end, samples_taken: 0, samples: Vec::new() }),
            None => Input::SchedulerAccepted(report),
        };
        self.settle_order(order, &input).await?;
        if is_under_way {
            self.look_wanted.notify_one();
        }
        Ok(())
    }

    /// Applies what the scheduler answered; the write answers the order too. What does not fit the job any more
    /// is recorded as the order's answer.
    async fn settle_order(&self, order: &Order, input: &Input) -> Result<(), HandlingError> {
        match self.apply(&order.job_id, input).await? {
            Applied::Written(_) => Ok(()),
            Applied::Unchanged(_) => self.answer(order, OrderAnswer::Done).await,
            Applied::Refused(refusal) => {
                tracing::warn!(job.id = %order.job_id, error = %refusal, "scheduler's answer was refused");
                self.answer(order, OrderAnswer::Refused(refusal.to_string())).await
            }
        }
    }

    async fn answer(&self, order: &Order, answer: OrderAnswer) -> Result<(), HandlingError> {
        match self.store.answer_order(order.clone(), answer).await {
            Ok(()) => Ok(()),
            // Another write has answered it.
            Err(StoreError::Conflict(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn attempt_id(order: &Order) -> AttemptId {
    AttemptId { job_id: order.job_id.clone(), attempt: order.attempt }
}
