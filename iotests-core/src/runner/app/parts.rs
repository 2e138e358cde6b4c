//! This run's part of the plan: `--partition`.

use std::env;
use std::time::Duration;

use super::App;
use crate::runner::error::RunError;
use crate::runner::partition::{Piece, Shard, cut};
use crate::runner::plan::Planned;
use crate::runner::records::Records;

impl App {
    /// Reduces the plan to this run's part and returns which part it is.
    pub(super) fn partition(
        &self,
        planned: &mut Vec<Planned>,
        records: &Records,
    ) -> Result<Option<Shard>, RunError> {
        let Some(partition) = self.cli.matrix.partition else {
            return Ok(None);
        };
        let Some(part) = partition.part(|name| env::var(name).ok())? else {
            self.warn(
                "--partition auto: no variables of a CI system give the part, so everything runs",
            );
            return Ok(None);
        };
        let pieces = planned.iter().map(|one| Piece {
            id: &one.id,
            time: match one.skip {
                Some(_) => Some(Duration::ZERO),
                None => records.get(&one.id).map(|known| known.elapsed),
            },
        });
        let pieces: Vec<Piece<'_>> = pieces.collect();
        let (mine, shard) = cut(&pieces, part);
        let mut mine = mine.into_iter();
        planned.retain(|_| mine.next().unwrap_or(false));
        if planned.is_empty() {
            let Shard {
                number,
                of,
                instances,
                ..
            } = shard;
            self.warn(&format!(
                "part {number} of {of} has nothing to run: there {} in all",
                match instances {
                    1 => "is 1 instance".to_owned(),
                    count => format!("are {count} instances"),
                }
            ));
        }
        Ok(Some(shard))
    }
}
