//! Row 78, beside what `bad_days::start` shows of directories: what is kept is ours alone, nothing
//! has a place that others could guess and take, and who listens in our place is not talked to.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::process::Uid;
use stratavore_testkit::world::World;

use crate::bad_days::{is_root, set_mode, told};

/// Every file below, directories too.
pub(super) fn below(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![directory.to_owned()];
    for entry in fs::read_dir(directory).unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(below(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

fn reachable_by_others(directories: &[PathBuf]) -> Vec<PathBuf> {
    let all = directories.iter().flat_map(|directory| below(directory));
    let open = |path: &PathBuf| fs::symlink_metadata(path).unwrap().mode() & 0o077 != 0;
    all.filter(open).collect()
}

#[test]
fn all_that_is_kept_is_ours_alone_and_nothing_stands_where_others_can_guess() {
    let mut world = World::new();
    let shared = world.path("tmp");
    fs::create_dir(&shared).unwrap();
    set_mode(&shared, 0o777);
    world.set_env("TMPDIR", &shared.display().to_string());
    world.project("demo");
    let runner = world.launch("demo", "one", &["sh", "-c", "echo hello; exec cat"]);
    world.run(["screen", "one"]).ok();
    world.run(["daemon", "restart"]).ok();
    world.launch("demo", "two", &["true"]);
    world.until_state("two", &["exited"]);
    world.run(["events"]).ok();

    let kept = [world.path("state"), world.path("run")];
    assert_eq!(reachable_by_others(&kept), Vec::<PathBuf>::new());
    let own = format!("state/runners/{runner}/agent.sock");
    for socket in ["run/d.sock", "state/agents.sock", &own] {
        let found = fs::metadata(world.path(socket)).unwrap();
        assert!(found.file_type().is_socket(), "{socket}");
    }
    assert_eq!(
        below(&shared),
        std::slice::from_ref(&shared),
        "nothing was left where everybody writes"
    );
    // Sockets without a file have no permissions.
    let abstract_ones = fs::read_to_string("/proc/net/unix").unwrap();
    let ours = |line: &&str| line.contains(" @") && line.contains("stratavore");
    assert_eq!(abstract_ones.lines().find(ours), None);

    // The control: one file of one runner that others may read.
    let spec = world.path(&format!("state/runners/{runner}/spec.json"));
    fs::set_permissions(&spec, PermissionsExt::from_mode(0o640)).unwrap();
    assert_eq!(reachable_by_others(&kept), [spec]);
}

/// Listens on `path` as another user, and answers what the first visitor says.
fn listens_as_another(path: &Path) -> impl FnOnce() -> Vec<u8> + use<> {
    let at = path.to_owned();
    let listening = std::thread::spawn(move || {
        let other = Some(Uid::from_raw(12345));
        // Of this thread alone: it is who listens that the kernel tells a visitor.
        rustix::thread::set_thread_res_uid(other, other, other).unwrap();
        UnixListener::bind(at).unwrap()
    });
    let listener = listening.join().unwrap();
    move || {
        listener.set_nonblocking(true).unwrap();
        let mut said = Vec::new();
        while let Ok((mut stream, _)) = listener.accept() {
            // A visitor that goes away has said all it wanted.
            stream.read_to_end(&mut said).ok();
        }
        said
    }
}

#[test]
fn somebody_else_who_listens_in_the_daemons_place_is_told_nothing() {
    if !is_root() {
        return; // only root can be two users
    }
    let world = World::new();
    let run = world.path("run");
    fs::create_dir(&run).unwrap();
    set_mode(&run, 0o777);
    let socket = run.join("d.sock");
    let above = socket.ancestors().nth(2).unwrap();
    set_mode(above, 0o755);
    let said = listens_as_another(&socket);
    set_mode(&socket, 0o777);
    for arguments in [&["runners"][..], &["send", "one", "secret"], &["daemon", "stop"]] {
        told(world.run(arguments), 8, &["d.sock", "user 12345"]);
    }
    assert_eq!(said(), b"", "not even a greeting");
}
