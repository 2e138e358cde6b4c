//! Names similar to one that is unknown.

/// From this similarity on (`jaro_winkler`), a name is worth suggesting.
pub(crate) const NEAR: f64 = 0.85;

/// The known word that is probably meant: the nearest one by slips, of which there may be one for
/// every three characters, else the most similar one. A word that is itself known is no mistake.
pub(crate) fn nearest_word<'a>(
    wanted: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let known: Vec<&str> = known.into_iter().collect();
    let slips = |name: &str| strsim::osa_distance(wanted, name);
    let nearest = known.iter().copied().min_by_key(|name| slips(name))?;
    if slips(nearest) <= (wanted.chars().count() / 3).max(1) {
        return (nearest != wanted).then_some(nearest);
    }
    let scored = known.into_iter().map(|name| (strsim::jaro_winkler(wanted, name), name));
    let best = scored.max_by(|(one, _), (other, _)| one.total_cmp(other));
    best.filter(|(score, _)| *score > NEAR).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::nearest_word;

    #[test]
    fn a_slip_and_another_ending_are_near() {
        let near = |wanted| nearest_word(wanted, ["format", "group", "retries", "timeout-scale"]);
        assert_eq!(near("fromat"), Some("format"));
        assert_eq!(nearest_word("nbs", ["file", "nbd", "ssh"]), Some("nbd"));
        assert_eq!(nearest_word("qcow9", ["qcow2", "qcow"]), Some("qcow2"));
        assert_eq!(near("frmt"), Some("format"));
        assert_eq!(near("retry"), Some("retries"));
        assert_eq!(near("timeout"), Some("timeout-scale"));
        assert_eq!(near("backend"), None);
        assert_eq!(near("group"), None);
        assert_eq!(nearest_word("group", []), None);
    }
}
