//! Beginnings of job ids: a job is asked for by as much of its id as tells it apart.

use super::{IdError, JobId, UUID_TEXT_BYTES};

/// Fewest characters of a shortened job id. What is shorter is told apart from few others, and would have a list read
/// much of an index for rows that it does not show.
pub const BEGINNING_MIN_CHARS: usize = 4;

/// How the ids begin that are asked for.
///
/// What may begin a UUID begins it in any letter case, as a UUID has one form only where it is stored; all other ids
/// are taken to the letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobIdBeginning {
    as_written: String,
    /// The same in lower case, where that is another text and may begin a UUID.
    of_uuid: Option<String>,
}

impl JobIdBeginning {
    /// Checks the text and takes it.
    ///
    /// *Errors*: [`IdError::TooShort`] below [`BEGINNING_MIN_CHARS`], and as [`JobId::parse`].
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let as_written = JobId::parse(text)?.as_str().to_owned();
        let chars = text.chars().count();
        if chars < BEGINNING_MIN_CHARS {
            return Err(IdError::TooShort(chars));
        }
        let lower = text.to_ascii_lowercase();
        let of_uuid = (begins_uuid(text) && lower != text).then_some(lower);
        Ok(Self { as_written, of_uuid })
    }

    /// Tells whether an id begins so.
    pub fn is_of(&self, job_id: &JobId) -> bool {
        self.texts().any(|text| job_id.as_str().starts_with(text))
    }

    /// Gives the ranges that hold the ids, in order, as texts sort by their bytes. None overlaps another: capital
    /// letters sort before the others.
    pub fn ranges(&self) -> Vec<IdRange> {
        self.texts().map(|text| IdRange { from: text.to_owned(), below: behind_all(text) }).collect()
    }

    fn texts(&self) -> impl Iterator<Item = &str> {
        [Some(&self.as_written), self.of_uuid.as_ref()].into_iter().flatten().map(String::as_str)
    }
}

/// Ids between two texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdRange {
    /// The least text in it.
    pub from: String,
    /// The least text behind it, if there is any.
    pub below: Option<String>,
}

/// Tells whether a text may be the beginning of a UUID in its hyphenated form.
fn begins_uuid(text: &str) -> bool {
    let fits = |(place, byte): (usize, u8)| match place {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    text.len() <= UUID_TEXT_BYTES && text.bytes().enumerate().all(fits)
}

/// Gives the least text that sorts behind all that begin with this one.
fn behind_all(text: &str) -> Option<String> {
    let mut rest = text.to_owned();
    while let Some(last) = rest.pop() {
        if let Some(next) = (last..=char::MAX).nth(1) {
            rest.push(next);
            return Some(rest);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> JobIdBeginning {
        JobIdBeginning::parse(text).unwrap()
    }

    #[test]
    fn beginning_of_a_uuid_is_taken_in_any_letter_case() {
        let uuid = JobId::parse("0193a1c0-0000-7000-8000-0000000000aa").unwrap();
        let named = JobId::parse("0193A1-night").unwrap();

        for text in ["0193a1", "0193A1", "0193A1C0-", "0193A1C0-0000-7000-8000-0000000000AA"] {
            assert!(of(text).is_of(&uuid), "{text}");
        }
        assert!(of("0193A1").is_of(&named));
        for text in ["0193a1", "0193A1-NIGHT", "0193A1-nights"] {
            assert!(!of(text).is_of(&named), "{text}");
        }
        assert!(!of("0193A1C0X").is_of(&uuid));
    }

    #[test]
    fn beginning_that_is_too_short_is_refused() {
        assert_eq!(JobIdBeginning::parse("0f9"), Err(IdError::TooShort(3)));
        assert_eq!(JobIdBeginning::parse("\u{e9}\u{e9}\u{e9}"), Err(IdError::TooShort(3)));
        assert_eq!(JobIdBeginning::parse(""), Err(IdError::Empty));
        assert_eq!(JobIdBeginning::parse("job\n-1"), Err(IdError::ControlCharacter));
    }

    #[test]
    fn ranges_end_behind_the_last_character_there_is() {
        let ends = |text: &str| of(text).ranges().into_iter().map(|range| range.below).collect::<Vec<_>>();

        assert_eq!(ends("job-"), [Some("job.".to_owned())]);
        assert_eq!(ends("job\u{d7ff}"), [Some("job\u{e000}".to_owned())]);
        assert_eq!(ends("job\u{10ffff}"), [Some("joc".to_owned())]);
        assert_eq!(ends("\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}"), [None]);
        assert_eq!(ends("00AF"), [Some("00AG".to_owned()), Some("00ag".to_owned())]);
    }

    proptest! {
        #[test]
        fn ranges_hold_what_begins_so_and_nothing_else(
            text in "[a-fA-F0-9\\-\u{d7ff}\u{10ffff}x]{4,6}",
            other in "[a-fA-F0-9\\-\u{d7ff}\u{10ffff}x]{1,8}",
            rest in "[^\\p{Cc}]{0,4}",
        ) {
            let beginning = of(&text);

            for id in [other, format!("{text}{rest}"), format!("{}{rest}", text.to_ascii_lowercase())] {
                let id = JobId::parse(&id).unwrap();
                let is_in = |range: &IdRange| {
                    id.as_str() >= range.from.as_str() && range.below.as_ref().is_none_or(|below| id.as_str() < below.as_str())
                };
                prop_assert_eq!(beginning.ranges().iter().filter(|range| is_in(range)).count(), usize::from(beginning.is_of(&id)));
            }
        }
    }
}
