//! What operators have asked for, told to whichever process carries it out (design D14).
//!
//! Promises that a revision is seen only after every earlier one: the row that counts is taken last in a commit, and
//! held until its end.

use diesel::prelude::*;
use horizons_actors::ports::outbox::OutboxPartition;
use horizons_actors::ports::store::StoreError;
use horizons_actors::ports::wishes::{WishRevision, Wished, Wishes};

use super::engine::{Connection, engine, replace_rows};
use super::lanes::Lanes;
use super::outbox;
use super::schema::wishes;

/// The row that counts.
const COUNT: i64 = 0;
/// A lane, by its number.
const LANE: i64 = 1;
/// A partition of the outbox, by topic and partition.
const OUTBOX: i64 = 2;
/// The orders of jobs.
const ORDERS: i64 = 3;

/// A row as it is written.
#[derive(Insertable)]
#[diesel(table_name = wishes, treat_none_as_default_value = false)]
struct WishRow {
    kind: i64,
    subject: i64,
    place: i64,
    revision: i64,
}

/// Notes what was asked about in a commit, by its last statements.
pub(super) fn note(
    connection: &mut Connection,
    lanes: &Lanes,
    mut about: Vec<Wished>,
) -> Result<(), StoreError> {
    if about.is_empty() {
        return Ok(());
    }
    about.sort_unstable();
    about.dedup();
    let revision: i64 = diesel::update(wishes::table.filter(wishes::kind.eq(COUNT)))
        .set(wishes::revision.eq(wishes::revision + 1))
        .returning(wishes::revision)
        .get_result(connection)
        .map_err(engine)?;
    let mut rows = Vec::with_capacity(about.len());
    for wished in about {
        let (kind, subject, place) = match wished {
            Wished::Lane(lane) => match lanes.find_newest(connection, &lane)? {
                Some(number) => (LANE, number, 0),
                None => continue,
            },
            Wished::Outbox(OutboxPartition { topic, partition }) => {
                (OUTBOX, i64::from(topic.code()), i64::from(partition.0))
            }
            Wished::Orders => (ORDERS, 0, 0),
        };
        rows.push(WishRow { kind, subject, place, revision });
    }
    replace_rows!(
        connection,
        wishes::table,
        &rows,
        key: (wishes::kind, wishes::subject, wishes::place),
        set: [wishes::revision]
    );
    Ok(())
}

/// Lists what was asked about since a revision.
pub(super) fn since(
    connection: &mut Connection,
    lanes: &Lanes,
    seen: WishRevision,
) -> Result<Wishes, StoreError> {
    let rows: Vec<(i64, i64, i64, i64)> = wishes::table
        .filter(wishes::revision.gt(seen.0.cast_signed()))
        .select((wishes::kind, wishes::subject, wishes::place, wishes::revision))
        .load(connection)
        .map_err(engine)?;
    let newest = rows.iter().map(|(.., revision)| WishRevision(revision.cast_unsigned())).max();
    let known =
        if rows.iter().any(|(kind, ..)| *kind == LANE) { lanes.sorted(connection)? } else { Vec::new() };
    let mut about = Vec::with_capacity(rows.len());
    for (kind, subject, place, _) in rows {
        match kind {
            // A lane of another log that the store was about before is nobody's.
            LANE => about.extend(
                known
                    .iter()
                    .find(|stored| stored.number == subject)
                    .map(|stored| Wished::Lane(stored.lane.clone())),
            ),
            OUTBOX => about.push(Wished::Outbox(outbox::place(subject, place)?)),
            ORDERS => about.push(Wished::Orders),
            _ => {}
        }
    }
    about.sort_unstable();
    about.dedup();
    Ok(Wishes { revision: newest.unwrap_or(seen), about })
}
