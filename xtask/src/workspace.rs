//! What cargo knows of this workspace: where it is, where it builds, who depends on whom.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use serde::Deserialize;

/// What a release has, and so what is tested: features that a build without them does without.
pub(crate) const FEATURES: &str = "stratavored/s3";

/// The same, and the tests of them.
pub(crate) const TESTED: &str = "stratavored/s3,stratavore/s3-tests";

/// The part of `cargo metadata --no-deps` that the verbs read.
#[derive(Debug, Deserialize)]
pub(crate) struct Workspace {
    pub(crate) packages: Vec<Package>,
    #[serde(rename = "workspace_root")]
    pub(crate) root: PathBuf,
    #[serde(rename = "target_directory")]
    pub(crate) target: PathBuf,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) dependencies: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Dependency {
    /// The package's own name, whatever the manifest calls it.
    pub(crate) name: String,
    pub(crate) kind: Option<Kind>,
    /// There only with a feature that asks for it.
    pub(crate) optional: bool,
    pub(crate) features: Vec<String>,
}

/// What a dependency is for, where it is not for the crate itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Dev,
    Build,
}

impl Workspace {
    pub(crate) fn read() -> anyhow::Result<Workspace> {
        let output = cargo()
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .output()
            .context("cannot run cargo metadata")?;
        anyhow::ensure!(
            output.status.success(),
            "cargo metadata failed: {}",
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
        serde_json::from_slice(&output.stdout).context("cannot read what cargo metadata says")
    }
}

/// The cargo that started us, at the workspace's root, where it also finds its configuration.
pub(crate) fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    // As cargo says now, not when this was built: clones share their builds.
    let xtask =
        std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    command.current_dir(PathBuf::from(xtask).join(".."));
    command
}
