//! `stratavore new` and `stratavore projects`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use stratavore_proto::v1::{
    ArchiveProject, CreateProject, DeleteProject, EditProject, GetProject, ListProjects, Project,
};

use super::limits::{LimitArgs, QuotaArgs, limits_text};
use super::resolve;
use crate::api::Api;
use crate::clock::{ago, fresh_key};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::table::{Cell, Column, Table};
use crate::units;
use crate::view::{ProjectView, time};
use stratavore_core::clock::Clock;

/// Make a directory a project
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  stratavore new api                                   The current directory
  stratavore new web --directory ~/src/web --assistant claude
  stratavore new batch --quota-runners 4 --memory 2GiB")]
pub(crate) struct New {
    /// Its name: letters, digits, `-`, `_` and `.`
    name: String,
    /// Its directory [default: the current one]
    #[arg(long, short, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// What it is for
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    description: String,
    /// The assistant to launch when none is named
    #[arg(long, short, value_name = "NAME", default_value = "", hide_default_value = true)]
    assistant: String,
    #[command(flatten)]
    quota: QuotaArgs,
    #[command(flatten)]
    limits: LimitArgs,
}

/// List, show and change projects
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  stratavore projects
  stratavore projects show api
  stratavore projects edit api --quota-runners 8 --memory none
  stratavore projects archive api")]
pub(crate) struct Projects {
    #[command(subcommand)]
    command: Option<ProjectsCommand>,
}

#[derive(Debug, Subcommand)]
enum ProjectsCommand {
    /// List the projects
    List {
        /// Archived ones instead
        #[arg(long)]
        archived: bool,
    },
    /// Show one project
    Show {
        /// The project, by id, the beginning of one, or name
        project: String,
    },
    /// Change what is given and leave the rest
    Edit(Box<Edit>),
    /// Let a project launch nothing any more, and keep its history
    Archive {
        /// The project, by id, the beginning of one, or name
        project: String,
        /// Bring it back
        #[arg(long)]
        restore: bool,
    },
    /// Archive a project, and let its history be removed in time
    Delete {
        /// The project, by id, the beginning of one, or name
        project: String,
    },
}

#[derive(Debug, Args)]
struct Edit {
    /// The project, by id, the beginning of one, or name
    project: String,
    /// A new name
    #[arg(long)]
    name: Option<String>,
    /// A new directory
    #[arg(long, short, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// The assistant to launch when none is named
    #[arg(long, short, value_name = "NAME")]
    assistant: Option<String>,
    #[command(flatten)]
    quota: QuotaArgs,
    #[command(flatten)]
    limits: LimitArgs,
}

pub(crate) fn create(context: &Context, args: New) -> Result<Exit, Failure> {
    let directory = match &args.directory {
        Some(directory) => resolve::absolute(directory)?,
        None => resolve::absolute(&resolve::current_directory()?)?,
    };
    let create = CreateProject {
        idempotency_key: fresh_key(),
        name: args.name,
        directory,
        description: args.description,
        assistant: args.assistant,
        quota: args.quota.quota(),
        runner_limits: args.limits.limits(),
    };
    context.block_on(async {
        let mut api = Api::connect(context).await?;
        let project =
            api.call(async |client| client.projects().create(create.clone()).await).await?;
        context.ui.show(&ProjectView::from(&project), || {
            let cells = [Cell::new(&project.name), Cell::new(&project.directory)];
            context.ui.line(format!("created project {} in {}", cells[0].text(), cells[1].text()))
        })?;
        context.ui.note(format!("next: stratavore {}", project.name));
        Ok(Exit::Ok)
    })
}

pub(crate) fn run(context: &Context, args: Projects) -> Result<Exit, Failure> {
    let command = args.command.unwrap_or(ProjectsCommand::List { archived: false });
    context.block_on(async {
        let mut api = Api::connect(context).await?;
        match command {
            ProjectsCommand::List { archived } => {
                let list = ListProjects { archived };
                let projects =
                    api.call(async |client| client.projects().list(list).await).await?.projects;
                list_projects(context, &projects, archived)?;
            }
            ProjectsCommand::Show { project } => {
                let project = get(&mut api, project).await?;
                show(context, &project)?;
            }
            ProjectsCommand::Edit(edit) => {
                let project = change(&mut api, *edit).await?;
                show(context, &project)?;
            }
            ProjectsCommand::Archive { project, restore } => {
                let archive = ArchiveProject { idempotency_key: fresh_key(), project, restore };
                let project = api
                    .call(async |client| client.projects().archive(archive.clone()).await)
                    .await?;
                told(context, &project, if restore { "restored" } else { "archived" })?;
            }
            ProjectsCommand::Delete { project } => {
                let delete = DeleteProject { idempotency_key: fresh_key(), project };
                let project =
                    api.call(async |client| client.projects().delete(delete.clone()).await).await?;
                told(context, &project, "deleted")?;
            }
        }
        Ok(Exit::Ok)
    })
}

pub(crate) async fn get(api: &mut Api<'_>, project: String) -> Result<Project, Failure> {
    let get = GetProject { project };
    api.call(async |client| client.projects().get(get.clone()).await).await
}

async fn change(api: &mut Api<'_>, edit: Edit) -> Result<Project, Failure> {
    let request = EditProject {
        idempotency_key: fresh_key(),
        project: edit.project,
        name: edit.name,
        directory: edit.directory.as_deref().map(resolve::absolute).transpose()?,
        description: edit.description,
        assistant: edit.assistant,
        quota: edit.quota.edit(),
        runner_limits: edit.limits.edit(),
    };
    let nothing = EditProject {
        idempotency_key: String::new(),
        project: String::new(),
        ..EditProject::default()
    };
    if (EditProject { idempotency_key: String::new(), project: String::new(), ..request.clone() })
        == nothing
    {
        return Err(
            Failure::usage("nothing to change was given").next("stratavore projects edit --help")
        );
    }
    api.call(async |client| client.projects().edit(request.clone()).await).await
}

fn told(context: &Context, project: &Project, deed: &str) -> Result<(), Failure> {
    context.ui.show(&ProjectView::from(project), || {
        context.ui.line(format!("{deed} project {}", Cell::new(&project.name).text()))
    })
}

fn list_projects(context: &Context, projects: &[Project], archived: bool) -> Result<(), Failure> {
    let views: Vec<ProjectView> = projects.iter().map(ProjectView::from).collect();
    context.ui.show(&views, || {
        if views.is_empty() && !archived {
            context.ui.note(
                "there is no project yet; make the current directory one: stratavore new NAME",
            );
            return Ok(());
        }
        let mut table = Table::new([
            Column::new("NAME").shrinks(),
            Column::new("RUNNERS").right(),
            Column::new("ASSISTANT"),
            Column::new("AGE").right(),
            Column::new("DIRECTORY").shrinks(),
        ]);
        for project in projects {
            let quota = project.quota.map_or(0, |quota| quota.runners);
            table.row([
                Cell::new(match time(project.archived_at_us) {
                    Some(_) => format!("{} (archived)", project.name),
                    None => project.name.clone(),
                }),
                Cell::new(format!("{}/{quota}", project.live_runners)),
                Cell::new(if project.assistant.is_empty() { "-" } else { &project.assistant }),
                Cell::new(ago(context.clock.now(), time(project.created_at_us))),
                Cell::new(&project.directory),
            ]);
        }
        context.ui.table(&table)
    })
}

fn show(context: &Context, project: &Project) -> Result<(), Failure> {
    context.ui.show(&ProjectView::from(project), || {
        let quota = project.quota.unwrap_or_default();
        let or_none =
            |n: u64, shown: fn(u64) -> String| if n == 0 { "none".into() } else { shown(n) };
        let wall = |n| units::span(std::time::Duration::from_secs(n));
        let mut rows = vec![
            ("name", project.name.clone()),
            ("id", project.id.clone()),
            ("directory", project.directory.clone()),
            ("description", project.description.clone()),
            ("assistant", project.assistant.clone()),
            ("runners", format!("{} live, {} allowed", project.live_runners, quota.runners)),
            (
                "quota",
                format!(
                    "memory {}, cores {}, processes {}, wall time of a runner {}",
                    or_none(quota.memory, units::bytes),
                    or_none(quota.cpu_millis, units::cores),
                    or_none(quota.pids, |n| n.to_string()),
                    or_none(quota.wall_seconds, wall),
                ),
            ),
            ("runner limits", limits_text(&project.runner_limits.unwrap_or_default())),
            ("created", time(project.created_at_us).map_or_else(String::new, |at| at.to_string())),
            ("updated", time(project.updated_at_us).map_or_else(String::new, |at| at.to_string())),
        ];
        if let Some(at) = time(project.archived_at_us) {
            rows.push(("archived", at.to_string()));
        }
        context.ui.fields(&rows)
    })
}
