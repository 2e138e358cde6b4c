//! Where `qemu-img map` finds what an image reads as.

use iotests_core::prelude::*;

use crate::json::{items, number};
use crate::shorter::{ENDS, SIZE, layers};

defaults! { protocols = [FILE], groups = [BACKING] }

/// Each part is reported in the layer from which it comes; behind the end of a layer that is shorter than its overlay come zeroes, from
/// nowhere, whatever is below.
#[case(rows = ENDS)]
async fn each_part_comes_from_one_layer(t: &mut Test, end: &u64) -> CaseResult {
    let [_, _, top] = layers(t, *end).await?;
    let mut expected = vec![
        (0..CLUSTER, 1, false),
        (CLUSTER..*end, 2, false),
        (*end..2 * MIB, 0, true),
        (2 * MIB..2 * MIB + CLUSTER, 0, false),
        (2 * MIB + CLUSTER..SIZE, 0, true),
    ];
    expected.reverse();
    let map = top.map().json().await?;
    for part in items(&map, "")? {
        let (start, length) = (number(part, "start")?, number(part, "length")?);
        let last = expected.pop();
        let (range, depth, zero) = last.ok_or_else(|| Failure::new("there are more parts"))?;
        check!(start == range.start, "{part}");
        part.assert_includes(&json!({"depth": depth, "zero": zero, "present": !zero}))?;
        if start + length < range.end {
            // The rest of it comes by itself.
            expected.push((start + length..range.end, depth, zero));
        }
    }
    check!(expected.is_empty(), "there are parts that are not reported");
    Ok(())
}
