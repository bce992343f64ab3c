//! Row 76: paths are what the file system knows them as, or they are refused.

use std::fs;
use std::os::unix::fs::symlink;

use stratavore_proto::v1::{CreateProject, LaunchRunners};
use stratavore_testkit::world::{World, until};

use super::tame;
use crate::bad_days::{runners, told};
use stratavore_testkit::wire::{client, fresh_key, on_runtime, refusal};

/// `work` with a directory, links to it and to nowhere, and names that mean something elsewhere.
fn world() -> World {
    let world = World::new();
    let work = world.work();
    for directory in ["real/inner", "~", "-x", "a\nb", "$HOME", "..."] {
        fs::create_dir_all(work.join(directory)).unwrap();
    }
    fs::write(work.join("file"), "").unwrap();
    for (target, link) in [("real", "link"), ("loop", "loop"), ("nowhere", "dangling")] {
        symlink(target, work.join(link)).unwrap();
    }
    world
}

#[test]
fn a_directory_is_kept_as_the_file_system_knows_it_or_refused() {
    let world = world();
    let work = world.work().canonicalize().unwrap();
    let long = "x".repeat(300);
    let kept = [
        ("real/../real/./inner", "real/inner"),
        ("link/inner", "real/inner"),
        ("link", "real"),
        // None of these means anything but itself.
        ("~", "~"),
        ("$HOME", "$HOME"),
        ("...", "..."),
        ("-x", "-x"),
        ("a\nb", "a\nb"),
        ("real//inner///", "real/inner"),
    ];
    for (n, (given, resolved)) in kept.into_iter().enumerate() {
        let (name, directory) = (format!("p{n}"), format!("--directory={given}"));
        tame(world.run(["new", &name, &directory]), given).ok();
        let shown = world.json(&["projects", "show", &name]);
        assert_eq!(shown["directory"], work.join(resolved).display().to_string(), "{given}");
    }
    let refused = [
        ("~root", 3),
        ("~/inner", 3),
        ("dangling", 3),
        ("link/../../nowhere", 3),
        ("loop", 2),
        ("file", 2),
        ("file/..", 2),
        (&long, 2),
    ];
    for (given, code) in refused {
        let directory = format!("--directory={given}");
        told(tame(world.run(["new", "refused", &directory]), given), code, &["directory"]);
        let launch = ["launch", "--project", "p2", &directory, "--", "true"];
        let said = tame(world.run(launch), given);
        assert!([2, 3].contains(&said.code()), "{given}\n{}", said.everything());
    }
    // What a command line cannot say.
    on_runtime(async {
        let client = client(&world).await;
        for given in ["", "real", "./real", "../work/real", "~/x", "a\0b", "/tmp\0/x"] {
            let create = CreateProject {
                idempotency_key: fresh_key("path"),
                name: "refused".into(),
                directory: given.into(),
                ..CreateProject::default()
            };
            let problem = refusal(client.projects().create(create).await);
            assert_eq!(problem.code, "invalid", "{given:?}: {problem:?}");
        }
        let launch = LaunchRunners {
            idempotency_key: fresh_key("path"),
            project: "p2".into(),
            directory: "inner\0/..".into(),
            args: vec!["true".into()],
            ..LaunchRunners::default()
        };
        assert_eq!(refusal(client.runners().launch(launch).await).code, "invalid");
    });
    assert!(runners(&world).is_empty());
    assert_eq!(world.json(&["projects"]).as_array().unwrap().len(), kept.len());

    // A runner is where it is said to be.
    for (given, resolved) in
        [("link/inner", "real/inner"), ("link/./inner/..", "real"), ("..", "..")]
    {
        let options = ["--directory", given];
        let runner = world.launch_with("p2", "one", &options, &["sleep", "1000"]);
        let directory = work.join(resolved).canonicalize().unwrap();
        assert_eq!(world.runner(&runner)["directory"], directory.display().to_string(), "{given}");
        let process = world.process_of(&runner).pid;
        assert_eq!(fs::read_link(format!("/proc/{process}/cwd")).unwrap(), directory, "{given}");
        world.run(["kill", "one", "--force"]).ok();
    }
}

/// A link that takes a project's place later is not followed: whoever made it is not who made the
/// project.
#[test]
fn a_project_whose_directory_became_a_link_starts_nothing_elsewhere() {
    let world = world();
    let (real, moved) = (world.work().join("real"), world.work().join("moved"));
    world.run(["new", "demo", "--directory", "real"]).ok();
    world.launch("demo", "before", &["touch", "before"]);
    world.until_state("before", &["exited"]);
    assert!(real.join("before").exists());
    fs::rename(&real, &moved).unwrap();
    symlink(world.path("state"), &real).unwrap();

    let at = real.display().to_string();
    told(
        world.run(["launch", "--project", "demo", "--", "touch", "canary"]),
        2,
        &[&at, "is now", "projects edit demo"],
    );
    on_runtime(async {
        let launch = LaunchRunners {
            idempotency_key: fresh_key("link"),
            project: "demo".into(),
            // Relative to the project's.
            directory: "runners".into(),
            args: ["touch", "canary"].map(String::from).into(),
            ..LaunchRunners::default()
        };
        let problem = refusal(client(&world).await.runners().launch(launch).await);
        assert!(problem.message.contains("is now"), "{problem:?}");
    });
    assert!(!world.path("state/canary").exists() && !world.path("state/runners/canary").exists());
    assert_eq!(runners(&world).len(), 1);
    let directory = moved.display().to_string();
    world.run(["projects", "edit", "demo", "--directory", &directory]).ok();
    world.launch("demo", "after", &["touch", "after"]);
    until("it has run where it is now", || match moved.join("after").exists() {
        true => Ok(()),
        false => Err(world.runner("after")),
    });
}

/// A reference is an id, the beginning of one, or a name. It leads to no file.
#[test]
fn a_reference_is_no_path() {
    let world = world();
    world.project("demo");
    let runner = world.launch("demo", "one", &["cat"]);
    let home = world.path("").display().to_string();
    // Beside the runners, where a path from their directory would find it.
    symlink(world.path("state/runners").join(&runner), world.path("state/evil")).unwrap();
    let elsewhere = world.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let planted = world.path("state/runners/run_00000000000000000000");
    symlink(&elsewhere, planted).unwrap();
    let references = [
        "../evil".to_owned(),
        "..".into(),
        ".".into(),
        "/etc/passwd".into(),
        format!("{home}state/evil"),
        format!("../runners/{runner}"),
        format!("{runner}/."),
        format!("{runner}/../{runner}"),
        "run_../../evil".into(),
        "./one".into(),
    ];
    for reference in &references {
        for command in [&["screen"][..], &["logs"], &["kill"], &["runners", "show"]] {
            let arguments = command.iter().copied().chain([reference.as_str()]);
            told(world.run(arguments), 3, &["no runner"]);
        }
        told(world.run(["send", reference, "typed"]), 3, &["no runner"]);
        told(world.run(["--no-start", "projects", "show", reference]), 3, &["no project"]);
    }
    world.run(["reconcile"]).ok();
    world.run(["daemon", "restart"]).ok();
    assert_eq!(world.runner(&runner)["state"], "running");
    assert_eq!(world.recorded(&runner), b"", "nothing was typed");
    let found: Vec<_> = fs::read_dir(&elsewhere).unwrap().flatten().collect();
    assert!(found.is_empty(), "a link among the runners was followed: {found:?}");
    // The control: the runner is found by what does name it.
    world.run(["screen", &runner]).ok();
    world.run(["send", "one", "typed"]).ok();
}
