//! Interoperability with other implementations, by mode: measured, and written into the README.
//!
//! `NBD_INTEROP=1 cargo test -p qemu-nbd --all-features --test it -- interop` rewrites the table;
//! rows of unavailable releases are kept. Without it the table is checked against the measurement,
//! and, where programs are missing, against its own rows and columns.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use imgtools::process::{Child, Command};
use nbd::client::{ClientBuilder, ConnectError, HandshakeError};
use nbd::proto::{Errno, Mode};
use nbd::server::backend::MemoryBackend;
use nbd::server::{Entry, Event, Export, Server};
use nbd::tls::{ClientTls, ServerTls};
use nbd::{Client, QemuNbd, Uri};
use tempfile::TempDir;

use crate::support::{MIB, Tools, activated, all_tools, block_on, chain, img, program, short_dir};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls");
const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
/// What the certificates are for.
const NAME: &str = "disks.example";
const BEGIN: &str = "<!-- written by tests/it/interop.rs -->\n";
const END: &str = "<!-- end -->";

/// A column: a mode in plain text, or TLS in the richest one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Column {
    Plain(Mode),
    Tls,
}

fn columns() -> Vec<Column> {
    let modes = Mode::ALL.into_iter().map(Column::Plain);
    modes.chain([Column::Tls]).collect()
}

fn head(column: Column) -> String {
    match column {
        Column::Plain(mode) => mode.to_string(),
        Column::Tls => "TLS".into(),
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cell {
    Yes,
    /// The other side does not speak this, and both say so.
    NotSpoken,
}

/// Servers that our client talks to.
const SERVERS: [&str; 6] = [
    "qemu-nbd",
    "nbdkit memory",
    "nbdkit file",
    "nbdkit sparse-random",
    "nbdkit --filter=error",
    "nbdkit data, three connections",
];
/// What there is of each QEMU, and is measured with each.
const OF_QEMU: [&str; 3] = ["qemu-nbd", "qemu-io", "qemu-img convert"];
/// Clients that our server talks to.
const CLIENTS: [&str; 5] = [
    "qemu-io",
    "qemu-img convert",
    "nbdinfo",
    "nbdcopy from us",
    "nbdcopy to us",
];

fn builder(column: Column) -> ClientBuilder {
    let builder = Client::builder();
    match column {
        Column::Plain(mode) if mode.has_chunks() => builder.mode(mode).context("base:allocation"),
        Column::Plain(mode) => builder.mode(mode),
        Column::Tls => builder.tls(ClientTls::from_certificates(FOLDER, NAME).unwrap()),
    }
}

/// nbdkit at a socket.
async fn nbdkit(
    program: &Path,
    column: Column,
    dir: &TempDir,
    args: &[String],
) -> (Child, PathBuf) {
    let socket = dir.path().join("k");
    // That of the column before.
    let _ = std::fs::remove_file(&socket);
    let mut command = activated(program, &socket).arg("-f");
    match column {
        Column::Plain(Mode::Oldstyle) => command = command.arg("--oldstyle"),
        Column::Plain(_) => {}
        Column::Tls => {
            command = command.args(["--tls=require", "--tls-verify-peer"]);
            command = command.arg(format!("--tls-certificates={FOLDER}"));
        }
    }
    let child = command.args(args).spawn_async().await.unwrap();
    (child, socket)
}

/// Writes, reads, compares and maps; or, without the right to write, all but the first.
async fn exercise(row: &str, client: &Client) {
    let size = client.export().size;
    if !client.export().is_read_only() {
        // sparse-random takes back only what it has given.
        let data = match row {
            "nbdkit sparse-random" => client.read(MIB, 65536).await.unwrap(),
            _ => vec![5; 65536],
        };
        client.write(MIB, data.clone()).await.unwrap();
        assert_eq!(client.read(MIB, 65536).await.unwrap(), data);
    }
    let twice = (client.read(0, 65536).await, client.read(0, 65536).await);
    assert_eq!(twice.0.unwrap(), twice.1.unwrap());
    if client.export().context_id("base:allocation").is_some() {
        let map = client.map("base:allocation", 0..size).await.unwrap();
        assert_eq!(map.iter().map(|entry| entry.len).sum::<u64>(), size);
    }
}

/// Whether our client and this server understand each other.
async fn with_server(row: &str, column: Column, tools: &Tools, dir: &TempDir) -> Option<Cell> {
    let path = |name: &str| dir.path().join(name);
    let (_alive, socket): (Box<dyn std::any::Any + Send>, PathBuf) = if row == "qemu-nbd" {
        let image = path("raw").to_str().unwrap().to_owned();
        img(tools, ["create", "-q", "-f", "raw", &image, "4M"]).await;
        let mut nbd = QemuNbd::new(tools.nbd.clone()).format("raw").shared(4);
        if column == Column::Tls {
            let creds =
                format!("tls-creds-x509,id=tls0,endpoint=server,dir={FOLDER},verify-peer=on");
            nbd = nbd.tls_creds("tls0").object(creds);
        }
        let server = nbd.serve_unix(image, path("q")).await.unwrap();
        (Box::new(server), path("q"))
    } else {
        let program = program("nbdkit")?;
        let args: Vec<String> = match row {
            "nbdkit memory" => vec!["memory".into(), "4M".into()],
            "nbdkit file" => {
                std::fs::write(path("f"), vec![1; 4 << 20]).unwrap();
                vec!["file".into(), path("f").display().to_string()]
            }
            "nbdkit sparse-random" => vec!["sparse-random".into(), "64M".into(), "seed=1".into()],
            "nbdkit --filter=error" => {
                let text = "--filter=error memory 4M error-pread=ESHUTDOWN error-pread-rate=0 \
                            error-pwrite=ENOSPC error-pwrite-rate=1";
                text.split_whitespace().map(Into::into).collect()
            }
            "nbdkit data, three connections" => {
                vec![
                    "data".into(),
                    "@0x100000 1 2 3 @0x400000".into(),
                    "size=4M".into(),
                ]
            }
            _ => unreachable!(),
        };
        let (child, socket) = nbdkit(&program, column, dir, &args).await;
        (Box::new(child), socket)
    };
    let client = match builder(column).connect_unix(&socket).await {
        Ok(client) => client,
        Err(ConnectError::Handshake {
            source: HandshakeError::Feature { .. },
            ..
        }) => return Some(Cell::NotSpoken),
        Err(error) => panic!("{row}, {}: {}", head(column), chain(&error)),
    };
    match row {
        "nbdkit --filter=error" => {
            let refused = client.write(0, vec![1; 512]).await.unwrap_err();
            assert_eq!(refused.errno(), Some(Errno::ENOSPC), "{refused}");
            assert_eq!(client.read(0, 512).await.unwrap(), [0; 512]);
        }
        "nbdkit data, three connections" => {
            let handle = builder(column).handle().connections(3);
            let uri = Uri::at(nbd::uri::Address::Unix(socket), "");
            let handle = handle.connect_uri(&uri).await.unwrap();
            assert_eq!(handle.read(MIB, 3).await.unwrap(), [1, 2, 3]);
            let copy = path("copy");
            handle.copy_to_file(&copy, |_, _| {}).await.unwrap();
            assert_eq!(client.compare(&copy).await.unwrap(), None);
        }
        _ => exercise(row, &client).await,
    }
    client.disconnect().await.unwrap();
    Some(Cell::Yes)
}

/// Whether this client and our server understand each other.
async fn with_client(row: &str, column: Column, tools: &Tools, dir: &TempDir) -> Option<Cell> {
    let content: Vec<u8> = (0..4 * MIB).map(|n| (n / 4096) as u8).collect();
    let memory = std::sync::Arc::new(MemoryBackend::with_content(&content));
    let mut server = Server::builder().export(Export::shared(memory.clone()));
    match column {
        Column::Plain(mode) => server = server.mode(mode),
        Column::Tls => server = server.tls(ServerTls::from_certificates(FOLDER, true).unwrap()),
    }
    let server = server.listen_tcp().unwrap();
    let uri = server.uri().unwrap();
    let tls = column == Column::Tls;
    let copy = dir.path().join("copy");
    // What QEMU calls the server.
    let name = |command: Command| {
        let Some(opts) = uri.to_image_opts_with_tls("tls0") else {
            return command;
        };
        let creds = format!("tls-creds-x509,id=tls0,endpoint=client,dir={FOLDER}");
        command
            .args(["--object", &creds, "--image-opts"])
            .arg(format!("{opts},tls-hostname={NAME}"))
    };
    // libnbd compares the certificate with the host of the URI, which is an address.
    let their_uri = match tls {
        true => format!("{uri}?tls-certificates={FOLDER}&tls-verify-peer=0"),
        false => uri.to_string(),
    };
    match row {
        "qemu-io" => {
            let command = tools.io.command();
            let command = command.args(["-c", "write -P 3 64k 64k", "-c", "read -P 3 64k 64k"]);
            let command = match tls {
                true => name(command),
                false => command.args(["-f", "raw"]).arg(&their_uri),
            };
            let output = command.run().await.unwrap().check().unwrap();
            let text = output.stdout_text();
            assert!(!text.contains("failed"), "{text}");
            assert_eq!(memory.snapshot(65536, 65536), vec![3; 65536]);
        }
        "qemu-img convert" => {
            let command = tools.img.command().args(["convert", "-O", "raw"]);
            let command = match tls {
                true => name(command),
                false => command.args(["-f", "raw"]).arg(&their_uri),
            };
            command.arg(&copy).run().await.unwrap().check().unwrap();
            assert_eq!(std::fs::read(&copy).unwrap(), content);
        }
        "nbdinfo" => {
            // Not `--size`, which libnbd 1.22 cannot find out where there is no fixed newstyle.
            let command = Command::new(program("nbdinfo")?).arg("--json");
            let output = command.arg(&their_uri).run().await.unwrap();
            let output = output.check().unwrap();
            let info: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(info["exports"][0]["export-size"], 4 * MIB);
            if !matches!(column, Column::Plain(mode) if !mode.has_chunks()) {
                let command = Command::new(program("nbdinfo")?);
                let command = command.args(["--map", "--json"]).arg(&their_uri);
                let output = command.run().await.unwrap().check().unwrap();
                let map: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
                let pieces = map.as_array().unwrap().iter();
                let total: u64 = pieces.map(|p| p["length"].as_u64().unwrap()).sum();
                assert_eq!(total, 4 * MIB);
            }
        }
        "nbdcopy from us" => {
            let command = Command::new(program("nbdcopy")?).arg(&their_uri).arg(&copy);
            command.run().await.unwrap().check().unwrap();
            assert_eq!(std::fs::read(&copy).unwrap(), content);
        }
        "nbdcopy to us" => {
            let new = vec![9; 4 << 20];
            std::fs::write(&copy, &new).unwrap();
            let command = Command::new(program("nbdcopy")?).arg(&copy).arg(&their_uri);
            command.run().await.unwrap().check().unwrap();
            assert_eq!(memory.snapshot(0, 4 * MIB), new);
        }
        _ => unreachable!(),
    }
    let journal = server.finish().await.unwrap();
    let spoken = |e: &Entry| match (&e.event, column) {
        (Event::Transmission { mode, .. }, Column::Plain(column)) => *mode == column,
        (Event::Transmission { .. }, Column::Tls) => true,
        _ => false,
    };
    Some(match journal.count(spoken) {
        // It has done with less, as it must.
        0 => Cell::NotSpoken,
        _ => Cell::Yes,
    })
}

type Table = BTreeMap<(String, Column), Cell>;

/// One QEMU of each release.
fn releases() -> Vec<Tools> {
    let mut seen = BTreeSet::new();
    let mut all = all_tools();
    all.retain(|tools| seen.insert(tools.release.clone()));
    all.sort_by_key(|tools| tools.major);
    all
}

/// The releases of what is no part of QEMU; empty where it is missing.
struct Others {
    nbdkit: String,
    libnbd: String,
}

async fn others() -> Others {
    let release = async |name: &str, line: usize| {
        let output = Command::new(program(name)?).arg("--version").run().await;
        let text = output.unwrap().stdout_text().into_owned();
        let version = text.lines().nth(line)?.split(' ').next_back()?;
        Some(version.split('.').take(2).collect::<Vec<_>>().join("."))
    };
    Others {
        nbdkit: release("nbdkit", 0).await.unwrap_or_default(),
        libnbd: release("nbdinfo", 1).await.unwrap_or_default(),
    }
}

/// A row of the table: what is at the other end, and of which release.
fn of_release(row: &str, tools: &Tools, others: &Others) -> String {
    match row {
        _ if OF_QEMU.contains(&row) => format!("{row} {}", tools.release),
        _ if row.starts_with("nbdkit") => format!("{row} ({})", others.nbdkit),
        _ => format!("{row} (libnbd {})", others.libnbd),
    }
}

async fn measure(all: &[Tools]) -> Table {
    let (mut table, others) = (Table::new(), others().await);
    for (n, tools) in all.iter().enumerate() {
        for column in columns() {
            for row in SERVERS.into_iter().chain(CLIENTS) {
                // The others are the same with each QEMU.
                if n > 0 && !OF_QEMU.contains(&row) {
                    continue;
                }
                let dir = short_dir();
                let cell = match CLIENTS.contains(&row) {
                    true => with_client(row, column, tools, &dir).await,
                    false => with_server(row, column, tools, &dir).await,
                };
                if let Some(cell) = cell {
                    table.insert((of_release(row, tools, &others), column), cell);
                }
            }
        }
    }
    table
}

fn text(cell: Cell) -> &'static str {
    match cell {
        Cell::Yes => "yes",
        Cell::NotSpoken => "–",
    }
}

/// Rows by their names, each with its cells.
type Rows = BTreeMap<String, Vec<String>>;

/// The table with what was measured, and what it said of other releases.
fn print(table: &Table, old: Rows) -> String {
    let mut rows = old;
    for ((row, column), cell) in table {
        let cells = rows.entry(row.clone()).or_default();
        cells.resize(columns().len(), String::new());
        let at = columns().iter().position(|c| c == column).unwrap();
        cells[at] = text(*cell).into();
    }
    let heads: Vec<String> = columns().into_iter().map(head).collect();
    let mut out = format!(
        "| | with | {} |\n|---|---|{}\n",
        heads.join(" | "),
        "---|".repeat(heads.len())
    );
    let servers = SERVERS.iter().map(|row| ("our client", *row));
    for (side, program) in servers.chain(CLIENTS.iter().map(|row| ("our server", *row))) {
        let of = |row: &&String| program_of(row) == program;
        let mut names: Vec<&String> = rows.keys().filter(of).collect();
        // 7.2 comes before 10.0.
        names.sort_by_key(|row| (row.len(), (*row).clone()));
        for row in names {
            out += &format!("| {side} | {row} | {} |\n", rows[row].join(" | "));
        }
    }
    out
}

/// The table in the README, with what is before and behind it.
fn written() -> (String, String, String) {
    let readme = std::fs::read_to_string(README).unwrap();
    let (before, rest) = readme.split_once(BEGIN).expect("the table begins");
    let (table, after) = rest.split_once(END).expect("the table ends");
    (before.into(), table.into(), after.into())
}

/// The rows of a table as it is written.
fn rows(table: &str) -> Rows {
    let lines = table.lines().skip(2);
    let cells = |line: &str| -> Vec<String> {
        let line = line.trim_matches('|');
        line.split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let named = |line| {
        let cells = cells(line);
        Some((cells.get(1)?.clone(), cells.get(2..)?.to_vec()))
    };
    lines.filter_map(named).collect()
}

/// A row without the release that it is about.
fn program_of(row: &str) -> &str {
    let of = |program: &&&str| {
        let rest = row.strip_prefix(**program);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    };
    let all = || SERVERS.iter().chain(&CLIENTS);
    all().find(of).copied().unwrap_or(row)
}

#[test]
fn the_table_in_the_readme_has_the_rows_and_columns_that_are_measured() {
    let (_, table, _) = written();
    let heads = |table: &str| table.lines().next().map(str::to_owned);
    assert_eq!(heads(&table), heads(&print(&Table::new(), Rows::new())));
    let rows = rows(&table);
    let programs: BTreeSet<&str> = rows.keys().map(|row| program_of(row)).collect();
    let measured = SERVERS.into_iter().chain(CLIENTS).collect();
    assert_eq!(programs, measured);
    for (row, cells) in &rows {
        let whole = |cell: &String| ["yes", "–"].contains(&&**cell);
        assert!(
            cells.len() == columns().len() && cells.iter().all(whole),
            "{row}: {cells:?}"
        );
    }
}

#[test]
fn others_understand_us_as_the_table_in_the_readme_says() {
    let measured = block_on(measure(&releases()));
    let (before, table, after) = written();
    let rows = rows(&table);
    if std::env::var_os("NBD_INTEROP").is_some() {
        let new = format!("{before}{BEGIN}{}{END}{after}", print(&measured, rows));
        std::fs::write(README, new).unwrap();
        return;
    }
    for ((row, column), cell) in &measured {
        let at = columns().iter().position(|c| c == column).unwrap();
        // A release that has not been measured yet agrees with some measured one.
        let alike = |(other, _): &(&String, _)| program_of(other) == program_of(row);
        let says: Vec<&str> = match rows.get(row) {
            Some(cells) => vec![&cells[at]],
            None => rows.iter().filter(alike).map(|(_, cells)| &*cells[at]).collect(),
        };
        // Others evolve: a mode that a newer version supports is not a reason to fail.
        let fits = |says: &&str| *says == text(*cell) || (*says, *cell) == ("–", Cell::Yes);
        assert!(
            says.iter().any(fits),
            "{row}, {}: {cell:?} and not {says:?}",
            head(*column)
        );
    }
}
