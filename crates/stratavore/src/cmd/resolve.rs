//! Which project or runner a command is about.

use std::path::{Path, PathBuf};
use std::time::Duration;

use stratavore_proto::runner_dir::RunnerDir;
use stratavore_proto::v1::{
    GetRunner, ListProjects, ListRunners, Project, Runner, RunnerList, WaitRunner,
};

use crate::api::Api;
use crate::attach::Target;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::local::{self, Found, LocalRunner};

/// The states in which nothing can change any more.
pub(crate) const ENDED: [&str; 3] = ["exited", "failed", "lost"];

pub(crate) fn has_ended(runner: &Runner) -> bool {
    ENDED.contains(&runner.state.as_str())
}

/// True for an end that is nobody's fault.
pub(crate) fn ended_well(cause: &str) -> bool {
    cause == "exit 0" || cause.starts_with("stopped by ")
}

/// The way to a live runner's agent: directly if it is on this host, else through the daemon.
pub(crate) async fn target<'c>(
    context: &'c Context,
    reference: &str,
    project: Option<&str>,
) -> Result<Target<'c>, Failure> {
    let runners = context.paths.runners_dir();
    let found = local::find(&runners, reference, project).map_err(|error| {
        Failure::io(format_args!("look for runners in {}", runners.display()), &error)
    })?;
    let live = match found {
        // An agent that has written down the end hangs up on whoever comes: the daemon says more.
        Found::One(runner) if local::ended(&runner.dir).is_some() => Vec::new(),
        Found::One(runner) => return Ok(Target::Local(runner)),
        Found::Several(several) => return Err(ambiguous(reference, &several)),
        Found::None(live) => live,
    };
    let mut api = match Api::connect(context).await {
        Ok(api) => api,
        Err(failure) if failure.exit == Exit::Unavailable && context.globals.no_start => {
            let mut names: Vec<String> = live.iter().map(|runner| runner.name.clone()).collect();
            names.sort_by_key(|name| strsim::damerau_levenshtein(name, reference));
            names.truncate(3);
            let message = format!(
                "no runner `{reference}` lives on this host, and no daemon runs that could know more"
            );
            let mut failure =
                Failure::new(Exit::NotFound, "not_found", message).next(match names.as_slice() {
                    [] => "stratavore daemon start".into(),
                    names => format!("these live here: {}", names.join(", ")),
                });
            failure.related = names;
            return Err(failure);
        }
        Err(failure) => return Err(failure),
    };
    let get = GetRunner { runner: reference.into(), project: project.unwrap_or_default().into() };
    let runner = api.call(async |client| client.runners().get(get.clone()).await).await?;
    target_of(context, api, runner).await
}

/// The way to the agent of a runner that the daemon knows, once it runs.
pub(crate) async fn target_of<'c>(
    context: &'c Context,
    mut api: Api<'c>,
    runner: Runner,
) -> Result<Target<'c>, Failure> {
    let wanted = runner.epoch;
    let runner = match runner.state.as_str() {
        "pending" | "starting" => {
            wait_at(&mut api, &runner.id, wanted, &["running"], LAUNCH).await?
        }
        _ => runner,
    };
    if runner.epoch > wanted && !has_ended(&runner) {
        return Err(crashed(&runner));
    }
    if matches!(runner.state.as_str(), "pending" | "starting") {
        return Err(too_slow(&runner));
    }
    if has_ended(&runner) {
        let Runner { name, state, cause, .. } = &runner;
        let message = format!("runner {name} has ended: {state} ({cause})");
        return Err(Failure::new(Exit::Refused, "refused", message).next(format!(
            "stratavore restart {name} carries it on; stratavore logs {name} shows what it printed"
        )));
    }
    if let Ok(id) = runner.id.parse() {
        let dir = RunnerDir::of(&context.paths.runners_dir(), id);
        if dir.is_locked().unwrap_or(false) {
            let Runner { name, project, epoch, .. } = runner;
            return Ok(Target::Local(LocalRunner { id, name, project, epoch, dir }));
        }
    }
    Ok(Target::Remote { api, runner: Box::new(runner) })
}

/// How long a launch may take to be seen running. The daemon's own limit is shorter.
pub(crate) const LAUNCH: Duration = Duration::from_secs(90);

/// Waits until the runner is in one of `states`, or has ended, or `patience` is over; the caller
/// looks which of them it was.
pub(crate) async fn wait_for(
    api: &mut Api<'_>,
    runner: &str,
    states: &[&str],
    patience: Duration,
) -> Result<Runner, Failure> {
    wait_at(api, runner, 0, states, patience).await
}

/// The same for the epoch that a launch or restart leads to. That a later epoch has begun is an
/// answer as well: the runner has ended since, and is being restarted.
pub(crate) async fn wait_at(
    api: &mut Api<'_>,
    runner: &str,
    epoch: i64,
    states: &[&str],
    patience: Duration,
) -> Result<Runner, Failure> {
    let wait = WaitRunner {
        runner: runner.into(),
        states: states.iter().map(|state| (*state).into()).collect(),
        timeout_ms: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
        epoch,
    };
    let answer = patience + Duration::from_secs(10);
    api.call_within(answer, async |client| client.runners().wait(wait.clone()).await).await
}

/// The runner as it is now.
pub(crate) async fn get(api: &mut Api<'_>, runner: &str) -> Result<Runner, Failure> {
    let get = GetRunner { runner: runner.into(), project: String::new() };
    api.call(async |client| client.runners().get(get.clone()).await).await
}

/// The failure of a runner that is not yet as it was waited for.
pub(crate) fn too_slow(runner: &Runner) -> Failure {
    let Runner { name, state, .. } = runner;
    Failure::new(Exit::Timeout, "timeout", format!("runner {name} is still {state}"))
        .next(format!("stratavore runners show {name}; stratavore doctor"))
}

/// How long a runner that its policy would start again is watched before it counts as launched.
const SETTLES: Duration = Duration::from_secs(1);

/// Looks a little longer at runners that run and would be started again if they ended: of those a
/// crash at once is most likely a mistake, and would be told nowhere else.
pub(crate) async fn settle(api: &mut Api<'_>, runners: &mut [Runner]) -> Result<(), Failure> {
    let until = tokio::time::Instant::now() + SETTLES;
    for runner in runners.iter_mut().filter(|r| r.state == "running" && r.restart != "never") {
        let left = until.saturating_duration_since(tokio::time::Instant::now());
        // A wait of no time at all is one of the usual time.
        let left = left.max(Duration::from_millis(1));
        *runner = wait_at(api, &runner.id, runner.epoch, &[], left).await?;
    }
    Ok(())
}

/// The failure of a runner that ended before anybody saw it run, and is started again.
pub(crate) fn crashed(runner: &Runner) -> Failure {
    let Runner { name, last_cause, restart, .. } = runner;
    let message =
        format!("runner {name} ended: {last_cause}; its policy ({restart}) starts it again");
    Failure::new(Exit::RunnerFailed, "runner_failed", message)
        .next(format!("stratavore logs {name}; to end it: stratavore kill {name}"))
}

fn ambiguous(reference: &str, several: &[LocalRunner]) -> Failure {
    let labels: Vec<String> =
        several.iter().map(|r| format!("{} ({}/{})", r.id, r.project, r.name)).collect();
    let message = format!("`{reference}` names {} runners: {}", several.len(), labels.join(", "));
    let mut failure = Failure::new(Exit::Conflict, "ambiguous", message)
        .next("give more of the id, or --project");
    failure.related = several.iter().map(|r| r.id.to_string()).collect();
    failure
}

/// All projects that are not archived.
pub(crate) async fn projects(api: &mut Api<'_>) -> Result<Vec<Project>, Failure> {
    let list = ListProjects { archived: false };
    Ok(api.call(async |client| client.projects().list(list).await).await?.projects)
}

/// The project to work in: the one that is named, else the one whose directory the current one is
/// in, else the only one.
pub(crate) async fn project(api: &mut Api<'_>, named: Option<&str>) -> Result<String, Failure> {
    if let Some(name) = named {
        return Ok(name.into());
    }
    let all = projects(api).await?;
    let here = current_directory()?;
    match containing(&all, &here).as_slice() {
        [] => {}
        [one] => return Ok(one.id.clone()),
        several => return Err(shared(&here, several)),
    }
    match all.as_slice() {
        [only] => Ok(only.id.clone()),
        [] => Err(Failure::new(Exit::NotFound, "not_found", "there is no project yet")
            .next("make this directory one: stratavore new NAME")),
        several => {
            let mut names: Vec<String> = several.iter().map(|p| p.name.clone()).collect();
            names.sort();
            let message =
                format!("{} is in no project's directory, so say which project", here.display());
            let mut failure =
                Failure::usage(message).next(format!("--project with one of {}", some_of(&names)));
            failure.related = names;
            Err(failure)
        }
    }
}

/// The projects whose directory holds `here`; of nested ones the innermost. Several if they share
/// a directory.
fn containing<'p>(projects: &'p [Project], here: &Path) -> Vec<&'p Project> {
    let depth = |p: &Project| Path::new(&p.directory).components().count();
    let holding = || projects.iter().filter(|p| here.starts_with(&p.directory));
    let innermost = holding().map(depth).max();
    holding().filter(|p| Some(depth(p)) == innermost).collect()
}

fn shared(here: &Path, several: &[&Project]) -> Failure {
    let mut names: Vec<String> = several.iter().map(|p| p.name.clone()).collect();
    names.sort();
    let message =
        format!("{} belongs to {} projects: {}", here.display(), names.len(), some_of(&names));
    let mut failure = Failure::new(Exit::Conflict, "ambiguous", message)
        .next(format!("--project with one of {}", some_of(&names)));
    failure.related = names;
    failure
}

/// The first few names of a list.
pub(crate) fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

pub(crate) fn current_directory() -> Result<PathBuf, Failure> {
    std::env::current_dir().map_err(|error| {
        Failure::io("find out the current directory", &error).next("cd to a directory that exists")
    })
}

/// `path` as seen from the current directory, absolute, as text.
pub(crate) fn absolute(path: &Path) -> Result<String, Failure> {
    let absolute = current_directory()?.join(path);
    // Resolved where it can be; whether it exists is for the daemon to say.
    let absolute = absolute.canonicalize().unwrap_or(absolute);
    absolute.into_os_string().into_string().map_err(|path| {
        Failure::usage(format!("the path `{}` is not UTF-8 text", path.display()))
            .next("choose another directory")
    })
}

/// The project's runners that live, newest first; with `all`, ended ones too.
pub(crate) async fn runners(
    api: &mut Api<'_>,
    project: &str,
    all: bool,
    limit: u32,
) -> Result<Vec<Runner>, Failure> {
    let list = ListRunners { project: project.into(), all, limit, ..ListRunners::default() };
    runner_list(api, list).await
}

/// The runners that match, newest first: as many as were asked for, page by page.
pub(crate) async fn runner_list(
    api: &mut Api<'_>,
    list: ListRunners,
) -> Result<Vec<Runner>, Failure> {
    let list = first_page(list);
    let page = api.call(async |client| client.runners().list(list.clone()).await).await?;
    whole_list(api, list, page).await
}

/// The request for the first page of a list.
pub(crate) fn first_page(list: ListRunners) -> ListRunners {
    const USUAL: u32 = 500;
    ListRunners { limit: if list.limit == 0 { USUAL } else { list.limit }, ..list }
}

/// The list that begins with `page`, the answer to `list`.
pub(crate) async fn whole_list(
    api: &mut Api<'_>,
    mut list: ListRunners,
    mut page: RunnerList,
) -> Result<Vec<Runner>, Failure> {
    let limit = list.limit as usize;
    let mut runners = Vec::new();
    loop {
        runners.extend(page.runners);
        runners.truncate(limit);
        if page.next.is_empty() || runners.len() == limit {
            return Ok(runners);
        }
        list.before = page.next;
        list.limit = u32::try_from(limit - runners.len()).unwrap_or(u32::MAX);
        page = api.call(async |client| client.runners().list(list.clone()).await).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_project_is_the_one() {
        let project = |name: &str, directory: &str| Project {
            name: name.into(),
            directory: directory.into(),
            ..Project::default()
        };
        let all =
            [project("all", "/src"), project("api", "/src/api"), project("apix", "/src/apix")];
        let named = |all: &[Project], here: &str| -> Vec<String> {
            containing(all, Path::new(here)).iter().map(|p| p.name.clone()).collect()
        };
        assert_eq!(named(&all, "/src/api/deep"), ["api"]);
        assert_eq!(named(&all, "/src/apix"), ["apix"]);
        assert_eq!(named(&all, "/src/other"), ["all"]);
        assert!(named(&all, "/srcx").is_empty());

        let shared = [all[0].clone(), all[1].clone(), project("two", "/src/api")];
        assert_eq!(named(&shared, "/src/api/deep"), ["api", "two"]);
        assert_eq!(named(&shared, "/src"), ["all"]);
    }
}
