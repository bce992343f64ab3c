//! Reads the layers from where they are: files, a map of variables, flags.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::Paths;
use crate::error::ConfigError;
use crate::merge::{FileText, Loaded, VARIABLE_PREFIX, merge};
use crate::settings::Config;

/// Variables by name.
pub type Environment = BTreeMap<String, String>;

/// A process's variables as a map, without those that are not UTF-8: none of ours can be.
pub fn environment(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Environment {
    let text = |(name, value): (OsString, OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    variables.into_iter().filter_map(text).collect()
}

/// Variables that begin like ours and are not configuration keys. The last three belong to builds.
const OTHER_VARIABLES: [&str; 8] =
    ["HOME", "RUNNER_ID", "LOG", "FAILPOINTS", "CONFIG", "COMMIT", "BUILD_SECONDS", "TARGET"];
/// Such variables with names of all kinds.
const OTHER_PREFIXES: [&str; 1] = ["TEST_"];

/// The largest file that is read.
const FILE_MAX: u64 = 1 << 20;

/// Where to look for configuration.
#[derive(Debug, Clone)]
pub struct Sources<'a> {
    /// Files that need not exist, weakest first.
    pub files: Vec<PathBuf>,
    /// A file that must exist, in place of all `files`.
    pub file: Option<PathBuf>,
    pub environment: &'a Environment,
    /// Keys and values, such as `("daemon.log", "json")`. A later one wins.
    pub flags: Vec<(String, String)>,
}

impl<'a> Sources<'a> {
    /// The usual ones: the files of `paths`, or the one that `STRATAVORE_CONFIG` names.
    pub fn new(paths: &Paths, environment: &'a Environment) -> Self {
        let file =
            environment.get("STRATAVORE_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
        Self { files: paths.config_files(), file, environment, flags: Vec::new() }
    }
}

impl Config {
    /// Reads and checks all layers. Blocks on files.
    pub fn load(sources: &Sources<'_>) -> Result<Loaded, ConfigError> {
        let mut files = Vec::new();
        match &sources.file {
            Some(path) => files.push(read(path)?),
            None => {
                for path in &sources.files {
                    match read(path) {
                        Ok(file) => files.push(file),
                        Err(ConfigError::Read { cause, .. }) if is_absent(&cause) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        merge(&files, &variables(sources.environment), &sources.flags)
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn variables(environment: &Environment) -> Vec<(String, String)> {
    let ours = environment
        .iter()
        .filter_map(|(name, value)| Some((name.strip_prefix(VARIABLE_PREFIX)?, value)));
    ours.filter(|(name, _)| {
        !OTHER_VARIABLES.contains(name) && !OTHER_PREFIXES.iter().any(|p| name.starts_with(p))
    })
    .map(|(name, value)| (name.to_string(), value.clone()))
    .collect()
}

fn read(path: &Path) -> Result<FileText, ConfigError> {
    let failed = |cause| ConfigError::Read { path: path.into(), cause };
    let refused = |reason| ConfigError::NotAFile { path: path.into(), reason };
    // Not blocking, or a pipe in its place would keep us waiting for ever.
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).expect("a flag of open(2)");
    let file =
        std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
    // Of the file that was opened: the path may name another one by now.
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(refused("it is not a regular file"));
    }
    let (me, owner, mode) = (rustix::process::geteuid().as_raw(), found.uid(), found.mode());
    if owner != me && owner != 0 {
        return Err(ConfigError::Owner { path: path.into(), owner, me });
    }
    if mode & 0o002 != 0 {
        return Err(ConfigError::WorldWritable { path: path.into(), mode: mode & 0o777 });
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(refused("it is larger than 1MiB"));
    }
    let text = String::from_utf8(bytes).map_err(|_| refused("it is not UTF-8 text"))?;
    Ok(FileText { path: path.into(), text, mode })
}
