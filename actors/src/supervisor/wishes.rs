//! Carrying operators' wishes to whoever they are for in this process, whichever process was asked (design D14).
//!
//! Promises that a stored wish about a lane, the relay or jobs that this process has in hand is acted on within
//! [`WISH_INTERVAL`] and the time of one read, at once where this process was asked; that one statement does for all
//! lanes; and that a store which is away delays this and loses nothing. Carries nothing out itself.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use actix::Recipient;
use tokio::sync::Notify;

use super::message::RestartLaneOf;
use crate::ids::LaneKey;
use crate::lane::status::StatusBoard;
use crate::ports::relay::RelayView;
use crate::ports::store::JobStore;
use crate::ports::wishes::{WishRevision, Wished};
use crate::snapshot::ActorState;

/// How often the store is asked what operators want: with the read, well within a second.
pub const WISH_INTERVAL: Duration = Duration::from_millis(500);

/// How long one read is waited for.
const READ_LIMIT: Duration = Duration::from_secs(5);

/// Whom wishes are carried to.
pub struct WishWatch {
    /// Where wishes are stored.
    pub store: Arc<dyn JobStore>,
    /// The lanes of this process.
    pub board: Arc<StatusBoard>,
    /// Starts a lane again that waits for an operator.
    pub restarts: Recipient<RestartLaneOf>,
    /// The relay, where there is one.
    pub relay: Option<Arc<dyn RelayView>>,
    /// Whoever carries orders to the scheduler.
    pub announce_orders: Box<dyn Fn() + Send + Sync>,
    /// Notified when this process has stored a wish.
    pub asked: Arc<Notify>,
}

impl fmt::Debug for WishWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WishWatch").finish_non_exhaustive()
    }
}

impl WishWatch {
    /// Watches until `end` is ready.
    ///
    /// *Cancel safety*: dropping it loses nothing that another watch would not find.
    pub async fn watch(self, end: impl Future<Output = ()>) {
        tokio::pin!(end);
        let mut seen = WishRevision::default();
        // Lanes to be started again that nobody could take yet.
        let mut waiting = BTreeSet::new();
        loop {
            match tokio::time::timeout(READ_LIMIT, self.store.wishes_since(seen)).await {
                Ok(Ok(wishes)) => {
                    seen = wishes.revision;
                    wishes.about.into_iter().for_each(|wished| self.carry(wished, &mut waiting));
                }
                Ok(Err(error)) => tracing::debug!(%error, "failed to read operators' wishes: tries again"),
                Err(_elapsed) => tracing::debug!("operators' wishes could not be read in time: tries again"),
            }
            self.start_again(&mut waiting);
            tokio::select! {
                () = &mut end => return,
                () = self.asked.notified() => {}
                () = tokio::time::sleep(WISH_INTERVAL) => {}
            }
        }
    }

    /// Tells whoever a wish is for. What this process does not have is another one's.
    fn carry(&self, wished: Wished, waiting: &mut BTreeSet<LaneKey>) {
        match wished {
            // One that is not on the board reads what is wanted of it when it starts.
            Wished::Lane(lane) => {
                if let Some(status) = self.board.find_lane(&lane) {
                    status.nudge();
                    waiting.insert(lane);
                }
            }
            Wished::Outbox(partition) => {
                if let Some(relay) = &self.relay {
                    relay.look_again(partition);
                }
            }
            Wished::Orders => (self.announce_orders)(),
        }
    }

    /// Has lanes started again that stand before a gap: their incarnation has ended.
    fn start_again(&self, waiting: &mut BTreeSet<LaneKey>) {
        waiting.retain(|lane| {
            let state = self.board.find_lane(lane).map(|status| status.state());
            // A supervisor that cannot take it is overrun: it is asked again.
            state == Some(ActorState::Gap)
                && self.restarts.try_send(RestartLaneOf { lane: lane.clone() }).is_err()
        });
    }
}
