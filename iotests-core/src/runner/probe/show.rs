//! `--probe`: the results as text.

use std::fmt::Write;

use crate::case::{Backend, Capabilities, Support};
use crate::runner::sets::ToolSet;

/// Everything about one set.
pub(crate) fn show(set: &ToolSet, capabilities: &Capabilities) -> String {
    let mut text = format!("set {}\n", set.name);
    for (kind, tool) in &set.tools {
        let version = tool.version.map_or_else(
            || "of unknown version".to_owned(),
            |version| version.to_string(),
        );
        line(
            &mut text,
            kind.name(),
            &format!("{version}, {}", tool.path.display()),
        );
        for option in &tool.options {
            line(&mut text, "", &format!("with {option}"));
        }
    }
    if set.tools.is_empty() {
        line(&mut text, "nothing", "no program was found");
    }
    list(&mut text, "can open", &capabilities.readable);
    list(&mut text, "can create", &capabilities.writable);
    for (feature, works) in &capabilities.features {
        let works = match works {
            Support::Yes => "works".to_owned(),
            Support::No(why) => format!("does not work: {why}"),
        };
        line(&mut text, feature.name(), &works);
    }
    for backend in Backend::ALL {
        let Some(facts) = capabilities.host(*backend) else {
            continue;
        };
        let _ = writeln!(text, "  {} {}", backend.tool(), facts.version);
        if let Some(target) = &facts.target {
            line(&mut text, "  target", target);
        }
        for trial in &facts.accelerators {
            let result = trial
                .refused
                .as_ref()
                .map_or_else(|| "works".to_owned(), |why| format!("no: {why}"));
            line(&mut text, &format!("  -accel {}", trial.accel), &result);
        }
        let devices: Vec<&String> = facts.devices.iter().map(|device| &device.name).collect();
        let counts = [
            ("  devices", devices.len()),
            ("  commands", facts.commands.len()),
        ];
        for (name, count) in counts {
            line(&mut text, name, &count.to_string());
        }
        list(&mut text, "  drivers", &facts.drivers);
        list(&mut text, "  exports", &facts.exports);
        list(&mut text, "  objects", &facts.objects);
    }
    for problem in &capabilities.problems {
        line(&mut text, "problem", problem);
    }
    text
}

fn line(text: &mut String, name: &str, value: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "  {name:<20} {value}");
}

fn list<'a>(text: &mut String, name: &str, values: impl IntoIterator<Item = &'a String>) {
    let values: Vec<&str> = values.into_iter().map(String::as_str).collect();
    if !values.is_empty() {
        line(text, name, &values.join(" "));
    }
}
