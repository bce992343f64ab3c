//! Row 80: variables that turn a program into another one.

use std::fs;

use stratavore_testkit::world::{World, until};

use super::tame;
use crate::bad_days::{runners, told};

/// One of each way to have other code run: loaders, interpreters, shells, version control, ours.
const HARMFUL: [&str; 44] = [
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "LD_AUDIT",
    "DYLD_INSERT_LIBRARIES",
    "GLIBC_TUNABLES",
    "GCONV_PATH",
    "LOCPATH",
    "PATH",
    "IFS",
    "ENV",
    "BASH_ENV",
    "BASH_FUNC_ls",
    "BASHOPTS",
    "SHELLOPTS",
    "PS4",
    "PROMPT_COMMAND",
    "ZDOTDIR",
    "NODE_OPTIONS",
    "NODE_PATH",
    "ELECTRON_RUN_AS_NODE",
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONSTARTUP",
    "PYTHONBREAKPOINT",
    "PERL5OPT",
    "PERL5LIB",
    "PERL5DB",
    "RUBYOPT",
    "RUBYLIB",
    "JAVA_TOOL_OPTIONS",
    "_JAVA_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_EXTERNAL_DIFF",
    "GIT_PROXY_COMMAND",
    "GIT_ASKPASS",
    "GIT_EXEC_PATH",
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_GLOBAL",
    "SSH_ASKPASS",
    "STRATAVORE_RUNNER_ID",
    "STRATAVORE_HOME",
    "STRATAVORE_FAILPOINTS",
];

/// The environment of a runner's program, as the kernel has it.
fn environment(world: &World, runner: &str) -> Vec<(String, String)> {
    let pid = world.process_of(runner).pid;
    let environ = fs::read(format!("/proc/{pid}/environ")).unwrap();
    let text = String::from_utf8_lossy(&environ).into_owned();
    let pairs = text.split_terminator('\0').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

#[test]
fn a_variable_that_makes_a_program_another_one_is_refused_and_never_inherited() {
    let mut world = World::new();
    // The daemon has them all: whoever started it may have.
    // But those that the loader itself would complain of, and ours.
    let own = |name: &str| {
        ["PATH", "LD_PRELOAD", "LD_AUDIT"].contains(&name) || name.starts_with("STRATAVORE_")
    };
    for variable in HARMFUL.iter().filter(|name| !own(name)) {
        world.set_env(variable, "canary-of-the-daemon");
    }
    world.set_env("SAFE", "canary-that-is-asked-for");
    world.project("demo");
    for variable in HARMFUL {
        for value in ["canary", "env:SAFE", "file:/etc/hostname"] {
            let given = format!("{variable}={value}");
            let ran =
                tame(world.run(["launch", "-p", "demo", "--env", &given, "--", "true"]), &given);
            let said = told(ran, 2, &[variable, "may not set", "runner.env_allow"]);
            assert!(!said.contains(value), "{said}");
        }
    }
    for given in ["=x", "A B=x", "A\n=x", "1A=x", "Ä=x", "A-B=x", "BASH_FUNC_ls%%=() { id; }"] {
        told(world.run(["launch", "-p", "demo", "--env", given, "--", "true"]), 2, &["name"]);
    }
    assert!(runners(&world).is_empty(), "nobody was admitted");

    // The control: others arrive, as they were given, and references as what they refer to.
    let awkward = "$(id) `id` 'x' \"y\" \\ %s \n\u{1b}[2J";
    let options =
        ["--env", &format!("MODE={awkward}"), "--env", "PATHS=/a:/b", "--env", "GIVEN=env:SAFE"];
    let runner = world.launch_with("demo", "one", &options, &["sleep", "1000"]);
    let found = environment(&world, &runner);
    let of =
        |key: &str| found.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
    assert_eq!((of("MODE"), of("PATHS")), (Some(awkward), Some("/a:/b")));
    assert_eq!(of("GIVEN"), Some("canary-that-is-asked-for"));
    let inherited: Vec<_> = found.iter().filter(|(_, value)| value.contains("canary-of")).collect();
    assert!(inherited.is_empty(), "{inherited:?}");
    for variable in HARMFUL.iter().filter(|name| !["PATH", "STRATAVORE_RUNNER_ID"].contains(name)) {
        assert_eq!(of(variable), None, "{variable}");
    }
    assert_eq!(of("STRATAVORE_RUNNER_ID"), Some(runner.as_str()));
    assert_eq!(of("PATH"), std::env::var("PATH").ok().as_deref(), "the daemon's");
}

/// What the host's owner allows by name is allowed, and nothing beside it.
#[test]
fn a_variable_that_the_configuration_names_may_be_set() {
    let world = World::with_config("runner:\n  env_allow: [NODE_OPTIONS]\n");
    world.project("demo");
    let options = ["--env", "NODE_OPTIONS=--max-old-space-size=4096"];
    let runner = world.launch_with("demo", "one", &options, &["sleep", "1000"]);
    let found = until("the program has its environment", || {
        let found = environment(&world, &runner);
        if found.is_empty() { Err(()) } else { Ok(found) }
    });
    assert!(found.contains(&("NODE_OPTIONS".into(), "--max-old-space-size=4096".into())));
    for given in ["NODE_PATH=/x", "LD_PRELOAD=/x"] {
        told(
            world.run(["launch", "-p", "demo", "--env", given, "--", "true"]),
            2,
            &["may not set"],
        );
    }
    assert_eq!(runners(&world).len(), 1);
}

/// A reference that leads nowhere starts nothing: a program without its key would ask a person.
#[test]
fn a_reference_to_a_variable_that_is_not_there_is_refused() {
    let world = World::new();
    world.project("demo");
    let launch = ["launch", "-p", "demo", "--env", "KEY=env:NO_SUCH_VARIABLE", "--", "true"];
    told(world.run(launch), 2, &["KEY", "NO_SUCH_VARIABLE", "daemon"]);
    assert!(runners(&world).is_empty());
}
