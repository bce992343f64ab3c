//! From start to end, with and without a daemon.

use stratavore_core::runner::{Cause, EnvValue};
use stratavore_proto::v1::agent_report::What;
use stratavore_proto::v1::{Welcome, to_agent};

use crate::daemon::{TOKEN, World};
use crate::wait::until;

#[tokio::test]
async fn an_exit_code_is_told_and_written_down() {
    for (script, cause) in
        [("exit 0", Cause::Exit(0)), ("exit 7", Cause::Exit(7)), ("kill -9 $$", Cause::Signal(9))]
    {
        let mut world = World::shell(script);
        world.start();
        let (mut line, hello) = world.take_in_knowing(0).await;
        assert_eq!(hello.runner_id, world.spec.runner.to_string());
        assert_eq!(hello.join_token, TOKEN.to_vec());
        assert_eq!((hello.epoch, hello.started, hello.key.len()), (1, false, 32));
        let identity = hello.identity.unwrap();
        assert_eq!(identity.pid, world.agent_pid());
        assert!(stratavore_agent::identity::is_same_process(&identity.into()));
        line.go().await;
        let process = line.started().await;
        assert_eq!(line.exited().await, cause, "{script}");
        assert_eq!(world.exit(), Some(cause));
        assert_eq!(world.dir.agent().unwrap().unwrap().process, Some(process));
        assert!(world.agent_gone().await.success());
        assert!(!world.dir.socket().exists());
        assert!(!world.dir.is_locked().unwrap());
        let seqs: Vec<u64> = line.reports.iter().map(|report| report.seq).collect();
        assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn the_program_gets_its_terminal_directory_and_environment() {
    let script = "tty >/dev/null && stty size; pwd; echo $TERM $STRATAVORE_RUNNER_ID $GIVEN $SECRET $INHERITED; \
                  trap; ulimit -c; cat /proc/self/oom_score_adj; ls /proc/self/fd | wc -l";
    let mut world = World::shell(script).env("GIVEN", EnvValue::Literal("given".into()));
    let secret = world.path("secret");
    std::fs::write(&secret, "from a file\n").unwrap();
    world = world.env("SECRET", EnvValue::File(secret.to_str().unwrap().into()));
    world.env.insert("INHERITED".into(), "inherited".into());
    world.env.insert("TERM".into(), "dumb".into());
    let mut line = world.launch().await;
    assert_eq!(line.exited().await, Cause::Exit(0));
    let text = world.recorded_text();
    let lines: Vec<&str> = text.lines().collect();
    let (runner, directory) =
        (world.spec.runner.to_string(), world.spec.command.directory.as_str());
    let greeting = format!("xterm-256color {runner} given from a file inherited");
    assert_eq!(lines[..4], ["24 80", directory, &greeting, "0"], "{text}");
    // What it has more than we have, by which the kernel takes it first where memory runs out.
    let own: i32 =
        std::fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim().parse().unwrap();
    assert_eq!(lines[4], (own + 500).min(1000).to_string(), "{text}");
    // The terminal, and the directory that `ls` reads.
    assert_eq!(lines[5], "4", "{text}");
}

#[tokio::test]
async fn no_signal_setting_of_the_agent_reaches_the_program() {
    let mut world = World::new(&["/bin/cat", "/proc/self/status"]);
    let mut line = world.launch().await;
    assert_eq!(line.exited().await, Cause::Exit(0));
    let text = world.recorded_text();
    for mask in ["SigBlk", "SigIgn", "SigCgt"] {
        let set = text.lines().find_map(|line| line.strip_prefix(mask)).unwrap();
        let set = u64::from_str_radix(set.trim_start_matches(':').trim(), 16).unwrap();
        // 32 and 33 are the C library's own, and not to be set by anybody.
        assert_eq!(set & !0x1_8000_0000, 0, "{mask} in {text}");
    }
}

#[tokio::test]
async fn what_cannot_be_executed_says_what_to_do() {
    let world = World::shell("");
    let (plain, foreign, script) =
        (world.path("plain"), world.path("foreign"), world.path("script"));
    std::fs::write(&plain, "echo hello").unwrap();
    std::fs::write(&foreign, "\x7fELF\0\0\0").unwrap();
    std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    for path in [&foreign, &script] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
    }
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    for (argv, says) in [
        (vec!["no-such-program".to_owned()], "install it"),
        (vec!["/no/such/program".into()], "does not exist"),
        (vec![path(&plain)], "chmod +x"),
        (vec![path(&foreign)], "no program for this machine"),
        (vec![path(&script)], "/no/such/interpreter, which does not exist"),
        (vec!["/bin/echo".into(), "x".repeat(3 << 20)], "put some into a file"),
        (vec![], "say what to run"),
    ] {
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        let mut world = World::new(&argv);
        world.start();
        let mut line = world.take_in().await;
        line.go().await;
        let cause = line.exited().await;
        assert!(
            matches!(&cause, Cause::ExecError(why) if why.contains(says)),
            "{:?}: {cause:?}",
            argv.first()
        );
        assert_eq!(world.exit(), Some(cause));
        world.agent_gone().await;
    }
}

#[tokio::test]
async fn a_directory_that_is_gone_or_became_a_link_is_told() {
    for (link, says) in [(false, "does not exist"), (true, "is now")] {
        let mut world = World::shell("exit 0");
        let directory = world.spec.command.directory.clone();
        std::fs::remove_dir(&directory).unwrap();
        if link {
            std::os::unix::fs::symlink("/", &directory).unwrap();
        }
        world.start();
        let mut line = world.take_in().await;
        line.go().await;
        let cause = line.exited().await;
        assert!(matches!(&cause, Cause::ExecError(why) if why.contains(says)), "{cause:?}");
    }
}

#[tokio::test]
async fn without_go_nothing_runs_and_that_is_written_down() {
    let mut world = World::shell("touch ran").with(|spec| spec.launch_timeout_ms = 300);
    world.start();
    let mut line = world.take_in().await;
    assert!(world.agent_gone().await.success());
    assert_eq!(world.exit(), Some(Cause::LaunchInterrupted));
    assert_eq!(line.exited().await, Cause::LaunchInterrupted);
    assert!(!std::path::Path::new(&world.spec.command.directory).join("ran").exists());
}

#[tokio::test]
async fn without_any_daemon_the_agent_gives_up() {
    let mut world = World::shell("touch ran").with(|spec| spec.launch_timeout_ms = 300);
    world.daemon_down();
    world.start();
    assert!(world.agent_gone().await.success());
    assert_eq!(world.exit(), Some(Cause::LaunchInterrupted));
}

#[tokio::test]
async fn a_stop_before_go_ends_the_launch() {
    let mut world = World::shell("touch ran");
    world.start();
    let mut line = world.take_in().await;
    line.stop(1000).await;
    assert!(matches!(line.exited().await, Cause::StoppedBy(_)));
    world.agent_gone().await;
    assert!(!std::path::Path::new(&world.spec.command.directory).join("ran").exists());
}

#[tokio::test]
async fn a_second_agent_leaves_the_runner_alone() {
    let mut world = World::shell("exec sleep 1000");
    let mut line = world.launch().await;
    let mut second = world.spawn();
    let status =
        until("the second agent to end", || second.try_wait().unwrap().ok_or("it runs")).await;
    assert!(status.success());
    line.heartbeat().await;
    line.kill().await;
    assert_eq!(line.exited().await, Cause::Signal(9));
}

#[tokio::test]
async fn an_agent_of_another_epoch_does_nothing() {
    let mut world = World::shell("exit 0");
    world.dir.create().unwrap();
    world.dir.write_spec(&world.spec).unwrap();
    world.spec.epoch = 2;
    world.agent = Some(world.spawn());
    assert!(!world.agent_gone().await.success());
    assert!(world.exit().is_none());
}

#[tokio::test]
async fn reports_are_sent_again_in_order_until_they_are_acknowledged() {
    let mut world = World::shell("read line; exit 3");
    world.start();
    let mut line = world.take_in().await;
    line.acks = false;
    line.go().await;
    line.started().await;
    drop(line);
    // A daemon that knows nothing is told again; one that knows it is not.
    let (mut line, hello) = world.take_in_knowing(0).await;
    line.acks = false;
    assert!(hello.started && hello.join_token.is_empty());
    line.started().await;
    assert_eq!(line.reports[0].seq, 1);
    drop(line);
    let (line, _) = world.take_in_knowing(1).await;
    drop(line);
    crate::viewer::send(&world, b"go on", false, true).await.unwrap();
    let (mut line, _) = world.take_in_knowing(1).await;
    assert_eq!(line.exited().await, Cause::Exit(3));
    assert_eq!(line.reports.iter().map(|report| report.seq).collect::<Vec<_>>(), [2]);
    world.agent_gone().await;
}

#[tokio::test]
async fn an_end_while_no_daemon_runs_is_found_in_the_directory() {
    let mut world = World::shell("read line; exit 4");
    let line = world.launch().await;
    world.daemon_down();
    drop(line);
    crate::viewer::send(&world, b"", false, true).await.unwrap();
    world.agent_gone().await;
    assert_eq!(world.exit(), Some(Cause::Exit(4)));
}

#[tokio::test]
async fn a_poke_makes_the_agent_dial_at_once() {
    let mut world = World::shell("exec sleep 1000").with(|spec| spec.heartbeat_ms = 3_600_000);
    let line = world.launch().await;
    world.daemon_down();
    drop(line);
    // The waits grow up to an hour now; a poke cuts them short, with a daemon there or not.
    let identity = crate::viewer::poke(&world).await;
    assert_eq!(identity.pid, world.agent_pid());
    world.daemon_up();
    crate::viewer::poke(&world).await;
    let (mut line, hello) = world.take_in_knowing(1).await;
    assert!(hello.started);
    line.kill().await;
    line.exited().await;
}

#[tokio::test]
async fn a_final_rejection_ends_what_runs() {
    let mut world = World::shell("trap '' TERM HUP; while :; do sleep 1; done");
    let line = world.launch().await;
    drop(line);
    let mut line = world.accept().await;
    line.hello().await;
    line.reject(false).await;
    drop(line);
    let mut line = world.accept().await;
    line.hello().await;
    line.reject(true).await;
    world.agent_gone().await;
    assert!(!stratavore_agent::kill::is_populated(world.spec.runner, &[]));
}

#[tokio::test]
async fn a_second_welcome_changes_how_often_the_agent_reports() {
    let mut world = World::shell("exec sleep 1000").with(|spec| spec.heartbeat_ms = 3_600_000);
    let mut line = world.launch().await;
    // One came at once; the next would come in an hour.
    let welcome = Welcome { version: 1, acked: 0, heartbeat_ms: 100 };
    line.say(to_agent::Kind::Welcome(welcome)).await;
    for _ in 0..3 {
        line.heartbeat().await;
    }
    line.kill().await;
}

#[tokio::test]
async fn heartbeats_measure_the_whole_group() {
    let mut world = World::shell("echo output; sleep 1000 & sleep 1000 & while :; do :; done");
    let mut line = world.launch().await;
    line.heartbeat_with("three busy processes", |beat| {
        beat.processes == 3 && beat.cpu_ms > 50 && beat.memory > 500_000 && beat.output_bytes == 8
    })
    .await;
    let beat = line.heartbeat().await;
    assert!(beat.output_at_us > 0);
    assert_eq!(beat.viewers, 0);
    line.kill().await;
    line.exited().await;
}

#[tokio::test]
async fn the_host_may_end_the_agent() {
    let mut world = World::shell("trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done");
    let mut line = world.launch().await;
    world.until_recorded("ready").await;
    let pid = rustix::process::Pid::from_raw(world.agent_pid().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(line.exited().await, Cause::AgentTerminated);
    world.agent_gone().await;
}

#[tokio::test]
async fn an_agent_whose_directory_is_gone_does_not_stay_for_ever() {
    let mut world = World::shell("echo $$ > pid; exec sleep 1000");
    let line = world.launch().await;
    let program = world.pid_in("pid").await;
    world.daemon_down();
    drop(line);
    // In one step: the agent may be writing into it.
    std::fs::rename(world.dir.path(), world.path("gone")).unwrap();
    let program = rustix::process::Pid::from_raw(program.cast_signed()).unwrap();
    rustix::process::kill_process(program, rustix::process::Signal::KILL).unwrap();
    world.agent_gone().await;
}

#[tokio::test]
async fn wall_time_ends_a_runner() {
    let mut world = World::shell("exec sleep 1000").with(|spec| spec.limits.wall_seconds = Some(1));
    let mut line = world.launch().await;
    assert_eq!(line.exited().await, Cause::WallTime);
}

#[tokio::test]
async fn limits_that_cannot_be_had_are_told() {
    let mut world = World::shell("exit 0").with(|spec| spec.limits.wall_seconds = Some(1000));
    let mut line = world.launch().await;
    // Wall time is the agent's own matter, and nothing else is asked for.
    assert_eq!(line.exited().await, Cause::Exit(0));
    assert!(
        line.reports.iter().all(|report| !matches!(report.what, Some(What::LimitsNotEnforced(_))))
    );
}

#[tokio::test]
async fn an_agent_that_dies_at_a_failpoint_leaves_no_program() {
    for point in ["after_lock=abort", "before_hello=abort"] {
        let mut world = World::shell("touch ran");
        world.failpoints = Some(point);
        world.start();
        assert!(!world.agent_gone().await.success());
        assert!(!world.dir.is_locked().unwrap());
        assert!(!std::path::Path::new(&world.spec.command.directory).join("ran").exists());
    }
    for point in ["child_started_before_persist=abort", "child_started_before_report=abort"] {
        let mut world = World::shell("setsid sleep 1000 & echo $! > pid; wait");
        world.failpoints = Some(point);
        world.start();
        let mut line = world.take_in().await;
        line.go().await;
        world.agent_gone().await;
        let cgroups = world.dir.agent().unwrap().unwrap().cgroups;
        assert_eq!(stratavore_agent::kill::clear_runner(world.spec.runner, &cgroups).unwrap(), 0);
        assert!(!stratavore_agent::kill::is_populated(world.spec.runner, &cgroups));
    }
    let mut world = World::shell("exit 6");
    world.failpoints = Some("exit_before_report=abort");
    world.start();
    let mut line = world.take_in().await;
    line.go().await;
    world.agent_gone().await;
    assert_eq!(world.exit(), Some(Cause::Exit(6)), "it was written down before it was told");
}

#[tokio::test]
async fn a_quiet_agent_wakes_only_for_heartbeats() {
    let mut world = World::shell("exec sleep 1000").with(|spec| spec.heartbeat_ms = 3_600_000);
    let mut line = world.launch().await;
    if line.heartbeats.is_empty() {
        line.heartbeat().await;
    }
    let switches = || {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", world.agent_pid())).unwrap();
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        count.unwrap().trim().parse::<u64>().unwrap()
    };
    // It settles, and then does not run at all for a while that many short timers would fit into.
    let mut last = switches();
    let mut quiet = 0;
    until("the agent to be quiet", || {
        let now = switches();
        quiet = if now == last { quiet + 1 } else { 0 };
        last = now;
        if quiet >= 100 { Ok(()) } else { Err(now) }
    })
    .await;
    line.kill().await;
    line.exited().await;
}
