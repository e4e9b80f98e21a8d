//! The lane: what one group does with one partition (design D3).
//!
//! Promises order, effects once, and isolation of poison for any behaviour; see [`behaviour`] for what a
//! consumer brings and `core` for how a batch goes through. A lane keeps nothing that is not in the log or
//! the store: when it ends, for whatever reason, another incarnation goes on from the stored position.
//!
//! Does not restart itself: its dispatcher does, within a budget.

mod answer;
pub mod behaviour;
pub mod brake;
mod core;
pub mod credit;
pub mod dead_letter;
pub mod environment;
pub mod fault;
pub mod guard;
pub mod lag;
pub mod message;
pub mod notice;
mod pace;
mod parked;
mod retry;
mod rows;
pub mod start;
pub mod status;
#[cfg(test)]
mod tests;
mod trial;
pub mod turn;
pub mod window;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Recipient, SpawnHandle, WrapFuture,
};
use tokio::sync::Notify;

use self::core::LaneCore;
pub use self::core::PANICS_BEFORE_POISON;
use self::environment::{LaneEnvironment, LaneSettings};
use self::fault::FaultPoint;
use self::guard::{guard, guard_async};
use self::message::{LaneExit, LaneExited, RecordsRouted, StopLane};
pub use self::pace::Recent;
use self::status::LaneStatus;
use crate::clock::Clock;
use crate::ids::{Incarnation, LaneKey};
use crate::lane::behaviour::Behaviour;
use crate::lane::credit::CreditPool;
use crate::ports::log::LogReader;
use crate::record::RecordBatch;

/// Messages a lane's mailbox takes. Batches of one record can be more than this on their way, as credits count
/// records: the dispatcher keeps what a full mailbox does not take.
pub const LANE_MAILBOX: usize = 256;

/// What a new incarnation of a lane is given.
pub struct LaneSetup {
    /// What all lanes share.
    pub environment: Arc<LaneEnvironment>,
    /// Which lane it is.
    pub lane: LaneKey,
    /// Its life.
    pub incarnation: Incarnation,
    /// The consumer's thinking.
    pub behaviour: Box<dyn Behaviour>,
    /// The group's reader.
    pub reader: Arc<dyn LogReader>,
    /// What the group's batches hold.
    pub credits: Arc<CreditPool>,
    /// Its entry on the board.
    pub status: Arc<LaneStatus>,
    /// Who is told of its end.
    pub parent: Recipient<LaneExited>,
}

/// What waits for the lane's task.
#[derive(Default)]
struct Inbox {
    batches: RefCell<VecDeque<RecordBatch>>,
    is_stopping: Cell<bool>,
    changed: Notify,
}

/// The actor of one incarnation of a lane.
pub struct Lane {
    /// Taken by the task in `started`.
    setup: Option<LaneSetup>,
    lane: LaneKey,
    incarnation: Incarnation,
    parent: Recipient<LaneExited>,
    status: Arc<LaneStatus>,
    clock: Arc<dyn Clock>,
    /// Shared with the task.
    inbox: Rc<Inbox>,
    /// The task; cancelled when a deadline passes.
    task: Option<SpawnHandle>,
    /// Why it ended, once it has.
    exit: Option<LaneExit>,
}

impl Lane {
    /// Makes the actor of a new incarnation.
    pub fn new(setup: LaneSetup) -> Self {
        Self {
            lane: setup.lane.clone(),
            incarnation: setup.incarnation,
            parent: setup.parent.clone(),
            status: Arc::clone(&setup.status),
            clock: Arc::clone(&setup.environment.clock),
            setup: Some(setup),
            inbox: Rc::default(),
            task: None,
            exit: None,
        }
    }

    /// Ends the actor with a reason; the first one given counts.
    fn end(&mut self, exit: LaneExit, ctx: &mut Context<Self>) {
        self.exit.get_or_insert(exit);
        ctx.stop();
    }
}

impl Actor for Lane {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(LANE_MAILBOX);
        let Some(setup) = self.setup.take() else { return };
        let faults = Arc::clone(&setup.environment.faults);
        let lane = self.lane.clone();
        if let Err(panic) = guard(|| faults.hit(FaultPoint::Started, &lane)) {
            return self.end(LaneExit::Panicked(panic.0), ctx);
        }
        let work = guard_async(work(setup, Rc::clone(&self.inbox)));
        let task = ctx.spawn(work.into_actor(self).map(|result, lane, ctx| {
            let exit = match result {
                Ok(Ok(())) => LaneExit::Stopped,
                Ok(Err(exit)) => exit,
                Err(panic) => LaneExit::Panicked(panic.0),
            };
            lane.end(exit, ctx);
        }));
        self.task = Some(task);
    }

    fn stopped(&mut self, _ctx: &mut Self::Context) {
        let exit = match self.exit.take() {
            Some(exit) => exit,
            None if std::thread::panicking() => LaneExit::Panicked("in a handler".to_owned()),
            None => LaneExit::Stopped,
        };
        self.inbox.batches.borrow_mut().clear();
        let note = LaneExited { lane: self.lane.clone(), incarnation: self.incarnation, exit };
        // A full or closed mailbox is fine: the dispatcher also looks whether the address is connected.
        let _unheard = self.parent.try_send(note);
    }
}

impl Handler<RecordsRouted> for Lane {
    type Result = ();

    fn handle(&mut self, RecordsRouted { batch }: RecordsRouted, _ctx: &mut Self::Context) {
        if batch.incarnation == self.incarnation {
            self.status.delivered(&batch, self.clock.moment());
            self.inbox.batches.borrow_mut().push_back(batch);
            self.inbox.changed.notify_one();
        }
    }
}

impl Handler<StopLane> for Lane {
    type Result = ();

    fn handle(&mut self, StopLane { deadline }: StopLane, ctx: &mut Self::Context) {
        self.inbox.is_stopping.set(true);
        self.inbox.changed.notify_one();
        match deadline.map(|at| at.saturating_duration_since(std::time::Instant::now())) {
            Some(left) if !left.is_zero() => {
                ctx.run_later(left, |lane, ctx| lane.abandon(ctx));
            }
            _ => self.abandon(ctx),
        }
    }
}

impl Lane {
    /// Stops without waiting for whatever the task does; the store's fence makes that safe.
    fn abandon(&mut self, ctx: &mut Context<Self>) {
        if let Some(task) = self.task.take() {
            ctx.cancel_future(task);
        }
        self.status.set_state(crate::snapshot::ActorState::Stopped);
        self.end(LaneExit::Stopped, ctx);
    }
}

/// The lane's whole life: open, then batches, wishes and timers until it is asked to stop.
async fn work(setup: LaneSetup, inbox: Rc<Inbox>) -> Result<(), LaneExit> {
    let LaneSetup { environment, lane, incarnation, behaviour, reader, credits, status, parent } = setup;
    let tick_interval = environment.settings.tick_interval;
    status.opening(incarnation);
    // Wishes from before are read by `open`.
    let _read_by_open = status.take_nudge();
    let seen = Rc::clone(&inbox);
    let is_ending = Box::new(move || seen.is_stopping.get() || !parent.connected());
    let mut rebuilding = Some(credits.narrow(lane.topic_partition));
    let mut core =
        LaneCore::open(environment, lane, incarnation, behaviour, reader, status, is_ending).await?;
    // What was released while no incarnation lived is drained first, as soon as the window is whole.
    let mut may_be_released = true;
    while !core.is_ending() {
        if core.status.take_nudge() {
            core.refresh_orders().await?;
            may_be_released = true;
        }
        if !core.is_rewinding() {
            drop(rebuilding.take());
            if std::mem::take(&mut may_be_released) {
                core.drain_released().await?;
            }
            core.tick().await?;
            core.rest_aside();
            core.note_passage(core.position).await?;
        }
        let is_running = !core.is_held();
        let batch = match is_running || core.is_rewinding() {
            true => inbox.batches.borrow_mut().pop_front(),
            false => None,
        };
        let Some(mut batch) = batch else {
            // The time limit is for timers and wishes; a stop or a batch wakes it.
            let _woken = tokio::time::timeout(tick_interval, inbox.changed.notified()).await;
            continue;
        };
        if core.may_join() {
            join_waiting(&mut batch, &mut inbox.batches.borrow_mut(), &core.env.settings);
        }
        let queued = inbox.batches.borrow().len();
        core.learn_homes(&batch).await?;
        let Some(fresh) = core.absorb(batch)? else { continue };
        if !is_running {
            inbox.batches.borrow_mut().push_front(fresh);
            continue;
        }
        let first = fresh.records.first().map_or(fresh.from, |record| record.offset);
        if !core.may_go_on(first).await? {
            inbox.batches.borrow_mut().push_front(fresh);
            // Another lane must come to where this one waits for it, or an operator act.
            tokio::time::sleep(tick_interval).await;
            continue;
        }
        if let Some(rest) = core.process(fresh, queued).await? {
            inbox.batches.borrow_mut().push_front(rest);
        }
    }
    core.end_in_order().await;
    Ok(())
}

/// Joins what waits behind a batch to it, up to what one batch may hold: each transaction costs the same, and after a
/// hiccup of the log or the store several wait.
fn join_waiting(batch: &mut RecordBatch, waiting: &mut VecDeque<RecordBatch>, settings: &LaneSettings) {
    let (mut records, mut bytes) = (batch.records.len(), batch.weight_bytes());
    while let Some(next) = waiting.pop_front() {
        records += next.records.len();
        bytes += next.weight_bytes();
        let fits = records <= settings.joined_records && bytes <= settings.joined_bytes;
        let kept = if fits { batch.join(next) } else { Err(next) };
        if let Err(next) = kept {
            return waiting.push_front(next);
        }
    }
}
