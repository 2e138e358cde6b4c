//! A time for people.

use std::fmt;
use std::time::Duration;

/// Shows a time as people say it: `90 s`, `1.5 s`, `300 ms`.
pub(crate) struct Time(pub(crate) Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            time if time < Duration::from_secs(1) => write!(f, "{} ms", time.as_millis()),
            time if time.subsec_millis() == 0 => write!(f, "{} s", time.as_secs()),
            time => write!(f, "{:.1} s", time.as_secs_f64()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_shown_as_people_say_it() {
        for (millis, shown) in [
            (300, "300 ms"),
            (90_000, "90 s"),
            (1500, "1.5 s"),
            (0, "0 ms"),
        ] {
            assert_eq!(Time(Duration::from_millis(millis)).to_string(), shown);
        }
    }
}
