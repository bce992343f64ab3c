//! `stratavore PROJECT`: what is obvious. Attach if it runs, else resume or launch.

use std::path::Path;

use stratavore_proto::v1::{GetProject, LaunchRunners, Project, RestartRunner, Runner};

use super::attach::{self, Attachment};
use super::launch;
use super::resolve::{self, has_ended};
use crate::api::Api;
use crate::clock::fresh_key;
use crate::context::Context;
use crate::exit::{Exit, Failure};

pub(crate) fn run(context: &Context, reference: &str) -> Result<Exit, Failure> {
    attach::need_terminal().map_err(|failure| {
        failure.next("without a terminal: stratavore launch --project PROJECT, stratavore runners --project PROJECT")
    })?;
    context.block_on(async {
        let mut api = Api::connect(context).await?;
        let get = GetProject { project: reference.into() };
        let project = match api.call(async |client| client.projects().get(get.clone()).await).await
        {
            Ok(project) => project,
            Err(failure) if failure.exit == Exit::NotFound => {
                let here = resolve::current_directory().ok();
                return Err(unknown(failure, reference, here.as_deref()));
            }
            Err(failure) => return Err(failure),
        };
        let runner = runner_of(context, &mut api, &project).await?;
        attach::to(context, api, runner, Attachment::default()).await
    })
}

/// The runner to attach to: one that lives, else a successor of the last one, else a new one.
async fn runner_of(
    context: &Context,
    api: &mut Api<'_>,
    project: &Project,
) -> Result<Runner, Failure> {
    let live = resolve::runners(api, &project.id, false, 0).await?;
    match live.as_slice() {
        [] => {}
        [only] => return Ok(only.clone()),
        several => {
            let chosen = most_wanted(several);
            let others: Vec<String> =
                several.iter().filter(|r| r.id != chosen.id).map(|r| r.name.clone()).collect();
            context.ui.note(format!(
                "{} runners live; this is {}; others: {}",
                several.len(),
                chosen.name,
                resolve::some_of(&others)
            ));
            return Ok(chosen.clone());
        }
    }
    let ended = resolve::runners(api, &project.id, true, 20).await?;
    if let Some(last) = last_ended(&ended).filter(|last| is_resumable(last)) {
        context.ui.note(format!("resuming {}, which ended: {}", last.name, last.cause));
        let restart = RestartRunner {
            idempotency_key: fresh_key(),
            runner: last.id.clone(),
            project: String::new(),
            force: false,
        };
        match api.call(async |client| client.runners().restart(restart.clone()).await).await {
            Ok(runner) => return Ok(runner),
            // Someone else carries it on already, or it cannot be: a new one then.
            Err(failure) if matches!(failure.exit, Exit::Conflict | Exit::Refused) => {
                let live = resolve::runners(api, &project.id, false, 0).await?;
                if !live.is_empty() {
                    return Ok(most_wanted(&live).clone());
                }
                context.ui.note(format!("not resumed: {failure}"));
            }
            Err(failure) => return Err(failure),
        }
    }
    context.ui.note(format!("launching a runner in {}", project.name));
    let request = LaunchRunners {
        idempotency_key: fresh_key(),
        project: project.id.clone(),
        count: 1,
        args: arguments(&project.assistant, std::env::var("SHELL").ok()),
        restart: "never".into(),
        ..launch::sized()
    };
    let list = match api.call(async |client| client.runners().launch(request.clone()).await).await {
        // The daemon's advice is for `launch`, which has the option.
        Err(failure) if failure.exit == Exit::Usage && project.assistant.is_empty() => {
            let name = &project.name;
            return Err(failure
                .next(format!("say which: stratavore projects edit {name} --assistant claude")));
        }
        answer => answer?,
    };
    list.runners.into_iter().next().ok_or_else(|| Failure::failed("the daemon launched nothing"))
}

/// What to run where nothing is said: `generic` has no program of its own, so it is the shell.
fn arguments(assistant: &str, shell: Option<String>) -> Vec<String> {
    match assistant {
        "generic" => {
            vec![shell.filter(|shell| shell.starts_with('/')).unwrap_or_else(|| "/bin/sh".into())]
        }
        _ => Vec::new(),
    }
}

/// Of several live runners: one that waits for a person, else the newest.
fn most_wanted(runners: &[Runner]) -> &Runner {
    let waits =
        |runner: &Runner| matches!(runner.activity.as_str(), "needs_permission" | "needs_input");
    runners.iter().max_by_key(|r| (waits(r), r.created_at_us)).expect("the caller has several")
}

fn last_ended(runners: &[Runner]) -> Option<&Runner> {
    runners.iter().filter(|r| has_ended(r)).max_by_key(|r| r.ended_at_us)
}

/// True for work that was cut off: a runner that was lost, or has a conversation to go on with.
fn is_resumable(runner: &Runner) -> bool {
    runner.state == "lost" || !runner.session_id.is_empty()
}

/// How many letters of a command may be wrong.
fn typos(text: &str) -> usize {
    (text.len() / 3).clamp(1, 2)
}

/// The failure for a project that is not there, with what to do instead.
fn unknown(failure: Failure, reference: &str, here: Option<&Path>) -> Failure {
    let mut commands: Vec<String> = super::command()
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
        .map(|command| command.get_name().to_owned())
        .filter(|name| strsim::damerau_levenshtein(name, reference) <= typos(reference))
        .collect();
    commands.sort_by_key(|name| strsim::damerau_levenshtein(name, reference));
    let directory = here.and_then(|here| {
        let is_here = here.file_name().is_some_and(|name| name == reference);
        let below = here.join(reference).is_dir() && !reference.contains('/');
        if is_here { Some(".".to_owned()) } else { below.then(|| reference.to_owned()) }
    });
    let mut steps = Vec::new();
    if !failure.related.is_empty() {
        steps.push(format!("did you mean {}?", failure.related.join(" or ")));
    }
    if let Some(command) = commands.first() {
        steps.push(format!("the command: stratavore {command}"));
    }
    match directory.as_deref() {
        Some(".") => steps.push(format!("make this directory one: stratavore new {reference}")),
        Some(below) => steps.push(format!(
            "make that directory one: stratavore new {reference} --directory {below}"
        )),
        None if steps.is_empty() => {
            steps.push(
                "list what there is: stratavore projects; make one: stratavore new NAME".into(),
            );
        }
        None => {}
    }
    failure.next(steps.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn not_found(related: &[&str]) -> Failure {
        let mut failure = Failure::new(Exit::NotFound, "not_found", "there is no project");
        failure.related = related.iter().map(|name| (*name).into()).collect();
        failure
    }

    #[test]
    fn an_unknown_project_is_met_with_what_was_perhaps_meant() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("web")).unwrap();
        let next = |related: &[&str], reference: &str| {
            unknown(not_found(related), reference, Some(home.path())).next
        };

        assert_eq!(next(&["api"], "apo"), "did you mean api?");
        assert_eq!(next(&[], "lauch"), "the command: stratavore launch");
        assert_eq!(next(&[], "web"), "make that directory one: stratavore new web --directory web");
        assert_eq!(
            next(&[], "something"),
            "list what there is: stratavore projects; make one: stratavore new NAME"
        );
        let here = home.path().join("web");
        assert_eq!(
            unknown(not_found(&[]), "web", Some(&here)).next,
            "make this directory one: stratavore new web"
        );
    }

    #[test]
    fn the_runner_that_waits_for_someone_is_wanted_most() {
        let runner = |name: &str, activity: &str, created_at_us| Runner {
            name: name.into(),
            activity: activity.into(),
            created_at_us,
            ..Runner::default()
        };
        let all =
            [runner("a", "working", 9), runner("b", "needs_input", 1), runner("c", "idle", 5)];
        assert_eq!(most_wanted(&all).name, "b");
        assert_eq!(most_wanted(&[all[0].clone(), all[2].clone()]).name, "a");
    }

    #[test]
    fn only_what_was_cut_off_is_resumed() {
        let runner = |state: &str, session: &str, ended_at_us| Runner {
            state: state.into(),
            session_id: session.into(),
            ended_at_us,
            ..Runner::default()
        };
        assert!(
            is_resumable(&runner("lost", "", 1)) && is_resumable(&runner("exited", "ses_x", 1))
        );
        assert!(!is_resumable(&runner("exited", "", 1)));
        let all = [runner("exited", "", 1), runner("lost", "", 7), runner("running", "", 0)];
        assert_eq!(last_ended(&all).unwrap().ended_at_us, 7);
    }
}
