//! A write of the store as one type: what it locks, what it writes, and what it is answered (design D7).
//!
//! Promises that an answer belongs to its operation by its type; that it is given after the commit, and only then; and
//! that an operation which is written again, alone or by another layout, answers what was committed.

use std::cell::RefCell;

use horizons_actors::ids::{Epoch, LaneKey};
use horizons_actors::ports::store::{AppendedAt, StoreError};
use horizons_actors::ports::wishes::Wished;
use horizons_actors::record::OutgoingRecord;
use tokio::sync::oneshot;

use super::engine::Connection;
use super::lanes::{self, StoredLane};
use super::locks::Locks;
use super::placing::Turn;
use super::records::Outgoing;
use super::round::Context;
use crate::db::outcome::RoundError;

/// Where an answer goes.
pub(super) type Answer<T, E> = oneshot::Sender<Result<T, E>>;

/// A write that somebody asks of the store: a member of a commit for many.
pub(super) trait Operation: Send + 'static {
    /// What it is answered.
    type Answer: Send + 'static;

    /// Names what it is going to write that other processes may write too.
    fn lock<'a>(&'a self, _locks: &mut Locks<'a>) {}

    /// Writes it.
    ///
    /// *Errors*: what makes the whole commit fail. An error that is its own answer is [`Written::Refused`].
    fn write<'a>(&'a self, round: &mut Writing<'_, 'a>) -> Result<Written<Self::Answer>, StoreError>;
}

/// Makes an answer of the places of all that a round has appended.
type FromPlaces<T> = Box<dyn FnOnce(&[AppendedAt]) -> T + Send>;

/// What comes through once an operation is answered.
pub(super) type Heard<T> = oneshot::Receiver<Result<T, StoreError>>;

/// What an operation came to.
pub(super) enum Written<T> {
    /// It is written, with this answer.
    Done(T),
    /// Nothing of it is written, for a reason that is its own.
    Refused(StoreError),
    /// It is written, and its answer is made of the places of all that is appended.
    FromPlaces(FromPlaces<T>),
}

/// What is gathered in a round and written at its end.
#[derive(Default)]
pub(super) struct Gathered<'a> {
    pub(super) outbox: Vec<Outgoing<'a>>,
    pub(super) turns: Vec<Turn>,
    pub(super) made: Vec<StoredLane>,
    pub(super) wished: Vec<Wished>,
    used_bytes: Option<u64>,
}

/// What an operation writes with.
pub(super) struct Writing<'w, 'a> {
    pub(super) connection: &'w mut Connection,
    pub(super) context: &'w Context<'w>,
    pub(super) gathered: &'w mut Gathered<'a>,
}

impl<'a> Writing<'_, 'a> {
    /// Appends a record where its key is at home.
    pub(super) fn publish(&mut self, record: &'a OutgoingRecord) {
        self.gathered.outbox.push(Outgoing::ByKey(record));
    }

    /// Lets other processes hear of what an operator asked for.
    pub(super) fn tell(&mut self, wished: Wished) {
        self.gathered.wished.push(wished);
    }

    /// Returns the number of a lane if an epoch owns it.
    pub(super) fn owned(&mut self, lane: &LaneKey, epoch: Epoch) -> Result<Option<i64>, StoreError> {
        match self.context.lanes.find(self.connection, lane)? {
            Some(number) if lanes::is_owned_by(self.connection, number, epoch)? => Ok(Some(number)),
            _ => Ok(None),
        }
    }

    /// Returns why no new work is taken, if the disk limit is reached; looked at once a round.
    pub(super) fn disk_limit(&mut self) -> Result<Option<StoreError>, StoreError> {
        let used_bytes = match self.gathered.used_bytes {
            Some(used_bytes) => used_bytes,
            None => *self.gathered.used_bytes.insert(self.context.used.read(self.connection)?),
        };
        let limit_bytes = self.context.disk_limit_bytes;
        Ok((used_bytes >= limit_bytes).then_some(StoreError::DiskLimit { used_bytes, limit_bytes }))
    }
}

/// An operation with whoever waits for it, whatever it is.
pub(super) trait Member: Send {
    /// See [`Operation::lock`].
    fn lock<'a>(&'a self, locks: &mut Locks<'a>);

    /// See [`Operation::write`].
    fn write<'a>(&'a self, round: &mut Writing<'_, 'a>) -> Result<(), StoreError>;

    /// Answers it, once its round is committed. Whoever does not listen any more finds the result in the store.
    fn answer(self: Box<Self>, places: &[AppendedAt]);

    /// Answers that its round failed as a whole.
    fn fail(self: Box<Self>, error: &RoundError);
}

struct Waiting<O: Operation> {
    operation: O,
    written: RefCell<Option<Written<O::Answer>>>,
    answer: Answer<O::Answer, StoreError>,
}

/// Makes a member of an operation, and what its answer comes through.
pub(super) fn member<O: Operation>(operation: O) -> (Box<dyn Member>, Heard<O::Answer>) {
    let (answer, heard) = oneshot::channel();
    (Box::new(Waiting { operation, written: RefCell::new(None), answer }), heard)
}

impl<O: Operation> Member for Waiting<O> {
    fn lock<'a>(&'a self, locks: &mut Locks<'a>) {
        self.operation.lock(locks);
    }

    fn write<'a>(&'a self, round: &mut Writing<'_, 'a>) -> Result<(), StoreError> {
        let written = self.operation.write(round)?;
        self.written.replace(Some(written));
        Ok(())
    }

    fn answer(self: Box<Self>, places: &[AppendedAt]) {
        let answer = match self.written.into_inner() {
            Some(Written::Done(answer)) => Ok(answer),
            Some(Written::Refused(error)) => Err(error),
            Some(Written::FromPlaces(answer)) => Ok(answer(places)),
            None => Err(StoreError::Broken("an operation was committed unwritten".to_owned())),
        };
        let _unheard = self.answer.send(answer);
    }

    fn fail(self: Box<Self>, error: &RoundError) {
        let _unheard = self.answer.send(Err(error.as_store_error()));
    }
}
