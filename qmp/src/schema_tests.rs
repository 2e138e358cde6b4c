//! Unit tests of schema paths.

use super::*;
use serde_json::json;

fn schema() -> Schema {
    Schema::parse(&json!([
        {"name": "add", "meta-type": "command", "arg-type": "0", "ret-type": "5",
         "features": ["deprecated"]},
        {"name": "GONE", "meta-type": "event", "arg-type": "5"},
        {"name": "0", "meta-type": "object", "tag": "driver",
         "members": [{"name": "driver", "type": "1"},
                     {"name": "file", "type": "3", "default": null, "features": ["unstable"]}],
         "variants": [{"case": "qcow2", "type": "2"}, {"case": "raw", "type": "6"}]},
        {"name": "1", "meta-type": "enum", "values": ["qcow2", "raw"],
         "members": [{"name": "qcow2"}, {"name": "raw", "features": ["deprecated"]}]},
        {"name": "2", "meta-type": "object", "members": [{"name": "lazy", "type": "bool", "default": null}]},
        {"name": "3", "meta-type": "alternate", "members": [{"type": "0"}, {"type": "str"}]},
        {"name": "5", "meta-type": "object", "members": [{"name": "list", "type": "[2]"}]},
        {"name": "[2]", "meta-type": "array", "element-type": "2"},
        {"name": "6", "meta-type": "object", "members": []},
        {"name": "str", "meta-type": "builtin", "json-type": "string"},
        {"name": "bool", "meta-type": "builtin", "json-type": "boolean"},
    ]))
    .unwrap()
}

#[test]
fn paths_lead_through_members_variants_arrays_and_alternates() {
    let schema = schema();
    for there in [
        "add",
        "GONE",
        "add/arg-type",
        "add/$deprecated",
        "add/arg-type/driver",
        "add/arg-type/driver/^raw",
        "add/arg-type/driver/^raw/$deprecated",
        "add/arg-type/*file/$unstable",
        "add/arg-type/file/$unstable",
        "add/arg-type/file/!str",
        "add/arg-type/file/driver/^qcow2",
        "add/arg-type/+qcow2/lazy",
        "add/arg-type/+qcow2/*lazy/!bool",
        "add/ret-type/list/lazy",
        "GONE/arg-type/list/lazy",
    ] {
        assert_eq!(schema.check(there), Ok(true), "{there}");
    }
    for absent in [
        "del",
        "0",
        "str",
        "GONE/ret-type",
        "add/$unstable",
        "add/arg-type/*driver",
        "add/arg-type/driver/^vmdk",
        "add/arg-type/driver/^qcow2/$deprecated",
        "add/arg-type/+vmdk",
        "add/arg-type/+raw/lazy",
        "add/arg-type/lazy",
        "add/arg-type/file/!int",
        "add/ret-type/list/lazy/more",
    ] {
        assert_eq!(schema.check(absent), Ok(false), "{absent}");
    }
}

#[test]
fn a_path_that_follows_no_rule_is_an_error_and_not_an_answer() {
    for path in [
        "",
        "/arg-type",
        "add/driver",
        "add/arg-type/",
        "add/arg-type/^",
        "add/arg-type/$x/y",
        "add/arg-type//driver",
    ] {
        assert!(schema().check(path).is_err(), "{path}");
        assert!(!schema().has(path));
    }
}

#[test]
fn names_and_values_are_listed() {
    let schema = schema();
    assert_eq!(schema.commands(), ["add"]);
    assert_eq!(schema.events(), ["GONE"]);
    assert!(schema.has_command("add") && !schema.has_command("GONE") && !schema.has_command("0"));
    assert_eq!(
        schema.values("add/arg-type/driver").unwrap(),
        ["qcow2", "raw"]
    );
}

#[test]
fn a_schema_of_another_form_says_where_it_differs() {
    let error = Schema::parse(&json!([{"name": "x", "meta-type": 5}])).unwrap_err();
    assert_eq!(error.path, "return[0].meta-type");
}

#[test]
fn an_alternate_that_contains_itself_is_entered_once() {
    let schema = Schema::parse(&json!([
        {"name": "c", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
        {"name": "0", "meta-type": "object", "members": [{"name": "tree", "type": "1"}]},
        {"name": "1", "meta-type": "alternate", "members": [{"type": "[1]"}, {"type": "str"}]},
        {"name": "[1]", "meta-type": "array", "element-type": "1"},
        {"name": "str", "meta-type": "builtin", "json-type": "string"},
    ]))
    .unwrap();
    assert_eq!(schema.check("c/arg-type/tree/!str"), Ok(true));
    assert_eq!(schema.check("c/arg-type/tree/!int"), Ok(false));
}
