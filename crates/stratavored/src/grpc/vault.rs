//! The vault.

use futures_util::stream;
use stratavore_control::ExportPart;
use stratavore_control::{Error, FoundFile, Importing};
use stratavore_proto::v1;
use stratavore_proto::v1::vault_server::Vault;
use tonic::{Request, Response, Status};

use super::problem::status;
use super::{Api, Streaming, caller, given};

/// The most bytes of one message; blobs are larger.
const PIECE: usize = 1 << 20;

#[tonic::async_trait]
impl Vault for Api {
    type ImportStream = Streaming<v1::ImportStep>;
    type ExportSessionStream = Streaming<v1::ExportPart>;

    async fn import(
        &self,
        request: Request<v1::ImportRequest>,
    ) -> Result<Response<Self::ImportStream>, Status> {
        let caller = caller(&request)?;
        let v1::ImportRequest { assistant, project, dry_run } = request.into_inner();
        let wish = Importing {
            assistant: given(&assistant).map(Into::into),
            project: given(&project).map(Into::into),
            is_dry_run: dry_run,
        };
        let (control, by) = (self.control.clone(), caller.clone());
        let begun = async move { control.import(&by, wish).await };
        let found = self.control.decided(&caller, "import", "", begun).await.map_err(status)?;
        let first = v1::ImportStep { remaining: found.remaining() as u64, file: None };
        let supervisor = self.control.supervisor().clone();
        let rest = stream::unfold(Some(found), move |found| {
            let supervisor = supervisor.clone();
            async move {
                let mut found = found?;
                // Whoever asked may go away; the file that is being taken in is taken in whole.
                let next = supervisor.detached(async move {
                    let file = found.next().await?;
                    Ok((file, found))
                });
                match next.await {
                    Ok((Some(file), found)) => {
                        let remaining = found.remaining() as u64;
                        let step = v1::ImportStep { remaining, file: Some(view(file)) };
                        Some((Ok(step), Some(found)))
                    }
                    Ok((None, _)) => None,
                    Err(error) => Some((Err(status(error)), None)),
                }
            }
        });
        let all = futures_util::StreamExt::chain(stream::iter([Ok(first)]), rest);
        Ok(Response::new(Box::pin(all)))
    }

    async fn export_session(
        &self,
        request: Request<v1::ExportSessionRequest>,
    ) -> Result<Response<Self::ExportSessionStream>, Status> {
        let caller = caller(&request)?;
        let v1::ExportSessionRequest { session } = request.into_inner();
        let (control, by, on) = (self.control.clone(), caller.clone(), session.clone());
        let begun = async move { control.session_export(&by, &session).await };
        let export =
            self.control.decided(&caller, "sessions.export", &on, begun).await.map_err(status)?;
        // A blob is sent in pieces.
        let parts = stream::unfold(Some((export, Vec::new())), |state| async {
            let (mut export, mut rest): (_, Vec<u8>) = state?;
            if rest.is_empty() {
                match export.next().await {
                    Ok(Some(ExportPart::Bytes(bytes))) => rest = bytes,
                    Ok(Some(ExportPart::File { name, size })) => {
                        let file = v1::ExportFile { name, size };
                        let part = v1::export_part::Part::File(file);
                        let part = v1::ExportPart { part: Some(part) };
                        return Some((Ok(part), Some((export, rest))));
                    }
                    Ok(None) => return None,
                    Err(error) => return Some((Err(status(error)), None)),
                }
            }
            let more = rest.split_off(rest.len().min(PIECE));
            let part = v1::export_part::Part::Bytes(rest.into());
            Some((Ok(v1::ExportPart { part: Some(part) }), Some((export, more))))
        });
        Ok(Response::new(Box::pin(parts)))
    }

    async fn import_session(
        &self,
        request: Request<tonic::Streaming<v1::ImportPart>>,
    ) -> Result<Response<v1::ImportedSession>, Status> {
        use v1::import_part::Part;
        let caller = caller(&request)?;
        let mut parts = request.into_inner();
        let first = parts.message().await?.and_then(|part| part.part);
        let Some(Part::Manifest(v1::ImportManifest { manifest, project })) = first else {
            let error = Error::invalid("the manifest has to come first", "use the command line");
            return Err(status(error));
        };
        let (control, by) = (self.control.clone(), caller.clone());
        let begun = async move { control.session_import(&by, &manifest, given(&project)).await };
        let begun = self.control.decided(&caller, "sessions.import", "", begun).await;
        let mut import = begun.map_err(status)?;
        while let Some(part) = parts.message().await? {
            match part.part {
                Some(Part::File(name)) => import.file(&name).await.map_err(status)?,
                Some(Part::Bytes(bytes)) => import.bytes(&bytes).await.map_err(status)?,
                Some(Part::Manifest(_)) | None => {}
            }
        }
        let (session, files) = import.finish().await.map_err(status)?;
        let files = files as u64;
        Ok(Response::new(v1::ImportedSession { session_id: session.to_string(), files }))
    }

    async fn status(
        &self,
        _: Request<v1::VaultStatusRequest>,
    ) -> Result<Response<v1::VaultStatus>, Status> {
        let totals = self.control.vault_totals().await.map_err(status)?;
        let pending = self.control.messages_without_vector().await.map_err(status)?;
        Ok(Response::new(v1::VaultStatus {
            transcripts: totals.transcripts,
            taken: totals.taken,
            blobs: totals.blobs,
            length: totals.length,
            stored: totals.stored,
            messages_without_vector: pending,
        }))
    }
}

fn view(file: FoundFile) -> v1::ImportedFile {
    v1::ImportedFile {
        assistant: file.assistant,
        path: file.path.display().to_string(),
        external_id: file.external_id.unwrap_or_default(),
        directory: file.directory.unwrap_or_default(),
        project: file.project,
        session_id: file.imported.session.map(|id| id.to_string()).unwrap_or_default(),
        messages: file.imported.messages,
        bytes: file.imported.bytes,
        problem: file.problem.unwrap_or_default(),
    }
}
