//! A document as it came, before its fields are understood.
//!
//! Promises to borrow text from the record's bytes, to keep fields given twice apart, and to end on nesting
//! deeper than [`NESTING_MAX`], so that neither hostile bytes nor hostile depth can end a process. Both
//! encodings become the same tree; from there on there is one path only, so that no two encodings and no
//! two orders of fields can be judged differently.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Deepest nesting of a document: what `serde_json` allows, and far below what fills a stack.
const NESTING_MAX: usize = 128;

/// Fields that an envelope has, so that its list is made in one piece.
const ENVELOPE_FIELDS: usize = 10;

/// A value of a document.
#[derive(Debug)]
pub(super) enum Tree<'a> {
    Null,
    Boolean(bool),
    Unsigned(u64),
    Negative(i64),
    Float(f64),
    Text(Cow<'a, str>),
    List(Vec<Tree<'a>>),
    Map(Entries<'a>),
    /// Raw bytes or an extension: nothing that any field takes.
    Binary,
}

/// The fields of an object in the order they came, those given twice included.
pub(super) type Entries<'a> = Vec<(Cow<'a, str>, Tree<'a>)>;

/// Reads a JSON document.
pub(super) fn read_json(bytes: &Bytes) -> Result<Tree<'_>, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let tree = TreeSeed { fields: ENVELOPE_FIELDS }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(tree)
}

/// Reads a MessagePack document.
pub(super) fn read_message_pack(bytes: &Bytes) -> Result<Tree<'_>, rmp_serde::decode::Error> {
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(bytes);
    deserializer.set_max_depth(NESTING_MAX);
    let tree = TreeSeed { fields: ENVELOPE_FIELDS }.deserialize(&mut deserializer)?;
    // The decoder does not say where it stands. A further value of a flat type cannot be begun exactly where
    // nothing is left; any byte there is another error, or a value.
    match bool::deserialize(&mut deserializer) {
        Err(rmp_serde::decode::Error::InvalidMarkerRead(_)) => Ok(tree),
        _ => Err(rmp_serde::decode::Error::custom("bytes after the end of the document")),
    }
}

/// Reads one value; `fields` is how many an object probably has.
#[derive(Default)]
pub(super) struct TreeSeed {
    fields: usize,
}

impl<'de> DeserializeSeed<'de> for TreeSeed {
    type Value = Tree<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for TreeSeed {
    type Value = Tree<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Tree<'de>, E> {
        Ok(Tree::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree<'de>, E> {
        Ok(Tree::Boolean(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree<'de>, E> {
        Ok(Tree::Unsigned(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree<'de>, E> {
        Ok(u64::try_from(value).map_or(Tree::Negative(value), Tree::Unsigned))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree<'de>, E> {
        Ok(Tree::Float(value))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Tree<'de>, E> {
        Ok(Tree::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree<'de>, E> {
        Ok(Tree::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_bytes<E>(self, _value: &[u8]) -> Result<Tree<'de>, E> {
        Ok(Tree::Binary)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, extension: D) -> Result<Tree<'de>, D::Error> {
        extension.deserialize_any(IgnoredAny)?;
        Ok(Tree::Binary)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree<'de>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(TreeSeed { fields: 0 })? {
            list.push(item);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Tree<'de>, A::Error> {
        let mut entries = Vec::with_capacity(self.fields);
        while let Some(name) = fields.next_key_seed(NameSeed)? {
            entries.push((name, fields.next_value_seed(TreeSeed { fields: 0 })?));
        }
        Ok(Tree::Map(entries))
    }
}

/// Reads the name of a field; a number stands for its digits, as it does in JavaScript.
struct NameSeed;

impl<'de> DeserializeSeed<'de> for NameSeed {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NameSeed {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text as the name of a field")
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(value.to_owned()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(value.to_string()))
    }
}
