//! A conversation as files that any program reads: its transcripts as they were, its messages, and a
//! manifest with the checksum of each.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use stratavore_core::Timestamp;
use stratavore_core::caller::Caller;
use stratavore_core::session::Session;
use stratavore_core::transcript::{Digest, Transcript};
use stratavore_store::KeptSegment;
use stratavore_vault::digest;

use super::intake::Intake;
use crate::control::Control;
use crate::error::Error;

/// The version of this form.
pub(crate) const FORM: u32 = 1;
pub(crate) const MANIFEST: &str = "manifest.json";
/// Where the messages are.
pub(crate) const MESSAGES: &str = "messages";
const PAGE: u32 = 500;

/// What an export consists of, as a file of its own: `manifest.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// `FORM`.
    pub stratavore_session: u32,
    pub exported_at: Timestamp,
    pub session: ManifestSession,
    pub files: Vec<ManifestFile>,
}

/// The conversation. Untrusted text, as what its assistant told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ManifestSession {
    pub project_name: String,
    #[serde(flatten)]
    pub session: Session,
}

/// A file beside the manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ManifestFile {
    pub name: String,
    pub size: u64,
    pub sha256: Digest,
    /// Where it was, if it is a transcript.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
}

/// What comes next of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExportPart {
    /// The bytes that follow are of this file.
    File {
        name: String,
        size: u64,
    },
    Bytes(Vec<u8>),
}

/// An export that is being read.
pub struct SessionExport {
    intake: Intake,
    manifest: Manifest,
    /// With the name that each has in the export.
    transcripts: VecDeque<(String, Transcript)>,
    open: Option<Open>,
    /// The message after which they go on, and the number of the file that they stand in.
    messages: Option<(Option<(Timestamp, i64)>, usize)>,
    /// What is ready.
    ready: VecDeque<ExportPart>,
    is_over: bool,
}

/// A transcript that is being read.
struct Open {
    name: String,
    size: u64,
    digest: Sha256,
    segments: VecDeque<KeptSegment>,
    of: Transcript,
}

impl Control {
    /// Begins to export a conversation, and says so on the record.
    pub async fn session_export(
        &self,
        caller: &Caller,
        wanted: &str,
    ) -> Result<SessionExport, Error> {
        self.may_change(caller, "export conversations")?;
        let found = self.session(caller, wanted).await?;
        let session = found.id;
        let names = self.inner.store.project_names(&[found.project].into()).await?;
        let project_name = names.into_values().next().unwrap_or_default();
        let transcripts = self.inner.store.transcript_list(session).await?;
        let about = json!({ "session": session, "files": transcripts.len() });
        self.record(caller, "request.session_export", about).await?;
        let named = transcripts.into_iter().enumerate();
        let transcripts = named
            .map(|(number, transcript)| (name_of(number + 1, &transcript), transcript))
            .collect();
        let manifest = Manifest {
            stratavore_session: FORM,
            exported_at: self.now(),
            session: ManifestSession { project_name, session: found },
            files: Vec::new(),
        };
        Ok(SessionExport {
            intake: self.intake(),
            manifest,
            transcripts,
            open: None,
            messages: Some((None, 1)),
            ready: VecDeque::new(),
            is_over: false,
        })
    }
}

/// `transcripts/001-name.jsonl`: of what a path ends in only what no file system minds.
fn name_of(number: usize, transcript: &Transcript) -> String {
    let end = transcript.path.rsplit('/').next().unwrap_or_default();
    let is_good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let end: String = end.chars().map(|c| if is_good(c) { c } else { '_' }).take(60).collect();
    let version = if transcript.version > 1 || transcript.is_replaced {
        format!("v{}-", transcript.version)
    } else {
        String::new()
    };
    format!("transcripts/{number:03}-{version}{end}")
}

impl SessionExport {
    /// The next part; `None` after the last. The manifest comes last, since it has what the others
    /// came to.
    pub async fn next(&mut self) -> Result<Option<ExportPart>, Error> {
        loop {
            if let Some(part) = self.ready.pop_front() {
                return Ok(Some(part));
            }
            if let Some(open) = &mut self.open
                && let Some(kept) = open.segments.pop_front()
            {
                let bytes = self.intake.piece(&kept).await?;
                open.digest.update(&bytes);
                return Ok(Some(ExportPart::Bytes(bytes)));
            }
            if let Some(Open { name, size, digest, of, .. }) = self.open.take() {
                self.manifest.files.push(ManifestFile {
                    name,
                    size,
                    sha256: Digest(digest.finalize().into()),
                    path: Some(of.path),
                    version: Some(of.version),
                });
            } else if let Some((name, of)) = self.transcripts.pop_front() {
                self.begin(name, of).await?;
            } else if let Some((after, number)) = self.messages.take() {
                self.messages(after, number).await?;
            } else if self.is_over {
                return Ok(None);
            } else {
                let bytes = serde_json::to_vec_pretty(&self.manifest).map_err(Error::internal)?;
                self.whole(MANIFEST.into(), bytes);
                self.is_over = true;
            }
        }
    }

    async fn begin(&mut self, name: String, of: Transcript) -> Result<(), Error> {
        let segments = self.intake.store.transcript_segments(of.id).await?;
        // It may have grown since it was listed.
        let size = segments.iter().map(|kept| kept.segment.length).sum();
        self.ready.push_back(ExportPart::File { name: name.clone(), size });
        let segments = segments.into();
        self.open = Some(Open { name, size, digest: Sha256::new(), segments, of });
        Ok(())
    }

    /// A page of messages, as a file of its own.
    async fn messages(
        &mut self,
        after: Option<(Timestamp, i64)>,
        number: usize,
    ) -> Result<(), Error> {
        let session = self.manifest.session.session.id;
        let page = self.intake.store.message_list(session, after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        self.messages = Some((Some((last.message.at, last.number)), number + 1));
        let mut lines = Vec::new();
        for kept in &page {
            serde_json::to_writer(&mut lines, &kept.message).map_err(Error::internal)?;
            lines.push(b'\n');
        }
        let name = format!("{MESSAGES}/{number:03}.jsonl");
        self.manifest.files.push(ManifestFile {
            name: name.clone(),
            size: lines.len() as u64,
            sha256: digest(&lines),
            path: None,
            version: None,
        });
        self.whole(name, lines);
        Ok(())
    }

    fn whole(&mut self, name: String, bytes: Vec<u8>) {
        self.ready.push_back(ExportPart::File { name, size: bytes.len() as u64 });
        self.ready.push_back(ExportPart::Bytes(bytes));
    }
}
