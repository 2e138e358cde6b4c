//! Selectors: which instances a word on the command line means.

use std::collections::BTreeMap;

use crate::case::Instance;

/// How many near names an error lists.
const NEAREST: usize = 3;

/// Whether `selector` means this instance: its id, a part of its name, or an upstream test it covers.
pub(crate) fn matches(selector: &str, instance: &Instance) -> bool {
    if selector.contains('@') {
        return instance.id().contains(selector) || upstream_at_point(selector, instance);
    }
    if instance.upstream().any(|id| upstream_matches(selector, id)) {
        return true;
    }
    // A bare number is an upstream test and nothing else: `512` must not select every name that has it.
    let is_number = selector.len() == 3 && selector.bytes().all(|byte| byte.is_ascii_digit());
    !is_number && instance.name().contains(selector)
}

/// `163@qcow2`: an upstream test at some points of the matrix.
fn upstream_at_point(selector: &str, instance: &Instance) -> bool {
    selector.split_once('@').is_some_and(|(id, point)| {
        !id.is_empty()
            && instance.point().starts_with(point)
            && instance.upstream().any(|known| upstream_matches(id, known))
    })
}

/// `163`, `163::TestShrink512`, `TestShrink512.test_empty_image` and so on: whole segments of the id, next to each other.
fn upstream_matches(selector: &str, id: &str) -> bool {
    let normal = selector.replace('.', "::");
    let wanted: Vec<&str> = normal.split("::").collect();
    let have: Vec<&str> = id.split("::").collect();
    have.windows(wanted.len()).any(|window| window == wanted)
}

/// The names nearest to a selector that matches nothing, best first.
pub(crate) fn nearest(selector: &str, instances: &[Instance]) -> Vec<String> {
    let wanted = selector
        .split('@')
        .next()
        .unwrap_or(selector)
        .to_lowercase();
    if let Ok(number) = wanted.parse() {
        return nearest_numbers(number, instances);
    }
    // The rows of a case have names of their own, but one suggestion is enough.
    let mut best: BTreeMap<String, f64> = BTreeMap::new();
    for instance in instances {
        let name = instance.name();
        // A person types the end of a name, or some part of it, rather than the whole path.
        let similarity = |part: &str| strsim::jaro_winkler(&wanted, &part.to_lowercase());
        let by_name = name
            .split(['/', ':'])
            .chain([name.as_str()])
            .map(similarity)
            .fold(0.0, f64::max);
        let score = instance.upstream().map(similarity).fold(by_name, f64::max);
        let known = best.entry(instance.case.name()).or_default();
        *known = known.max(score);
    }
    let mut scored: Vec<(f64, String)> = best
        .into_iter()
        .map(|(name, score)| (score, name))
        .collect();
    scored.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    scored.truncate(NEAREST);
    scored
        .into_iter()
        .filter(|(score, _)| *score > 0.6)
        .map(|(_, name)| name)
        .collect()
}

/// The upstream tests whose numbers are nearest, each with a case that covers it.
fn nearest_numbers(wanted: u64, instances: &[Instance]) -> Vec<String> {
    let mut known: BTreeMap<u64, String> = BTreeMap::new();
    for instance in instances {
        for id in instance.upstream() {
            let number = id.split("::").next().and_then(|part| part.parse().ok());
            if let Some(number) = number {
                known.entry(number).or_insert_with(|| instance.case.name());
            }
        }
    }
    let mut near: Vec<(u64, String)> = known.into_iter().collect();
    near.sort_by_key(|(number, _)| number.abs_diff(wanted));
    near.truncate(NEAREST);
    near.into_iter()
        .map(|(number, case)| format!("{number:03} ({case})"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_id_is_matched_by_whole_segments() {
        let id = "163::TestShrink512::test_empty_image";
        for selector in [
            "163",
            "163::TestShrink512",
            "TestShrink512",
            "TestShrink512.test_empty_image",
            id,
        ] {
            assert!(upstream_matches(selector, id), "{selector}");
        }
        for selector in [
            "16",
            "163::test_empty_image",
            "TestShrink",
            "163::TestShrink512::test_empty_image::x",
        ] {
            assert!(!upstream_matches(selector, id), "{selector}");
        }
    }
}
