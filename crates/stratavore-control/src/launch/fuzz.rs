//! T-FUZZ of the path policy: whatever is given as a directory, over a tree with links in it, becomes
//! the one name of a directory that the file system has for it, or an error of one line.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Component, Path, PathBuf};

use stratavore_testkit::fuzz::{Corpus, bears, fuzz};
use stratavore_testkit::trial::{Trial, scale};

use super::resolve_directory;
use crate::error::Error;

/// Directories, files, and links that lead up, down, out, round and nowhere.
fn tree() -> tempfile::TempDir {
    let tree = tempfile::tempdir().unwrap();
    let root = tree.path();
    for directory in ["a/b/c", "a/-rf", "sp ace", "new\nline", "\u{202e}back"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::create_dir(root.join(OsStr::from_bytes(b"\xff\xfe"))).unwrap();
    fs::write(root.join("a/file"), "").unwrap();
    let links = [
        ("../..", "a/b/up"),
        ("b/c", "a/down"),
        ("/", "a/out"),
        ("round", "a/round"),
        ("nowhere", "a/dangling"),
        ("file", "a/to-a-file"),
    ];
    for (to, at) in links {
        symlink(to, root.join(at)).unwrap();
    }
    tree
}

fn corpus(root: &Path) -> Corpus {
    let below = [
        "",
        "/",
        "a",
        "a/b/../b/./c",
        "a/b/up/a/down",
        "a/down/..",
        "a/out/etc",
        "a/out/../..",
        "a/round",
        "a/dangling",
        "a/dangling/..",
        "a/file",
        "a/to-a-file/..",
        "a/-rf",
        "sp ace",
        "new\nline",
        "a//b///c/",
        "nobody/../a",
        "a/b/up/a/b/up/a/b/up",
        "\u{202e}back",
        "a/b/c/../../..",
    ];
    let root = root.as_os_str().as_bytes();
    let mut all: Vec<Vec<u8>> =
        below.iter().map(|below| [root, b"/", below.as_bytes()].concat()).collect();
    all.push([root, b"/\xff\xfe"].concat());
    all.push([root, b"/a\0/b"].concat());
    all.extend(
        ["a/b", "", ".", "..", "~", "~/a", "$HOME", "/", "/..", "/proc/self/cwd"].map(Into::into),
    );
    all.push(b"/a".repeat(3000));
    all.push([&b"/".repeat(5000), root].concat());
    Corpus::new(all)
}

/// Whether an answer is the name of the directory that was meant, or says in one line what is wrong.
fn judge(given: &[u8], resolve: impl Fn(&Path) -> Result<String, Error>) -> Result<(), String> {
    let given = Path::new(OsStr::from_bytes(given));
    let resolved = match resolve(given) {
        Ok(resolved) => PathBuf::from(resolved),
        Err(error) => {
            let said = error.to_string();
            let clean = !said.is_empty() && !said.contains(char::is_control);
            return if clean {
                Ok(())
            } else {
                Err(format!("an error of several lines: {said:?}"))
            };
        }
    };
    if !given.is_absolute() || !resolved.is_absolute() {
        return Err(format!("{resolved:?} depends on where one is"));
    }
    let mut so_far = PathBuf::new();
    for part in resolved.components() {
        so_far.push(part);
        let is_link = fs::symlink_metadata(&so_far).is_ok_and(|meta| meta.is_symlink());
        if is_link || !matches!(part, Component::RootDir | Component::Normal(_)) {
            return Err(format!("{resolved:?} leads on at {so_far:?}"));
        }
    }
    // The kernel's own answer: it follows what was given, and must come to the same place.
    let place =
        |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino(), meta.is_dir()));
    match (place(given), place(&resolved)) {
        (Ok(meant), Ok(found)) if meant == found && found.2 => Ok(()),
        both => Err(format!("{resolved:?} is not the directory that was meant: {both:?}")),
    }
}

#[test]
fn t_fuzz_no_path_gets_past_the_policy_of_directories() {
    let mut trial = Trial::new(
        "T-FUZZ path policy",
        "whatever is given as a directory, its one name without links, or an error of one line",
    );
    let mut dice = trial.dice();
    let tree = tree();
    let corpus = corpus(tree.path());
    fuzz(&mut trial, &mut dice, scale(3000, 500_000), &corpus, |given| {
        judge(given, resolve_directory)
    });
    // The control: a path that is put together and believed.
    let joined = |given: &Path| match tree.path().join(given).to_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(Error::invalid("not text", "name another")),
    };
    let caught =
        (0..200).any(|_| bears(&corpus.input(&mut dice), |given| judge(given, joined)).is_err());
    trial.control("a path that is joined and not resolved", caught);
    trial.end();
}
