//! Pages of lists, filled without reading what does not fit.
//!
//! Promises that the columns that may be large are weighed first, by their lengths alone, and that only the rows of
//! the page are read then: neither the database's connection nor the program holds more.

use diesel::dsl::sql;
use diesel::expression::SqlLiteral;
use diesel::sql_types::BigInt;
use horizons_actors::ports::page::PageRoom;

/// Writes how many bytes some columns hold together, without reading them.
macro_rules! weight {
    ($first:literal $(, $more:literal)*) => {
        concat!(
            "CAST(coalesce(octet_length(", $first, "), 0)",
            $(" + coalesce(octet_length(", $more, "), 0)",)*
            " AS BIGINT)"
        )
    };
}
pub(super) use weight;

/// What a record weighs.
pub(super) const RECORD_WEIGHT: &str = weight!("key", "headers", "payload");

/// Gives a weight as a column of a statement.
pub(super) fn weigh(weight: &'static str) -> SqlLiteral<BigInt> {
    sql::<BigInt>(weight)
}

/// How many rows are weighed for what is left of a page: one more than it may hold, to know whether more follow.
pub(super) fn weighed_rows(room: &PageRoom) -> i64 {
    i64::try_from(room.rows()).unwrap_or(i64::MAX).saturating_add(1)
}

/// Takes rows into a page by their weights; tells how many fit, and whether more follow that do not.
pub(super) fn fit(room: &mut PageRoom, weights: impl IntoIterator<Item = i64>) -> (i64, bool) {
    let mut rows = 0;
    for weight in weights {
        if !room.take(usize::try_from(weight).unwrap_or(0)) {
            return (rows, true);
        }
        rows += 1;
    }
    (rows, false)
}
