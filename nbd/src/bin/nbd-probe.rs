//! `nbd-probe URI`: what an export offers, and its block status map, as text or JSON.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use nbd::client::{ExportInfo, HandshakeError, ListedExport, MapEntry};
use nbd::{Client, Uri};
use serde_json::{Value, json};

/// Prints what an export of an NBD server offers and its block status map.
///
/// Exit status: 0 if everything could be read, 1 if not, 2 for wrong arguments.
#[derive(Debug, Parser)]
#[command(name = "nbd-probe", version)]
struct Args {
    /// An NBD URI, or one of QEMU's older names (`nbd:unix:PATH:exportname=NAME`).
    uri: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// List all exports of the server instead.
    #[arg(long)]
    list: bool,
    /// Metadata context to map; can be repeated. Default: all of the export's contexts.
    #[arg(long)]
    context: Vec<String>,
    /// Do not print the maps.
    #[arg(long)]
    no_map: bool,
}

type Failure = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    let printed = match args.list {
        true => list(&args).await,
        false => probe(&args).await,
    };
    match printed.and_then(|text| print(&text)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nbd-probe: {}", harmless(&with_reasons(&*error)));
            ExitCode::FAILURE
        }
    }
}

/// The error says what failed, its sources say why.
fn with_reasons(error: &(dyn std::error::Error + 'static)) -> String {
    let reasons = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<String> = reasons.map(ToString::to_string).collect();
    texts.join(": ")
}

/// Text from a server, with control characters escaped.
fn harmless(text: &str) -> String {
    let is_plain = |c: char| c == '\'' || c == '"' || c == '\\';
    let escaped = |c: char| match is_plain(c) {
        true => c.to_string(),
        false => c.escape_debug().to_string(),
    };
    text.chars().map(escaped).collect()
}

/// JSON that is safe on a terminal: JSON itself leaves some control characters unescaped.
fn json_text(value: &Value) -> String {
    let escaped = |c: char| match c.is_control() && c != '\n' {
        true => format!("\\u{:04x}", u32::from(c)),
        false => c.to_string(),
    };
    let text = format!("{value:#}\n");
    text.chars().map(escaped).collect()
}

fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        // A reader may close the pipe early; that is not a failure.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| format!("failed to print: {error}").into()),
    }
}

fn uri(args: &Args) -> Result<Uri, Failure> {
    match args.uri.contains("://") {
        true => Ok(Uri::parse(&args.uri)?),
        false => Ok(Uri::parse_legacy(&args.uri)?),
    }
}

async fn list(args: &Args) -> Result<String, Failure> {
    let listing = nbd::list(&uri(args)?).await?;
    if args.json {
        let exports: Vec<Value> = listing.exports.iter().map(listed_as_json).collect();
        return Ok(json_text(&json!({ "exports": exports })));
    }
    let mut out = String::new();
    for export in &listing.exports {
        out += &format!("export: {:?}\n", export.name);
        match &export.info {
            Some(info) => out += &info_as_text(info),
            None => out += "  the server reports no details\n",
        }
        out += &format!("  contexts: {}\n", harmless(&export.contexts.join(" ")));
    }
    Ok(out)
}

async fn probe(args: &Args) -> Result<String, Failure> {
    let uri = uri(args)?;
    let builder = Client::builder().contexts(args.context.clone());
    let mut options = builder.negotiate_uri(&uri).await?;
    // Contexts have to be listed before any can be selected; a server without options, or that
    // refuses this one, has none.
    if args.context.is_empty()
        && options.mode().has_chunks()
        && let Some(all) = told(options.list_contexts(&uri.export, &[]).await)?
        && !all.is_empty()
    {
        options.set_contexts(&uri.export, &all).await?;
    }
    let client = options.go_to(&uri.export).await?;
    let info = client.export().clone();
    let maps = match args.no_map || info.contexts.is_empty() || info.size == 0 {
        true => Vec::new(),
        false => client.maps(0..info.size).await?,
    };
    // Everything was read; it does not matter whether the server disconnects cleanly.
    let _ = client.disconnect().await;
    if args.json {
        let maps: serde_json::Map<String, Value> =
            maps.into_iter().map(|(name, map)| (name, json!(map))).collect();
        let mut value = info_as_json(&info);
        value["maps"] = Value::Object(maps);
        return Ok(json_text(&value));
    }
    let mut out = format!("export: {:?}\n{}", info.name, info_as_text(&info));
    for (name, map) in &maps {
        out += &format!("map of {}:\n", harmless(name));
        for entry in map {
            out += &entry_as_text(name, entry);
        }
    }
    Ok(out)
}

/// A server's answer, unless it refused to give one.
fn told<T>(answer: Result<T, HandshakeError>) -> Result<Option<T>, HandshakeError> {
    match answer {
        Err(HandshakeError::Refused { .. }) => Ok(None),
        answer => answer.map(Some),
    }
}

fn info_as_text(info: &ExportInfo) -> String {
    let mut out = format!("  size: {}\n  mode: {}\n", info.size, info.mode);
    let names: Vec<String> =
        info.flags.iter_names().map(|(n, _)| n.to_lowercase().replace('_', "-")).collect();
    out += &format!(
        "  flags: {:#06x} ({})\n",
        info.flags.bits(),
        names.join(" ")
    );
    if let Some(text) = &info.description {
        out += &format!("  description: {}\n", harmless(text));
    }
    if let Some(sizes) = info.block_sizes {
        let (min, preferred, max) = (sizes.minimum, sizes.preferred, sizes.maximum);
        out += &format!("  block sizes: minimum {min}, preferred {preferred}, maximum {max}\n");
    }
    out
}

fn info_as_json(info: &ExportInfo) -> Value {
    json!({
        "name": info.name,
        "canonical-name": info.canonical_name,
        "description": info.description,
        "size": info.size,
        "mode": info.mode,
        "flags": info.flags.bits(),
        "flag-names": info.flags.iter_names().map(|(name, _)| name).collect::<Vec<_>>(),
        "block-sizes": info.block_sizes,
        "contexts": info.contexts,
    })
}

fn listed_as_json(export: &ListedExport) -> Value {
    json!({
        "name": export.name,
        "comment": export.comment,
        "info": export.info.as_ref().map(info_as_json),
        "contexts": export.contexts,
    })
}

fn entry_as_text(context: &str, entry: &MapEntry) -> String {
    let meaning = match context {
        "base:allocation" => match entry.status {
            0 => "data".to_owned(),
            1 => "hole".to_owned(),
            2 => "zero".to_owned(),
            3 => "hole,zero".to_owned(),
            other => format!("{other:#x}"),
        },
        "qemu:allocation-depth" => match entry.status {
            0 => "unallocated".to_owned(),
            depth => format!("depth {depth}"),
        },
        name if name.starts_with("qemu:dirty-bitmap:") => match entry.status {
            0 => "clean".to_owned(),
            1 => "dirty".to_owned(),
            other => format!("{other:#x}"),
        },
        _ => format!("{:#x}", entry.status),
    };
    format!("{:>16} {:>16}  {meaning}\n", entry.offset, entry.len)
}
