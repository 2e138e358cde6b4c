//! Parsing the help texts that have no QMP counterpart.

use super::data::{DeviceType, Formats};

/// `-device help`: lines such as `name "virtio-blk-pci", bus PCI, alias "virtio-blk"`.
pub(super) fn devices(text: &str) -> Vec<DeviceType> {
    let quoted = |text: &str| text.trim_matches('"').to_owned();
    text.lines()
        .filter_map(|line| {
            let mut name = None;
            let mut bus = None;
            let mut alias = None;
            for field in line.split(", ") {
                match field.split_once(' ') {
                    Some(("name", v)) if name.is_none() => name = Some(quoted(v)),
                    Some(("bus", v)) => bus = Some(v.to_owned()),
                    Some(("alias", v)) => alias = Some(quoted(v)),
                    // A description may hold anything, and comes last.
                    Some(("desc", _)) => break,
                    _ => {}
                }
            }
            Some(DeviceType {
                name: name?,
                bus,
                alias,
            })
        })
        .collect()
}

/// `-drive format=help`: two lists of names.
pub(super) fn formats(text: &str) -> Option<Formats> {
    let list = |label: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(label))?;
        Some(line.split_ascii_whitespace().map(str::to_owned).collect())
    };
    Some(Formats {
        read_write: list("Supported formats:")?,
        read_only: list("Supported formats (read-only):").unwrap_or_default(),
    })
}

/// `-accel help`: a title, then one name a line. qtest is never among them.
pub(super) fn accelerators(text: &str) -> Vec<String> {
    text.lines()
        .skip_while(|l| !l.contains(':'))
        .skip(1)
        .map(|l| l.trim().to_owned())
        .filter(|l| !l.is_empty() && l.chars().all(|c| c.is_ascii_alphanumeric()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_with_bus_and_alias() {
        let text = "Storage devices:\nname \"virtio-blk-pci\", bus PCI, alias \"virtio-blk\"\nname \"x\", desc \"a, bus B\"\n\nname \"plain\"\n";
        let found = devices(text);
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].alias.as_deref(), Some("virtio-blk"));
        assert_eq!(found[0].bus.as_deref(), Some("PCI"));
        assert_eq!(found[1].bus, None);
        assert_eq!(found[2].name, "plain");
    }

    #[test]
    fn formats_are_read_for_writing_and_reading() {
        let text = "Supported formats: qcow2 raw\nSupported formats (read-only): dmg qcow2 raw\n";
        let found = formats(text).unwrap();
        assert_eq!(found.read_write, ["qcow2", "raw"]);
        assert_eq!(found.read_only, ["dmg", "qcow2", "raw"]);
        assert_eq!(formats("qemu: error"), None);
    }

    #[test]
    fn accelerators_are_read_without_their_title() {
        assert_eq!(
            accelerators("Accelerators supported in QEMU binary:\ntcg\nkvm\n"),
            ["tcg", "kvm"]
        );
        assert!(accelerators("invalid").is_empty());
    }
}
