//! What a group's reader thread shares with those who ask it, with the rebalance hook and with the inspector.
//!
//! Promises that no lock is held while anybody else is called, and that what was asked is seen by the reader
//! thread at once: whoever asks rings. The bell has a lock of its own, because the client library rings it
//! from its threads while it holds locks of its own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use horizons_actors::ids::{Group, Incarnation, Offset, TopicPartition};
use horizons_actors::ports::log::{LogEnds, LogError, LogSink};
use horizons_actors::record::Digest32;
use tokio::sync::oneshot;

use super::commits::Proof;
use super::survey::Finding;

/// Counts rings, so that one between a look and a sleep is not lost.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rings: Mutex<u64>,
    rung: Condvar,
}

impl Bell {
    /// Wakes the reader thread, now or when it next wants to sleep.
    pub(super) fn ring(&self) {
        *self.rings.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.rung.notify_one();
    }

    /// Gives the rings so far.
    pub(super) fn rings(&self) -> u64 {
        *self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps until it rings again or the time is over.
    pub(super) fn wait(&self, seen: u64, limit: Duration) {
        let rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.rung.wait_timeout_while(rings, limit, |rings| *rings == seen);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

/// What the reader thread is asked for.
#[derive(Debug)]
pub(super) enum Command {
    Start(TopicPartition, Incarnation, Offset),
    Stop(TopicPartition, Incarnation),
}

/// What the rebalance hook changed.
#[derive(Debug)]
pub(super) enum Change {
    Assigned(Vec<TopicPartition>),
    Gone(Vec<TopicPartition>),
}

/// What a lane was handed last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) incarnation: Incarnation,
    /// Where the lane reads on.
    pub(super) position: Offset,
    /// The record before it; none before the first batch.
    pub(super) last: Option<(Offset, Digest32)>,
}

/// Offsets of a partition whose records cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hole {
    pub(super) from: Offset,
    /// The first offset behind it.
    pub(super) until: Offset,
}

impl Hole {
    /// Tells whether an offset lies in it.
    pub(super) fn contains(&self, offset: Offset) -> bool {
        (self.from..self.until).contains(&offset)
    }
}

/// Holes of a partition that are remembered; those found last.
const HOLES_MAX: usize = 64;

/// Everything that waits for the reader thread.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    pub(super) findings: Vec<Finding>,
    pub(super) is_survey_over: bool,
    pub(super) changes: Vec<Change>,
    pub(super) commands: VecDeque<Command>,
    pub(super) positions: BTreeMap<TopicPartition, Offset>,
    pub(super) is_closing: bool,
}

#[derive(Debug, Default)]
struct State {
    inputs: Inputs,
    owned: BTreeSet<TopicPartition>,
    marks: BTreeMap<TopicPartition, Mark>,
    ends: BTreeMap<TopicPartition, LogEnds>,
    /// How far lanes are, as they told last.
    places: BTreeMap<TopicPartition, Offset>,
    holes: BTreeMap<TopicPartition, Vec<Hole>>,
    health: Option<Result<(), String>>,
    proofs: Vec<Proof>,
    is_proving: bool,
    /// Who waits for the reader's end; set once it was asked to end.
    closed: Option<Vec<oneshot::Sender<()>>>,
    is_ended: bool,
    shut_out: Option<String>,
}

/// See the module.
pub(super) struct Shared {
    pub(super) group: Group,
    pub(super) sink: Arc<dyn LogSink>,
    pub(super) bell: Bell,
    state: Mutex<State>,
}

impl Shared {
    pub(super) fn new(group: Group, sink: Arc<dyn LogSink>) -> Arc<Self> {
        Arc::new(Self { group, sink, bell: Bell::default(), state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells why nothing can be asked any more, if so.
    fn check_open(state: &State) -> Result<(), LogError> {
        match (&state.shut_out, &state.closed) {
            (Some(reason), _) => Err(LogError::ShutOut(reason.clone())),
            (None, Some(_)) => Err(LogError::Closed),
            (None, None) => Ok(()),
        }
    }

    /// Asks the reader thread for something.
    pub(super) fn ask(&self, command: Command) -> Result<(), LogError> {
        let mut state = self.state();
        Self::check_open(&state)?;
        if let Command::Start(partition, incarnation, from) = command {
            if !state.owned.contains(&partition) {
                return Err(LogError::NotAssigned(partition));
            }
            state.marks.insert(partition, Mark { incarnation, position: from, last: None });
            state.places.entry(partition).or_insert(from);
        }
        if let Command::Stop(partition, incarnation) = command
            && state.marks.get(&partition).is_some_and(|mark| mark.incarnation <= incarnation)
        {
            state.marks.remove(&partition);
        }
        state.inputs.commands.push_back(command);
        drop(state);
        self.bell.ring();
        Ok(())
    }

    /// Tells whether anything can be asked.
    pub(super) fn is_open(&self) -> Result<(), LogError> {
        Self::check_open(&self.state())
    }

    /// Notes a committed position; it is sent when its time comes.
    pub(super) fn note_position(&self, partition: TopicPartition, next: Offset) {
        let mut state = self.state();
        state.inputs.positions.insert(partition, next);
        if state.owned.contains(&partition) {
            state.places.insert(partition, next);
        }
    }

    /// Notes where a lane stands before it starts; none means that nothing is stored.
    pub(super) fn note_place(&self, partition: TopicPartition, next: Option<Offset>) {
        let places = &mut self.state().places;
        match next {
            Some(next) => places.insert(partition, next),
            None => places.remove(&partition),
        };
    }

    /// Gives how far a lane is, as it told last.
    pub(super) fn place(&self, partition: TopicPartition) -> Offset {
        self.state().places.get(&partition).copied().unwrap_or_default()
    }

    /// Remembers a hole.
    pub(super) fn add_hole(&self, partition: TopicPartition, hole: Hole) {
        let mut state = self.state();
        if !state.owned.contains(&partition) {
            return;
        }
        let holes = state.holes.entry(partition).or_default();
        holes.retain(|known| known.until <= hole.from || known.from >= hole.until);
        holes.push(hole);
        if holes.len() > HOLES_MAX {
            holes.remove(0);
        }
    }

    /// Forgets the hole at an offset: what was there can be read.
    pub(super) fn forget_hole(&self, partition: TopicPartition, offset: Offset) {
        if let Some(holes) = self.state().holes.get_mut(&partition) {
            holes.retain(|hole| !hole.contains(offset));
        }
    }

    /// Finds the hole in which an offset lies.
    pub(super) fn hole_at(&self, partition: TopicPartition, offset: Offset) -> Option<Hole> {
        let state = self.state();
        state.holes.get(&partition)?.iter().find(|hole| hole.contains(offset)).copied()
    }

    /// Tells whether any hole is known.
    pub(super) fn has_holes(&self) -> bool {
        !self.state().holes.is_empty()
    }

    /// Passes what a survey found to the reader thread.
    pub(super) fn tell_finding(&self, finding: Finding) {
        self.state().inputs.findings.push(finding);
        self.bell.ring();
    }

    /// Tells the reader thread that a survey is over.
    pub(super) fn tell_survey_over(&self) {
        self.state().inputs.is_survey_over = true;
        self.bell.ring();
    }

    /// Tells whether the log was away when it was asked last.
    pub(super) fn is_away(&self) -> bool {
        matches!(self.state().health, Some(Err(_)))
    }

    /// Takes what waits for the reader thread.
    pub(super) fn take_inputs(&self) -> Inputs {
        let mut state = self.state();
        let is_closing = state.closed.is_some();
        Inputs { is_closing, ..std::mem::take(&mut state.inputs) }
    }

    /// Notes partitions that the group gave us.
    pub(super) fn own(&self, partitions: &[TopicPartition]) {
        let mut state = self.state();
        state.owned.extend(partitions);
        state.inputs.changes.push(Change::Assigned(partitions.to_vec()));
    }

    /// Notes partitions that are no longer ours; gives those that were.
    pub(super) fn disown(&self, partitions: &[TopicPartition]) -> Vec<TopicPartition> {
        let mut state = self.state();
        let mut gone = Vec::new();
        for partition in partitions {
            state.marks.remove(partition);
            state.ends.remove(partition);
            state.places.remove(partition);
            state.holes.remove(partition);
            if state.owned.remove(partition) {
                gone.push(*partition);
            }
        }
        state.inputs.changes.push(Change::Gone(partitions.to_vec()));
        gone
    }

    /// Lists the partitions that are ours.
    pub(super) fn owned(&self) -> Vec<TopicPartition> {
        self.state().owned.iter().copied().collect()
    }

    /// Tells whether a partition is ours.
    pub(super) fn owns(&self, partition: TopicPartition) -> bool {
        self.state().owned.contains(&partition)
    }

    /// Adds a question to those that wait; tells whether somebody must be found who asks it.
    pub(super) fn add_proof(&self, proof: Proof) -> Result<bool, LogError> {
        let mut state = self.state();
        Self::check_open(&state)?;
        state.proofs.push(proof);
        Ok(!std::mem::replace(&mut state.is_proving, true))
    }

    /// Takes the questions that wait and still have an asker; none when the one who asks may rest.
    pub(super) fn take_proofs_or_rest(&self) -> Option<Vec<Proof>> {
        let mut state = self.state();
        let mut proofs = std::mem::take(&mut state.proofs);
        proofs.retain(|proof| !proof.answer.is_closed());
        state.is_proving = !proofs.is_empty();
        (!proofs.is_empty()).then_some(proofs)
    }

    /// Notes what a lane was handed.
    pub(super) fn mark(
        &self,
        partition: TopicPartition,
        incarnation: Incarnation,
        position: Offset,
        last: Option<(Offset, Digest32)>,
    ) {
        let mut state = self.state();
        // A lane that started anew meanwhile has a mark of its own.
        if let Some(known) = state.marks.get_mut(&partition).filter(|known| known.incarnation == incarnation)
        {
            let last = last.or(known.last);
            *known = Mark { incarnation, position, last };
        }
    }

    /// Lists what lanes were handed last.
    pub(super) fn marks(&self) -> Vec<(TopicPartition, Mark)> {
        self.state().marks.iter().map(|(partition, mark)| (*partition, *mark)).collect()
    }

    /// Gives the end of a partition as last heard of.
    pub(super) fn end(&self, partition: TopicPartition) -> Offset {
        self.state().ends.get(&partition).map(|ends| ends.stable).unwrap_or_default()
    }

    /// Passes on where partitions end; those that are not ours are left out.
    pub(super) fn tell_ends(&self, ends: &BTreeMap<TopicPartition, LogEnds>) {
        let mut state = self.state();
        let State { owned, ends: known, .. } = &mut *state;
        let ours: Vec<(TopicPartition, LogEnds)> = ends
            .iter()
            .filter(|(partition, _)| owned.contains(partition))
            .map(|(partition, end)| (*partition, *end))
            .collect();
        known.extend(ours.iter().copied());
        drop(state);
        if !ours.is_empty() {
            self.sink.ends(ours);
        }
    }

    /// Passes on that the log no longer holds what an incarnation was handed, once.
    pub(super) fn tell_broken(&self, partition: TopicPartition, incarnation: Incarnation) {
        let mut state = self.state();
        if state.marks.get(&partition).is_none_or(|mark| mark.incarnation != incarnation) {
            return;
        }
        state.marks.remove(&partition);
        state.inputs.commands.push_back(Command::Stop(partition, incarnation));
        drop(state);
        self.bell.ring();
        self.sink.broken(partition, incarnation);
    }

    /// Passes on how the log is, when that changes; a log that never failed is not praised.
    pub(super) fn tell_health(&self, health: Result<(), String>) {
        let mut state = self.state();
        let before = state.health.replace(health.clone());
        let is_news = match (&before, &health) {
            (None | Some(Ok(())), Ok(())) | (Some(Err(_)), Err(_)) => false,
            (Some(Err(_)), Ok(())) | (None | Some(Ok(())), Err(_)) => true,
        };
        if !is_news || Self::check_open(&state).is_err() {
            return;
        }
        drop(state);
        match &health {
            Ok(()) => tracing::info!(group = %self.group, "the log answers again"),
            Err(error) => tracing::warn!(group = %self.group, error = error, "the log does not answer"),
        }
        self.sink.health(health.map_err(LogError::Unavailable));
    }

    /// Notes that the group has no place for this member any more.
    pub(super) fn shut_out(&self, reason: &str) {
        self.state().shut_out.get_or_insert_with(|| reason.to_owned());
        self.sink.health(Err(LogError::ShutOut(reason.to_owned())));
    }

    /// Asks the reader thread to end; nothing to wait for when it has.
    pub(super) fn close(&self) -> Option<oneshot::Receiver<()>> {
        let mut state = self.state();
        let waiting = state.closed.get_or_insert_default();
        let (closed, heard) = oneshot::channel();
        waiting.push(closed);
        let is_ended = state.is_ended;
        drop(state);
        self.bell.ring();
        (!is_ended).then_some(heard)
    }

    /// Notes that the reader thread ends, and tells who waits.
    pub(super) fn ended(&self) {
        let mut state = self.state();
        state.is_ended = true;
        state.owned.clear();
        state.marks.clear();
        let proofs = std::mem::take(&mut state.proofs);
        let waiting = state.closed.as_mut().map(std::mem::take).unwrap_or_default();
        drop(state);
        // A question that was not answered is dropped, which its asker hears.
        drop(proofs);
        for closed in waiting {
            // Whoever closed the reader may not wait for the answer.
            let _heard = closed.send(());
        }
    }
}
