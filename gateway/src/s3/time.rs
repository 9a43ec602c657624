//! Times as S3 writes and reads them, all in UTC: the civil calendar and nothing else.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The milliseconds of one second.
const SECOND_MS: u64 = 1000;
const DAY_SECONDS: u64 = 86_400;

/// `2026-11-22T18:00:00.000Z`, as in XML. S3 shows whole seconds with three zeros.
pub fn iso8601(ms: u64) -> String {
    Iso8601(ms).to_string()
}

/// Milliseconds since 1970 that print as [`iso8601`]; in a page of a listing there are a thousand.
pub struct Iso8601(pub u64);

impl fmt::Display for Iso8601 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((year, month, day), (hour, minute, second)) = split(self.0 / SECOND_MS);
        let mut text = *b"0000-00-00T00:00:00.000Z";
        for (at, number) in
            [(0, year / 100), (2, year), (5, month), (8, day), (11, hour), (14, minute), (17, second)]
        {
            text[at] += (number / 10 % 10) as u8;
            text[at + 1] += (number % 10) as u8;
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

/// `20261122T180000Z`, as in signatures.
pub fn iso8601_basic(ms: u64) -> String {
    let ((year, month, day), (hour, minute, second)) = split(ms / SECOND_MS);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// `Sun, 22 Nov 2026 18:00:00 GMT`, as in headers.
pub fn http_date(ms: u64) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(ms / SECOND_MS))
}

/// Seconds since 1970 of an HTTP date in any of its three forms.
pub fn parse_http_date(text: &str) -> Option<u64> {
    let time: SystemTime = httpdate::parse_http_date(text).ok()?;
    time.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

/// Seconds since 1970 of `20261122T180000Z`. Strict: a month 13, a year before 1970 or a sign is no date.
pub fn parse_iso8601_basic(text: &str) -> Option<u64> {
    let bytes = text.as_bytes();
    let shape = bytes.len() == 16
        && bytes[8] == b'T'
        && bytes[15] == b'Z'
        && bytes[..8].iter().chain(&bytes[9..15]).all(u8::is_ascii_digit);
    if !shape {
        return None;
    }
    let number = |from: usize, to: usize| text[from..to].parse::<u64>().ok();
    let (year, month, day) = (number(0, 4)?, number(4, 6)?, number(6, 8)?);
    let (hour, minute, second) = (number(9, 11)?, number(11, 13)?, number(13, 15)?);
    // A year near 9999 is nobody's clock; refusing it keeps every later sum small.
    let valid = (1970..=9000).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_of_month(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    valid.then(|| days_before(year, month, day) * DAY_SECONDS + hour * 3600 + minute * 60 + second)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_of_month(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to this date.
fn days_before(year: u64, month: u64, day: u64) -> u64 {
    let before = year - 1;
    let leap_days = before / 4 - before / 100 + before / 400 - (1969 / 4 - 1969 / 100 + 1969 / 400);
    let months: u64 = (1..month).map(|month| days_of_month(year, month)).sum();
    (year - 1970) * 365 + leap_days + months + day - 1
}

type Date = (u64, u64, u64);

/// Date and time of day of so many seconds since 1970.
fn split(seconds: u64) -> (Date, (u64, u64, u64)) {
    let (mut days, of_day) = (seconds / DAY_SECONDS, seconds % DAY_SECONDS);
    // A guess that is never too late, then at most two steps.
    let mut year = 1970 + days / 366;
    while days_before(year + 1, 1, 1) <= days {
        year += 1;
    }
    days -= days_before(year, 1, 1);
    let mut month = 1;
    while days_of_month(year, month) <= days {
        days -= days_of_month(year, month);
        month += 1;
    }
    ((year, month, days + 1), (of_day / 3600, of_day / 60 % 60, of_day % 60))
}

/// The inverse of [`iso8601`], with or without parts of a second: milliseconds since 1970.
pub fn parse_iso8601(text: &str) -> Option<u64> {
    let text = text.trim().strip_suffix('Z')?;
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    if part.is_empty() || 9 < part.len() || !part.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let bytes = whole.as_bytes();
    let separated = bytes.len() == 19 && [4, 7, 13, 16].map(|at| bytes[at]) == *b"--::";
    if !separated {
        return None;
    }
    let basic: String = whole.chars().filter(|one| !"-:".contains(*one)).collect();
    let seconds = parse_iso8601_basic(&format!("{basic}Z"))?;
    let ms: u64 = format!("{part:0<3}").get(..3)?.parse().ok()?;
    Some(seconds * SECOND_MS + ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times() {
        for (seconds, text) in [
            (0, "19700101T000000Z"),
            (1_369_353_600, "20130524T000000Z"),
            (951_782_400, "20000229T000000Z"),
            (4_107_542_400, "21000301T000000Z"),
            (1_795_370_399, "20261122T175959Z"),
        ] {
            assert_eq!(parse_iso8601_basic(text), Some(seconds), "{text}");
            assert_eq!(iso8601_basic(seconds * 1000 + 999), text);
        }
        assert_eq!(iso8601(1_369_353_600_123), "2013-05-24T00:00:00.000Z");
        for (text, ms) in [
            ("2013-05-24T00:00:00Z", Some(1_369_353_600_000)),
            ("2013-05-24T00:00:00.5Z", Some(1_369_353_600_500)),
            ("2013-05-24T00:00:00.123456Z", Some(1_369_353_600_123)),
            ("2013-05-24T00:00:00", None),
            ("2013-13-24T00:00:00Z", None),
            ("20130524T000000Z", None),
            ("2013-05-24", None),
        ] {
            assert_eq!(parse_iso8601(text), ms, "{text}");
        }
        assert_eq!(http_date(1_369_353_600_000), "Fri, 24 May 2013 00:00:00 GMT");
        assert_eq!(parse_http_date("Fri, 24 May 2013 00:00:00 GMT"), Some(1_369_353_600));
    }

    #[test]
    fn every_day_of_three_centuries_round_trips() {
        for day in 0..110_000 {
            let text = iso8601_basic(day * 86_400_000);
            assert_eq!(parse_iso8601_basic(&text), Some(day * 86_400), "{text}");
        }
    }

    #[test]
    fn bad_dates() {
        for text in [
            "",
            "20131324T000000Z",
            "20130229T000000Z",
            "20130524T240000Z",
            "99991231T235959Z",
            "20130524T0000\0\0Z",
            "20130524t000000Z",
            "2013-05-24T00:00:00Z",
            "+0130524T000000Z",
            "19691231T235959Z",
        ] {
            assert_eq!(parse_iso8601_basic(text), None, "{text}");
        }
    }
}
