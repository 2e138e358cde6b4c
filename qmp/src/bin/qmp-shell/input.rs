//! Parses a line.

use serde_json::{Map, Value};

#[derive(Debug, PartialEq)]
pub(crate) struct Command {
    pub(crate) name: String,
    pub(crate) arguments: Map<String, Value>,
    pub(crate) oob: bool,
}

/// Parses `name key=value a.b=value`, or an object in wire format.
pub(crate) fn parse(line: &str) -> Result<Command, String> {
    if line.starts_with('{') {
        return parse_object(line);
    }
    let mut words = split(line).into_iter();
    let name = words.next().unwrap_or_default();
    let mut arguments = Map::new();
    for word in words {
        let (key, value) =
            word.split_once('=').ok_or_else(|| format!("expected key=value, found {word}"))?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        insert(&mut arguments, key, key, value)?;
    }
    Ok(Command {
        name,
        arguments,
        oob: false,
    })
}

fn parse_object(line: &str) -> Result<Command, String> {
    let object: Map<String, Value> =
        serde_json::from_str(line).map_err(|error| format!("failed to read JSON: {error}"))?;
    let mut command = Command {
        name: String::new(),
        arguments: Map::new(),
        oob: false,
    };
    for (member, value) in object {
        match (member.as_str(), value) {
            ("execute" | "exec-oob", Value::String(name)) => {
                command.name = name;
                command.oob = member == "exec-oob";
            }
            ("arguments", Value::Object(arguments)) => command.arguments = arguments,
            ("id", _) => return Err("the shell assigns ids itself: omit \"id\"".into()),
            ("execute" | "exec-oob" | "arguments", value) => {
                return Err(format!("{value} is not a value for \"{member}\""));
            }
            _ => return Err(format!("a command has no member \"{member}\"")),
        }
    }
    if command.name.is_empty() {
        return Err("the member \"execute\" is missing".into());
    }
    Ok(command)
}

/// The words of a line; white space inside brackets and double quotes does not split.
pub(crate) fn split(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    for c in line.chars() {
        match c {
            '"' if !escaped => quoted = !quoted,
            '{' | '[' if !quoted => depth += 1,
            '}' | ']' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        escaped = c == '\\' && !escaped;
        match words.last_mut() {
            Some(word) if !c.is_whitespace() || quoted || depth > 0 => word.push(c),
            Some(word) if !word.is_empty() => words.push(String::new()),
            _ => {}
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Sets a member of an object; dots descend into nested objects.
fn insert(
    object: &mut Map<String, Value>,
    whole: &str,
    key: &str,
    value: Value,
) -> Result<(), String> {
    let Some((first, rest)) = key.split_once('.') else {
        return match object.insert(key.to_owned(), value) {
            None => Ok(()),
            Some(_) => Err(format!("{whole} is given twice")),
        };
    };
    let inner = object.entry(first).or_insert_with(|| Value::Object(Map::new()));
    match inner.as_object_mut() {
        Some(inner) => insert(inner, whole, rest, value),
        None => Err(format!(
            "{whole} descends into a value that is not an object"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn words_are_a_command_with_values_objects_and_nesting() {
        let line = r#"blockdev-add driver=qcow2 file.driver=file file.filename="a b" size=1 x={"y": [1, 2]} id="7""#;
        let command = parse(line).unwrap();
        assert_eq!(
            (command.name.as_str(), command.oob),
            ("blockdev-add", false)
        );
        let expected = json!({
            "driver": "qcow2", "file": {"driver": "file", "filename": "a b"}, "size": 1,
            "x": {"y": [1, 2]}, "id": "7",
        });
        assert_eq!(Value::Object(command.arguments), expected);
    }

    #[test]
    fn an_object_is_a_command_as_it_is() {
        let yank = parse(r#"{"exec-oob": "yank", "arguments": {"instances": []}}"#).unwrap();
        assert!(yank.oob);
        assert_eq!(Value::Object(yank.arguments), json!({"instances": []}));
        assert!(!parse(r#"{"execute": "stop"}"#).unwrap().oob);
    }

    #[test]
    fn what_is_no_command_is_refused_with_the_reason() {
        for (line, reason) in [
            ("stop now", "found now"),
            ("{", "failed to read JSON"),
            ("{}", "\"execute\" is missing"),
            (r#"{"execute": 1}"#, "1 is not a value for \"execute\""),
            (r#"{"execute": "a", "arguments": []}"#, "[] is not a value"),
            (r#"{"execute": "a", "id": 1}"#, "omit \"id\""),
            (
                r#"{"execute": "a", "argument": {}}"#,
                "no member \"argument\"",
            ),
            ("x a=1 a.b=2", "a.b descends into a value"),
            ("x a=1 a=2", "a is given twice"),
        ] {
            let problem = parse(line).unwrap_err();
            assert!(problem.contains(reason), "{line}: {problem}");
        }
    }
}
