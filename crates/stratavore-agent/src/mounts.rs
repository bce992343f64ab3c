//! Where the cgroup trees are mounted, and where in them this process is.

use std::fs;
use std::path::{Path, PathBuf};

/// The trees, each with this process's own directory in it.
#[derive(Debug, Default)]
pub(crate) struct Mounts {
    trees: Vec<Tree>,
}

#[derive(Debug, PartialEq, Eq)]
struct Tree {
    /// Empty for the v2 tree.
    controllers: Vec<String>,
    mounted_at: PathBuf,
    own: PathBuf,
}

impl Mounts {
    pub(crate) fn of_self() -> Self {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let cgroup = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::parse(&mountinfo, &cgroup)
    }

    fn parse(mountinfo: &str, cgroup: &str) -> Self {
        let mut trees = Vec::new();
        for line in mountinfo.lines() {
            // id parent device root mount-point options tags… - type source super-options
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let left: Vec<&str> = left.split(' ').collect();
            let right: Vec<&str> = right.split(' ').collect();
            let (&[_, _, _, root, at, ..], &[kind, _, options, ..]) = (&left[..], &right[..])
            else {
                continue;
            };
            let options: Vec<&str> = options.split(',').collect();
            let own = match kind {
                "cgroup2" => own_path(cgroup, |controllers| controllers.is_empty()),
                "cgroup" => own_path(cgroup, |controllers| {
                    !controllers.is_empty()
                        && controllers.split(',').all(|one| options.contains(&one))
                }),
                _ => None,
            };
            let Some((controllers, path)) = own else { continue };
            // In a container the mount shows a part of the tree; what is outside cannot be named.
            let Ok(below) = Path::new(path).strip_prefix(root) else { continue };
            trees.push(Tree {
                controllers: controllers
                    .split(',')
                    .filter(|c| !c.is_empty())
                    .map(str::to_owned)
                    .collect(),
                mounted_at: at.into(),
                own: Path::new(at).join(below),
            });
        }
        Self { trees }
    }

    /// This process's directory in the v2 tree.
    pub(crate) fn unified(&self) -> Option<PathBuf> {
        self.trees.iter().find(|tree| tree.controllers.is_empty()).map(|tree| tree.own.clone())
    }

    /// This process's directory in the v1 tree of `controller`.
    pub(crate) fn controller(&self, controller: &str) -> Option<PathBuf> {
        let has = |tree: &&Tree| tree.controllers.iter().any(|one| one == controller);
        self.trees.iter().find(has).map(|tree| tree.own.clone())
    }

    /// True if `dir` is where a tree is mounted.
    pub(crate) fn is_root(&self, dir: &Path) -> bool {
        self.trees.iter().any(|tree| tree.mounted_at == dir)
    }
}

/// The controllers and the path of the line of `/proc/self/cgroup` that `wanted` accepts.
fn own_path(cgroup: &str, wanted: impl Fn(&str) -> bool) -> Option<(&str, &str)> {
    cgroup.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        wanted(controllers).then_some((controllers, path))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tree() {
        let mountinfo =
            "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let mounts =
            Mounts::parse(mountinfo, "0::/user.slice/user@1000.service/app.slice/a.scope\n");
        let own = PathBuf::from("/sys/fs/cgroup/user.slice/user@1000.service/app.slice/a.scope");
        assert_eq!(mounts.unified(), Some(own.clone()));
        assert_eq!(mounts.controller("memory"), None);
        assert!(!mounts.is_root(&own));
    }

    #[test]
    fn a_tree_for_each_controller_and_one_without() {
        let mountinfo = "31 23 0:27 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n\
             32 31 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
             33 31 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
             34 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
             35 31 0:31 /outer /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let cgroup = "4:memory:/outer/inner\n3:cpu,cpuacct:/a\n1:name=systemd:/init\n0::/\n";
        let mounts = Mounts::parse(mountinfo, cgroup);
        assert_eq!(mounts.unified(), Some("/sys/fs/cgroup/unified/".into()));
        assert_eq!(mounts.controller("cpu"), Some("/sys/fs/cgroup/cpu,cpuacct/a".into()));
        assert_eq!(mounts.controller("memory"), Some("/sys/fs/cgroup/memory/inner".into()));
        assert_eq!(mounts.controller("pids"), None);
        assert!(mounts.is_root(Path::new("/sys/fs/cgroup/unified")));
    }
}
