//! The common form of RFC 3339, read and written without the general machinery.
//!
//! Promises what chrono says wherever it says anything; every rarer form (a leap second, a lower-case `t`,
//! more than nine digits, years beyond four) it leaves to chrono, and it never calls a text wrong.

/// Microseconds in a second.
const SECOND_MICROS: i64 = 1_000_000;

/// Microseconds in a day.
const DAY_MICROS: i64 = 86_400 * SECOND_MICROS;

/// Length of a time that is written: `YYYY-MM-DDTHH:MM:SS.ffffffZ`.
const TEXT_BYTES: usize = 27;

/// Most digits of a fraction that are read here; chrono keeps as many.
const FRACTION_DIGITS_MAX: usize = 9;

/// Days from 0000-03-01 to 1970-01-01.
const EPOCH_DAYS: i64 = 719_468;

/// Days of 400 years, after which the calendar repeats.
const ERA_DAYS: i64 = 146_097;

/// Reads microseconds since the epoch.
pub(super) fn parse_micros(text: &[u8]) -> Option<i64> {
    let (head, rest) = text.split_first_chunk::<19>()?;
    let [y0, y1, y2, y3, b'-', o0, o1, b'-', d0, d1, b'T', h0, h1, b':', m0, m1, b':', s0, s1] = *head else {
        return None;
    };
    let year = pair(y0, y1)? * 100 + pair(y2, y3)?;
    let (month, day) = (pair(o0, o1)?, pair(d0, d1)?);
    let (hour, minute, second) = (pair(h0, h1)?, pair(m0, m1)?, pair(s0, s1)?);
    if day == 0 || day > days_of_month(year, month)? || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (fraction_micros, zone) = parse_fraction(rest)?;
    let seconds = (hour * 60 + minute) * 60 + second - parse_offset_seconds(zone)?;
    Some(days_since_epoch(year, month, day) * DAY_MICROS + seconds * SECOND_MICROS + fraction_micros)
}

/// Writes `YYYY-MM-DDTHH:MM:SS.ffffffZ`; nothing outside the years 0000 to 9999.
pub(super) fn format_micros(micros: i64) -> Option<[u8; TEXT_BYTES]> {
    let (year, month, day) = date_of_day(micros.div_euclid(DAY_MICROS));
    if !(0..=9999).contains(&year) {
        return None;
    }
    let in_day = micros.rem_euclid(DAY_MICROS);
    let (seconds, fraction) = (in_day / SECOND_MICROS, in_day % SECOND_MICROS);
    let [y0, y1] = digits(year / 100);
    let [y2, y3] = digits(year % 100);
    let ([o0, o1], [d0, d1]) = (digits(month), digits(day));
    let ([h0, h1], [m0, m1]) = (digits(seconds / 3600), digits(seconds / 60 % 60));
    let [s0, s1] = digits(seconds % 60);
    let ([f0, f1], [f2, f3]) = (digits(fraction / 10_000), digits(fraction / 100 % 100));
    let [f4, f5] = digits(fraction % 100);
    Some([
        y0, y1, y2, y3, b'-', o0, o1, b'-', d0, d1, b'T', h0, h1, b':', m0, m1, b':', s0, s1, b'.', f0, f1,
        f2, f3, f4, f5, b'Z',
    ])
}

fn digit(byte: u8) -> Option<i64> {
    byte.is_ascii_digit().then(|| i64::from(byte - b'0'))
}

fn pair(tens: u8, ones: u8) -> Option<i64> {
    Some(digit(tens)? * 10 + digit(ones)?)
}

/// Gives the two digits of a number below 100.
fn digits(number: i64) -> [u8; 2] {
    let number = u8::try_from(number).expect("parts of a date are cut to two digits");
    [b'0' + number / 10, b'0' + number % 10]
}

/// Reads a fraction, cut to microseconds, and gives what stands after it.
fn parse_fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let Some((b'.', text)) = text.split_first() else {
        return Some((0, text));
    };
    let length = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if length == 0 || length > FRACTION_DIGITS_MAX {
        return None;
    }
    let (fraction, rest) = text.split_at_checked(length)?;
    let padded = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(6);
    Some((padded.fold(0, |micros, byte| micros * 10 + i64::from(byte - b'0')), rest))
}

fn parse_offset_seconds(text: &[u8]) -> Option<i64> {
    let (sign, hours, minutes) = match *text {
        [b'Z'] => return Some(0),
        [b'+', h0, h1, b':', m0, m1] => (1, pair(h0, h1)?, pair(m0, m1)?),
        [b'-', h0, h1, b':', m0, m1] => (-1, pair(h0, h1)?, pair(m0, m1)?),
        _ => return None,
    };
    (hours <= 23 && minutes <= 59).then_some(sign * (hours * 60 + minutes) * 60)
}

fn days_of_month(year: i64, month: i64) -> Option<i64> {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => Some(31),
        4 | 6 | 9 | 11 => Some(30),
        2 if is_leap => Some(29),
        2 => Some(28),
        _ => None,
    }
}

/// Counts days in a calendar whose years begin in March, so that a leap day is the last of its year.
///
/// *Source*: [Howard Hinnant, `days_from_civil`](https://howardhinnant.github.io/date_algorithms.html).
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * ERA_DAYS + day_of_era - EPOCH_DAYS
}

/// Gives year, month and day.
///
/// *Source*: [Howard Hinnant, `civil_from_days`](https://howardhinnant.github.io/date_algorithms.html).
fn date_of_day(days: i64) -> (i64, i64, i64) {
    let days = days + EPOCH_DAYS;
    let era = days.div_euclid(ERA_DAYS);
    let day_of_era = days.rem_euclid(ERA_DAYS);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / (ERA_DAYS - 1)) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, SecondsFormat, Utc};
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Timestamp;

    fn chronos(text: &str) -> Option<i64> {
        DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_micros())
    }

    #[test]
    fn parse_of_every_day_is_chronos() {
        for year in
            (0..=9999).filter(|year| year % 100 < 5 || year % 400 == 399 || (1899..2101).contains(year))
        {
            for month in 0..=13 {
                for day in [0, 1, 27, 28, 29, 30, 31, 32] {
                    let text = format!("{year:04}-{month:02}-{day:02}T23:59:59.999999Z");

                    let parsed = parse_micros(text.as_bytes());

                    assert_eq!(parsed, chronos(&text), "{text}");
                    if let Some(micros) = parsed {
                        assert_eq!(format_micros(micros).unwrap(), text.as_bytes());
                    }
                }
            }
        }
    }

    #[test]
    fn parse_of_rare_forms_is_chronos() {
        let rare = [
            "2026-01-02t03:04:05z",
            "2026-01-02 03:04:05Z",
            "2026-01-02T03:04:60Z",
            "2026-01-02T23:59:60.5Z",
            "2026-01-02T24:00:00Z",
            "2026-01-02T03:04:05.Z",
            "2026-01-02T03:04:05.1234567891234Z",
            "2026-01-02T03:04:05-00:00",
            "2026-01-02T03:04:05+23:59",
            "2026-01-02T03:04:05+24:00",
            "2026-01-02T03:04:05+00:60",
            "2026-01-02T03:04:05+0000",
            "2026-01-02T03:04:05",
            "2026-01-02T03:04:05Z ",
            "0000-01-01T00:00:00+23:59",
            "9999-12-31T23:59:59-23:59",
            "+2026-01-02T03:04:05Z",
            "2026-01-02T03:04:05\u{2212}01:00",
            "",
        ];

        for text in rare {
            assert_eq!(Timestamp::parse(text).map(Timestamp::as_micros), chronos(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn parse_of_any_common_form_is_chronos(
            text in "[0-9]{2}[0-9]{2}-[01][0-9]-[0-3][0-9][Tt ][0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{0,11})?(Z|z|[+-][0-2][0-9]:[0-6][0-9])",
        ) {
            let chronos = chronos(&text);

            if let Some(micros) = parse_micros(text.as_bytes()) {
                prop_assert_eq!(Some(micros), chronos);
            }
            prop_assert_eq!(Timestamp::parse(&text).map(Timestamp::as_micros), chronos);
        }

        #[test]
        fn parse_of_a_damaged_time_is_chronos(
            micros in -62_167_219_200_000_000..=253_402_300_799_999_999_i64,
            at in 0..TEXT_BYTES,
            replacement in any::<char>(),
        ) {
            let mut text: Vec<char> = Timestamp::from_micros(micros).to_string().chars().collect();
            text[at] = replacement;
            let text: String = text.into_iter().collect();

            prop_assert_eq!(Timestamp::parse(&text).map(Timestamp::as_micros), chronos(&text));
        }

        #[test]
        fn format_of_any_time_is_chronos(
            micros in prop_oneof![any::<i64>(), -63_000_000_000_000_000..=254_000_000_000_000_000_i64],
        ) {
            let wanted = match DateTime::<Utc>::from_timestamp_micros(micros) {
                Some(time) => time.to_rfc3339_opts(SecondsFormat::Micros, true),
                None => format!("{micros}us"),
            };

            prop_assert_eq!(Timestamp::from_micros(micros).to_string(), wanted);
        }
    }
}
