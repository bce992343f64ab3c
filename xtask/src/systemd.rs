//! `cargo xtask systemd`: the daemon under a real systemd by the unit of `deploy/systemd/system`. Restarts, deaths and
//! stops of the daemon end no runner (row 16 of the fault catalogue).
//!
//! Needs root and a systemd in `/lib`, which need not run; without them nothing was tried, and that is a failure. No
//! part of `make test`.

use std::path::Path;
use std::process::Command;

use anyhow::ensure;

use crate::step::{self, Steps};
use crate::test::build;
use crate::workspace::Workspace;

const SYSTEMD: &str = "/lib/systemd/systemd";

pub(crate) fn systemd() -> anyhow::Result<()> {
    ensure!(
        Path::new(SYSTEMD).exists(),
        "there is no {SYSTEMD}, so nothing was tried: apt-get install systemd"
    );
    let workspace = Workspace::read()?;
    let mut steps = Steps::default();
    if steps.take("build", build) {
        steps.take("systemd", || {
            let mut script = Command::new("/bin/sh");
            step::without_settings(&mut script);
            script.arg(workspace.root.join("xtask/src/systemd.sh"));
            script.arg(workspace.target.join("debug"));
            script.arg(workspace.root.join("deploy/systemd/system/stratavored.service"));
            step::run("systemd", &mut script)
        });
    }
    steps.finish()
}
