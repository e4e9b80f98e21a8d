//! What a lane knows and does. Each file is one thing that it does; `transaction` is the way in which all of them write.
//!
//! Promises that every record ends in exactly one outcome in the transaction that moves the position past
//! it; that nothing is skipped while the store is away; that poison is charged to the event that caused it;
//! and that a lane which is not the newest owner writes nothing (design D2, D3, D6).

mod aftermath;
mod batch;
mod drain;
mod hold;
mod layout;
mod timers;
mod transaction;
mod trials;

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;

use self::layout::Passage;
use self::timers::Timers;
use crate::gap::{FoundGap, GapKind};
use crate::ids::{Incarnation, LaneKey, LogId, Offset};
use crate::lane::behaviour::Behaviour;
use crate::lane::brake::FloodBrake;
use crate::lane::environment::LaneEnvironment;
use crate::lane::message::LaneExit;
use crate::lane::parked::ParkedKeys;
use crate::lane::retry::{forget_gap, note_gap, resumes_at, retry};
use crate::lane::rows::Rows;
use crate::lane::start::{rewind, start_answer};
use crate::lane::status::LaneStatus;
use crate::lane::trial::Trials;
use crate::lane::window::DuplicateWindow;
use crate::layout::Layout;
use crate::ports::PortError;
use crate::ports::log::{LogError, LogReader, StartAnswer};
use crate::ports::store::{DesiredState, Fence};

/// Panics on one and the same event before it is held to be poison (design D6).
pub const PANICS_BEFORE_POISON: u32 = 3;

/// Everything a lane knows; nothing in it is needed to recover (design D1).
pub(super) struct LaneCore {
    pub(super) env: Arc<LaneEnvironment>,
    lane: LaneKey,
    incarnation: Incarnation,
    behaviour: Box<dyn Behaviour>,
    reader: Arc<dyn LogReader>,
    pub(super) status: Arc<LaneStatus>,
    /// The id under which this generation of the lane is stored and hashed.
    log_id: LogId,
    /// Where keys are at home.
    layout: Layout,
    /// How far it is in newer epochs of the layout.
    passage: Passage,
    /// Whether it was told that records stand in a wrong partition: once for each life.
    has_told_wrong_partition: bool,
    /// The fence of the next transaction.
    fence: Fence,
    /// The stored position; none before the first transaction.
    stored_next: Option<Offset>,
    /// The next record to apply.
    pub(super) position: Offset,
    /// The next record that the reader will deliver; below `position` while the window is rebuilt.
    read_position: Offset,
    /// The end of the partition as last heard of.
    log_end: Offset,
    /// Rows of state, as committed.
    rows: Rows,
    window: DuplicateWindow,
    /// The keys that are parked, as committed.
    parked: ParkedKeys,
    desired: DesiredState,
    timers: Timers,
    /// Panics so far, by record.
    panics: HashMap<Offset, u32>,
    /// Records of the batch in hand that repeat others: nobody waits for one, whatever else is wrong with it.
    repeats: HashSet<Offset>,
    /// What is tried alone.
    trials: Trials,
    /// How much of what was answered last was poison.
    flood: FloodBrake,
    /// Whether a gap is noted that is none if the next record can be read.
    has_doubtful_gap: bool,
    /// Transactions in a row that the store turned away.
    commit_failures: u32,
    /// Whether the lane was asked to stop or its dispatcher is gone.
    is_ending: Box<dyn Fn() -> bool>,
}

impl LaneCore {
    /// Takes the lane over: a new epoch, the stored position, the place in the log, and the reader's start.
    pub(super) async fn open(
        env: Arc<LaneEnvironment>,
        lane: LaneKey,
        incarnation: Incarnation,
        behaviour: Box<dyn Behaviour>,
        reader: Arc<dyn LogReader>,
        status: Arc<LaneStatus>,
        is_ending: Box<dyn Fn() -> bool>,
    ) -> Result<Self, LaneExit> {
        let partition = lane.topic_partition;
        let opened = retry(&env, &lane, &status, || env.store.open_lane(lane.clone(), env.process)).await?;
        let inspection = retry(&env, &lane, &status, || reader.inspect(partition, opened.next)).await?;
        let position = match start_answer(opened.next, opened.last_fingerprint, &inspection) {
            StartAnswer::AtNext(next) => next,
            StartAnswer::FirstStart(low) => {
                tracing::debug!(lane = %lane, offset = %low, "first start of a lane: it begins at the low watermark");
                low
            }
            StartAnswer::Gap(kind) => {
                let next = opened.next.unwrap_or(inspection.low);
                let (low, high) = (resumes_at(kind, &inspection), inspection.high);
                let gap = FoundGap { kind, next, low, high, found_at: env.clock.now() };
                status.placed(next, high, env.clock.moment());
                note_gap(&env, &lane, &status, opened.fence, Some(gap)).await?;
                return Err(LaneExit::Gap(kind));
            }
        };
        // Whether records can be read shows only when they are: until then such a gap stays noted.
        let has_doubtful_gap = opened.open_gap == Some(GapKind::Corrupt);
        if opened.open_gap.is_some() && !has_doubtful_gap {
            forget_gap(&env, &lane, &status, opened.fence).await?;
        }
        let settings = env.settings;
        let trials = Trials::plan(&opened, position, inspection.high, settings.trial_records);
        if trials.is_log() || trials.is_aside() {
            tracing::warn!(lane = %lane, offset = %position, "processes ended at this place again and again: the lane tries one thing at a time");
        }
        let read_position = rewind(position, inspection.low, settings.duplicate_window_records);
        let core = Self {
            log_id: opened.log_id,
            layout: opened.layout,
            passage: Passage::default(),
            has_told_wrong_partition: false,
            fence: opened.fence,
            stored_next: opened.next,
            position,
            read_position,
            log_end: inspection.high,
            rows: Rows::new(settings.cached_rows),
            window: DuplicateWindow::expecting(
                settings.duplicate_window_records,
                position.0 - read_position.0,
            ),
            parked: ParkedKeys::of(opened.parked),
            desired: opened.desired,
            timers: Timers::new(opened.next_timer),
            panics: HashMap::new(),
            repeats: HashSet::new(),
            trials,
            flood: FloodBrake::new(settings.flood),
            has_doubtful_gap,
            commit_failures: 0,
            is_ending,
            env,
            lane,
            incarnation,
            behaviour,
            reader,
            status,
        };
        core.reader.start(partition, incarnation, read_position).map_err(|error| match error {
            LogError::NotAssigned(_) => LaneExit::NotAssigned,
            LogError::Unavailable(_) | LogError::Closed | LogError::ShutOut(_) => {
                LaneExit::Failed(format!("failed to start reading: {error}"))
            }
        })?;
        core.status.placed(position, inspection.high, core.env.clock.moment());
        core.status.under_layout(core.layout.count());
        core.status.parked(core.parked.len(), core.parked.records());
        core.show_idle(opened.held_because.as_deref());
        Ok(core)
    }

    /// Repeats a call for ever while what it needs is away, with back-off.
    pub(super) async fn retry<T, E: PortError, F: Future<Output = Result<T, E>>>(
        &self,
        call: impl FnMut() -> F,
    ) -> Result<T, LaneExit> {
        let answer = retry(&self.env, &self.lane, &self.status, call).await?;
        self.status.set_state(self.idle_state());
        Ok(answer)
    }

    /// Tells whether the lane was asked to stop or its dispatcher is gone; once so, it stays so.
    pub(super) fn is_ending(&self) -> bool {
        (self.is_ending)()
    }

    /// Tells whether records below the position are still to come: until then the duplicate window is not
    /// whole, and nothing that asks it may happen.
    pub(super) fn is_rewinding(&self) -> bool {
        self.read_position < self.position
    }

    /// Tells whether batches that wait may be answered together: not while the window is read anew, the lane is held,
    /// or one record at a time is tried.
    pub(super) fn may_join(&self) -> bool {
        !self.is_rewinding() && !self.is_held() && !self.trials.is_log()
    }
}
