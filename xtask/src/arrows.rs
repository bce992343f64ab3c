//! `cargo xtask arrows`: who may depend on whom.
//!
//! Dependencies point one way, down, and what is outside the process has one crate that names it.
//! The tables here are the rule; a crate or an arrow that they do not have is a fault. The check
//! also runs as a test, so that nobody has to remember it.

use crate::workspace::{Kind, Package, Workspace};

/// Each crate with the crates of this workspace that it may be built on.
const ARROWS: &[(&str, &[&str])] = &[
    ("stratavore-config", &[]),
    ("stratavore-core", &[]),
    ("stratavore-audit", &[]),
    ("stratavore-proto", &["stratavore-core"]),
    ("stratavore-store", &["stratavore-core", "stratavore-audit"]),
    ("stratavore-bus", &["stratavore-core"]),
    ("stratavore-assistants", &["stratavore-core"]),
    ("stratavore-notify", &["stratavore-core"]),
    ("stratavore-vault", &["stratavore-core", "stratavore-notify"]),
    ("stratavore-agent", &["stratavore-core", "stratavore-proto"]),
    ("stratavore-runtime", &["stratavore-core", "stratavore-proto", "stratavore-agent"]),
    (
        "stratavore-control",
        &[
            "stratavore-core",
            "stratavore-audit",
            "stratavore-store",
            "stratavore-bus",
            "stratavore-runtime",
            "stratavore-assistants",
            "stratavore-notify",
            "stratavore-vault",
        ],
    ),
    (
        "stratavored",
        &[
            "stratavore-audit",
            "stratavore-config",
            "stratavore-core",
            "stratavore-proto",
            "stratavore-store",
            "stratavore-bus",
            "stratavore-runtime",
            "stratavore-assistants",
            "stratavore-notify",
            "stratavore-vault",
            "stratavore-control",
        ],
    ),
    (
        "stratavore",
        &["stratavore-audit", "stratavore-core", "stratavore-proto", "stratavore-config"],
    ),
    ("stratavore-testkit", &["stratavore-core", "stratavore-proto"]),
    // Measures, and is nothing that is built on: all that it uses is for a bench.
    ("stratavore-bench", &[]),
    ("xtask", &["stratavore-testkit"]),
];

/// Something outside, by the names of its packages, and the only crates that may name it.
struct Wall {
    packages: &'static [&'static str],
    door: &'static [&'static str],
    /// Whether every crate's tests may name it.
    tests_may: bool,
}

const WALLS: &[Wall] = &[
    Wall { packages: &["sqlx"], door: &["stratavore-store"], tests_may: false },
    Wall { packages: &["lapin"], door: &["stratavore-bus"], tests_may: false },
    Wall { packages: &["bollard", "kube"], door: &["stratavore-runtime"], tests_may: false },
    Wall {
        packages: &["hyper"],
        // The agent takes in telemetry, and the testkit stands in for those that are talked to.
        door: &["stratavore-notify", "stratavore-agent", "stratavore-testkit"],
        tests_may: false,
    },
    Wall { packages: &["zstd", "rusty-s3"], door: &["stratavore-vault"], tests_may: false },
    Wall { packages: &["axum"], door: &["stratavored"], tests_may: false },
    Wall {
        packages: &["tonic", "tonic-health", "tonic-prost", "tonic-prost-build"],
        door: &["stratavore-proto", "stratavored", "stratavore", "stratavore-testkit"],
        tests_may: false,
    },
    Wall {
        packages: &["vt100"],
        // The agent's model is the runner's screen; the command line's shows it on a terminal of
        // another size.
        door: &["stratavore-agent", "stratavore", "stratavore-testkit"],
        tests_may: true,
    },
];

/// What only tests are built on. A crate may offer them a feature that needs it.
const FOR_TESTS: &str = "stratavore-testkit";

/// The name of such a feature in every crate that has one. What users get never turns it on.
const TEST_FEATURE: &str = "testing";

/// What the core may not name, not even in its tests: it does no I/O.
const NOT_IN_CORE: &[&str] = &["tokio", "tokio-util", "rustix", "tempfile"];

pub(crate) fn arrows() -> anyhow::Result<()> {
    let faults = faults(&Workspace::read()?.packages);
    anyhow::ensure!(faults.is_empty(), "{}", faults.join("\n"));
    eprintln!("arrows: every dependency is one that the design has");
    Ok(())
}

/// Every dependency that the tables do not allow, a sentence each.
fn faults(packages: &[Package]) -> Vec<String> {
    let mut faults = Vec::new();
    for Package { name, dependencies } in packages {
        let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| from == name) else {
            faults.push(format!("{name}: not in the table of arrows; add it with what it may use"));
            continue;
        };
        for dependency in dependencies {
            let to = dependency.name.as_str();
            let in_tests = dependency.kind == Some(Kind::Dev);
            let is_ours = packages.iter().any(|package| package.name == to);
            let for_a_feature = to == FOR_TESTS && dependency.optional;
            if is_ours && !in_tests && !for_a_feature && !allowed.contains(&to) {
                faults.push(format!("{name} -> {to}: an arrow against the design"));
            }
            let turned_on = dependency.features.iter().any(|feature| feature == TEST_FEATURE);
            if is_ours && !in_tests && turned_on {
                faults.push(format!("{name} -> {to}: turns `{TEST_FEATURE}` on outside tests"));
            }
            for wall in WALLS.iter().filter(|wall| wall.packages.contains(&to)) {
                let may_pass = wall.door.contains(&name.as_str()) || (in_tests && wall.tests_may);
                if !may_pass {
                    let door = wall.door.join(", ");
                    faults.push(format!("{name} -> {to}: only {door} may name it"));
                }
            }
            if name == "stratavore-core" && NOT_IN_CORE.contains(&to) {
                faults.push(format!("{name} -> {to}: the core does no I/O"));
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Dependency;

    fn package(name: &str, dependencies: &[(&str, Option<Kind>)]) -> Package {
        let dependencies = dependencies
            .iter()
            .map(|(name, kind)| Dependency {
                name: (*name).to_owned(),
                kind: *kind,
                optional: false,
                features: Vec::new(),
            })
            .collect();
        Package { name: name.to_owned(), dependencies }
    }

    #[test]
    fn the_workspace_keeps_to_the_design() {
        assert_eq!(faults(&Workspace::read().unwrap().packages), Vec::<String>::new());
    }

    #[test]
    fn every_crate_of_the_table_exists() {
        let packages = Workspace::read().unwrap().packages;
        for (from, to) in ARROWS {
            for name in std::iter::once(from).chain(*to) {
                assert!(packages.iter().any(|package| package.name == *name), "{name} is no crate");
            }
        }
    }

    /// The control: each kind of forbidden arrow is reported, and its allowed twin is not.
    #[test]
    fn forbidden_arrows_are_reported() {
        let made_up = [
            package("stratavore-core", &[("stratavore-store", None), ("tokio", Some(Kind::Dev))]),
            package("stratavore-store", &[("stratavore-core", None), ("sqlx", None)]),
            package(
                "stratavore-control",
                &[
                    ("stratavore-testkit", None),
                    ("sqlx", Some(Kind::Dev)),
                    ("tonic", None),
                    ("vt100", Some(Kind::Dev)),
                ],
            ),
            package("stratavore", &[("lapin", None), ("stratavore-testkit", Some(Kind::Dev))]),
            package("stratavore-bus", &[("stratavore-control", Some(Kind::Build))]),
            package("stratavore-testkit", &[]),
            package("stratavore-novelty", &[]),
        ];
        assert_eq!(
            faults(&made_up),
            [
                "stratavore-core -> stratavore-store: an arrow against the design",
                "stratavore-core -> tokio: the core does no I/O",
                "stratavore-control -> stratavore-testkit: an arrow against the design",
                "stratavore-control -> sqlx: only stratavore-store may name it",
                "stratavore-control -> tonic: only stratavore-proto, stratavored, stratavore, \
                 stratavore-testkit may name it",
                "stratavore -> lapin: only stratavore-bus may name it",
                "stratavore-bus -> stratavore-control: an arrow against the design",
                "stratavore-novelty: not in the table of arrows; add it with what it may use",
            ]
        );
    }

    #[test]
    fn the_testkit_comes_only_by_a_feature_that_no_program_turns_on() {
        let mut store = package("stratavore-store", &[("stratavore-testkit", None)]);
        store.dependencies[0].optional = true;
        let mut daemon = package(
            "stratavored",
            &[("stratavore-store", Some(Kind::Dev)), ("stratavore-store", None)],
        );
        daemon.dependencies[0].features.push(TEST_FEATURE.to_owned());
        let mut packages = [store, daemon, package("stratavore-testkit", &[])];
        assert_eq!(faults(&packages), Vec::<String>::new());

        packages[1].dependencies[1].features.push(TEST_FEATURE.to_owned());
        assert_eq!(
            faults(&packages),
            ["stratavored -> stratavore-store: turns `testing` on outside tests"]
        );
    }
}
