//! Names of variants, read from the answer to `query-qmp-schema`.

use serde_json::Value;

/// The values of an enumeration that is a member of a command's arguments, sorted; empty if
/// there is no such command, member or enumeration.
pub(super) fn enum_values(schema: &Value, command: &str, member: &str) -> Vec<String> {
    find(schema, command, member).unwrap_or_default()
}

fn find(schema: &Value, command: &str, member: &str) -> Option<Vec<String>> {
    let entries = schema.as_array()?;
    let entry = |name: &str| entries.iter().find(|e| e["name"] == name);
    let arguments = entry(entry(command)?["arg-type"].as_str()?)?;
    let members = arguments["members"].as_array()?;
    let found = members.iter().find(|m| m["name"] == member)?;
    let values = entry(found["type"].as_str()?)?["values"].as_array()?;
    let mut names: Vec<_> = values
        .iter()
        .filter_map(|v| Some(v.as_str()?.to_owned()))
        .collect();
    names.sort();
    Some(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_values_of_a_member_are_found_through_their_types() {
        let schema = json!([
            {"name": "blockdev-add", "meta-type": "command", "arg-type": "1", "ret-type": "0"},
            {"name": "1", "meta-type": "object", "members": [{"name": "driver", "type": "2"}]},
            {"name": "2", "meta-type": "enum", "values": ["raw", "qcow2"]}
        ]);
        assert_eq!(
            enum_values(&schema, "blockdev-add", "driver"),
            ["qcow2", "raw"]
        );
        assert!(enum_values(&schema, "blockdev-add", "x").is_empty());
        assert!(enum_values(&json!(null), "x", "y").is_empty());
    }
}
