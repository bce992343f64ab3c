//! The API's client over the daemon's Unix socket.

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use prost::Message;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::v1::Problem;
use crate::v1::audit_client::AuditClient;
use crate::v1::budgets_client::BudgetsClient;
use crate::v1::daemon_client::DaemonClient;
use crate::v1::events_client::EventsClient;
use crate::v1::inbox_client::InboxClient;
use crate::v1::joining_client::JoiningClient;
use crate::v1::ledger_client::LedgerClient;
use crate::v1::nodes_client::NodesClient;
use crate::v1::notify_client::NotifyClient;
use crate::v1::outbox_client::OutboxClient;
use crate::v1::peers_client::PeersClient;
use crate::v1::projects_client::ProjectsClient;
use crate::v1::queue_client::QueueClient;
use crate::v1::runners_client::RunnersClient;
use crate::v1::runs_client::RunsClient;
use crate::v1::search_client::SearchClient;
use crate::v1::sessions_client::SessionsClient;
use crate::v1::vault_client::VaultClient;

/// A connection to a daemon; cheap to clone.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// Connects to the socket at `path`.
    pub async fn connect(path: &Path) -> Result<Self, tonic::transport::Error> {
        let path: PathBuf = path.into();
        // The address is never used: the connector knows the socket.
        let channel = Endpoint::from_static("http://stratavore.local")
            .connect_with_connector(service_fn(move |_: Uri| {
                let stream = crate::unix::connect(&path).map(TokioIo::new);
                async move { stream }
            }))
            .await?;
        Ok(Self { channel })
    }

    /// A client of whatever is at the other end of `channel`.
    pub fn over(channel: Channel) -> Self {
        Self { channel }
    }

    pub fn projects(&self) -> ProjectsClient<Channel> {
        ProjectsClient::new(self.channel.clone())
    }
    pub fn runners(&self) -> RunnersClient<Channel> {
        RunnersClient::new(self.channel.clone())
    }
    pub fn sessions(&self) -> SessionsClient<Channel> {
        SessionsClient::new(self.channel.clone())
    }
    pub fn ledger(&self) -> LedgerClient<Channel> {
        LedgerClient::new(self.channel.clone())
    }
    pub fn runs(&self) -> RunsClient<Channel> {
        RunsClient::new(self.channel.clone())
    }
    pub fn queue(&self) -> QueueClient<Channel> {
        QueueClient::new(self.channel.clone())
    }
    pub fn events(&self) -> EventsClient<Channel> {
        EventsClient::new(self.channel.clone())
    }
    pub fn inbox(&self) -> InboxClient<Channel> {
        InboxClient::new(self.channel.clone())
    }
    pub fn outbox(&self) -> OutboxClient<Channel> {
        OutboxClient::new(self.channel.clone())
    }
    pub fn notify(&self) -> NotifyClient<Channel> {
        NotifyClient::new(self.channel.clone())
    }
    pub fn budgets(&self) -> BudgetsClient<Channel> {
        BudgetsClient::new(self.channel.clone())
    }
    pub fn audit(&self) -> AuditClient<Channel> {
        AuditClient::new(self.channel.clone())
    }
    pub fn nodes(&self) -> NodesClient<Channel> {
        NodesClient::new(self.channel.clone())
    }
    pub fn joining(&self) -> JoiningClient<Channel> {
        JoiningClient::new(self.channel.clone())
    }
    pub fn peers(&self) -> PeersClient<Channel> {
        PeersClient::new(self.channel.clone())
    }
    pub fn search(&self) -> SearchClient<Channel> {
        SearchClient::new(self.channel.clone())
    }
    pub fn vault(&self) -> VaultClient<Channel> {
        VaultClient::new(self.channel.clone())
    }
    pub fn daemon(&self) -> DaemonClient<Channel> {
        DaemonClient::new(self.channel.clone())
    }
}

/// The problem that a status tells of, whoever sent it.
pub fn problem(status: &tonic::Status) -> Problem {
    if let Ok(problem) = Problem::decode(status.details())
        && !problem.code.is_empty()
    {
        return problem;
    }
    let code = match status.code() {
        tonic::Code::Unavailable => "unavailable",
        tonic::Code::DeadlineExceeded => "timeout",
        tonic::Code::Cancelled => "cancelled",
        tonic::Code::Unimplemented => "version_mismatch",
        tonic::Code::Ok
        | tonic::Code::Unknown
        | tonic::Code::InvalidArgument
        | tonic::Code::NotFound
        | tonic::Code::AlreadyExists
        | tonic::Code::PermissionDenied
        | tonic::Code::ResourceExhausted
        | tonic::Code::FailedPrecondition
        | tonic::Code::Aborted
        | tonic::Code::OutOfRange
        | tonic::Code::Internal
        | tonic::Code::DataLoss
        | tonic::Code::Unauthenticated => "internal",
    };
    Problem {
        code: code.into(),
        message: status.message().into(),
        hint: String::new(),
        related: Vec::new(),
    }
}
