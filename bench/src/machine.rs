//! What was measured on.

use std::fs;
use std::process::Command;

use crate::Lab;

pub(crate) struct Facts {
    pub machine: String,
    /// The programs that others wrote.
    pub versions: String,
    pub commit: String,
    /// Load averages before the first row.
    pub load: String,
}

pub(crate) fn facts(lab: &Lab) -> anyhow::Result<Facts> {
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("an unknown processor", |(_, model)| model);
    let machine = format!("{cpus} cores of {model}, Linux {}", kernel.trim_end());

    let postgres = stratavore_testkit::postgres::newest_bin()
        .map(|bin| said(Command::new(bin.join("postgres")).arg("--version")));
    let built = |name: &str| {
        let mut program = Command::new(lab.peers.join(name));
        first_line(&said(program.arg(if name == "shpool" { "version" } else { "--version" })))
    };
    let versions = [
        said(Command::new("tmux").arg("-V")),
        first_line(&said(Command::new("dtach").arg("--help"))),
        built("pueue"),
        built("shpool"),
        postgres.unwrap_or_default(),
        stratavore_testkit::rabbit::version()
            .map_or_else(String::new, |version| format!("RabbitMQ {version}")),
    ]
    .into_iter()
    .filter(|version| !version.is_empty())
    .collect::<Vec<_>>();
    let dirty = !said(Command::new("git").args(["status", "--porcelain", "-uno"])).is_empty();
    let commit = said(Command::new("git").args(["rev-parse", "--short", "HEAD"]));
    Ok(Facts {
        machine,
        versions: versions.join(", "),
        commit: format!("{commit}{}", if dirty { " with changes" } else { "" }),
        load: load(),
    })
}

pub(crate) fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn said(command: &mut Command) -> String {
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).trim().to_owned()
}

fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.split(',').next().unwrap_or_default().replace(" - version", "")
}
