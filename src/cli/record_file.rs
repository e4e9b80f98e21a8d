//! Reads a file of records in parts that one request each can carry.
//!
//! Promises that a file of any size needs the memory of one part, that every record keeps the number of its line, and
//! that a file which is no UTF-8 text is refused with what it looks like.

use std::io::{BufRead, Read as _};

use horizons_actors::event::{Encoding, looks_like};
use serde_json::Value;

/// Records of a part: far more does not make a request cheaper.
const PART_RECORDS: usize = 500;

/// Bytes of lines after which a part ends: with what JSON adds it stays below the server's usual limit of a body.
const PART_BYTES: usize = 512 << 10;

/// Longest line that is read: the largest record in base64 has a fraction of it.
const LINE_LIMIT_BYTES: u64 = 16 << 20;

/// What Windows' editors put before a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Why the file cannot be read on.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordFileError {
    /// The operating system gives no more of it.
    #[error("failed to read `--records` line {line}: {source}")]
    Io {
        /// The line, from 1.
        line: usize,
        /// Why.
        source: std::io::Error,
    },
    /// A line is longer than any record.
    #[error("failed to read `--records` line {line}: wanted at most {LINE_LIMIT_BYTES} bytes")]
    TooLong {
        /// The line, from 1.
        line: usize,
    },
    /// A line is no JSON.
    #[error("failed to read `--records` line {line}: {detail}")]
    Malformed {
        /// The line, from 1.
        line: usize,
        /// The decoder's words.
        detail: String,
    },
}

/// Records of one request.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Part {
    /// The line of each record, from 1.
    pub(super) lines: Vec<usize>,
    /// The records as the API takes them.
    pub(super) records: Vec<Value>,
}

impl Part {
    /// Cuts the part in the middle; there is no second half where it holds one record.
    pub(super) fn halves(mut self) -> (Self, Option<Self>) {
        let middle = self.records.len().div_ceil(2);
        let rest = Self { lines: self.lines.split_off(middle), records: self.records.split_off(middle) };
        let rest = (!rest.records.is_empty()).then_some(rest);
        (self, rest)
    }

    /// Names the first and the last line.
    pub(super) fn span(&self) -> String {
        match (self.lines.first(), self.lines.last()) {
            (Some(first), Some(last)) if first != last => format!("lines {first} to {last}"),
            (Some(first), _) => format!("line {first}"),
            (None, _) => "no line".to_owned(),
        }
    }
}

/// A file that is read.
pub(super) struct RecordFile<R> {
    reader: R,
    line: usize,
}

impl<R: BufRead> RecordFile<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, line: 0 }
    }

    /// Reads the next part; none at the end. Empty lines are skipped.
    ///
    /// *Errors*: [`RecordFileError`] with the line.
    pub(super) fn next_part(&mut self) -> Result<Option<Part>, RecordFileError> {
        let mut part = Part::default();
        let mut bytes = 0;
        while bytes < PART_BYTES && part.records.len() < PART_RECORDS {
            let Some(line) = self.next_line()? else { break };
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            bytes += line.len();
            part.records.push(self.parse(&line)?);
            part.lines.push(self.line);
        }
        Ok((!part.records.is_empty()).then_some(part))
    }

    fn next_line(&mut self) -> Result<Option<Vec<u8>>, RecordFileError> {
        self.line += 1;
        let (line, mut bytes) = (self.line, Vec::new());
        let mut limited = self.reader.by_ref().take(LINE_LIMIT_BYTES);
        let read =
            limited.read_until(b'\n', &mut bytes).map_err(|source| RecordFileError::Io { line, source })?;
        if bytes.last() != Some(&b'\n') && limited.limit() == 0 {
            return Err(RecordFileError::TooLong { line });
        }
        if line == 1 && bytes.starts_with(BYTE_ORDER_MARK) {
            bytes.drain(..BYTE_ORDER_MARK.len());
        }
        Ok((read > 0).then_some(bytes))
    }

    fn parse(&self, line: &[u8]) -> Result<Value, RecordFileError> {
        serde_json::from_slice(line).map_err(|error| {
            let guess = looks_like(line, Encoding::Json)
                .map_or_else(String::new, |what| format!("; it looks like {what}"));
            RecordFileError::Malformed { line: self.line, detail: format!("{error}{guess}") }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parts(text: &[u8]) -> Result<Vec<Part>, String> {
        let mut file = RecordFile::new(text);
        let mut parts = Vec::new();
        while let Some(part) = file.next_part().map_err(|error| error.to_string())? {
            parts.push(part);
        }
        Ok(parts)
    }

    #[test]
    fn file_byte_order_mark_and_empty_lines_are_skipped() {
        let parts = parts(b"\xef\xbb\xbf{\"a\":1}\r\n\n  \n{\"a\":2}").unwrap();

        assert_eq!(parts, [Part { lines: vec![1, 4], records: vec![json!({"a": 1}), json!({"a": 2})] }]);
    }

    #[test]
    fn file_large_one_comes_in_parts_and_keeps_its_lines() {
        let text = "{}\n".repeat(PART_RECORDS * 2 + 1);

        let parts = parts(text.as_bytes()).unwrap();

        let lines: Vec<usize> = parts.iter().flat_map(|part| part.lines.clone()).collect();
        assert_eq!((parts.len(), lines), (3, (1..=PART_RECORDS * 2 + 1).collect()));
    }

    #[test]
    fn file_large_records_end_a_part_early() {
        let line = format!("\"{}\"\n", "x".repeat(PART_BYTES / 2));

        let parts = parts(line.repeat(5).as_bytes()).unwrap();

        assert_eq!(parts.iter().map(|part| part.records.len()).collect::<Vec<_>>(), [2, 2, 1]);
    }

    #[test]
    fn file_wrong_line_is_named() {
        let error = parts(b"{}\n{\n{}\n").unwrap_err();

        assert!(error.starts_with("failed to read `--records` line 2: EOF"), "{error}");
    }

    #[test]
    fn file_in_utf_16_says_so() {
        let text: Vec<u8> = "\u{feff}{}\n".encode_utf16().flat_map(u16::to_le_bytes).collect();

        let error = parts(&text).unwrap_err();

        assert!(error.contains("it looks like text in UTF-16"), "{error}");
    }

    #[test]
    fn part_halves_hold_what_the_part_held() {
        let part = Part { lines: vec![1, 2, 3], records: vec![json!(1), json!(2), json!(3)] };

        let (first, rest) = part.halves();

        assert_eq!((first.lines, rest.clone().unwrap().lines), (vec![1, 2], vec![3]));
        assert_eq!(rest.unwrap().halves().1, None);
    }
}
