//! `cargo xtask bench`: builds for release, gets the peers, and has `bench/` measure.
//!
//! The peers (tmux, dtach, pueue, shpool) are installed by this verb only; no test needs them. The
//! PostgreSQL that is measured syncs to the disk, as a real one does; that of the tests does not.

use std::path::Path;
use std::process::Command;

use stratavore_testkit::postgres::{self, Server};
use stratavore_testkit::rabbit;

use crate::install::PROGRAMS;
use crate::machine::{self, Need, has_venv, on_path};
use crate::step;
use crate::workspace::{Workspace, cargo};

const PEERS: &[Need] = &[
    Need {
        what: "a PostgreSQL server",
        package: "postgresql",
        is_met: || postgres::newest_bin().is_some(),
    },
    Need { what: "a RabbitMQ broker", package: "rabbitmq-server", is_met: rabbit::is_installed },
    Need { what: "Python's venv, for a consumer", package: "python3-venv", is_met: has_venv },
    Need { what: "tmux, a peer", package: "tmux", is_met: || on_path("tmux") },
    Need { what: "dtach, a peer", package: "dtach", is_met: || on_path("dtach") },
];

/// Peers that Debian does not have, with the versions that are built from their sources.
const BUILT_PEERS: &[(&str, &str)] = &[("pueue", "4.0.4"), ("shpool", "0.11.5")];

/// Builds the peers that are missing below `root`, and tells those that cannot be had, each as
/// `NAME=WHY`. The bench goes on without them, and says so.
fn build_peers(root: &Path) -> Vec<String> {
    let mut absent = Vec::new();
    for (name, version) in BUILT_PEERS {
        if root.join("bin").join(name).exists() {
            continue;
        }
        let mut install = cargo();
        install.args(["install", "--locked", name, "--version", version, "--root"]).arg(root);
        install.arg("--target-dir").arg(root.join("target"));
        if step::run(&format!("build {name}, a peer"), &mut install).is_err() {
            // What cargo said stands above; its command names directories of this machine.
            absent.push(format!("{name}=`cargo install {name}` failed"));
        }
    }
    absent
}

/// `arguments` go to the bench: `--only ROW`, `--rounds N`. Of a run of all rows the results are
/// kept in `bench/`.
pub(crate) fn bench(arguments: &[String]) -> anyhow::Result<()> {
    machine::install(PEERS)?;
    let mut build = cargo();
    build.args(["build", "--release", "--bins"]);
    for program in PROGRAMS {
        build.args(["--package", program]);
    }
    step::run("build", &mut build)?;
    let mut build = cargo();
    step::run(
        "build the bench",
        build.args(["bench", "--package", "stratavore-bench", "--no-run"]),
    )?;

    let workspace = Workspace::read()?;
    let peers = workspace.target.join("peers");
    let absent = build_peers(&peers);
    let server = Server::start_synced().map_err(|why| anyhow::anyhow!(why))?;
    let mut bench: Command = cargo();
    bench.args([
        "bench",
        "--quiet",
        "--package",
        "stratavore-bench",
        "--bench",
        "stratavore",
        "--",
    ]);
    bench.arg("--bin").arg(workspace.target.join("release"));
    bench.arg("--peers").arg(peers.join("bin"));
    for why in &absent {
        bench.args(["--absent", why]);
    }
    bench.args(arguments);
    if !arguments.iter().any(|argument| argument == "--only" || argument == "--write") {
        bench.arg("--write").arg(workspace.root.join("bench"));
    }
    bench.env(postgres::SERVER_VARIABLE, server.to_string());
    step::run("bench", &mut bench)
}
