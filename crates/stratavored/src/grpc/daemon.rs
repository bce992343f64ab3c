//! The daemon itself.

use std::time::Duration;

use stratavore_proto::v1;
use stratavore_proto::v1::daemon_server::Daemon;
use tonic::{Request, Response, Status};

use super::problem::status;
use super::{Api, caller, view};

/// How long a shutdown waits for runners that it was told to stop.
const STOP_RUNNERS: Duration = Duration::from_secs(60);

#[tonic::async_trait]
impl Daemon for Api {
    async fn status(
        &self,
        _: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::DaemonStatus>, Status> {
        Ok(Response::new(view::daemon_status(self.control.status().await)))
    }

    async fn reconcile(
        &self,
        request: Request<v1::ReconcileRequest>,
    ) -> Result<Response<v1::ReconcileReport>, Status> {
        let caller = caller(&request)?;
        let control = self.control.clone();
        let by = caller.clone();
        let reconcile = async move { control.reconcile(&by).await };
        let report = self
            .control
            .decided(&caller, "daemon.reconcile", "", reconcile)
            .await
            .map_err(status)?;
        Ok(Response::new(view::reconcile_report(report)))
    }

    async fn shutdown(
        &self,
        request: Request<v1::ShutdownRequest>,
    ) -> Result<Response<v1::ShutdownReply>, Status> {
        let caller = caller(&request)?;
        let control = self.control.clone();
        let stop_runners = request.into_inner().stop_runners;
        let by = caller.clone();
        let allowed = async move {
            control.shut_down_asked(&by, stop_runners).await?;
            if stop_runners && control.stop_all(&by, STOP_RUNNERS).await? > 0 {
                return Err(stratavore_control::Error::invalid(
                    format!("some runners did not stop within {} s", STOP_RUNNERS.as_secs()),
                    "stop them with force: stratavore kill --all --force",
                ));
            }
            Ok(())
        };
        self.control.decided(&caller, "daemon.shutdown", "", allowed).await.map_err(status)?;
        self.shutdown.wish();
        Ok(Response::new(v1::ShutdownReply {}))
    }
}
