//! The programs of the version before, for tests of what they and ours do beside each other.
//!
//! `cargo xtask test-long` builds them from the repository's history and names their directory. The small
//! counts do without: there copies of our own stand for them, so that no change waits for a second build.

use std::fs;
use std::path::{Path, PathBuf};

use crate::trial::is_long;
use crate::world::World;

/// Names the directory of the programs of the version before.
pub const BEFORE_VARIABLE: &str = "STRATAVORE_TEST_BEFORE";

/// What users get, and what is replaced by another version of it.
const PROGRAMS: [&str; 3] = ["stratavore", "stratavored", "stratavore-agent"];

/// Programs that others of their names are replaced by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Before {
    pub directory: PathBuf,
    /// What they are, in a few words.
    pub told: String,
}

impl Before {
    /// Those of the version before; with the small counts and none given, copies of ours in this world.
    ///
    /// # Panics
    /// If the full counts were asked for and there are none.
    #[track_caller]
    pub fn find(world: &World) -> Self {
        match std::env::var_os(BEFORE_VARIABLE).filter(|named| !named.is_empty()) {
            Some(directory) => Self::given(Path::new(&directory)),
            None if is_long() => panic!(
                "the full counts are of the version before, and {BEFORE_VARIABLE} names no \
                 directory of its programs; `cargo xtask test-long` builds them and does"
            ),
            None => Self::copied(&world.path("copies")),
        }
    }

    #[track_caller]
    fn given(directory: &Path) -> Self {
        for program in PROGRAMS {
            let path = directory.join(program);
            assert!(path.is_file(), "{BEFORE_VARIABLE}: there is no {}", path.display());
        }
        let commit = directory.file_name().unwrap_or_default().to_string_lossy();
        Self { directory: directory.to_owned(), told: format!("the version before ({commit})") }
    }

    fn copied(directory: &Path) -> Self {
        fs::create_dir_all(directory).expect("a directory for copies");
        for program in PROGRAMS {
            let (ours, copy) = (World::program(program), directory.join(program));
            // Another file system than that of the builds takes a copy.
            if fs::hard_link(&ours, &copy).is_err() {
                fs::copy(&ours, &copy).expect("a program can be copied");
            }
        }
        Self { directory: directory.to_owned(), told: "a copy of this version".into() }
    }

    /// Whether a process runs one of these programs.
    pub fn runs(&self, pid: u32) -> bool {
        fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.starts_with(&self.directory))
    }
}
