//! The skeleton that `iotests new` writes compiles and passes: it is included here as source.

use iotests_core::case::{Body, CASES};
use iotests_core::prelude::*;

use super::bench::{Bench, hosts};

include!("../../../src/runner/skeleton/case.rs.in");

#[test]
fn the_skeleton_of_a_new_case_passes_on_both_kinds_of_machine() {
    let case = CASES.iter().find(|case| case.function == "case_name").unwrap();
    let Body::Single(body) = case.body else {
        panic!("the skeleton is no family")
    };
    for (set, backend) in hosts() {
        for format in case.entries(&[])[0].meta.formats.to_vec() {
            let bench = Bench::new(&set).backend(backend).format(format);
            bench.run(body).assert_passed();
        }
    }
}
