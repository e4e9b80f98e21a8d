//! An actor that its parent starts again, life after life (design D5).
//!
//! Promises that a note of an end counts only if it is about the life that is there now, that an end which was not told
//! is found by looking, and that the restarts of one child are counted together. Does not start anything by itself.

use std::fmt;

use actix::{Actor, Addr, Context};
use actix_rt::ArbiterHandle;

use crate::backoff::{RestartDecision, RestartLedger, RestartPolicy};
use crate::clock::Moment;

/// A child, by the actor that it is and what numbers its lives.
pub struct Child<A: Actor, L> {
    life: L,
    /// None while none lives.
    address: Option<Addr<A>>,
    restarts: RestartLedger,
}

impl<A: Actor, L: Default> Default for Child<A, L> {
    fn default() -> Self {
        Self { life: L::default(), address: None, restarts: RestartLedger::default() }
    }
}

impl<A: Actor, L: fmt::Debug> fmt::Debug for Child<A, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { life, address, restarts } = self;
        let lives = address.is_some();
        f.debug_struct("Child")
            .field("life", life)
            .field("lives", &lives)
            .field("restarts", restarts)
            .finish()
    }
}

impl<A: Actor<Context = Context<A>>, L: Copy + PartialEq> Child<A, L> {
    /// Starts a life, on a thread of its own or on the parent's.
    pub fn start(&mut self, life: L, on: Option<&ArbiterHandle>, make: impl FnOnce() -> A + Send + 'static) {
        self.life = life;
        self.address = Some(match on {
            Some(arbiter) => A::start_in_arbiter(arbiter, move |_| make()),
            None => make().start(),
        });
    }

    /// Numbers a life that is about to start.
    pub const fn begin(&mut self, life: L) {
        self.life = life;
    }

    /// The life that is there now, or was there last.
    pub const fn life(&self) -> L {
        self.life
    }

    /// How to reach it, while it lives.
    pub const fn address(&self) -> Option<&Addr<A>> {
        self.address.as_ref()
    }

    /// Reports whether a life is there that nobody has noted the end of.
    pub const fn lives(&self) -> bool {
        self.address.is_some()
    }

    /// Reports whether this very life is there: a note of another one's end comes too late.
    pub fn lives_in(&self, life: L) -> bool {
        self.lives() && self.life == life
    }

    /// Reports whether it has ended without a note.
    pub fn is_lost(&self) -> bool {
        self.address.as_ref().is_some_and(|address| !address.connected())
    }

    /// Notes that its life is over, and returns how it was reached.
    pub const fn end(&mut self) -> Option<Addr<A>> {
        self.address.take()
    }

    /// Decides what follows an end that was not wanted.
    pub fn decide(&mut self, policy: &RestartPolicy, now: Moment, random: u64) -> RestartDecision {
        self.restarts.on_exit(policy, now, random)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use actix::ActorContext;

    use super::*;
    use crate::backoff::BackoffPolicy;
    use crate::testkit::wait_until;

    #[derive(Default)]
    struct Mortal {
        ends_at_once: bool,
    }

    impl Actor for Mortal {
        type Context = Context<Self>;

        fn started(&mut self, ctx: &mut Self::Context) {
            if self.ends_at_once {
                ctx.stop();
            }
        }
    }

    #[actix::test]
    async fn child_that_ended_untold_is_lost_until_its_end_is_noted() {
        let mut child = Child::<Mortal, u64>::default();
        assert!(!child.lives() && !child.is_lost());

        child.start(1, None, || Mortal { ends_at_once: true });
        wait_until("the end", Duration::from_secs(5), || child.is_lost()).await;

        assert!(child.lives_in(1) && !child.lives_in(2));
        assert!(child.end().is_some());
        assert!(!child.lives_in(1) && !child.is_lost());
        assert_eq!(child.life(), 1);
    }

    #[actix::test]
    async fn lives_of_one_child_share_a_budget() {
        let backoff = BackoffPolicy { initial: Duration::ZERO, limit: Duration::ZERO };
        let policy = RestartPolicy { budget: 1, window: Duration::from_secs(60), backoff };
        let mut child = Child::<Mortal, u64>::default();
        let mut decide = |life| {
            child.start(life, None, Mortal::default);
            child.end();
            child.decide(&policy, Moment::default(), 0)
        };

        assert_eq!(decide(1), RestartDecision::Restart(Duration::ZERO));
        assert_eq!(decide(2), RestartDecision::Escalate);
    }
}
