//! Merges the definitions of several versions: the newest form, with the versions that have each
//! part.

use std::collections::HashMap;
use std::path::PathBuf;

use super::facts::{Definition, Facts, Member, Range, Release};
use super::qapi;

/// One source tree's definitions.
pub(crate) struct Tree {
    pub(crate) release: Release,
    /// `qapi/qapi-schema.json` or `qga/qapi-schema.json`.
    pub(crate) root: PathBuf,
}

/// The first and last index of a version that has something.
type Span = (usize, usize);

struct Merged {
    definition: Definition,
    span: Span,
    since: HashMap<String, Release>,
    members: Vec<(Member, Span)>,
    variants: Vec<(Member, Span)>,
}

/// Merges trees, given from the oldest to the newest.
pub(crate) fn merge(trees: &[Tree]) -> Result<Facts, String> {
    let mut merged: Vec<Merged> = Vec::new();
    let mut index: HashMap<(bool, String), usize> = HashMap::new();
    for (at, tree) in trees.iter().enumerate() {
        let read = qapi::read(&tree.root)?;
        let plain: Vec<Definition> =
            read.iter().map(|(definition, _)| definition.clone()).collect();
        for (mut definition, since) in read {
            use super::facts::Kind::{Command, Event};
            flatten(&mut definition, &plain);
            let is_type = !matches!(definition.kind, Command | Event);
            let key = (is_type, definition.name.clone());
            let place = *index.entry(key).or_insert_with(|| {
                merged.push(Merged {
                    definition: definition.clone(),
                    span: (at, at),
                    since: HashMap::new(),
                    members: Vec::new(),
                    variants: Vec::new(),
                });
                merged.len() - 1
            });
            let known = &mut merged[place];
            known.span.1 = at;
            known.since = since;
            absorb(&mut known.members, &definition.members, at, known.span.0);
            absorb(&mut known.variants, &definition.variants, at, known.span.0);
            let condition = std::mem::take(&mut known.definition.condition);
            known.definition = definition;
            if known.definition.condition.is_empty() {
                known.definition.condition = condition;
            }
        }
    }
    let versions: Vec<Release> = trees.iter().map(|tree| tree.release).collect();
    let mut definitions: Vec<Definition> =
        merged.into_iter().map(|merged| finish(merged, &versions)).collect();
    prune(&mut definitions);
    // Modules sorted by name; within a module, in the order of the definitions.
    definitions.sort_by(|a, b| a.module.cmp(&b.module));
    Ok(Facts {
        versions,
        definitions,
    })
}

/// Copies the members of the base into the definition: they may move from one to the other between
/// versions, which is invisible on the wire. Only a union that is the data of a command or event
/// stays separate.
fn flatten(definition: &mut Definition, all: &[Definition]) {
    use super::facts::Kind::{Command, Event, Struct};
    let base = all
        .iter()
        .find(|other| other.name == definition.base && !matches!(other.kind, Command | Event));
    let Some(base) = base.filter(|base| base.kind == Struct) else {
        return;
    };
    let mut base = base.clone();
    flatten(&mut base, all);
    base.members.append(&mut definition.members);
    definition.members = base.members;
    definition.base.clear();
}

/// Adds facts that are in no tree; a known member is replaced.
pub(crate) fn add(facts: &mut Facts, additions: Facts) -> Result<(), String> {
    use super::facts::Kind::{Command, Event};
    facts.versions.extend(additions.versions);
    facts.versions.sort_unstable();
    for new in additions.definitions {
        let is_data = |d: &Definition| matches!(d.kind, Command | Event);
        let known = facts
            .definitions
            .iter_mut()
            .find(|d| d.name == new.name && is_data(d) == is_data(&new));
        let Some(known) = known else {
            facts.definitions.push(new);
            continue;
        };
        if known.kind != new.kind {
            return Err(format!("{} is no {}", new.name, new.kind.name()));
        }
        if new.range != Range::default() {
            known.range.until = new.range.until;
        }
        if !new.features.is_empty() {
            known.features = new.features;
        }
        for (known, new) in [
            (&mut known.members, new.members),
            (&mut known.variants, new.variants),
        ] {
            for member in new {
                match known.iter_mut().find(|known| known.name == member.name) {
                    Some(known) => *known = member,
                    None => known.push(member),
                }
            }
        }
    }
    facts.definitions.sort_by(|a, b| a.module.cmp(&b.module));
    Ok(())
}

/// Removes the types that no command or event uses, such as renamed ones.
fn prune(definitions: &mut Vec<Definition>) {
    use super::facts::Kind::{Command, Event};
    let mut used = std::collections::HashSet::new();
    let mut rest: Vec<&Definition> =
        definitions.iter().filter(|d| matches!(d.kind, Command | Event)).collect();
    while let Some(definition) = rest.pop() {
        let members = definition.members.iter().chain(&definition.variants);
        let names = members.map(|member| &member.ty).chain([&definition.base, &definition.returns]);
        for name in names.map(|name| name.trim_matches(['[', ']'])) {
            let types = definitions.iter().filter(|d| !matches!(d.kind, Command | Event));
            if let Some(found) = types.into_iter().find(|d| d.name == name)
                && used.insert(name.to_owned())
            {
                rest.push(found);
            }
        }
    }
    definitions.retain(|d| matches!(d.kind, Command | Event) || used.contains(&d.name));
}

fn absorb(known: &mut Vec<(Member, Span)>, new: &[Member], at: usize, first: usize) {
    for member in new {
        match known.iter_mut().find(|(known, _)| known.name == member.name) {
            Some((known, span)) => {
                let varies = known.varies || known.optional != member.optional;
                let optional = known.optional || member.optional;
                let condition = std::mem::take(&mut known.condition);
                *known = member.clone();
                known.varies = varies;
                known.optional = optional;
                if known.condition.is_empty() {
                    known.condition = condition;
                }
                span.1 = at;
            }
            None => {
                let mut member = member.clone();
                // A member that was added later cannot have been required before.
                member.varies = false;
                known.push((member, (at.max(first), at)));
            }
        }
    }
}

fn finish(merged: Merged, versions: &[Release]) -> Definition {
    let mut definition = merged.definition;
    let last = versions.len() - 1;
    let range = |(first, end): Span, outer: Span, said: Option<&Release>| {
        // For a renamed type, the age of older members is known only from comments; and between two
        // versions that were read, comments are more precise.
        let before = if first > outer.0 { first - 1 } else { 0 };
        let said =
            said.copied().filter(|said| *said > versions[before] && *said <= versions[first]);
        let since = said.or((first > outer.0).then(|| versions[first]));
        let until = (end < outer.1).then(|| versions[end]);
        Range { since, until }
    };
    definition.range = range(merged.span, (0, last), merged.since.get(""));
    let finish_members = |members: Vec<(Member, Span)>| {
        members
            .into_iter()
            .map(|(mut member, span)| {
                let said = merged.since.get(&member.name);
                member.range = range(span, merged.span, said);
                member
            })
            .collect()
    };
    definition.members = finish_members(merged.members);
    definition.variants = finish_members(merged.variants);
    definition
}
