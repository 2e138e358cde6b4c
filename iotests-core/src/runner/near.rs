//! The known word that a mistyped one probably means.

/// The known word nearest to `wanted`, if it is near enough: one edit for every three characters.
/// A word that is itself known is no mistake, and has none.
pub(crate) fn nearest_word<'a>(
    wanted: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let distance = |name: &str| strsim::osa_distance(wanted, name);
    let near = known.into_iter().map(|name| (distance(name), name));
    let near = near.min_by_key(|(distance, _)| *distance);
    let most = (wanted.chars().count() / 3).max(1);
    near.filter(|(distance, _)| (1..=most).contains(distance)).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::nearest_word;

    #[test]
    fn one_edit_for_every_three_characters_is_near() {
        let near = |wanted| nearest_word(wanted, ["format", "group", "set"]);
        assert_eq!(near("fromat"), Some("format"));
        assert_eq!(near("frmt"), None);
        assert_eq!(near("grp"), None);
        assert_eq!(near("sets"), Some("set"));
        assert_eq!(near("set"), None);
        assert_eq!(nearest_word("set", []), None);
    }
}
