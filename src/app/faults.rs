//! Lets a test build make lanes and behaviours fail at named points.
//!
//! Promises that nothing of it is in a build without the feature `fail-points`, and that with it a point does
//! nothing unless the environment names it (see [`crate::faults`]).

use std::sync::Arc;

use horizons_actors::lane::behaviour::BehaviourFactory;
use horizons_actors::lane::fault::Faults;

/// Gives what lanes ask at their points.
#[cfg(not(feature = "fail-points"))]
pub(super) fn lane_faults() -> Arc<dyn Faults> {
    Arc::new(horizons_actors::lane::fault::NoFaults)
}

/// Gives a behaviour's factory with the behaviour's points.
#[cfg(not(feature = "fail-points"))]
pub(super) fn with_points(behaviour: BehaviourFactory) -> BehaviourFactory {
    behaviour
}

/// Gives what lanes ask at their points.
#[cfg(feature = "fail-points")]
pub(super) fn lane_faults() -> Arc<dyn Faults> {
    Arc::new(armed::NamedPoints)
}

/// Gives a behaviour's factory with the behaviour's points.
#[cfg(feature = "fail-points")]
pub(super) fn with_points(behaviour: BehaviourFactory) -> BehaviourFactory {
    Arc::new(move || Box::new(armed::FailingBehaviour(behaviour())))
}

#[cfg(feature = "fail-points")]
mod armed {
    use horizons_actors::effect::Timer;
    use horizons_actors::ids::{Group, LaneKey, Topic};
    use horizons_actors::lane::behaviour::{Applied, Behaviour, Entry, PoisonPolicy, Verdict, Workspace};
    use horizons_actors::lane::fault::{FaultPoint, Faults};
    use horizons_actors::state::StateKey;

    use crate::faults;

    /// Passes the points of lanes on to those that the environment names.
    #[derive(Debug)]
    pub(super) struct NamedPoints;

    impl Faults for NamedPoints {
        fn hit(&self, point: FaultPoint, lane: &LaneKey) {
            hit(name(point), lane);
        }
    }

    const fn name(point: FaultPoint) -> &'static str {
        match point {
            FaultPoint::Started => "lane-started",
            FaultPoint::BeforeBatch => "lane-before-batch",
            FaultPoint::BeforeApply => "lane-before-apply",
            FaultPoint::BeforeCommit => "lane-before-commit",
            FaultPoint::AfterCommit => "lane-after-commit",
            FaultPoint::BeforeTick => "lane-before-tick",
            FaultPoint::BeforeDrain => "lane-before-drain",
        }
    }

    fn hit(point: &str, lane: &LaneKey) {
        hit_on(point, lane, &[]);
    }

    /// Hits a point under each of its three names.
    fn hit_on(point: &str, lane: &LaneKey, about: &[&[u8]]) {
        if !faults::is_armed() {
            return;
        }
        faults::hit_on(point, about);
        faults::hit_on(&format!("{point}/{}", lane.group), about);
        faults::hit_on(&format!("{point}/{}/{}", lane.group, lane.topic_partition.topic), about);
    }

    /// A behaviour that may fail before it thinks.
    pub(super) struct FailingBehaviour(pub(super) Box<dyn Behaviour>);

    impl Behaviour for FailingBehaviour {
        fn group(&self) -> Group {
            self.0.group()
        }

        fn topics(&self) -> Vec<Topic> {
            self.0.topics()
        }

        fn poison_policy(&self) -> PoisonPolicy {
            self.0.poison_policy()
        }

        fn keys(&self, entry: &Entry, keys: &mut Vec<StateKey>) {
            self.0.keys(entry, keys);
        }

        fn apply(&self, entry: &Entry, work: &mut Workspace<'_>) -> Applied {
            hit("behaviour-apply", work.lane);
            if let Verdict::Event(_) = entry.verdict {
                let key = entry.record.key.as_deref().unwrap_or_default();
                let payload = entry.record.payload.as_deref().unwrap_or_default();
                hit_on("behaviour-event", work.lane, &[key, payload]);
            }
            self.0.apply(entry, work)
        }

        fn finish(&self, work: &mut Workspace<'_>) {
            self.0.finish(work);
        }

        fn timer_keys(&self, timer: &Timer, keys: &mut Vec<StateKey>) {
            self.0.timer_keys(timer, keys);
        }

        fn tick(&self, timer: &Timer, work: &mut Workspace<'_>) {
            hit("behaviour-tick", work.lane);
            self.0.tick(timer, work);
        }
    }
}
