//! Text from elsewhere, written so that it can neither steer a terminal nor forge a line.
//!
//! Promises the one place that escapes text for people: log lines, tables, sentences and errors all pass it. What is
//! escaped stays readable and says which character stood there. Does not promise that what is shown can be read back:
//! machines are given JSON, in which the same characters are escaped as JSON does.

use std::fmt::{self, Write};

/// Tells whether a character would act on a terminal or a line instead of being seen.
///
/// *Source*: Unicode: general category Cc (C0, DEL, C1), line and paragraph separators, bidirectional formatting
/// (UAX 9), and what is invisible and only there to be hidden in a text: zero-width space, word joiner and invisible
/// operators, deprecated format characters, byte order mark, annotations, tags. Joiners are left: scripts and emoji
/// need them.
pub fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// Shows a text on one line.
pub fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    // A string takes everything.
    let _written = Shown(&mut shown).write_str(text);
    shown
}

/// Shows a text of several lines; only its line feeds are sent as they are.
pub fn shown_lines(text: &str) -> String {
    text.split('\n').map(shown).collect::<Vec<_>>().join("\n")
}

/// Shows, on one line, whatever is written to it.
pub struct Shown<'a>(pub &'a mut dyn Write);

impl Write for Shown<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some((at, hidden)) = rest.char_indices().find(|(_, character)| is_hidden(*character)) {
            let (plain, from) = rest.split_at(at);
            self.0.write_str(plain)?;
            write!(self.0, "{}", hidden.escape_default())?;
            rest = from.get(hidden.len_utf8()..).unwrap_or_default();
        }
        self.0.write_str(rest)
    }
}

/// Escapes in a JSON text what JSON itself would let stand: it means the same to whoever parses it. Line feeds, which
/// no JSON text has within a string, are left.
pub fn shown_json(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if !is_hidden(character) || character == '\n' {
            shown.push(character);
            continue;
        }
        for unit in character.encode_utf16(&mut [0; 2]) {
            // A string takes everything.
            let _written = write!(shown, "\\u{unit:04x}");
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One character of each kind that must not be sent.
    pub(crate) const HIDDEN: [char; 14] = [
        '\0',
        '\u{1b}',
        '\n',
        '\r',
        '\u{7f}',
        '\u{85}',
        '\u{9b}',
        '\u{61c}',
        '\u{200f}',
        '\u{2028}',
        '\u{202e}',
        '\u{2066}',
        '\u{feff}',
        '\u{e0041}',
    ];

    #[test]
    fn shown_hidden_characters_are_named() {
        for hidden in HIDDEN {
            let text = shown(&format!("a{hidden}b"));

            assert!(!text.chars().any(is_hidden), "{text:?}");
            assert!(text.starts_with("a\\") && text.ends_with('b'), "{text:?}");
        }
        assert_eq!(shown("a\u{1b}[2Jb\u{7}\nc\u{202e}"), "a\\u{1b}[2Jb\\u{7}\\nc\\u{202e}");
    }

    #[test]
    fn shown_letters_of_every_script_stay() {
        let text = "NGC 1300 – Größe, 望遠鏡, תצפית, न्‍य, \u{1f469}\u{200d}\u{1f680}";

        assert_eq!(shown(text), text);
    }

    #[test]
    fn shown_lines_keeps_line_feeds_alone() {
        assert_eq!(shown_lines("a\nb\r\n\u{9b}c\n"), "a\nb\\r\n\\u{9b}c\n");
    }

    #[test]
    fn shown_json_means_the_same_and_sends_nothing_hidden() {
        let value: String = HIDDEN.iter().collect();
        let text = serde_json::to_string(&value).unwrap();

        let shown = shown_json(&text);

        assert!(!shown.chars().any(is_hidden), "{shown}");
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), value);
    }
}
