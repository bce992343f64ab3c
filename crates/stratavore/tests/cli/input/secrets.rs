//! Row 81: a secret that a runner is given is in its own environment, and nowhere else.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use stratavore_testkit::world::{Ran, World, processes, until};

use super::places::below;
use crate::bad_days::{is_root, set_mode};

/// Two secrets, one by each way, that stand nowhere but where the world has put them.
struct Canaries {
    world: World,
    by_name: String,
    by_file: String,
}

impl Canaries {
    fn new() -> Self {
        let mut world = World::with_config("daemon:\n  log_level: trace\n  log: json\n");
        let canary = |what: &str| format!("canary-{what}-{}-{}", std::process::id(), line!());
        let (by_name, by_file) = (canary("name"), canary("file"));
        world.set_env("GIVEN", &by_name);
        fs::write(world.path("secret"), format!("{by_file}\n")).unwrap();
        set_mode(&world.path("secret"), 0o600);
        Self { world, by_name, by_file }
    }

    fn launching(&self, name: &str) -> Vec<String> {
        let file = format!("FILE_TOKEN=file:{}", self.world.path("secret").display());
        let options = ["launch", "-p", "demo", "--env", "NAME_TOKEN=env:GIVEN", "--env", &file];
        options.into_iter().chain(["--name", name, "--"]).map(String::from).collect()
    }

    fn launch(&self, name: &str, argv: &[&str]) {
        let launching = self.launching(name);
        self.world.run(launching.iter().map(String::as_str).chain(argv.iter().copied()));
    }

    fn held_by(&self, bytes: &[u8]) -> bool {
        let is_in = |canary: &str| bytes.windows(canary.len()).any(|at| at == canary.as_bytes());
        is_in(&self.by_name) || is_in(&self.by_file)
    }

    /// The files below `directory` that hold one.
    fn files(&self, directory: &Path) -> Vec<PathBuf> {
        let held = |path: &PathBuf| self.held_by(&fs::read(path).unwrap_or_default());
        below(directory).into_iter().filter(held).collect()
    }

    /// The processes that hold one in this file of theirs.
    fn processes(&self, file: &str) -> Vec<u32> {
        let held =
            |pid: &u32| self.held_by(&fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default());
        processes().into_iter().filter(held).collect()
    }
}

#[test]
fn a_secret_is_in_the_runners_environment_and_nowhere_else() {
    let canaries = Canaries::new();
    let world = &canaries.world;
    world.project("demo");
    canaries.launch("one", &["sleep", "1000"]);
    let runner = world.until_state("one", &["running"])["id"].as_str().unwrap().to_owned();
    // Others that end in each way: well, badly, and without having begun.
    canaries.launch("two", &["true"]);
    canaries.launch("three", &["sh", "-c", "exit 3"]);
    let missing = "./no-interpreter";
    fs::write(world.work().join(missing), "#!/no/such/interpreter\n").unwrap();
    set_mode(&world.work().join(missing), 0o755);
    world.run(canaries.launching("four").iter().map(String::as_str).chain([missing])).fails(10);
    // A life with all that can come in between.
    world.kill_daemon();
    world.run(["daemon", "start"]).ok();
    until("the agent is back", || match world.runner(&runner) {
        shown if shown["connected"] == true => Ok(()),
        shown => Err(shown),
    });
    world.run(["upgrade", "one"]).ok();
    world.run(["restart", "one"]).ok();
    world.until_state(&runner, &["running"]);
    let process = until("it runs anew", || match world.processes_of(&runner)[..] {
        [pid] => Ok(pid),
        ref pids => Err(pids.to_vec()),
    });

    for command in [
        &["runners", "--all"][..],
        &["runners", "show", "one"],
        &["status"],
        &["events"],
        &["doctor"],
    ] {
        for format in ["json", "table"] {
            let ran = world.run(command.iter().chain(&["--format", format]));
            assert!(!canaries.held_by(&ran.output.stdout), "{command:?}\n{}", ran.everything());
            assert!(!canaries.held_by(&ran.output.stderr), "{command:?}\n{}", ran.everything());
        }
    }
    let all = world.run(["events", "list", "--after", "0", "--limit", "1000", "--format", "json"]);
    assert!(!canaries.held_by(&all.ok().output.stdout));
    // The database with its journal, the daemon's log, the runners' directories.
    assert_eq!(canaries.files(&world.path("state")), Vec::<PathBuf>::new());
    assert_eq!(canaries.processes("cmdline"), [0; 0]);
    let holders = canaries.processes("environ");
    let daemon = world.daemon_pid().unwrap();
    assert!(holders.contains(&process), "the control: the runner has them: {holders:?}");
    assert!(holders.iter().all(|pid| [process, daemon].contains(pid)), "{holders:?}");

    // The control of the search: what is written down is found where it was written.
    world.run(["projects", "edit", "demo", "--description", &canaries.by_name]).ok();
    let found = canaries.files(&world.path("state"));
    assert!(!found.is_empty() && found.iter().all(|path| path.to_string_lossy().contains(".db")));
    let mut argument = Command::new("sleep").arg("1000").arg0(&canaries.by_file).spawn().unwrap();
    // A process that has just begun may not have its arguments yet.
    until("its arguments are found", || match canaries.processes("cmdline") {
        found if found == [argument.id()] => Ok(()),
        found => Err(found),
    });
    argument.kill().unwrap();
    argument.wait().unwrap();
}

/// What holds secrets in its memory leaves no core file, and nobody but root looks into it.
#[test]
fn who_holds_secrets_leaves_no_core_and_lets_nobody_look() {
    let canaries = Canaries::new();
    let world = &canaries.world;
    // Root may look into everything; without that right it is a user like others.
    let run = |arguments: &[&str]| {
        let mut command = world.command("stratavore");
        command.args(arguments);
        Ran::of(without_root(&command)).ok()
    };
    let work = world.work().display().to_string();
    run(&["new", "demo", "--directory", &work]);
    run(&["launch", "-p", "demo", "--name", "one", "--env", "T=env:GIVEN", "--", "sleep", "1000"]);
    let shown = world.until_state("one", &["running"]);
    let pid = |field: &str| shown[field].as_u64().unwrap() as u32;
    let (agent, program) = (pid("agent_pid"), pid("pid"));
    let daemon = world.daemon_pid().unwrap();
    for (who, pid) in [("daemon", daemon), ("agent", agent)] {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        let core: Vec<&str> = core.split_whitespace().skip(4).take(2).collect();
        assert_eq!(core, ["0", "0"], "the {who}'s cores");
        assert!(!may_look_into(pid), "anybody of the same user looks into the {who}");
    }
    // The control: into the program itself the same user may look.
    assert!(may_look_into(program));
}

/// The same command without the one right of root's by which it looks into every process.
fn without_root(command: &Command) -> Command {
    let mut meek = Command::new(if is_root() { "setpriv" } else { "env" });
    if is_root() {
        meek.args(["--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace"]);
    }
    meek.arg(command.get_program()).args(command.get_args()).env_clear().stdin(Stdio::null());
    meek.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    meek
}

/// Whether another program of this user may look into a process. Of what that opens this is the one
/// thing that no other right opens, too.
fn may_look_into(pid: u32) -> bool {
    let mut look = Command::new("readlink");
    look.arg(format!("/proc/{pid}/exe"));
    Ran::of(without_root(&look)).code() == 0
}
