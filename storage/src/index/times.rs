//! Days and instants of queries, in UTC.

use std::ops::Range;

const SECOND_MS: u64 = 1000;
const DAY_MS: u64 = 24 * 60 * 60 * SECOND_MS;

/// The milliseconds since 1970 of a day `2026-11-29` or of a second `2026-11-29T18:00:00Z`.
pub fn instant(text: &str) -> Result<Range<u64>, String> {
    let wrong = || format!("`{text}` is no time; times look like 2026-11-29 or 2026-11-29T18:00:00Z");
    let (date, time) = match text.split_once(['T', 't']) {
        Some((date, time)) => (date, Some(time)),
        None => (text, None),
    };
    let [year, month, day] = numbers(date, '-', [4, 2, 2]).ok_or_else(wrong)?;
    let start = day_number(year, month, day).ok_or_else(wrong)? * DAY_MS;
    let Some(time) = time else { return Ok(start..start + DAY_MS) };
    let time = time.strip_suffix(['Z', 'z']).ok_or_else(wrong)?;
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2]).ok_or_else(wrong)?;
    if 24 <= hour || 60 <= minute || 60 <= second {
        return Err(wrong());
    }
    let start = start + ((hour * 60 + minute) * 60 + second) * SECOND_MS;
    Ok(start..start + SECOND_MS)
}

/// Three numbers of so many digits.
fn numbers(text: &str, separator: char, digits: [usize; 3]) -> Option<[u64; 3]> {
    let mut parts = text.split(separator);
    let mut numbers = [0; 3];
    for (number, digits) in numbers.iter_mut().zip(digits) {
        let part = parts.next()?;
        if part.len() != digits || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

/// Days since 1970.
fn day_number(year: u64, month: u64, day: u64) -> Option<u64> {
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days_of = |month: u64| match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if year < 1970 || !(1..=12).contains(&month) || !(1..=days_of(month)).contains(&day) {
        return None;
    }
    let years = (1970..year).map(|year| if is_leap(year) { 366 } else { 365 }).sum::<u64>();
    Some(years + (1..month).map(days_of).sum::<u64>() + day - 1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn days_and_seconds() {
        assert_eq!(instant("1970-01-01").unwrap(), 0..DAY_MS);
        assert_eq!(instant("2000-02-29").unwrap().start, 951_782_400_000);
        assert_eq!(instant("2026-11-29T18:00:00Z").unwrap(), 1_795_975_200_000..1_795_975_201_000);
        let wrong =
            ["", "2026", "2026-1-1", "2026-02-29", "1969-12-31", "2026-11-31", "2026-11-29T", "x-y-z"];
        for text in wrong.into_iter().chain(["2026-11-29T24:00:00Z", "2026-11-29T18:00:00", "+026-01-01"]) {
            assert!(instant(text).is_err(), "{text}");
        }
    }
}
