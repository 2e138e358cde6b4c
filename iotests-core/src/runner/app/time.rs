//! What the clock says.

use std::time::SystemTime;

pub(super) fn since_epoch() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// Any number does that the next run does not have as well; five digits are easily typed.
pub(super) fn draw_seed() -> u64 {
    let nanos = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .subsec_nanos();
    u64::from(nanos ^ std::process::id()) % 100_000
}

/// Today in UTC, `YYYY-MM-DD`.
pub(super) fn today() -> String {
    date(since_epoch() / 86400)
}

/// The date of a day since 1970-01-01 in the Gregorian calendar.
fn date(days: u64) -> String {
    // Years begin in March here, so that the leap day is the last of a year; 719468 days lie between that era's begin and 1970.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_around_leap_days() {
        for (days, text) in [
            (0, "1970-01-01"),
            (11016, "2000-02-29"),
            (11017, "2000-03-01"),
            (20453, "2025-12-31"),
        ] {
            assert_eq!(date(days), text);
        }
    }
}
