//! The monitor itself: versions, commands, descriptors, character devices, yank, quit.

use serde_json::Value;

use crate::command::Empty;

qapi_struct! {
    /// Three numbers.
    VersionTriple {
        /// The first.
        major: i64,
        /// The second.
        minor: i64,
        /// The third.
        micro: i64,
    }
}

qapi_struct! {
    /// QEMU's version.
    VersionInfo {
        /// The numbers.
        qemu: VersionTriple,
        /// What the packager added.
        package: String,
    }
}

qapi_struct! {
    /// A command.
    CommandName {
        /// Its name.
        name: String,
    }
}

qapi_struct! {
    /// A parameter of an option of the command line.
    CommandLineParameterInfo {
        /// Its name.
        name: String,
        /// Its type.
        kind = "type": String,
    }
    optional {
        /// What it is for.
        help: String,
        /// Its default.
        default: String,
    }
}

qapi_struct! {
    /// An option of the command line.
    CommandLineOptionInfo {
        /// Its name.
        option: String,
        /// Its parameters.
        parameters: Vec<CommandLineParameterInfo>,
    }
}

qapi_struct! {
    /// A descriptor that was added.
    AddfdInfo {
        /// The set that it is in.
        fdset_id: i64,
        /// Its number in QEMU.
        fd: i64,
    }
}

qapi_struct! {
    /// A descriptor of a set.
    FdsetFdInfo {
        /// Its number in QEMU.
        fd: i64,
    }
    optional {
        /// What was noted when it was added.
        opaque: String,
    }
}

qapi_struct! {
    /// A set of descriptors.
    FdsetInfo {
        /// Its id, for `/dev/fdset/ID`.
        fdset_id: i64,
        /// Its descriptors.
        fds: Vec<FdsetFdInfo>,
    }
}

qapi_struct! {
    /// A character device.
    ChardevInfo {
        /// Its id.
        label: String,
        /// Where it leads.
        filename: String,
        /// Whether something uses it.
        frontend_open: bool,
    }
}

qapi_struct! {
    /// What `chardev-add` gives.
    ChardevReturn {}
    optional {
        /// The name of the terminal, for a pseudo terminal.
        pty: String,
    }
}

qapi_commands! {
    /// Gives QEMU's version.
    "query-version" [] QueryVersion -> VersionInfo {}

    /// Lists the commands.
    "query-commands" [] QueryCommands -> Vec<CommandName> {}

    /// Gives the schema; see [`Schema`](crate::Schema).
    "query-qmp-schema" [] QueryQmpSchema -> Vec<Value> {}

    /// Lists options of the command line.
    "query-command-line-options" [emulator] QueryCommandLineOptions -> Vec<CommandLineOptionInfo> {}
    optional {
        /// Only this one.
        option: String,
    }

    /// Makes QEMU exit. It may close the connection before it answers; `Client::quit` knows that.
    "quit" [] Quit -> Empty {}

    /// Receives a descriptor and gives it a name.
    "getfd" [emulator] Getfd -> Empty {
        /// The name; it must not begin with a digit.
        fdname: String,
    }

    /// Closes a descriptor by name.
    "closefd" [emulator] Closefd -> Empty {
        /// The name.
        fdname: String,
    }

    /// Receives a descriptor and adds it to a set.
    "add-fd" [emulator] AddFd -> AddfdInfo {}
    optional {
        /// The set; a new one if absent.
        fdset_id: i64,
        /// A note.
        opaque: String,
    }

    /// Removes descriptors from a set.
    "remove-fd" [emulator] RemoveFd -> Empty {
        /// The set.
        fdset_id: i64,
    }
    optional {
        /// The descriptor; all if absent.
        fd: i64,
    }

    /// Lists the sets of descriptors.
    "query-fdsets" [emulator] QueryFdsets -> Vec<FdsetInfo> {}

    /// Adds a character device.
    "chardev-add" [] ChardevAdd -> ChardevReturn {
        /// Its id.
        id: String,
        /// `type` and `data` of its backend.
        backend: Value,
    }

    /// Removes a character device.
    "chardev-remove" [] ChardevRemove -> Empty {
        /// Its id.
        id: String,
    }

    /// Lists the character devices.
    "query-chardev" [] QueryChardev -> Vec<ChardevInfo> {}

    /// Lists what can be yanked out of a stuck network connection.
    "query-yank" [emulator, oob] QueryYank -> Vec<Value> {}

    /// Yanks connections.
    "yank" [emulator, oob] Yank -> Empty {
        /// Which.
        instances: Vec<Value>,
    }
}
