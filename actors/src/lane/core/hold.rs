//! How a lane holds still, and goes on.

use crate::lane::core::LaneCore;
use crate::lane::message::LaneExit;
use crate::lane::parked::ParkedKeys;
use crate::ports::store::DesiredState;
use crate::snapshot::ActorState;

impl LaneCore {
    /// The state of a lane that has nothing to wait for.
    pub(super) const fn idle_state(&self) -> ActorState {
        match self.desired {
            DesiredState::Running => ActorState::Running,
            DesiredState::Paused => ActorState::Paused,
        }
    }

    /// Shows the state of a lane that has nothing to wait for, and why it is held.
    pub(super) fn show_idle(&self, held_because: Option<&str>) {
        match held_because.filter(|_| self.is_held()) {
            Some(reason) => self.status.held(reason),
            None => self.status.set_state(self.idle_state()),
        }
    }

    /// Reports whether something holds the lane.
    pub(in crate::lane) fn is_held(&self) -> bool {
        self.desired == DesiredState::Paused
    }

    /// Holds still behind a transaction that says so.
    pub(super) fn hold(&mut self, reason: &str) {
        self.desired = DesiredState::Paused;
        // Whoever lets the lane go on has looked at these.
        self.flood.release();
        self.env.metrics.count_flood(&self.lane.group);
        self.status.held(reason);
        tracing::error!(lane = %self.lane, offset = %self.position, reason, "flood of poison: the lane holds still until an operator resumes it");
    }

    /// Reads again what operators want of the lane.
    pub(in crate::lane) async fn refresh_orders(&mut self) -> Result<(), LaneExit> {
        let orders = self.retry(|| self.env.store.read_orders(self.lane.clone())).await?;
        if (self.desired, orders.desired) == (DesiredState::Paused, DesiredState::Running) {
            tracing::info!(lane = %self.lane, offset = %self.position, "lane goes on");
        }
        self.parked = ParkedKeys::of(orders.parked);
        self.desired = orders.desired;
        self.status.parked(self.parked.len(), self.parked.records());
        self.show_idle(orders.held_because.as_deref());
        Ok(())
    }
}
