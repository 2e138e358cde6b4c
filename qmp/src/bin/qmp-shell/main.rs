//! A shell for a QMP monitor: commands as `name key=value …` or as JSON, completion from the schema
//! of the connected QEMU, events as they arrive, history.
//!
//! ```text
//! $ qmp-shell /run/vm.qmp
//! QEMU 10.0.2
//! (QEMU) blockdev-add driver=raw node-name=n0 file.driver=file file.filename=disk.img
//! {}
//! (QEMU) {"execute": "query-status"}
//! ```

#![forbid(unsafe_code)]

mod complete;
mod input;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use qmp::blocking::Client;
use qmp::redact::Redaction;
use qmp::{Closed, Event, Matcher, Options, RecvError, Schema};
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{CompletionType, Config, Editor, ExternalPrinter};
use serde_json::Value;

use complete::Words;
use input::Command;

const USAGE: &str = "\
usage: qmp-shell SOCKET | HOST:PORT

Connects to a QMP monitor. Each line is a command:
  name key=value outer.inner=value   values are JSON, or else strings
  {\"execute\": \"name\", \"arguments\": {…}}
Tab completes commands, keys and values. Ctrl-D or \"quit\" ends it; \"quit\" ends QEMU as well.
From a pipe or a file, it exits with 1 if a command failed.";

type Prompt = Editor<Words, DefaultHistory>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let peer = match &arguments[..] {
        [help] if help == "--help" || help == "-h" => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        [peer] if !peer.starts_with('-') => peer,
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(peer) {
        Ok(code) => code,
        Err(problem) => {
            eprintln!("qmp-shell: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn run(peer: &str) -> Result<ExitCode, String> {
    let options = Options::default();
    let client = if peer.contains('/') || !peer.contains(':') {
        Client::connect_unix(peer, options)
    } else {
        Client::connect_tcp(peer, options)
    };
    let client = client.map_err(|error| error.report().to_string())?;
    println!("QEMU {}", client.greeting().version);
    let schema = client.wait(Schema::query(client.as_async()));
    let schema = schema.map_err(|error| error.report().to_string())?;

    let config = Config::builder().completion_type(CompletionType::List);
    let mut prompt = Prompt::with_config(config.build()).map_err(|error| error.to_string())?;
    prompt.set_helper(Some(Words::new(schema)));
    let history = history_file();
    if let Some(file) = &history {
        // There is no history before the first session.
        let _ = prompt.load_history(file);
    }
    // Without a terminal there is no prompt to print around.
    let printer = prompt.create_external_printer().ok();
    let events = client.subscribe(Matcher::any());
    let code: Result<ExitCode, String> = std::thread::scope(|scope| {
        scope.spawn(|| show(&client, events, printer));
        let code = talk(&client, &mut prompt);
        // This ends the events, too. Unanswered commands are not waited for.
        let _ = client.wait(client.as_async().close());
        code
    });
    if let Some(file) = &history {
        // A convenience; the session does not depend on it.
        let _ = prompt.save_history(file);
    }
    code
}

/// Executes lines until there are no more, or the session ends.
fn talk(client: &Client, prompt: &mut Prompt) -> Result<ExitCode, String> {
    let mut code = ExitCode::SUCCESS;
    loop {
        let line = match prompt.readline("(QEMU) ") {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(code),
            Err(error) => return Err(format!("failed to read a line: {error}")),
        };
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let parsed = input::parse(line);
        remember(prompt, line, parsed.as_ref().ok());
        let problem = match parsed {
            Ok(command) if command.name == "quit" => {
                let quit = client.quit().map(|()| code);
                return quit.map_err(|error| error.report().to_string());
            }
            Ok(command) => match execute(client, command) {
                Ok(value) => {
                    println!("{value:#}");
                    continue;
                }
                Err(error) if error.is_closed() => return Err(error.report().to_string()),
                Err(error) => error.report().to_string(),
            },
            Err(problem) => problem,
        };
        eprintln!("{problem}");
        if !std::io::stdin().is_terminal() {
            code = ExitCode::FAILURE;
        }
    }
}

fn execute(client: &Client, command: Command) -> Result<Value, qmp::Error> {
    let call = client.as_async().execute(&command.name, command.arguments);
    client.wait(if command.oob { call.oob() } else { call })
}

/// Adds a line to the history, unless it holds a secret.
fn remember(prompt: &mut Prompt, line: &str, command: Option<&Command>) {
    let message = command.map(|command| {
        serde_json::json!({"execute": command.name, "arguments": command.arguments}).to_string()
    });
    if message.is_none_or(|message| Redaction::default().apply(&message) == message) {
        // A convenience; the line is executed all the same.
        let _ = prompt.add_history_entry(line);
    }
}

/// Prints events above the line that is being edited, until there are no more.
fn show(
    client: &Client,
    events: impl Iterator<Item = Result<std::sync::Arc<Event>, RecvError>>,
    mut printer: Option<impl ExternalPrinter>,
) {
    for event in events {
        let line = match event {
            Ok(event) if event.data.is_empty() => event.name.clone(),
            Ok(event) => format!("{} {}", event.name, Value::Object(event.data.clone())),
            Err(error) => error.to_string(),
        };
        let Some(printer) = &mut printer else {
            println!("{line}");
            continue;
        };
        if printer.print(format!("{line}\n")).is_err() {
            // The terminal is gone, and the shell ends with it.
            return;
        }
    }
    // The prompt is still waiting for a line.
    if let (Some(printer), Some(cause)) = (&mut printer, client.as_async().closed_cause())
        && !matches!(cause, Closed::Local)
    {
        // As above.
        let _ = printer.print(format!("the session has ended: {cause}\n"));
    }
}

/// Where the history is kept between sessions.
fn history_file() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let state = state.filter(|path| path.is_absolute()).or_else(|| {
        let home = PathBuf::from(std::env::var_os("HOME")?);
        Some(home.join(".local/state"))
    })?;
    std::fs::create_dir_all(&state).ok()?;
    Some(state.join("qmp-shell-history"))
}
