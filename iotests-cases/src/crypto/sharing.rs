//! Who else may write to what holds an encrypted disk.

use iotests_core::prelude::*;

/// A guest whose encrypted disk must not be written to by others has it alone: the same file can be exported neither by a second LUKS node nor
/// as it is, until the guest's device is unplugged.
#[case(formats = [LUKS], protocols = [FILE], groups = [RW, QUICK, CRYPTO], needs = [Luks],
    host = System)]
async fn is_up_to_the_guest(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(MIB).fill(0x42).create().await?;
    let host = t.host().key().hotplug();
    let host = host.blockdev(disk.protocol_node().node_name("file"));
    let vm = host.disk(disk.node().file("file")).launch().await?;
    let again = disk.node().node_name("again").file("file");
    vm.add_node(again).await?;
    let _server = vm.nbd_server().start().await?;
    for node in ["again", "file"] {
        let add = json!({"type": "nbd", "id": "other", "node-name": node, "writable": true});
        let why = "Permission conflict on node 'file': permissions 'write'";
        vm.cmd("block-export-add", add).refused(why).await?;
    }
    vm.disk("disk").write(0x43, 0..CLUSTER).await?;
    vm.disk("disk").unplug().await?;
    let export = vm.export("again").writable().await?;
    let client = export.client().await?;
    client.write(CLUSTER, vec![0x44; CLUSTER as usize]).await?;
    client.disconnect().await?;
    vm.shutdown().await?;
    let written = [
        (0x42, 0..MIB),
        (0x43, 0..CLUSTER),
        (0x44, CLUSTER..2 * CLUSTER),
    ];
    disk.assert_reads(&written).await
}
