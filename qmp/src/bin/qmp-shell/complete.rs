//! What may come next on a line, according to the schema of the connected QEMU.

use qmp::Schema;
use rustyline::completion::Completer;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Helper};

use crate::input;

/// Completes commands, their keys, and values of enumerations.
pub(crate) struct Words {
    schema: Schema,
}

impl Words {
    pub(crate) fn new(schema: Schema) -> Self {
        Self { schema }
    }

    /// Where the word that is being typed begins, and what it may become.
    fn candidates(&self, line: &str) -> (usize, Vec<String>) {
        let begins = line.rfind(char::is_whitespace).map_or(0, |at| at + 1);
        let word = &line[begins..];
        let before = input::split(&line[..begins]);
        let Some((command, given)) = before.split_first() else {
            return (begins, matching(self.schema.commands(), word, " "));
        };
        let given: Vec<(&str, &str)> = given.iter().filter_map(|w| w.split_once('=')).collect();
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (word, None),
        };
        let (outer, name) = key.rsplit_once('.').unwrap_or(("", key));
        let objects = self.objects(command, outer, &given);
        // A path that is not in the schema has no completions.
        match value {
            None => {
                let paths = objects.iter();
                let names = paths.flat_map(|path| self.schema.members(path).unwrap_or_default());
                let at = begins + key.len() - name.len();
                (at, matching(names.collect(), name, "="))
            }
            Some(value) => {
                let paths = objects.iter().map(|path| format!("{path}/{name}"));
                let mut values = Vec::new();
                for path in paths {
                    values.extend(self.schema.values(&path).unwrap_or_default());
                    if self.schema.has(&format!("{path}/!bool")) {
                        values.extend(["false", "true"]);
                    }
                }
                (begins + key.len() + 1, matching(values, value, " "))
            }
        }
    }

    /// The paths of the objects whose members `outer.…` are: the common one, and those of the
    /// variants that the values on the line select.
    fn objects(&self, command: &str, outer: &str, given: &[(&str, &str)]) -> Vec<String> {
        let mut paths = vec![format!("{command}/arg-type")];
        let mut level = String::new();
        let mut steps = outer.split('.').filter(|step| !step.is_empty());
        loop {
            let chosen = given.iter().filter_map(|(key, value)| {
                let name = key.strip_prefix(level.as_str())?;
                (!name.contains('.')).then_some(value.trim_matches('"'))
            });
            let variants: Vec<String> = chosen
                .flat_map(|value| paths.iter().map(move |path| format!("{path}/+{value}")))
                .filter(|path| self.schema.has(path))
                .collect();
            paths.extend(variants);
            let Some(step) = steps.next() else {
                return paths;
            };
            level.push_str(step);
            level.push('.');
            for path in &mut paths {
                path.push('/');
                path.push_str(step);
            }
        }
    }
}

fn matching(mut words: Vec<&str>, beginning: &str, end: &str) -> Vec<String> {
    words.retain(|word| word.starts_with(beginning));
    words.sort_unstable();
    words.dedup();
    words.into_iter().map(|word| format!("{word}{end}")).collect()
}

impl Completer for Words {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        at: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(self.candidates(&line[..at]))
    }
}

impl Hinter for Words {
    type Hint = String;
}

impl Highlighter for Words {}

impl Validator for Words {}

impl Helper for Words {}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn words() -> Words {
        let schema = json!([
            {"name": "job-pause", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
            {"name": "job-wait", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
            {"name": "0", "meta-type": "object", "members": [
                {"name": "id", "type": "str"}, {"name": "mode", "type": "2"},
                {"name": "force", "type": "bool", "default": null}]},
            {"name": "2", "meta-type": "enum", "values": ["fast", "slow"]},
            {"name": "add", "meta-type": "command", "arg-type": "3", "ret-type": "0"},
            {"name": "3", "meta-type": "object", "tag": "driver",
                "members": [{"name": "driver", "type": "4"}],
                "variants": [{"case": "file", "type": "5"}, {"case": "raw", "type": "6"}]},
            {"name": "4", "meta-type": "enum", "values": ["file", "raw"]},
            {"name": "5", "meta-type": "object", "members": [{"name": "filename", "type": "str"}]},
            {"name": "6", "meta-type": "object", "members": [{"name": "file", "type": "7"}]},
            {"name": "7", "meta-type": "alternate", "members": [{"type": "3"}, {"type": "str"}]},
            {"name": "str", "meta-type": "builtin", "json-type": "string"},
            {"name": "bool", "meta-type": "builtin", "json-type": "boolean"},
        ]);
        Words::new(Schema::parse(&schema).unwrap())
    }

    #[test]
    fn commands_keys_and_values_are_completed_from_the_schema() {
        let words = words();
        for (line, at, candidates) in [
            ("job-", 0, &["job-pause ", "job-wait "][..]),
            ("job-pause ", 10, &["force=", "id=", "mode="]),
            ("job-pause id=x m", 15, &["mode="]),
            ("job-pause mode=f", 15, &["fast "]),
            ("job-pause force=", 16, &["false ", "true "]),
            ("none x", 5, &[]),
        ] {
            let candidates = candidates.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(words.candidates(line), (at, candidates), "{line}");
        }
    }

    #[test]
    fn a_variant_that_was_chosen_brings_its_keys_at_every_level() {
        let words = words();
        for (line, at, candidates) in [
            ("add ", 4, &["driver="][..]),
            ("add driver=file ", 16, &["driver=", "filename="]),
            ("add driver=raw file.", 20, &["driver="]),
            ("add driver=raw file.driver=", 27, &["file ", "raw "]),
            (
                "add driver=raw file.driver=file file.",
                37,
                &["driver=", "filename="],
            ),
            ("add driver=/x ", 14, &["driver="]),
        ] {
            let candidates = candidates.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(words.candidates(line), (at, candidates), "{line}");
        }
    }
}
