//! The root of the supervision tree (design D5): it owns a factory for every group's dispatcher.
//!
//! Promises that a dispatcher which ends is built anew from its factory after a delay, as long as its restart
//! budget lasts; when the budget is spent the escalation given at the start is called, which ends the
//! process. Its own handlers are few and short, on a thread that carries no records.

pub mod message;
pub mod watchdog;
pub mod wishes;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Actor, AsyncContext, Context, Handler, ResponseFuture};
use actix_rt::ArbiterHandle;

use self::message::{RestartLaneOf, StopAll};
use crate::backoff::{RestartDecision, RestartPolicy};
use crate::child::Child;
use crate::dispatcher::message::{DispatcherExited, RestartLane, StopDispatcher};
use crate::dispatcher::{Dispatcher, GroupSpec};
use crate::ids::Group;
use crate::snapshot::ActorState;

/// Messages the supervisor's mailbox takes: a few per group would do.
const SUPERVISOR_MAILBOX: usize = 256;

/// How often the supervisor looks for dispatchers whose end it was not told of.
const SUPERVISOR_TICK: Duration = Duration::from_millis(100);

/// How long after the time given a dispatcher may take to answer that it has stopped.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// Called once when a group's restart budget is spent; it ends the process.
pub type Escalation = Arc<dyn Fn(&Group, &str) + Send + Sync>;

/// One group.
struct GroupChild {
    spec: GroupSpec,
    dispatcher: Child<Dispatcher, u64>,
}

/// The root actor.
pub struct Supervisor {
    children: BTreeMap<Group, GroupChild>,
    restarts: RestartPolicy,
    escalation: Escalation,
    /// The thread that dispatchers run on; none runs them on the supervisor's own.
    arbiter: Option<ArbiterHandle>,
    is_stopping: bool,
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervisor").field("groups", &self.children.keys()).finish_non_exhaustive()
    }
}

impl Supervisor {
    /// Makes the root of a tree with these groups.
    pub fn new(
        groups: Vec<GroupSpec>,
        restarts: RestartPolicy,
        arbiter: Option<ArbiterHandle>,
        escalation: Escalation,
    ) -> Self {
        let children = groups
            .into_iter()
            .map(|spec| (spec.group.clone(), GroupChild { spec, dispatcher: Child::default() }));
        Self { children: children.collect(), restarts, escalation, arbiter, is_stopping: false }
    }

    fn start_child(&mut self, group: &Group, ctx: &mut Context<Self>) {
        let Some(child) = self.children.get_mut(group).filter(|_| !self.is_stopping) else { return };
        let (spec, parent) = (child.spec.clone(), ctx.address().recipient());
        let life = child.dispatcher.life() + 1;
        let make = move || Dispatcher::new(spec, life, parent);
        child.dispatcher.start(life, self.arbiter.as_ref(), make);
    }

    fn child_ended(&mut self, group: &Group, failure: &str, ctx: &mut Context<Self>) {
        let Some(child) = self.children.get_mut(group) else { return };
        child.dispatcher.end();
        if self.is_stopping {
            return;
        }
        let environment = &child.spec.environment;
        environment.board.set_group(group, ActorState::Restarting, Some(failure.to_owned()));
        let (now, random) = (environment.clock.moment(), environment.randomness.next_u64());
        match child.dispatcher.decide(&self.restarts, now, random) {
            RestartDecision::Restart(delay) => {
                tracing::warn!(group = %group, error = failure, "dispatcher ended: it is started again");
                let group = group.clone();
                ctx.run_later(delay, move |supervisor, ctx| supervisor.start_child(&group, ctx));
            }
            RestartDecision::Escalate => {
                tracing::error!(group = %group, error = failure, "restart budget of a group is spent");
                (self.escalation)(group, failure);
            }
        }
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(SUPERVISOR_MAILBOX);
        let groups: Vec<Group> = self.children.keys().cloned().collect();
        for group in groups {
            self.start_child(&group, ctx);
        }
        ctx.run_interval(SUPERVISOR_TICK, |supervisor, ctx| {
            let dead: Vec<Group> = supervisor
                .children
                .iter()
                .filter(|(_, child)| child.dispatcher.is_lost())
                .map(|(group, _)| group.clone())
                .collect();
            for group in dead {
                supervisor.child_ended(&group, "its end was not told", ctx);
            }
        });
    }
}

impl Handler<DispatcherExited> for Supervisor {
    type Result = ();

    fn handle(&mut self, note: DispatcherExited, ctx: &mut Self::Context) {
        let DispatcherExited { group, generation, failure } = note;
        if self.children.get(&group).is_some_and(|child| child.dispatcher.lives_in(generation)) {
            self.child_ended(&group, failure.as_deref().unwrap_or("stopped"), ctx);
        }
    }
}

impl Handler<RestartLaneOf> for Supervisor {
    type Result = ();

    fn handle(&mut self, RestartLaneOf { lane }: RestartLaneOf, _ctx: &mut Self::Context) {
        if let Some(dispatcher) = self.children.get(&lane.group).and_then(|child| child.dispatcher.address())
        {
            // A dispatcher that cannot take it is about to be started anew, and its lanes with it.
            let _started_anyway = dispatcher.try_send(RestartLane { lane });
        }
    }
}

impl Handler<StopAll> for Supervisor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, StopAll { within }: StopAll, _ctx: &mut Self::Context) -> Self::Result {
        self.is_stopping = true;
        let deadline = Instant::now() + within;
        let stops: Vec<_> = self
            .children
            .values_mut()
            .filter_map(|child| child.dispatcher.end())
            .map(|dispatcher| async move {
                // A dispatcher that has ended already has nothing left to stop; one that does not answer in
                // time is abandoned: the log owns the work.
                let asked = dispatcher.send(StopDispatcher { deadline });
                let _ended_either_way = tokio::time::timeout(within + STOP_GRACE, asked).await;
            })
            .collect();
        Box::pin(async move {
            futures_util::future::join_all(stops).await;
        })
    }
}
