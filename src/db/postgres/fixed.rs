//! Statements that are prepared once per connection though diesel would build and plan them anew each time.
//!
//! diesel never keeps an update, an upsert or an insert of many rows, as there could be any number of them.
//! Ours are few: what is wrapped here has a text that depends on nothing but sizes from a short list.
//!
//! A statement is run by loading its rows, also where it gives none: diesel's `execute` asks a reference to the
//! statement whether it may be kept, and a reference does not pass the question on.

use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::Integer;

use super::engine::Connection;

/// A statement whose text is one of a few.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fixed<S>(pub(super) S);

impl<S: QueryFragment<Pg>> QueryFragment<Pg> for Fixed<S> {
    fn walk_ast<'b>(&'b self, out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        self.0.walk_ast(out)
    }

    fn is_safe_to_cache_prepared(&self, _: &Pg) -> QueryResult<bool> {
        Ok(true)
    }
}

impl<S> QueryId for Fixed<S> {
    type QueryId = ();

    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<S: Query> Query for Fixed<S> {
    type SqlType = S::SqlType;
}

impl<S> RunQueryDsl<Connection> for Fixed<S> {}

/// A statement that gives no rows.
struct Silent<S>(S);

impl<S: QueryFragment<Pg>> QueryFragment<Pg> for Silent<S> {
    fn walk_ast<'b>(&'b self, out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        self.0.walk_ast(out)
    }
}

impl<S> Query for Silent<S> {
    type SqlType = Integer;
}

/// Runs a statement that gives no rows.
pub(super) fn run<S: QueryFragment<Pg>>(connection: &mut Connection, statement: S) -> QueryResult<()> {
    Fixed(Silent(statement)).load::<i32>(connection).map(drop)
}
