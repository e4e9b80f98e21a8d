//! The dispatcher of a consumer group: it owns a lane per assigned partition and routes records to them.
//!
//! Promises that each partition's records reach its lane in order and tagged with the lane's life; that a lane
//! which ends is started again after a delay, one for one, as long as its restart budget lasts; and that a
//! revoked partition's lane has stopped before the log is told so. When a lane's budget is spent the
//! dispatcher gives up in its turn, and its supervisor decides.

pub mod message;
mod sink;
mod slot;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Recipient, ResponseFuture,
    WrapFuture,
};
use actix_rt::ArbiterHandle;
use tokio::sync::oneshot;

use self::message::{AssignmentChanged, DispatcherExited, RecordsRead, RestartLane, StopDispatcher};
use self::sink::{Assignment, Assignments, DispatcherSink};
use self::slot::Slot;
use crate::backoff::{RestartDecision, RestartPolicy};
use crate::ids::{Group, Incarnation, LaneKey, Topic, TopicPartition};
use crate::lane::behaviour::BehaviourFactory;
use crate::lane::credit::{CreditLimits, CreditPool, GlobalCredit};
use crate::lane::environment::LaneEnvironment;
use crate::lane::guard::guard;
use crate::lane::message::{LaneExit, LaneExited, StopLane};
use crate::lane::{Lane, LaneSetup};
use crate::layout::Layout;
use crate::metrics::RebalanceKind;
use crate::ports::log::{EventLog, LogError, LogReader, Revocation};
use crate::snapshot::ActorState;

/// Messages a dispatcher's mailbox takes; a reader that finds it full holds its batch.
const DISPATCHER_MAILBOX: usize = 1_024;

/// How often a dispatcher looks for lanes whose end it was not told of and for changes of the assignment.
const DISPATCHER_TICK: Duration = Duration::from_millis(50);

/// How often a dispatcher looks whether a topic's layout was changed, here or in another process.
const LAYOUT_LOOK: Duration = Duration::from_secs(1);

/// How long after a stop's deadline lanes and reader may take to let go.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// What a group's dispatcher is made of, for each of its lives.
#[derive(Clone)]
pub struct GroupSpec {
    /// The group.
    pub group: Group,
    /// The topics that it follows.
    pub topics: Vec<Topic>,
    /// Makes a behaviour for a new incarnation of a lane.
    pub behaviour: BehaviourFactory,
    /// What lanes share.
    pub environment: Arc<LaneEnvironment>,
    /// The log.
    pub log: Arc<dyn EventLog>,
    /// How much may be on its way.
    pub credits: CreditLimits,
    /// What all groups hold together.
    pub global_credit: Arc<GlobalCredit>,
    /// How lanes are started again.
    pub restarts: RestartPolicy,
    /// The threads that lanes run on; none runs them on the dispatcher's own.
    pub arbiters: Vec<ArbiterHandle>,
    /// Numbers the lives of all lanes of the process.
    pub incarnations: Arc<AtomicU64>,
}

impl fmt::Debug for GroupSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupSpec").field("group", &self.group).finish_non_exhaustive()
    }
}

/// The actor of one life of a group's dispatcher.
pub struct Dispatcher {
    spec: GroupSpec,
    /// Its life, told with its end.
    generation: u64,
    /// The supervisor.
    parent: Recipient<DispatcherExited>,
    /// The group's reader, once subscribed.
    reader: Option<Arc<dyn LogReader>>,
    credits: Option<Arc<CreditPool>>,
    /// Filled by the reader's thread.
    assignments: Assignments,
    /// The assigned partitions.
    slots: BTreeMap<TopicPartition, Slot>,
    /// Whether the log has assigned anything in this life.
    has_assignment: bool,
    /// Why it gave up.
    failure: Option<String>,
    is_stopping: bool,
    /// When layouts are looked at next; none while an answer is waited for.
    layout_look_at: Option<tokio::time::Instant>,
}

impl Dispatcher {
    /// Makes the actor of a new life.
    pub fn new(spec: GroupSpec, generation: u64, parent: Recipient<DispatcherExited>) -> Self {
        Self {
            spec,
            generation,
            parent,
            reader: None,
            credits: None,
            assignments: Assignments::default(),
            slots: BTreeMap::new(),
            has_assignment: false,
            failure: None,
            is_stopping: false,
            layout_look_at: Some(tokio::time::Instant::now()),
        }
    }

    fn lane_key(&self, partition: TopicPartition) -> LaneKey {
        LaneKey { group: self.spec.group.clone(), topic_partition: partition }
    }

    /// Ends the dispatcher because something is beyond it.
    fn give_up(&mut self, failure: String, ctx: &mut Context<Self>) {
        tracing::error!(group = %self.spec.group, error = failure, "dispatcher gives up");
        self.failure.get_or_insert(failure);
        ctx.stop();
    }

    fn subscribe(&mut self, ctx: &mut Context<Self>) {
        let sink = DispatcherSink {
            records: ctx.address().recipient(),
            changed: ctx.address().recipient(),
            assignments: Arc::clone(&self.assignments),
            environment: Arc::clone(&self.spec.environment),
            group: self.spec.group.clone(),
        };
        let credits = CreditPool::new(self.spec.credits, Arc::clone(&self.spec.global_credit));
        self.credits = Some(Arc::clone(&credits));
        let (group, topics) = (self.spec.group.clone(), self.spec.topics.clone());
        match self.spec.log.subscribe(group, topics, Arc::new(sink), credits) {
            Ok(reader) => self.reader = Some(reader),
            Err(error) => self.give_up(format!("failed to subscribe: {error}"), ctx),
        }
    }

    fn take_assignments(&mut self, ctx: &mut Context<Self>) {
        loop {
            let next = self.assignments.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            match next {
                None => return,
                Some(Assignment::Assigned(partitions)) => {
                    self.count_rebalance(RebalanceKind::Assigned);
                    if !std::mem::replace(&mut self.has_assignment, true) {
                        // What an earlier life had and this one was not given is someone else's by now.
                        self.spec.environment.board.retain_lanes(&self.spec.group, &partitions);
                    }
                    for partition in partitions {
                        self.assign(partition, ctx);
                    }
                }
                Some(Assignment::Revoked(revocation)) => {
                    self.count_rebalance(RebalanceKind::Revoked);
                    self.revoke(revocation, ctx);
                }
                Some(Assignment::Lost(partitions)) => {
                    self.count_rebalance(RebalanceKind::Lost);
                    for partition in partitions {
                        self.leave(partition, None);
                    }
                }
                Some(Assignment::Broken(partition, incarnation)) => self.look_again(partition, incarnation),
                Some(Assignment::Health(health)) => self.log_is(health),
            }
        }
    }

    fn count_rebalance(&self, kind: RebalanceKind) {
        self.spec.environment.metrics.count_rebalance(&self.spec.group, kind);
        self.spec.environment.board.count_rebalance(&self.spec.group);
    }

    fn assign(&mut self, partition: TopicPartition, ctx: &mut Context<Self>) {
        let slot = self.slots.entry(partition).or_default();
        slot.is_leaving = false;
        if !slot.lane.lives() {
            self.start_lane(partition, ctx);
        }
    }

    /// Starts a new incarnation of an assigned partition's lane.
    fn start_lane(&mut self, partition: TopicPartition, ctx: &mut Context<Self>) {
        if self.is_stopping {
            return;
        }
        let lane = self.lane_key(partition);
        let (Some(reader), Some(credits)) = (&self.reader, &self.credits) else { return };
        let Some(slot) = self.slots.get_mut(&partition) else { return };
        if slot.lane.lives() || slot.is_leaving {
            return;
        }
        let incarnation = Incarnation(self.spec.incarnations.fetch_add(1, Ordering::Relaxed) + 1);
        slot.lane.begin(incarnation);
        let status = self.spec.environment.board.lane(&lane);
        status.opening(incarnation);
        let factory = &self.spec.behaviour;
        let behaviour = match guard(|| factory()) {
            Ok(behaviour) => behaviour,
            Err(panic) => return self.give_up(format!("failed to make a behaviour: {panic}"), ctx),
        };
        let setup = LaneSetup {
            environment: Arc::clone(&self.spec.environment),
            lane,
            incarnation,
            behaviour,
            reader: Arc::clone(reader),
            credits: Arc::clone(credits),
            status,
            parent: ctx.address().recipient(),
        };
        // A partition's lanes stay on one thread, so that one incarnation ends before the next begins there.
        let seat = usize::from(partition.partition.0) + usize::from(partition.topic.code());
        let arbiter = self.spec.arbiters.get(seat % self.spec.arbiters.len().max(1));
        slot.lane.start(incarnation, arbiter, move || Lane::new(setup));
    }

    /// Stops a lane because its partition goes to someone else, and forgets it once it has stopped.
    fn leave(
        &mut self,
        partition: TopicPartition,
        deadline: Option<Instant>,
    ) -> Option<oneshot::Receiver<()>> {
        let lane = self.lane_key(partition);
        let slot = self.slots.get_mut(&partition)?;
        slot.is_leaving = true;
        if !slot.lane.lives() {
            self.slots.remove(&partition);
            self.spec.environment.board.remove_lane(&lane);
            return None;
        }
        let (stopped, heard) = oneshot::channel();
        slot.waiting.push(stopped);
        slot.ask_to_stop(deadline);
        Some(heard)
    }

    /// Ends a lane whose place in the log is no longer what it was; the incarnation that follows looks again.
    fn look_again(&mut self, partition: TopicPartition, incarnation: Incarnation) {
        let lane = self.lane_key(partition);
        let Some(slot) = self.slots.get_mut(&partition) else { return };
        if slot.lane.lives_in(incarnation) && !slot.is_asked_to_stop {
            tracing::warn!(lane = %lane, "the log changed under the lane: it looks again");
            slot.ask_to_stop(None);
        }
    }

    /// Shows how the log is. A reader that is shut out stays so: asking for another one would shut out the
    /// process that took its place.
    fn log_is(&mut self, health: Result<(), LogError>) {
        let group = &self.spec.group;
        let (state, error) = match health {
            Ok(()) => (ActorState::Running, None),
            Err(error) if error.is_transient() => (ActorState::Waiting, Some(error.to_string())),
            Err(error) => {
                tracing::error!(group = %group, error = %error, "the group stays down");
                (ActorState::Stopped, Some(error.to_string()))
            }
        };
        self.spec.environment.board.set_group(group, state, error);
    }

    fn revoke(&mut self, revocation: Revocation, ctx: &mut Context<Self>) {
        let Revocation { partitions, deadline, done } = revocation;
        let heard: Vec<_> =
            partitions.into_iter().filter_map(|partition| self.leave(partition, Some(deadline))).collect();
        let all = futures_util::future::join_all(heard);
        ctx.spawn(
            async move {
                let limit = deadline.saturating_duration_since(Instant::now()) + STOP_GRACE;
                // Past the limit the fence does what the lane did not: its writes are refused.
                let _in_time = tokio::time::timeout(limit, all).await;
                // A reader that is gone does not wait for the answer.
                let _heard = done.send(());
            }
            .into_actor(self),
        );
    }

    /// Looks at a lane that has ended and decides what follows.
    fn lane_ended(&mut self, partition: TopicPartition, exit: LaneExit, ctx: &mut Context<Self>) {
        let lane = self.lane_key(partition);
        let Some(slot) = self.slots.get_mut(&partition) else { return };
        slot.lane.end();
        let incarnation = slot.lane.life();
        let was_asked_to_stop = std::mem::take(&mut slot.is_asked_to_stop);
        slot.backlog.clear();
        slot.unsent_stop = None;
        for stopped in slot.waiting.drain(..) {
            // Whoever waited may have given up.
            let _heard = stopped.send(());
        }
        if let Some(reader) = &self.reader {
            reader.stop(partition, incarnation);
        }
        let environment = Arc::clone(&self.spec.environment);
        let status = environment.board.lane(&lane);
        if slot.is_leaving || self.is_stopping {
            if slot.is_leaving {
                self.slots.remove(&partition);
                environment.board.remove_lane(&lane);
            } else {
                status.ended(ActorState::Stopped, None);
            }
            return;
        }
        if was_asked_to_stop {
            // The partition came back while its lane was leaving.
            return self.start_lane(partition, ctx);
        }
        match exit {
            LaneExit::Gap(kind) => {
                tracing::error!(lane = %lane, gap = kind.name(), "gap in the log: an operator must decide");
                status.ended(ActorState::Gap, Some(exit.to_string()));
            }
            LaneExit::Fenced => {
                tracing::warn!(lane = %lane, "lane is fenced");
                status.ended(ActorState::Restarting, Some(exit.to_string()));
                self.confirm_then_restart(partition, incarnation, Some(exit), ctx);
            }
            LaneExit::NotAssigned => {
                tracing::warn!(lane = %lane, "partition was taken away while its lane started");
                status.ended(ActorState::Stopped, Some(exit.to_string()));
                self.confirm_then_restart(partition, incarnation, None, ctx);
            }
            LaneExit::Stopped | LaneExit::Failed(_) | LaneExit::Panicked(_) => {
                tracing::warn!(lane = %lane, error = %exit, "lane ended");
                status.ended(ActorState::Restarting, Some(exit.to_string()));
                self.confirm_then_restart(partition, incarnation, Some(exit), ctx);
            }
        }
    }

    /// Starts a lane again after its delay, or gives up when its budget is spent.
    fn restart_later(&mut self, partition: TopicPartition, exit: &LaneExit, ctx: &mut Context<Self>) {
        let lane = self.lane_key(partition);
        let environment = Arc::clone(&self.spec.environment);
        let Some(slot) = self.slots.get_mut(&partition) else { return };
        let (now, random) = (environment.clock.moment(), environment.randomness.next_u64());
        match slot.lane.decide(&self.spec.restarts, now, random) {
            RestartDecision::Restart(delay) => {
                environment.metrics.count_restart(&self.spec.group);
                ctx.run_later(delay, move |dispatcher, ctx| dispatcher.start_lane(partition, ctx));
            }
            RestartDecision::Escalate => {
                self.give_up(format!("restart budget of lane {lane} is spent: {exit}"), ctx);
            }
        }
    }

    /// Outside an assignment a lane starts again only if the log itself says that the partition is still ours
    /// (design D2). Asks until the log answers, or until the answer matters no more. An exit costs restart budget;
    /// without one the lane starts at once.
    fn confirm_then_restart(
        &mut self,
        partition: TopicPartition,
        fenced: Incarnation,
        exit: Option<LaneExit>,
        ctx: &mut Context<Self>,
    ) {
        let Some(reader) = self.reader.clone().filter(|_| self.is_last_life(partition, fenced)) else {
            return;
        };
        let lane = self.lane_key(partition);
        let next = self.spec.environment.board.lane(&lane).next();
        let confirmed = reader.confirm_ownership(partition, next);
        ctx.spawn(confirmed.into_actor(self).map(move |answer, dispatcher, ctx| match answer {
            // The partition was taken away, or has another lane by now.
            _ if !dispatcher.is_last_life(partition, fenced) => {}
            Ok(true) => match exit {
                Some(exit) => dispatcher.restart_later(partition, &exit, ctx),
                None => dispatcher.start_lane(partition, ctx),
            },
            Ok(false) => {
                tracing::warn!(lane = %lane, "lane stays down: the partition is not ours");
                dispatcher.spec.environment.board.lane(&lane).ended(ActorState::Stopped, None);
            }
            Err(error) => {
                tracing::warn!(lane = %lane, error = %error, "failed to confirm ownership: asks again");
                ctx.run_later(DISPATCHER_TICK, move |dispatcher, ctx| {
                    dispatcher.confirm_then_restart(partition, fenced, exit, ctx);
                });
            }
        }));
    }

    /// Tells whether a partition is still assigned and this life of its lane, which has ended, was its last.
    fn is_last_life(&self, partition: TopicPartition, incarnation: Incarnation) -> bool {
        let slot = self.slots.get(&partition);
        slot.is_some_and(|slot| slot.lane.life() == incarnation && !slot.lane.lives())
    }

    /// Finds lanes whose end was not told, changes whose note was lost, and what a full mailbox held up.
    fn tick(&mut self, ctx: &mut Context<Self>) {
        self.take_assignments(ctx);
        for slot in self.slots.values_mut() {
            slot.send_waiting();
        }
        let dead: Vec<TopicPartition> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.lane.is_lost())
            .map(|(partition, _)| *partition)
            .collect();
        for partition in dead {
            self.lane_ended(partition, LaneExit::Panicked("its end was not told".to_owned()), ctx);
        }
        self.look_at_layouts(ctx);
    }

    /// Asks the store for the layouts, now and then: another process may have adopted one.
    fn look_at_layouts(&mut self, ctx: &mut Context<Self>) {
        let now = tokio::time::Instant::now();
        if self.layout_look_at.take_if(|at| *at <= now).is_none() {
            return;
        }
        let asked = self.spec.environment.store.read_layouts();
        ctx.spawn(asked.into_actor(self).map(|answer, dispatcher, ctx| {
            dispatcher.layout_look_at = Some(tokio::time::Instant::now() + LAYOUT_LOOK);
            match answer {
                Ok(layouts) => dispatcher.guarded(ctx, |dispatcher, _ctx| dispatcher.take_layouts(layouts)),
                // Lanes that wait for the same store say so.
                Err(error) => tracing::debug!(error = %error, "failed to read layouts: later again"),
            }
        }));
    }

    /// Has lanes that were opened under an older layout look again; they could not write any more.
    fn take_layouts(&mut self, layouts: Vec<Layout>) {
        let board = Arc::clone(&self.spec.environment.board);
        for layout in layouts {
            board.learn_layout(layout);
        }
        for (partition, slot) in &mut self.slots {
            let lane = LaneKey { group: self.spec.group.clone(), topic_partition: *partition };
            let epochs = board.layout(partition.topic).count();
            if slot.lane.lives() && !slot.is_asked_to_stop && board.lane(&lane).is_under_older_layout(epochs)
            {
                tracing::info!(lane = %lane, "the topic's layout was changed: the lane opens anew");
                slot.ask_to_stop(None);
            }
        }
    }

    /// Runs a handler's body; a panic ends the dispatcher with its reason told.
    fn guarded(&mut self, ctx: &mut Context<Self>, body: impl FnOnce(&mut Self, &mut Context<Self>)) {
        if let Err(panic) = guard(|| body(self, ctx)) {
            self.give_up(panic.to_string(), ctx);
        }
    }
}

impl Actor for Dispatcher {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(DISPATCHER_MAILBOX);
        self.spec.environment.board.set_group(&self.spec.group, ActorState::Running, None);
        self.guarded(ctx, Self::subscribe);
        ctx.run_interval(DISPATCHER_TICK, |dispatcher, ctx| dispatcher.guarded(ctx, Self::tick));
    }

    fn stopped(&mut self, _ctx: &mut Self::Context) {
        for slot in self.slots.values() {
            if let Some(lane) = slot.lane.address() {
                // A lane that cannot take the message sees that its dispatcher is gone.
                let _seen_by_lane = lane.try_send(StopLane { deadline: None });
            }
        }
        if let Some(reader) = self.reader.take() {
            // Its thread ends on its own; nobody is left to wait for the answer.
            drop(reader.close());
        }
        let failure = match self.failure.take() {
            None if std::thread::panicking() => Some("panicked in a handler".to_owned()),
            failure => failure,
        };
        let note = DispatcherExited { group: self.spec.group.clone(), generation: self.generation, failure };
        // The supervisor also looks whether the address is connected.
        let _unheard = self.parent.try_send(note);
    }
}

impl Handler<RecordsRead> for Dispatcher {
    type Result = ();

    fn handle(&mut self, RecordsRead { batch }: RecordsRead, _ctx: &mut Self::Context) {
        let Some(slot) = self.slots.get_mut(&batch.topic_partition) else { return };
        if slot.lane.lives_in(batch.incarnation) && !slot.is_asked_to_stop {
            slot.backlog.push_back(batch);
            slot.send_waiting();
        }
    }
}

impl Handler<AssignmentChanged> for Dispatcher {
    type Result = ();

    fn handle(&mut self, AssignmentChanged: AssignmentChanged, ctx: &mut Self::Context) {
        self.guarded(ctx, Self::take_assignments);
    }
}

impl Handler<LaneExited> for Dispatcher {
    type Result = ();

    fn handle(&mut self, LaneExited { lane, incarnation, exit }: LaneExited, ctx: &mut Self::Context) {
        let partition = lane.topic_partition;
        if self.slots.get(&partition).is_some_and(|slot| slot.lane.lives_in(incarnation)) {
            self.guarded(ctx, |dispatcher, ctx| dispatcher.lane_ended(partition, exit, ctx));
        }
    }
}

impl Handler<RestartLane> for Dispatcher {
    type Result = ();

    fn handle(&mut self, RestartLane { lane }: RestartLane, ctx: &mut Self::Context) {
        let partition = lane.topic_partition;
        let Some(ended) = self.slots.get(&partition).map(|slot| slot.lane.life()) else { return };
        self.guarded(ctx, |dispatcher, ctx| dispatcher.confirm_then_restart(partition, ended, None, ctx));
    }
}

impl Handler<StopDispatcher> for Dispatcher {
    type Result = ResponseFuture<()>;

    fn handle(
        &mut self,
        StopDispatcher { deadline }: StopDispatcher,
        ctx: &mut Self::Context,
    ) -> Self::Result {
        self.is_stopping = true;
        let mut heard = Vec::new();
        for slot in self.slots.values_mut() {
            if slot.lane.lives() {
                let (stopped, waits) = oneshot::channel();
                slot.waiting.push(stopped);
                heard.push(waits);
                slot.ask_to_stop(Some(deadline));
            }
        }
        let reader = self.reader.take();
        let address = ctx.address();
        Box::pin(async move {
            let limit = deadline.saturating_duration_since(Instant::now()) + STOP_GRACE;
            // What has not stopped by then is abandoned; the log owns the work.
            let _in_time = tokio::time::timeout(limit, futures_util::future::join_all(heard)).await;
            if let Some(reader) = reader {
                let _closed_in_time = tokio::time::timeout(STOP_GRACE, reader.close()).await;
            }
            // The mailbox closes when the supervisor lets the address go.
            let _ended_either_way = address.send(EndNow).await;
        })
    }
}

/// Ends the dispatcher after its lanes have stopped. Sent by itself.
#[derive(Debug, actix::Message)]
#[rtype(result = "()")]
struct EndNow;

impl Handler<EndNow> for Dispatcher {
    type Result = ();

    fn handle(&mut self, EndNow: EndNow, ctx: &mut Self::Context) {
        self.spec.environment.board.set_group(&self.spec.group, ActorState::Stopped, None);
        ctx.stop();
    }
}

/// Changes nobody will take any more are dropped with the dispatcher; dropping a revocation answers it.
impl Drop for Dispatcher {
    fn drop(&mut self) {
        let left: VecDeque<Assignment> =
            std::mem::take(&mut *self.assignments.lock().unwrap_or_else(PoisonError::into_inner));
        drop(left);
    }
}
