//! Reads single fields out of a document and says exactly what is wrong with one.
//!
//! Promises that every rejection names its field, with dots for nesting, and never repeats more of a
//! hostile value than [`short_detail`] keeps. A field that is read and was given twice is refused: which
//! of the two counts would depend on the reader. Fields that nobody reads are ignored.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use serde_json::{Map, Number, Value};
use uuid::Uuid;

use super::tree::{Entries, Tree};
use crate::clock::Timestamp;
use crate::ids::{IdError, OPAQUE_ID_MAX_CHARS, UuidText};
use crate::rejection::{Rejection, short_detail};

/// An object of the document and where it stands.
pub(super) struct Fields<'a> {
    /// What goes before a field's name: empty, or the object's own name and a dot.
    prefix: &'static str,
    entries: Entries<'a>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(prefix: &'static str, entries: Entries<'a>) -> Self {
        Self { prefix, entries }
    }

    fn name(&self, field: &str) -> String {
        format!("{}{field}", self.prefix)
    }

    pub(super) fn invalid(&self, field: &str, wanted: impl Into<String>) -> Rejection {
        Rejection::InvalidValue { field: self.name(field), wanted: wanted.into() }
    }

    pub(super) fn uuid_form(&self, field: &str) -> Rejection {
        Rejection::UuidForm { field: self.name(field) }
    }

    /// Finds a field that may be absent; null is as good as absent.
    pub(super) fn optional(&self, field: &str) -> Result<Option<&Tree<'a>>, Rejection> {
        Ok(self.find(field)?.filter(|value| !matches!(value, Tree::Null)))
    }

    fn find(&self, field: &str) -> Result<Option<&Tree<'a>>, Rejection> {
        let mut found = None;
        for (name, value) in &self.entries {
            if name == field && found.replace(value).is_some() {
                return Err(self.invalid(field, "one value, given once"));
            }
        }
        Ok(found)
    }

    fn required(&self, field: &str) -> Result<&Tree<'a>, Rejection> {
        self.find(field)?.ok_or_else(|| Rejection::MissingField { field: self.name(field) })
    }

    pub(super) fn text(&self, field: &str) -> Result<&str, Rejection> {
        self.as_text(field, self.required(field)?)
    }

    pub(super) fn as_text<'t>(&self, field: &str, value: &'t Tree<'_>) -> Result<&'t str, Rejection> {
        match value {
            Tree::Text(text) => Ok(text),
            _ => Err(self.invalid(field, "text")),
        }
    }

    pub(super) fn id<T: FromStr<Err = IdError>>(&self, field: &str) -> Result<T, Rejection> {
        self.as_id(field, self.required(field)?)
    }

    pub(super) fn as_id<T: FromStr<Err = IdError>>(
        &self,
        field: &str,
        value: &Tree<'_>,
    ) -> Result<T, Rejection> {
        self.as_text(field, value)?.parse().map_err(|_: IdError| {
            self.invalid(
                field,
                format!("1 to {OPAQUE_ID_MAX_CHARS} characters, none of them a control character"),
            )
        })
    }

    pub(super) fn uuid(&self, field: &str) -> Result<Uuid, Rejection> {
        match UuidText::of(self.text(field)?) {
            UuidText::LowerCase(uuid) => Ok(uuid),
            UuidText::OtherCase(_) | UuidText::Wrapped => Err(self.uuid_form(field)),
            UuidText::None => Err(self.invalid(field, "a UUID in its hyphenated form")),
        }
    }

    pub(super) fn time(&self, field: &str) -> Result<Timestamp, Rejection> {
        wire_time(self.text(field)?).ok_or_else(|| self.invalid(field, "an RFC 3339 time"))
    }

    pub(super) fn unsigned(&self, field: &str) -> Result<u64, Rejection> {
        self.as_unsigned(field, self.required(field)?)
    }

    pub(super) fn as_unsigned(&self, field: &str, value: &Tree<'_>) -> Result<u64, Rejection> {
        let number = match value {
            Tree::Unsigned(number) => Some(*number),
            Tree::Float(number) => whole(*number),
            _ => None,
        };
        number.ok_or_else(|| self.invalid(field, "a whole number, 0 or more"))
    }

    pub(super) fn unsigned_32(&self, field: &str) -> Result<u32, Rejection> {
        self.to_u32(field, self.unsigned(field)?)
    }

    /// Reads a 32-bit number that has a default.
    pub(super) fn unsigned_32_or(&self, field: &str, default: u32) -> Result<u32, Rejection> {
        match self.optional(field)? {
            None => Ok(default),
            Some(value) => self.to_u32(field, self.as_unsigned(field, value)?),
        }
    }

    fn to_u32(&self, field: &str, number: u64) -> Result<u32, Rejection> {
        u32::try_from(number).map_err(|_| self.invalid(field, format!("a whole number, 0 to {}", u32::MAX)))
    }

    #[expect(clippy::cast_precision_loss, reason = "a whole number in a field of fractions is one of those")]
    pub(super) fn number(&self, field: &str) -> Result<f64, Rejection> {
        match self.required(field)? {
            Tree::Float(number) => Ok(*number),
            Tree::Unsigned(number) => Ok(*number as f64),
            Tree::Negative(number) => Ok(*number as f64),
            _ => Err(self.invalid(field, "a number")),
        }
    }

    /// Reads a truth value that is false where it is absent.
    pub(super) fn is_true(&self, field: &str) -> Result<bool, Rejection> {
        match self.optional(field)? {
            None => Ok(false),
            Some(Tree::Boolean(value)) => Ok(*value),
            Some(_) => Err(self.invalid(field, "true or false")),
        }
    }

    /// Reads a name of a closed set.
    pub(super) fn one_of<T>(&self, field: &str, find: fn(&str) -> Option<T>) -> Result<T, Rejection> {
        let text = self.text(field)?;
        find(text).ok_or_else(|| Rejection::UnknownValue { field: self.name(field), got: short_detail(text) })
    }

    /// Takes an object whose fields are named by us out of the document.
    pub(super) fn take_object(&mut self, field: &str, prefix: &'static str) -> Result<Fields<'a>, Rejection> {
        match self.take(field)? {
            Tree::Map(entries) => Ok(Fields::new(prefix, entries)),
            _ => Err(self.invalid(field, "an object")),
        }
    }

    /// Takes an object whose fields are the user's.
    pub(super) fn take_free_object(&mut self, field: &str) -> Result<Map<String, Value>, Rejection> {
        match self.take(field)? {
            Tree::Map(entries) => free_object(&self.name(field), entries),
            _ => Err(self.invalid(field, "an object")),
        }
    }

    /// Takes an object whose fields are the user's, and texts.
    pub(super) fn take_texts(&mut self, field: &str) -> Result<BTreeMap<String, String>, Rejection> {
        let Tree::Map(entries) = self.take(field)? else { return Err(self.invalid(field, "an object")) };
        let mut texts = BTreeMap::new();
        for (name, tree) in entries {
            let invalid = |wanted: &str| Rejection::InvalidValue {
                field: short_detail(&format!("{}.{name}", self.name(field))),
                wanted: wanted.to_owned(),
            };
            let Tree::Text(text) = tree else { return Err(invalid("text")) };
            if texts.contains_key(name.as_ref()) {
                return Err(invalid("one value, given once"));
            }
            texts.insert(name.into_owned(), text.into_owned());
        }
        Ok(texts)
    }

    /// Reads a list of names that is empty where it is absent.
    pub(super) fn names(&self, field: &str) -> Result<BTreeSet<String>, Rejection> {
        let wanted = || self.invalid(field, "a list of texts");
        match self.optional(field)? {
            None => Ok(BTreeSet::new()),
            Some(Tree::List(items)) => {
                let name = |item: &Tree<'_>| match item {
                    Tree::Text(text) => Ok(text.clone().into_owned()),
                    _ => Err(wanted()),
                };
                items.iter().map(name).collect()
            }
            Some(_) => Err(wanted()),
        }
    }

    fn take(&mut self, field: &str) -> Result<Tree<'a>, Rejection> {
        self.required(field)?;
        let found = self.entries.iter_mut().find(|(name, _)| name == field);
        Ok(found.map_or(Tree::Null, |(_, value)| std::mem::replace(value, Tree::Null)))
    }
}

/// Takes a number that is written with a fraction or an exponent, and whole, as the whole number it is: to JSON
/// Schema 1.0 and 1e3 are integers. Such a number is a double, as everywhere in JSON; what is to be exact
/// above 2^53 is written with digits alone.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked before")]
fn whole(number: f64) -> Option<u64> {
    /// 2^64, the first whole number that does not fit.
    const END: f64 = 18_446_744_073_709_551_616.0;
    (number.fract() == 0.0 && (0.0..END).contains(&number)).then_some(number as u64)
}

/// Days on which a time zone can lead out of the years that RFC 3339 can write.
const FIRST_AND_LAST_DAY: [&str; 2] = ["0000-01-01", "9999-12-31"];

/// How the offset of UTC itself may be written, with a minus sign of typographers too.
const UTC_OFFSETS: [&str; 5] = ["Z", "z", "+00:00", "-00:00", "\u{2212}00:00"];

/// Reads a time. On the first and the last day that there are, only UTC and no leap second is taken, so that
/// whatever is read can be written, and a schema can say so.
pub(super) fn wire_time(text: &str) -> Option<Timestamp> {
    let time = Timestamp::parse(text)?;
    let is_at_the_edge = FIRST_AND_LAST_DAY.iter().any(|day| text.starts_with(day));
    let is_leap_second = text.get(17..19) == Some("60");
    let is_plain = !is_leap_second && UTC_OFFSETS.iter().any(|offset| text.ends_with(offset));
    (!is_at_the_edge || is_plain).then_some(time)
}

/// Reads a UUID in the one form that is on the wire.
pub(super) fn wire_uuid(text: &str) -> Option<Uuid> {
    match UuidText::of(text) {
        UuidText::LowerCase(uuid) => Some(uuid),
        UuidText::OtherCase(_) | UuidText::Wrapped | UuidText::None => None,
    }
}

fn free_object(path: &str, entries: Entries<'_>) -> Result<Map<String, Value>, Rejection> {
    let mut object = Map::new();
    for (name, tree) in entries {
        let value = free_value(path, &name, tree)?;
        if object.contains_key(name.as_ref()) {
            let field = short_detail(&format!("{path}.{name}"));
            return Err(Rejection::InvalidValue { field, wanted: "one value, given once".to_owned() });
        }
        object.insert(name.into_owned(), value);
    }
    Ok(object)
}

/// Takes a value of the user's; `path` and `name` are put together only when they are needed.
fn free_value(path: &str, name: &str, tree: Tree<'_>) -> Result<Value, Rejection> {
    let invalid = |wanted: &str| Rejection::InvalidValue {
        field: short_detail(&format!("{path}.{name}")),
        wanted: wanted.to_owned(),
    };
    match tree {
        Tree::Null => Ok(Value::Null),
        Tree::Boolean(value) => Ok(Value::Bool(value)),
        Tree::Unsigned(number) => Ok(Value::from(number)),
        Tree::Negative(number) => Ok(Value::from(number)),
        Tree::Float(number) => {
            Number::from_f64(number).map(Value::Number).ok_or_else(|| invalid("a finite number"))
        }
        Tree::Text(text) => Ok(Value::String(text.into_owned())),
        Tree::List(items) => {
            let path = short_detail(&format!("{path}.{name}"));
            // An item is named by its list: its number would cost a text per item.
            let items = items.into_iter().map(|item| free_value(&path, "[]", item));
            items.collect::<Result<Vec<_>, _>>().map(Value::Array)
        }
        Tree::Map(entries) => {
            free_object(&short_detail(&format!("{path}.{name}")), entries).map(Value::Object)
        }
        Tree::Binary => Err(invalid("a value that JSON has")),
    }
}
