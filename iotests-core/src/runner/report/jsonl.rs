//! Every event as a line of JSON, written as it happens: what was running is known even when the run is killed.

use std::fs::File;
use std::io::{self, Write};

use super::Reporter;
use crate::runner::event::RunEvent;

/// Writes JSON lines.
pub(crate) struct JsonLines {
    file: File,
}

impl JsonLines {
    /// Into this file.
    pub(crate) fn new(file: File) -> Self {
        Self { file }
    }
}

impl Reporter for JsonLines {
    fn event(&mut self, event: &RunEvent) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        // One write for one line, so that a reader never sees half of one.
        self.file.write_all(&line)
    }
}
