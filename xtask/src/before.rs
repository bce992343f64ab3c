//! The programs of the version before, built from this repository's history: the full counts put them to
//! work beside ours (T-UPG, T-MIG).
//!
//! They are built once into the target directory, and kept there under the commit's name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::install::PROGRAMS;
use crate::step;
use crate::workspace::{Workspace, cargo};

/// The last commit of the version before this one. Whoever makes the next version writes the last commit
/// of this one here.
const COMMIT: &str = "855042798473d1dc8db0a99236834c165878ae3f";

/// The directory of its programs, which are built unless they are there.
pub(crate) fn build() -> anyhow::Result<PathBuf> {
    let workspace = Workspace::read()?;
    let kept = workspace.target.join("before");
    let short = &COMMIT[..12];
    let done = kept.join(short);
    if PROGRAMS.iter().all(|program| done.join(program).is_file()) {
        return Ok(done);
    }
    let source = kept.join(format!("{short}-source"));
    let target = kept.join(format!("{short}-target"));
    fs::create_dir_all(&source).with_context(|| format!("cannot make {}", source.display()))?;
    unpack(&workspace.root, &source)?;

    let mut build = cargo();
    build.args(["build", "--locked", "--bins"]).current_dir(&source);
    for program in PROGRAMS {
        build.args(["--package", program]);
    }
    step::run("build the version before", build.arg("--target-dir").arg(&target))?;

    // Whoever finds the directory finds all of it.
    let new = kept.join(format!("{short}-new"));
    fs::create_dir_all(&new).with_context(|| format!("cannot make {}", new.display()))?;
    for program in PROGRAMS {
        let built = target.join("debug").join(program);
        fs::copy(&built, new.join(program))
            .with_context(|| format!("cannot copy {}", built.display()))?;
    }
    if done.exists() {
        fs::remove_dir_all(&done).with_context(|| format!("cannot remove {}", done.display()))?;
    }
    fs::rename(&new, &done).with_context(|| format!("cannot make {}", done.display()))?;
    for left in [&source, &target] {
        fs::remove_dir_all(left).with_context(|| format!("cannot remove {}", left.display()))?;
    }
    Ok(done)
}

/// Writes the files of the commit into a directory.
fn unpack(root: &Path, into: &Path) -> anyhow::Result<()> {
    let mut git = Command::new("git");
    git.args(["archive", "--format=tar", COMMIT]).current_dir(root);
    let mut git = git.stdout(Stdio::piped()).spawn().context("cannot run git")?;
    let archive = git.stdout.take().context("git has no output")?;
    let unpacked = Command::new("tar").args(["-x", "-C"]).arg(into).stdin(archive).status();
    let read = git.wait().context("cannot wait for git")?;
    ensure!(
        read.success(),
        "git has no commit {COMMIT}, the version before; in a shallow clone `git fetch \
         --unshallow` gets it"
    );
    let unpacked = unpacked.context("cannot run tar")?;
    ensure!(unpacked.success(), "tar ended with {unpacked}");
    let mut git = Command::new("git");
    git.args(["merge-base", "--is-ancestor", COMMIT, "HEAD"]).current_dir(root);
    let is_ours = git.status().context("cannot run git")?.success();
    ensure!(
        is_ours,
        "{COMMIT} is no version that this one has come from; mend xtask/src/before.rs"
    );
    Ok(())
}

/// Whether a run with these arguments may have tests that want them: all have but one of other trials.
pub(crate) fn is_wanted(forwarded: &[&str]) -> bool {
    let others = forwarded.iter().any(|argument| {
        ["t_", "row_", "soak"].iter().any(|of| argument.starts_with(of))
            && !WANTED_BY.iter().any(|of| argument.starts_with(of) || of.starts_with(argument))
    });
    !others
}

/// The beginnings of the names of tests that want them.
const WANTED_BY: [&str; 2] = ["t_upg", "t_mig"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_other_trials_does_without() {
        for wanted in [&[][..], &["--", "--nocapture"], &["t_upg"], &["t_mig_daemons"], &["t_"]] {
            assert!(is_wanted(wanted), "{wanted:?}");
        }
        let soak = ["--package", "stratavore", "--test", "reliability", "soak::"];
        for other in [&["t_surv"][..], &["row_29"], &soak] {
            assert!(!is_wanted(other), "{other:?}");
        }
    }
}
