//! `cargo xtask lint`: what can be said about the code without running it.

use crate::arrows;
use crate::step::{self, Steps};
use crate::workspace::cargo;

pub(crate) fn lint() -> anyhow::Result<()> {
    let mut steps = Steps::default();
    steps.take("formatting", formatting);
    steps.take("clippy", clippy);
    steps.take("documentation", documentation);
    steps.take("arrows", arrows::arrows);
    steps.finish()
}

pub(crate) fn formatting() -> anyhow::Result<()> {
    step::run("formatting", cargo().args(["fmt", "--all", "--check"]))
}

pub(crate) fn clippy() -> anyhow::Result<()> {
    step::run(
        "clippy",
        cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    )
}

fn documentation() -> anyhow::Result<()> {
    let mut doc = cargo();
    doc.args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings");
    step::run("documentation", &mut doc)
}
