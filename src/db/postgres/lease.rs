//! Leases: what only one process at a time may do (design D9).
//!
//! Promises that two processes never both believe to hold a lease: it expires by the database's clock, and its
//! holder stops believing in it at two thirds of its time, by its own monotonic clock, counted from before it
//! asked. A lease of a process that has died on the same machine is taken over at once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text};
use horizons_actors::ports::store::StoreError;

use super::config::PostgresConfig;
use super::connection::connect;
use super::engine::{Connection, engine};
use super::errors::connection_text;
use super::holder::Holder;
use crate::periodic::{Periodic, RoundLimit, Rounds};

/// A lease is renewed after this part of its time.
const RENEW_PART: u32 = 6;

/// What a try to take a lease brings.
#[derive(Debug)]
pub enum Taken {
    /// It is ours.
    Ours(Lease),
    /// Another process has it, named here.
    Held(String),
}

/// A row with a number.
#[derive(QueryableByName)]
struct EpochRow {
    #[diesel(sql_type = BigInt)]
    epoch: i64,
}

/// A row about a holder.
#[derive(QueryableByName)]
struct HolderRow {
    #[diesel(sql_type = Nullable<Text>)]
    holder: Option<String>,
    #[diesel(sql_type = BigInt)]
    epoch: i64,
}

/// How a lease stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Ours until then.
    Until(Instant),
    /// Another process has taken it, for good.
    Lost,
}

#[derive(Debug)]
struct Shared {
    standing: Mutex<Standing>,
}

/// A lease that is renewed as long as this lives, and given back when it is dropped.
#[derive(Debug)]
pub struct Lease {
    name: &'static str,
    epoch: u64,
    shared: Arc<Shared>,
    /// Gives the lease back when it ends.
    _renewer: Periodic,
}

/// What a lease is renewed with.
struct Renewer {
    config: PostgresConfig,
    connection: Option<Connection>,
    name: &'static str,
    holder: String,
    epoch: i64,
    shared: Arc<Shared>,
    on_lost: Box<dyn FnOnce() + Send>,
}

impl Lease {
    /// Tries to take a lease of the store. `on_lost` is called, once, when another process turns out to have
    /// taken it after all.
    ///
    /// *Errors*: those of the database; a held lease is no error.
    pub fn take(
        config: &PostgresConfig,
        name: &'static str,
        on_lost: impl FnOnce() + Send + 'static,
    ) -> Result<Taken, StoreError> {
        // A second lease of the same name in this process is another holder.
        let holder = holder_text(&uuid::Uuid::new_v4().to_string())?;
        let mut connection =
            connect(config).map_err(|error| StoreError::Unavailable(connection_text(&error)))?;
        let asked_at = Instant::now();
        let epoch = match try_take(&mut connection, config.lease_time, name, &holder)? {
            Ok(epoch) => epoch,
            Err(other) => return Ok(Taken::Held(other)),
        };
        let shared =
            Arc::new(Shared { standing: Mutex::new(Standing::Until(believed_until(config, asked_at))) });
        let renewer = Renewer {
            config: config.clone(),
            connection: Some(connection),
            name,
            holder,
            epoch,
            shared: Arc::clone(&shared),
            on_lost: Box::new(on_lost),
        };
        // Connecting, and the statement.
        let limit = RoundLimit::AtMost((config.connect_timeout + config.statement_timeout) * 2);
        let thread = Periodic::start("store-lease", limit, move |rounds| renewer.work(rounds))
            .map_err(|error| StoreError::Unavailable(format!("failed to start a thread: {error}")))?;
        Ok(Taken::Ours(Lease { name, epoch: epoch.cast_unsigned(), shared, _renewer: thread }))
    }

    /// Tells who has a lease, as host and process; none where nobody has.
    ///
    /// *Errors*: those of the database. Blocks.
    pub fn holder_of(config: &PostgresConfig, name: &str) -> Result<Option<String>, StoreError> {
        let mut connection =
            connect(config).map_err(|error| StoreError::Unavailable(connection_text(&error)))?;
        let found = diesel::sql_query(
            "SELECT CASE WHEN expires_at > clock_timestamp() THEN holder END AS holder, epoch
             FROM leases WHERE name = $1",
        )
        .bind::<Text, _>(name)
        .get_result::<HolderRow>(&mut connection)
        .optional()
        .map_err(engine)?;
        let holder = found.and_then(|row| row.holder);
        Ok(holder.map(|text| Holder::parse(&text).map_or(text, |holder| holder.for_people())))
    }

    /// Tells whether the lease is held, now. While the database is away it stops being held, and is held again
    /// if nobody took it meanwhile.
    pub fn is_held(&self) -> bool {
        matches!(self.standing(), Standing::Until(until) if Instant::now() < until)
    }

    /// Tells whether another process has taken it, for good.
    pub fn is_lost(&self) -> bool {
        self.standing() == Standing::Lost
    }

    /// Gives the number of this holding; each later one has a higher number.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Gives its name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    fn standing(&self) -> Standing {
        *self.shared.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives until when a holder believes in what it asked for at a time.
fn believed_until(config: &PostgresConfig, asked_at: Instant) -> Instant {
    asked_at + config.lease_time * 2 / 3
}

/// Gives a time in the database's unit.
fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

/// Names a holder in this process, so that others on this machine can tell whether the process lives.
pub(super) fn holder_text(which: &str) -> Result<String, StoreError> {
    let process = Holder::this()
        .map_err(|error| StoreError::Broken(format!("failed to name this process: {error}")))?;
    Ok(format!("{process} {which}"))
}

/// Prolongs a lease; false when it is another's.
pub(super) fn renew(
    connection: &mut Connection,
    name: &str,
    holder: &str,
    epoch: i64,
    time: Duration,
) -> Result<bool, StoreError> {
    let changed = diesel::sql_query(
        "UPDATE leases SET expires_at = clock_timestamp() + $4 * interval '1 microsecond'
         WHERE name = $1 AND holder = $2 AND epoch = $3",
    )
    .bind::<Text, _>(name)
    .bind::<Text, _>(holder)
    .bind::<BigInt, _>(epoch)
    .bind::<BigInt, _>(micros(time))
    .execute(connection)
    .map_err(engine)?;
    Ok(changed == 1)
}

/// Gives a lease back; one that is another's stays.
pub(super) fn give_back(
    connection: &mut Connection,
    name: &str,
    holder: &str,
    epoch: i64,
) -> Result<(), StoreError> {
    diesel::sql_query(
        "UPDATE leases SET holder = NULL, expires_at = clock_timestamp()
         WHERE name = $1 AND holder = $2 AND epoch = $3",
    )
    .bind::<Text, _>(name)
    .bind::<Text, _>(holder)
    .bind::<BigInt, _>(epoch)
    .execute(connection)
    .map(drop)
    .map_err(engine)
}

/// Takes a lease that nobody holds, or whose holder has died on this machine; else gives the holder.
pub(super) fn try_take(
    connection: &mut Connection,
    time: Duration,
    name: &str,
    holder: &str,
) -> Result<Result<i64, String>, StoreError> {
    // A holder that is named and gone again in between makes another round.
    let mut dead_epoch = -1;
    loop {
        let taken = diesel::sql_query(
            "INSERT INTO leases AS l (name, holder, epoch, expires_at)
             VALUES ($1, $2, 1, clock_timestamp() + $3 * interval '1 microsecond')
             ON CONFLICT (name) DO UPDATE
             SET holder = excluded.holder, epoch = l.epoch + 1, expires_at = excluded.expires_at
             WHERE l.holder IS NULL OR l.expires_at <= clock_timestamp() OR l.epoch = $4
             RETURNING epoch",
        )
        .bind::<Text, _>(name)
        .bind::<Text, _>(holder)
        .bind::<BigInt, _>(micros(time))
        .bind::<BigInt, _>(dead_epoch)
        .get_result::<EpochRow>(connection)
        .optional()
        .map_err(engine)?;
        if let Some(row) = taken {
            return Ok(Ok(row.epoch));
        }
        let found = diesel::sql_query("SELECT holder, epoch FROM leases WHERE name = $1")
            .bind::<Text, _>(name)
            .get_result::<HolderRow>(connection)
            .optional()
            .map_err(engine)?;
        let Some(HolderRow { holder: Some(other), epoch }) = found else { continue };
        if epoch == dead_epoch || !Holder::parse(&other).is_some_and(|other| other.is_dead()) {
            return Ok(Err(other));
        }
        dead_epoch = epoch;
    }
}

impl Renewer {
    fn work(mut self, rounds: &Rounds) {
        while rounds.next(self.config.lease_time / RENEW_PART) {
            let asked_at = Instant::now();
            match self.renew() {
                Ok(true) => self.stand(Standing::Until(believed_until(&self.config, asked_at))),
                Ok(false) => {
                    self.stand(Standing::Lost);
                    tracing::error!(lease = self.name, "another process has taken the lease");
                    (self.on_lost)();
                    return;
                }
                Err(error) => {
                    tracing::debug!(lease = self.name, %error, "failed to renew a lease");
                    self.connection = None;
                }
            }
        }
        self.give_back();
    }

    fn stand(&self, standing: Standing) {
        *self.shared.standing.lock().unwrap_or_else(PoisonError::into_inner) = standing;
    }

    /// Gives the connection, made anew if it is gone.
    fn connection(&mut self) -> Result<&mut Connection, StoreError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                connect(&self.config).map_err(|error| StoreError::Unavailable(connection_text(&error)))?
            }
        };
        Ok(self.connection.insert(connection))
    }

    /// Renews the lease; false when it is another's.
    fn renew(&mut self) -> Result<bool, StoreError> {
        let (name, holder, epoch) = (self.name, self.holder.clone(), self.epoch);
        let time = self.config.lease_time;
        renew(self.connection()?, name, &holder, epoch, time)
    }

    fn give_back(&mut self) {
        self.stand(Standing::Lost);
        let (name, holder, epoch) = (self.name, self.holder.clone(), self.epoch);
        // Without a connection it expires by itself.
        let Some(connection) = self.connection.as_mut() else { return };
        let given = give_back(connection, name, &holder, epoch);
        if let Err(error) = given {
            tracing::debug!(lease = self.name, %error, "a lease was not given back: it expires");
        }
    }
}
