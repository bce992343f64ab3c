//! `cargo xtask lint`: what can be said about the code without running it.

use crate::arrows;
use crate::step::{self, Steps};
use crate::workspace::{FEATURES, TESTED, cargo};

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
    let all = ["clippy", "--workspace", "--all-targets", "--features", TESTED];
    step::run("clippy", cargo().args(all).args(["--", "-D", "warnings"]))?;
    // A daemon that has none of them.
    let bare = ["clippy", "--package", "stratavored", "--", "-D", "warnings"];
    step::run("clippy without features", cargo().args(bare))
}

fn documentation() -> anyhow::Result<()> {
    let mut doc = cargo();
    doc.args(["doc", "--workspace", "--no-deps", "--features", FEATURES])
        .env("RUSTDOCFLAGS", "-D warnings");
    step::run("documentation", &mut doc)
}
