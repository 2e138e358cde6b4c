//! Names similar to one that is unknown.

/// From this similarity on, a name is worth suggesting.
pub(crate) const NEAR: f64 = 0.85;

/// How similar two names are, up to 1: a common beginning counts more than the rest.
pub(crate) fn similarity(one: &str, other: &str) -> f64 {
    strsim::jaro_winkler(one, other)
}

/// The known word that a mistyped one probably means. A word that is itself known is no mistake.
pub(crate) fn nearest_word<'a>(
    wanted: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let scored = known.into_iter().map(|name| (similarity(wanted, name), name));
    let best = scored.max_by(|(one, _), (other, _)| one.total_cmp(other));
    best.filter(|(score, name)| *score > NEAR && *name != wanted).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::nearest_word;

    #[test]
    fn a_slip_and_another_ending_are_near() {
        let near = |wanted| nearest_word(wanted, ["format", "group", "retries", "timeout-scale"]);
        assert_eq!(near("fromat"), Some("format"));
        assert_eq!(near("frmt"), Some("format"));
        assert_eq!(near("retry"), Some("retries"));
        assert_eq!(near("timeout"), Some("timeout-scale"));
        assert_eq!(near("backend"), None);
        assert_eq!(near("group"), None);
        assert_eq!(nearest_word("group", []), None);
    }
}
