//! Projects.

use stratavore_core::project::{Project, ProjectEdit};
use stratavore_proto::v1;
use stratavore_proto::v1::projects_server::Projects;
use tonic::{Request, Response, Status};

use super::problem::status;
use super::{Api, caller, given, keyed, view};

impl Api {
    async fn project_view(&self, project: Project) -> Result<Response<v1::Project>, Status> {
        let live = self.control.live_runners_of(project.id).await.map_err(status)?;
        Ok(Response::new(view::project(project, live)))
    }
}

#[tonic::async_trait]
impl Projects for Api {
    async fn create(
        &self,
        request: Request<v1::CreateProject>,
    ) -> Result<Response<v1::Project>, Status> {
        let caller = caller(&request)?;
        let mut request = request.into_inner();
        let key = keyed!("projects.create", request);
        let (control, by, on) = (self.control.clone(), caller.clone(), request.name.clone());
        let create = async move {
            let quota = request.quota.map(view::quota).unwrap_or_default();
            let limits = view::limits(request.runner_limits);
            let assistant = given(&request.assistant);
            control
                .project_create(
                    &by,
                    &request.name,
                    &request.directory,
                    request.description,
                    assistant,
                    quota,
                    limits,
                    key,
                )
                .await
        };
        let project =
            self.control.decided(&caller, "projects.create", &on, create).await.map_err(status)?;
        Ok(Response::new(view::project(project, 0)))
    }

    async fn get(&self, request: Request<v1::GetProject>) -> Result<Response<v1::Project>, Status> {
        let project = self.control.project(&request.into_inner().project).await.map_err(status)?;
        self.project_view(project).await
    }

    async fn list(
        &self,
        request: Request<v1::ListProjects>,
    ) -> Result<Response<v1::ProjectList>, Status> {
        let projects =
            self.control.project_list(request.into_inner().archived).await.map_err(status)?;
        let live = self.control.live_runners().await.map_err(status)?;
        let projects = projects.into_iter().map(|project| {
            let live = live.get(&project.id).copied().unwrap_or(0);
            view::project(project, live)
        });
        Ok(Response::new(v1::ProjectList { projects: projects.collect() }))
    }

    async fn edit(
        &self,
        request: Request<v1::EditProject>,
    ) -> Result<Response<v1::Project>, Status> {
        let caller = caller(&request)?;
        let mut request = request.into_inner();
        let key = keyed!("projects.edit", request);
        let name = |text: Option<String>| {
            text.map(|text| text.parse()).transpose().map_err(
                |error: stratavore_core::name::NameError| {
                    status(stratavore_control::Error::invalid(
                        error.to_string(),
                        "choose another name",
                    ))
                },
            )
        };
        let edit = ProjectEdit {
            name: name(request.name)?,
            directory: request.directory,
            description: request.description,
            assistant: name(request.assistant)?,
            quota: view::quota_edit(request.quota.unwrap_or_default()),
            runner_limits: view::limits_edit(request.runner_limits.unwrap_or_default()),
        };
        let (control, by, on) = (self.control.clone(), caller.clone(), request.project.clone());
        let edited = async move { control.project_edit(&by, &request.project, edit, key).await };
        let project =
            self.control.decided(&caller, "projects.edit", &on, edited).await.map_err(status)?;
        self.project_view(project).await
    }

    async fn archive(
        &self,
        request: Request<v1::ArchiveProject>,
    ) -> Result<Response<v1::Project>, Status> {
        let caller = caller(&request)?;
        let mut request = request.into_inner();
        let key = keyed!("projects.archive", request);
        let (control, by, on) = (self.control.clone(), caller.clone(), request.project.clone());
        let archived = async move {
            control.project_archive(&by, &request.project, request.restore, key).await
        };
        let project = self
            .control
            .decided(&caller, "projects.archive", &on, archived)
            .await
            .map_err(status)?;
        self.project_view(project).await
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteProject>,
    ) -> Result<Response<v1::Project>, Status> {
        let caller = caller(&request)?;
        let mut request = request.into_inner();
        let key = keyed!("projects.delete", request);
        let (control, by, on) = (self.control.clone(), caller.clone(), request.project.clone());
        let deleted = async move { control.project_delete(&by, &request.project, key).await };
        let project =
            self.control.decided(&caller, "projects.delete", &on, deleted).await.map_err(status)?;
        Ok(Response::new(view::project(project, 0)))
    }
}
