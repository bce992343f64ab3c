//! A disk that is full: the daemon stays, says so, and recovers by itself.
//!
//! The disk is a small one of the test's own, in a mount and pid namespace that ends with it.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use stratavore_testkit::world::{World, until};

use super::{is_root, runners, set_mode, told};

/// Set in the part of a test that runs inside its namespaces.
const INSIDE: &str = "STRATAVORE_TEST_NAMESPACES";

/// Runs `inside` in a mount and pid namespace of its own: what it mounts is nobody else's, and what
/// it leaves ends with it. `test` is the test's full name.
#[expect(clippy::print_stderr, reason = "a test that cannot run here says so")]
fn in_namespaces(test: &str, inside: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let unshare = || {
        let mut unshare = Command::new("unshare");
        if !is_root() {
            unshare.args(["--user", "--map-root-user"]);
        }
        unshare.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        unshare
    };
    if !unshare().arg("true").output().is_ok_and(|probe| probe.status.success()) {
        eprintln!("passed over: this host lets nobody make a mount namespace");
        return;
    }
    let own = std::env::current_exe().expect("a test has a program");
    let ran = unshare().arg(own).args(["--exact", test, "--nocapture"]).env(INSIDE, "1").output();
    let ran = ran.expect("the test runs in its namespaces");
    let said = String::from_utf8_lossy(&ran.stdout);
    let complaint = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success() && said.contains("1 passed"), "{said}\n{complaint}");
}

/// A small disk on a directory.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn on(directory: PathBuf, size: &str) -> Self {
        fs::create_dir_all(&directory).unwrap();
        set_mode(&directory, 0o700);
        let options = format!("size={size},mode=700");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "stratavore-test"])
            .arg(&directory)
            .output()
            .unwrap();
        assert!(mounted.status.success(), "{mounted:?}");
        Self(directory)
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Writes until nothing more fits.
    fn fill(&self) {
        let mut filler = File::create(self.filler()).unwrap();
        for block in [64 << 10, 4 << 10, 1] {
            while filler.write_all(&vec![b'x'; block]).is_ok() {}
        }
        assert_eq!(free(&self.0), 0);
    }

    /// Makes so many bytes free of what is full.
    fn leave(&self, bytes: u64) {
        let filler = File::options().write(true).open(self.filler()).unwrap();
        let length = filler.metadata().unwrap().len();
        filler.set_len(length - bytes).unwrap();
        assert!(free(&self.0) >= bytes);
    }

    fn make_room(&self) {
        fs::remove_file(self.filler()).unwrap();
        assert!(free(&self.0) > 1 << 20);
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Also while files on it are open.
        let _ended = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn free(path: &Path) -> u64 {
    let found = rustix::fs::statvfs(path).unwrap();
    found.f_bavail * found.f_frsize
}

fn problems(world: &World) -> String {
    world.json(&["status"])["daemon"]["problems"].to_string()
}

/// Row 31.
#[test]
fn a_full_disk_is_told_and_everything_goes_on_when_there_is_room_again() {
    in_namespaces(
        "bad_days::disk::a_full_disk_is_told_and_everything_goes_on_when_there_is_room_again",
        || {
            let world = World::new();
            let disk = SmallDisk::on(world.path("state"), "8m");
            world.project("demo");
            let runner = world.launch("demo", "one", &["cat"]);
            let daemon = world.daemon_pid();
            disk.fill();
            // Nearly full is enough to launch nothing: what runs needs the rest.
            disk.leave(128 << 10);
            let launch = ["launch", "--project", "demo", "--name", "two", "--", "sleep", "1000"];
            let state = world.path("state").display().to_string();
            told(
                world.run(launch),
                6,
                &["no space is left for a launch", &state, "419430 are needed"],
            );
            assert!(problems(&world).contains("nothing is launched"), "{}", problems(&world));
            disk.fill();

            // More complaints than the log has room for: not even they end the daemon.
            for _ in 0..30 {
                let new = ["new", "next", "--directory", "/tmp"];
                told(world.run(new), 6, &["no space is left", "free some space"]);
            }
            // What fails for the one does so in nobody's way.
            std::thread::scope(|scope| {
                for n in 0..8 {
                    let (world, name) = (&world, format!("next-{n}"));
                    scope.spawn(move || {
                        for _ in 0..10 {
                            let new = ["new", &name, "--directory", "/tmp"];
                            told(world.run(new), 6, &["no space is left", "free some space"]);
                        }
                    });
                }
            });
            told(world.run(launch), 6, &["no space is left", "free some space"]);
            told(world.run(["new", "next", "--directory", "/tmp"]), 6, &["no space is left"]);
            told(world.run(["kill", "one"]), 6, &["no space is left"]);
            let problem = world.run(["--format", "json", "kill", "one"]).fails(6).stderr();
            assert!(problem.contains("\"disk_full\""), "{problem}");

            assert_eq!(world.daemon_pid(), daemon, "the daemon stays");
            let status = world.json(&["status"]);
            assert_eq!(status["daemon"]["health"], "degraded", "{status}");
            assert!(problems(&world).contains("disk: only 0 MiB are free"), "{status}");
            assert_eq!(runners(&world).len(), 1, "nothing half done");
            assert_eq!(world.runner(&runner)["state"], "running");
            assert_eq!(world.agents().len(), 1);
            // The runner goes on, and is typed to and looked at.
            world.run(["send", "one", "still here"]).ok();
            until("the runner answers", || {
                let screen = world.run(["screen", "one"]).ok().stdout();
                if screen.matches("still here").count() == 2 { Ok(()) } else { Err(screen) }
            });

            disk.make_room();
            world.run(launch).ok();
            until("no request of before is counted against it", || match problems(&world) {
                found if found.contains("only 0 MiB") => Err(found),
                _ => Ok(()),
            });
            world.run(["kill", "one"]).ok();
            assert_eq!(world.daemon_pid(), daemon, "all this by the same daemon");
            world.run(["kill", "--all", "--force"]).ok();
            world.run(["daemon", "stop"]).ok();
        },
    );
}

#[test]
fn a_daemon_that_cannot_start_on_a_full_disk_says_so_and_harms_no_runner() {
    in_namespaces(
        "bad_days::disk::a_daemon_that_cannot_start_on_a_full_disk_says_so_and_harms_no_runner",
        || {
            let world = World::new();
            let disk = SmallDisk::on(world.path("state"), "8m");
            world.project("demo");
            let runner = world.launch("demo", "one", &["cat"]);
            let process = world.process_of(&runner);
            world.kill_daemon();
            disk.fill();
            told(world.run(["runners"]), 6, &["no space is left", "free some space"]);
            assert_eq!(world.daemon_pid(), None);
            // What needs no daemon works.
            world.run(["--no-start", "send", "one", "hello"]).ok();

            disk.make_room();
            let shown = world.runner(&runner);
            assert_eq!(shown["state"], "running", "{shown}");
            assert_eq!(world.process_of(&runner), process);
            world.run(["kill", "one"]).ok();
            world.run(["daemon", "stop"]).ok();
        },
    );
}
