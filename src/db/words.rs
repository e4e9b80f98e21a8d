//! Free text that may hold any character, NUL included.
//!
//! Promises that what is written is read back alike on every engine. SQLite holds any text as it is.
//! PostgreSQL's text cannot hold NUL: there [`ESCAPE`] and a mark stand for it, and for [`ESCAPE`] itself. Text
//! with neither, which is nearly all, is stored as it is; only the other sorts differently on the two engines.

use std::borrow::Cow;
use std::io::Write;

use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::pg::{Pg, PgValue};
use diesel::serialize::{self, IsNull, Output, ToSql};
use diesel::sql_types::Text;
use diesel::sqlite::Sqlite;

/// The first character of the private use area: no text of the world's has a meaning for it.
const ESCAPE: char = '\u{E000}';

/// Follows [`ESCAPE`] where NUL is meant.
const NUL_MARK: char = '0';

/// Text on its way from or into a row.
#[derive(Debug, Clone, PartialEq, Eq, AsExpression, FromSqlRow)]
#[diesel(sql_type = Text)]
pub(super) struct Words(pub(super) Cow<'static, str>);

impl Words {
    /// Makes words of a copy.
    pub(super) fn of(text: &str) -> Self {
        Self(Cow::Owned(text.to_owned()))
    }
}

/// Borrowed text on its way into a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, AsExpression)]
#[diesel(sql_type = Text)]
pub(super) struct WordsRef<'a>(pub(super) &'a str);

impl From<Words> for String {
    fn from(words: Words) -> Self {
        words.0.into_owned()
    }
}

impl ToSql<Text, Sqlite> for Words {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Sqlite>) -> serialize::Result {
        <str as ToSql<Text, Sqlite>>::to_sql(&self.0, out)
    }
}

impl ToSql<Text, Sqlite> for WordsRef<'_> {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Sqlite>) -> serialize::Result {
        out.set_value(self.0);
        Ok(IsNull::No)
    }
}

impl ToSql<Text, Pg> for Words {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        out.write_all(escaped(&self.0).as_bytes())?;
        Ok(IsNull::No)
    }
}

impl ToSql<Text, Pg> for WordsRef<'_> {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        out.write_all(escaped(self.0).as_bytes())?;
        Ok(IsNull::No)
    }
}

impl FromSql<Text, Sqlite> for Words {
    fn from_sql(value: <Sqlite as diesel::backend::Backend>::RawValue<'_>) -> deserialize::Result<Self> {
        <String as FromSql<Text, Sqlite>>::from_sql(value).map(|text| Words(Cow::Owned(text)))
    }
}

impl FromSql<Text, Pg> for Words {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        let stored = <String as FromSql<Text, Pg>>::from_sql(value)?;
        meant(stored).map(|text| Words(Cow::Owned(text)))
    }
}

/// Gives text without NUL that means the same.
fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(['\0', ESCAPE]) {
        return Cow::Borrowed(text);
    }
    let mut stored = String::with_capacity(text.len() + ESCAPE.len_utf8());
    for character in text.chars() {
        match character {
            '\0' => stored.extend([ESCAPE, NUL_MARK]),
            ESCAPE => stored.extend([ESCAPE, ESCAPE]),
            other => stored.push(other),
        }
    }
    Cow::Owned(stored)
}

/// Gives back what was escaped.
fn meant(stored: String) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    if !stored.contains(ESCAPE) {
        return Ok(stored);
    }
    let mut text = String::with_capacity(stored.len());
    let mut characters = stored.chars();
    while let Some(character) = characters.next() {
        text.push(match character {
            ESCAPE => match characters.next() {
                Some(NUL_MARK) => '\0',
                Some(ESCAPE) => ESCAPE,
                other => return Err(format!("stored text has {other:?} after its escape").into()),
            },
            other => other,
        });
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn escaped_any_text_round_trips_without_nul(text in "[\0\u{E000}0a-c\u{10FFFF}]{0,20}") {
            let stored = escaped(&text).into_owned();

            prop_assert!(!stored.contains('\0'));
            prop_assert_eq!(meant(stored).unwrap(), text);
        }
    }

    #[test]
    fn meant_unknown_escape_is_refused() {
        assert!(meant("\u{E000}x".to_owned()).is_err());
        assert!(meant("\u{E000}".to_owned()).is_err());
    }
}
