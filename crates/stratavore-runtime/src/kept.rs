//! The recorded output of all runners of this host.

use std::io;
use std::time::Duration;

use stratavore_agent::output::{kept, remove_before};
use stratavore_core::kept::{Kept, Removed};
use stratavore_proto::runner_dir::RunnerDir;

use crate::find::age;
use crate::process::Runtime;

impl Runtime {
    /// What is kept of each runner that has a directory here, with how long nothing has changed in that:
    /// of one that has ended, since its end.
    pub fn kept_output(&self) -> io::Result<Vec<(Kept, Duration)>> {
        let all = RunnerDir::all(&self.settings.runners)?.into_iter();
        all.map(|(runner, dir)| Ok((Kept { runner, segments: kept(&dir.output())? }, age(&dir))))
            .collect()
    }

    /// Removes output that is to go.
    pub fn remove_output(&self, removed: &Removed) -> io::Result<()> {
        remove_before(&self.dir(removed.runner).output(), removed.to)
    }
}
