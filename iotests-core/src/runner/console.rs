//! What a stream can show: colours and progress bars are for users at a terminal.

use std::io::IsTerminal;
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::cli::ColorChoice;
use super::report::Palette;
use crate::author::golden::is_ci;

/// Whether lines can be redrawn: on a capable terminal, but not in CI, whose log keeps everything.
pub(super) fn can_move(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && anstyle_query::term_supports_ansi_color() && !is_ci()
}

/// Whether this is a pipe without a reader.
pub(super) fn is_unread(stream: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    let has_event = poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
    has_event && fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR))
}

/// The colours for this stream.
pub(super) fn palette(choice: ColorChoice, stream: &impl IsTerminal) -> Palette {
    Palette::new(match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => can_move(stream) && !anstyle_query::no_color(),
    })
}
