//! Guesses what bytes are that are not what they were said to be, for the person who reads why they were rejected.
//!
//! Promises nothing about bytes that decode: it is asked only about those that do not. Pure.

use super::Encoding;

/// How many bytes tell a text in UTF-16 without a mark: each second one of ASCII is zero.
const PROBE_BYTES: usize = 4;

/// Says in words what bytes look like, where they look like something that producers send by mistake for what they
/// were said to be.
///
/// *Source*: the formats' own specifications: byte order marks (Unicode 23.8), gzip (RFC 1952), Zstandard (RFC 8878),
/// Avro's object container files, and the wire format of Confluent's serialisers (a zero, then the schema's id in four
/// bytes).
pub fn looks_like(bytes: &[u8], said: Encoding) -> Option<String> {
    let known: [(&[u8], &str); 7] = [
        (b"\xef\xbb\xbf", "text with a byte order mark before it"),
        (b"\xff\xfe", "text in UTF-16"),
        (b"\xfe\xff", "text in UTF-16"),
        (b"\x1f\x8b", "gzip"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"Obj\x01", "an Avro file"),
        (b"PK\x03\x04", "a zip archive"),
    ];
    if let Some((_, what)) = known.iter().find(|(start, _)| bytes.starts_with(start)) {
        return Some((*what).to_owned());
    }
    if is_utf_16(bytes) {
        return Some("text in UTF-16".to_owned());
    }
    match bytes {
        [0, a, b, c, d, ..] => {
            let schema = u32::from_be_bytes([*a, *b, *c, *d]);
            Some(format!("the wire format of a schema registry (schema id {schema})"))
        }
        [0x80..=0x8f | 0xde | 0xdf, ..] if said != Encoding::MessagePack => Some("MessagePack".to_owned()),
        [b'{' | b'[', ..] if said != Encoding::Json => Some("JSON".to_owned()),
        _ => None,
    }
}

fn is_utf_16(bytes: &[u8]) -> bool {
    let Some(probe) = bytes.get(..PROBE_BYTES) else { return false };
    let is_ascii = |byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
    let (even, odd) = (probe.iter().step_by(2), probe.iter().skip(1).step_by(2));
    let is_zero = |byte: &u8| *byte == 0;
    (even.clone().all(is_ascii) && odd.clone().all(is_zero))
        || (even.clone().all(is_zero) && odd.clone().all(is_ascii))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_like_known_starts_are_named() {
        let le: Vec<u8> = "{\"a\"".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let be: Vec<u8> = "{\"a\"".encode_utf16().flat_map(u16::to_be_bytes).collect();
        let cases: [(&[u8], &str); 10] = [
            (b"\xef\xbb\xbf{}", "text with a byte order mark before it"),
            (b"\xff\xfe{\0", "text in UTF-16"),
            (&le, "text in UTF-16"),
            (&be, "text in UTF-16"),
            (b"\x1f\x8b\x08\x00", "gzip"),
            (b"\x28\xb5\x2f\xfd\x00", "zstd"),
            (b"Obj\x01\x04", "an Avro file"),
            (b"\x00\x00\x00\x01\x02\x48", "the wire format of a schema registry (schema id 258)"),
            (b"\x8aabc", "MessagePack"),
            (b"{\"a\":", "JSON"),
        ];

        for (bytes, wanted) in cases {
            let said = if wanted == "JSON" { Encoding::MessagePack } else { Encoding::Json };
            assert_eq!(looks_like(bytes, said).as_deref(), Some(wanted), "{bytes:?}");
        }
    }

    #[test]
    fn looks_like_other_bytes_are_not_guessed() {
        for bytes in [&b""[..], b"not an event", b"\0", b"\xff", b"12", b"{\"a\":"] {
            assert_eq!(looks_like(bytes, Encoding::Json), None, "{bytes:?}");
        }
        assert_eq!(looks_like(b"\x8aabc", Encoding::MessagePack), None);
    }
}
