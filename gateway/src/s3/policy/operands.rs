//! What conditions compare, read from texts of policies and requests alike. What is none gives none.

use std::net::IpAddr;

use super::super::time::parse_iso8601_basic;

/// Digits after the point of a number.
const FRACTION_DIGITS: usize = 9;
/// Digits before it.
const WHOLE_DIGITS: usize = 18;

/// A whole or decimal number, as billionths: exact, so that neighbours of large numbers are not equal.
pub(super) fn number(text: &str) -> Option<i128> {
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    if !is_digits(whole, WHOLE_DIGITS) || !is_digits(fraction, FRACTION_DIGITS) {
        return None;
    }
    let (whole, fraction): (i128, i128) = (whole.parse().ok()?, scaled(fraction, FRACTION_DIGITS).into());
    Some(sign * (whole * 10_i128.pow(FRACTION_DIGITS as u32) + fraction))
}

/// The digits behind a point as if there were so many of them.
fn scaled(fraction: &str, digits: usize) -> i64 {
    let padded = fraction.bytes().chain(std::iter::repeat(b'0')).take(digits);
    padded.fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'))
}

/// Milliseconds since 1970 of a date: in one of the forms of ISO 8601 that the W3C names, or in seconds since 1970.
/// Four digits are a year.
pub(super) fn date(text: &str) -> Option<i64> {
    if text.len() != 4 && is_digits(text, 12) {
        return text.parse::<i64>().ok().map(|seconds| seconds * 1000);
    }
    let mut basic = *b"19700101T000000Z";
    let (day, time) = text.split_once('T').map_or((text, None), |(day, time)| (day, Some(time)));
    let (year, month_and_day) = day.as_bytes().split_at_checked(4)?;
    basic[..4].copy_from_slice(year);
    fill(&mut basic[4..8], month_and_day, b'-')?;
    let (mut ms, mut ahead_minutes) = (0, 0);
    if let Some(time) = time.filter(|_| day.len() == 10) {
        let (time, ahead) = zone(time)?;
        let (time, fraction) = time.split_once('.').map_or((time, None), |(time, part)| (time, Some(part)));
        let (hour, minute_and_second) = time.as_bytes().split_at_checked(2)?;
        basic[9..11].copy_from_slice(hour);
        fill(&mut basic[11..15], minute_and_second, b':')?;
        let whole_seconds = time.len() == 8 && fraction.is_none_or(|part| is_digits(part, FRACTION_DIGITS));
        if !whole_seconds && (time.len() != 5 || fraction.is_some()) {
            return None;
        }
        (ms, ahead_minutes) = (fraction.map_or(0, |part| scaled(part, 3)), ahead);
    } else if time.is_some() {
        return None;
    }
    let seconds = i64::try_from(parse_iso8601_basic(std::str::from_utf8(&basic).ok()?)?).ok()?;
    Some((seconds - ahead_minutes * 60) * 1000 + ms)
}

/// Fills digits from pairs of them that stand behind a separator each, as in `-05-24`. What is not said stays.
fn fill(digits: &mut [u8], pairs: &[u8], separator: u8) -> Option<()> {
    if !pairs.len().is_multiple_of(3) || digits.len() < pairs.len() / 3 * 2 {
        return None;
    }
    for (own, pair) in digits.chunks_exact_mut(2).zip(pairs.chunks_exact(3)) {
        if pair[0] != separator {
            return None;
        }
        own.copy_from_slice(&pair[1..]);
    }
    Some(())
}

/// A time of day without its zone, and how many minutes the zone is ahead.
fn zone(time: &str) -> Option<(&str, i64)> {
    if let Some(time) = time.strip_suffix('Z') {
        return Some((time, 0));
    }
    let (time, zone) = time.split_at(time.find(['+', '-'])?);
    let (hours, minutes) = zone[1..].split_once(':')?;
    if [hours, minutes].iter().any(|part| part.len() != 2 || !is_digits(part, 2)) {
        return None;
    }
    let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
    let ahead = hours * 60 + minutes;
    let valid = hours <= 14 && minutes < 60;
    valid.then_some((time, if zone.starts_with('-') { -ahead } else { ahead }))
}

/// `true` or `false`.
pub(super) fn boolean(text: &str) -> Option<bool> {
    let is = |word: &str| text.eq_ignore_ascii_case(word);
    is("true").then_some(true).or(is("false").then_some(false))
}

/// An address. One of version 4 that is written as one of version 6 is one of version 4.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// All addresses that begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    bits: u32,
}

impl Network {
    /// Reads `203.0.113.0/24`, `2001:db8::/32` or one address.
    pub fn parse(text: &str) -> Option<Network> {
        let (base, bits) = match text.split_once('/') {
            Some((base, bits)) if is_digits(bits, 3) => (base, bits.parse().ok()?),
            Some(_) => return None,
            None => (text, u32::MAX),
        };
        let base: IpAddr = base.parse().ok()?;
        let all = if base.is_ipv4() { 32 } else { 128 };
        let bits = if bits == u32::MAX { all } else { bits };
        if all < bits {
            return None;
        }
        let canonical = base.to_canonical();
        match bits.checked_sub(96) {
            Some(bits) if base.is_ipv6() && canonical.is_ipv4() => Some(Network { base: canonical, bits }),
            _ => Some(Network { base, bits }),
        }
    }

    /// Whether the address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let alike = match (self.base, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => (own.to_bits() ^ other.to_bits()).leading_zeros(),
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits() ^ other.to_bits()).leading_zeros(),
            _ => return false,
        };
        self.bits <= alike
    }

    /// Whether it is broader than S3 takes for a limit: than /8, or /32 of version 6.
    pub(super) fn is_broad(&self) -> bool {
        self.bits < if self.base.is_ipv4() { 8 } else { 32 }
    }
}

fn is_digits(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (text, billionths) in [
            ("0", Some(0)),
            ("10", Some(10_000_000_000)),
            ("-1.5", Some(-1_500_000_000)),
            ("007", Some(7_000_000_000)),
            ("0.000000001", Some(1)),
            ("999999999999999999", Some(999_999_999_999_999_999_000_000_000)),
            ("1000000000000000000", None),
            ("", None),
            ("-", None),
            ("+1", None),
            ("1.", None),
            (".5", None),
            ("1e3", None),
            ("NaN", None),
            (" 1", None),
            ("0x10", None),
            ("1.0000000001", None),
            ("--1", None),
            ("٣", None),
        ] {
            assert_eq!(number(text), billionths, "{text}");
        }
    }

    #[test]
    fn dates() {
        let day = 1_369_353_600_000;
        for (text, ms) in [
            ("2013-05-24T00:00:00Z", Some(day)),
            ("2013-05-24T00:00:00.5Z", Some(day + 500)),
            ("2013-05-24T00:00:00.1239Z", Some(day + 123)),
            ("2013-05-24T00:00Z", Some(day)),
            ("2013-05-24", Some(day)),
            ("2013-05-24T02:00:00+02:00", Some(day)),
            ("2013-05-23T19:30-04:30", Some(day)),
            ("2013-05", Some(day - 23 * 86_400_000)),
            ("1970", Some(0)),
            ("1971", Some(365 * 86_400_000)),
            ("1369353600", Some(day)),
            ("0", Some(0)),
            ("", None),
            ("2013-05-24T00:00:00", None),
            ("2013-05-24T00:00:00z", None),
            ("2013-13-24", None),
            ("2013-02-29", None),
            ("2013-05-24T24:00:00Z", None),
            ("2013-05-24T00:00:00+15:00", None),
            ("2013-05-24T00:00:00+0100", None),
            ("2013-05-24T00:00:00+01:60", None),
            ("2013-05T00:00Z", None),
            ("2013-05-24T", None),
            ("2013-05-24TZ", None),
            ("2013-05-24T00:00:00:00Z", None),
            ("2013-05-24-01", None),
            ("2013-05-24T00:00:00.Z", None),
            ("2013/05/24", None),
            ("2013-5-24", None),
            ("201é", None),
            ("2013-05-24T00:00.5Z", None),
            ("2013-05-24T00Z", None),
            ("20130524", Some(20_130_524_000)),
            ("1969-12-31", None),
            ("-1", None),
            ("1369353600.5", None),
            ("1234567890123", None),
            ("yesterday", None),
            ("2013-05-2é", None),
        ] {
            assert_eq!(date(text), ms, "{text}");
        }
    }

    #[test]
    fn networks() {
        for (network, inside, outside) in [
            ("203.0.113.0/24", "203.0.113.255", "203.0.114.0"),
            ("203.0.113.9/24", "203.0.113.1", "203.0.112.255"),
            ("203.0.113.9", "203.0.113.9", "203.0.113.8"),
            ("203.0.113.9", "::ffff:203.0.113.9", "::203.0.113.9"),
            ("::ffff:203.0.113.0/120", "203.0.113.7", "203.0.114.7"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("2001:DB8::1", "2001:db8::1", "2001:db8::2"),
            ("::/0", "ffff::", "1.2.3.4"),
        ] {
            let network = Network::parse(network).unwrap();
            assert!(network.contains(address(inside).unwrap()), "{network:?} {inside}");
            assert!(!network.contains(address(outside).unwrap()), "{network:?} {outside}");
        }
        for text in
            ["", "1.2.3", "1.2.3.4/33", "1.2.3.4/", "1.2.3.4/+8", "::/129", "1.2.3.4/8/8", "*", "01.2.3.4"]
        {
            assert_eq!(Network::parse(text), None, "{text}");
        }
    }
}
