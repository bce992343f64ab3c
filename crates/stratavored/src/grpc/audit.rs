//! The record.

use futures_util::stream;
use stratavore_proto::v1;
use stratavore_proto::v1::audit_server::Audit;
use tonic::{Request, Response, Status};

use super::forward::elsewhere;
use super::problem::status;
use super::{Api, Streaming, caller, view};

#[tonic::async_trait]
impl Audit for Api {
    type ExportStream = Streaming<v1::RecordLines>;

    async fn export(
        &self,
        request: Request<v1::ExportRecord>,
    ) -> Result<Response<Self::ExportStream>, Status> {
        let caller = caller(&request)?;
        let (control, by) = (self.control.clone(), caller.clone());
        let begun = async move { control.audit_export(&by).await };
        let export =
            self.control.decided(&caller, "audit.export", "", begun).await.map_err(status)?;
        let pieces = stream::unfold(Some(export), |export| async {
            let mut export = export?;
            match export.next().await {
                Ok(Some(lines)) => {
                    Some((Ok(v1::RecordLines { lines: lines.into() }), Some(export)))
                }
                Ok(None) => None,
                Err(error) => Some((Err(status(error)), None)),
            }
        });
        Ok(Response::new(Box::pin(pieces)))
    }

    async fn keys(
        &self,
        request: Request<v1::ListRecordKeys>,
    ) -> Result<Response<v1::RecordKeys>, Status> {
        let caller = caller(&request)?;
        let (control, by) = (self.control.clone(), caller.clone());
        let read = async move { control.audit_keys(&by).await };
        let keys = self.control.decided(&caller, "audit.keys", "", read).await.map_err(status)?;
        Ok(Response::new(view::record_keys(keys)))
    }

    async fn rotate(
        &self,
        request: Request<v1::RotateRecordKey>,
    ) -> Result<Response<v1::RecordKeys>, Status> {
        let caller = caller(&request)?;
        let keeper = self.control.record_keeper().await.map_err(status)?;
        elsewhere!(self, keeper, request, &caller, audit.rotate);
        let (control, by) = (self.control.clone(), caller.clone());
        let rotated = async move { control.audit_rotate(&by).await };
        let keys =
            self.control.decided(&caller, "audit.rotate", "", rotated).await.map_err(status)?;
        Ok(Response::new(view::record_keys(keys)))
    }
}
