//! What the tests need on this machine, and how to get it: Debian packages through apt-get, and the
//! assistants that they run for real through npm.

use std::path::Path;
use std::process::{Command, Stdio};

use stratavore_testkit::{pgvector, postgres, programs, rabbit};

use crate::step;

/// Something that a verb runs, and the Debian package that has it.
pub(crate) struct Need {
    pub(crate) what: &'static str,
    pub(crate) package: &'static str,
    pub(crate) is_met: fn() -> bool,
}

const NEEDS: &[Need] = &[
    Need {
        what: "a PostgreSQL server",
        package: "postgresql",
        is_met: || postgres::newest_bin().is_some(),
    },
    Need { what: "a RabbitMQ broker", package: "rabbitmq-server", is_met: rabbit::is_installed },
    Need {
        what: "Python that can make environments, for a consumer of another language",
        package: "python3-venv",
        is_met: has_venv,
    },
    Need { what: "vim, a full-screen program", package: "vim", is_met: || on_path("vim") },
    Need { what: "npm, for assistants", package: "npm", is_met: || on_path("npm") },
    Need { what: "a C compiler", package: "build-essential", is_met: || on_path("cc") },
    Need { what: "setpriv", package: "util-linux", is_met: || on_path("setpriv") },
    Need { what: "strace", package: "strace", is_met: || on_path("strace") },
    Need { what: "ps", package: "procps", is_met: || on_path("ps") },
    Need { what: "ip", package: "iproute2", is_met: || is_installed("ip") },
    Need { what: "iptables", package: "iptables", is_met: || is_installed("iptables") },
];

pub(crate) fn has_venv() -> bool {
    let mut python = Command::new("python3");
    let tried = python.args(["-c", "import venv, ensurepip"]).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}

/// How this process may become root.
enum Root {
    Already,
    Sudo,
    No,
}

/// Installs what is missing of what the tests need.
///
/// The private server of the tests is not the cluster that Debian's package makes on its own; that
/// one is neither used nor touched.
pub(crate) fn prepare() -> anyhow::Result<()> {
    install(NEEDS)?;
    pgvector::prepare().map_err(anyhow::Error::msg)?;
    programs::prepare().map_err(anyhow::Error::msg)
}

/// Installs what is missing. Does nothing, and needs no rights, if nothing is.
///
/// # Errors
/// Names the packages if they cannot be installed from here.
pub(crate) fn install(needs: &'static [Need]) -> anyhow::Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|need| !(need.is_met)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    let wanted = packages.join(" ");
    for need in &missing {
        eprintln!("missing: {} (package {})", need.what, need.package);
    }
    anyhow::ensure!(
        on_path("apt-get"),
        "this is not a Debian system; install what these Debian packages have, then run this \
         again: {wanted}"
    );

    let apt = |arguments: &[&str]| -> anyhow::Result<Command> {
        let mut command = match root() {
            Root::Already => Command::new("env"),
            Root::Sudo => {
                let mut sudo = Command::new("sudo");
                sudo.args(["-n", "env"]);
                sudo
            }
            Root::No => anyhow::bail!(
                "installing needs root, and sudo without a password is not allowed here; run \
                 `apt-get install {wanted}` as root, then this again"
            ),
        };
        command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]).args(arguments);
        command.stdin(Stdio::null());
        Ok(command)
    };
    step::run("package lists", &mut apt(&["update", "-q"])?)?;
    let mut install = apt(&["install", "-q", "-y", "--no-install-recommends"])?;
    step::run("packages", install.args(&packages))?;

    let still: Vec<&str> =
        missing.iter().filter(|need| !(need.is_met)()).map(|need| need.what).collect();
    anyhow::ensure!(
        still.is_empty(),
        "installed {wanted}, but still missing: {}",
        still.join(", ")
    );
    Ok(())
}

fn root() -> Root {
    if rustix::process::geteuid().is_root() {
        return Root::Already;
    }
    let sudo = Command::new("sudo").args(["-n", "true"]).stderr(Stdio::null()).status();
    if sudo.is_ok_and(|status| status.success()) { Root::Sudo } else { Root::No }
}

/// The same of a program for administrators, which others need not have on their PATH.
fn is_installed(program: &str) -> bool {
    on_path(program)
        || ["/usr/sbin", "/sbin"].iter().any(|dir| Path::new(dir).join(program).is_file())
}

/// Whether a program of this name stands on the PATH.
pub(crate) fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_or_not() {
        assert!(on_path("sh"));
        assert!(!on_path("no-such-program-anywhere"));
    }
}
