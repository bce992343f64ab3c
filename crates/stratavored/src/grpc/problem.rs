//! A use case's failure as a gRPC status, from one table.

use prost::Message;
use stratavore_control::{Error, chain};
use stratavore_proto::v1::Problem;
use tonic::{Code, Status};

/// A status travels in headers, and larger ones than a few kilobytes break the connection.
const TEXT_MAX: usize = 500;
const RELATED_MAX: usize = 20;

/// The status, with the problem in its details. What is internal is logged here, once, and only
/// said to have happened.
pub(crate) fn status(error: Error) -> Status {
    let code = error.code();
    if matches!(code, "internal" | "store_unavailable" | "vault_unavailable" | "disk_full") {
        tracing::error!(code, error = %chain(&error), "a request failed");
    }
    let mut related = error.related();
    related.truncate(RELATED_MAX);
    let problem = Problem {
        code: code.into(),
        message: bounded(error.to_string()),
        hint: bounded(error.hint()),
        related: related.into_iter().map(bounded).collect(),
    };
    Status::with_details(grpc_code(code), problem.message.clone(), problem.encode_to_vec().into())
}

/// At most so many characters of what somebody gave us.
fn bounded(text: String) -> String {
    match text.char_indices().nth(TEXT_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

fn grpc_code(code: &str) -> Code {
    match code {
        "invalid" => Code::InvalidArgument,
        "not_found" => Code::NotFound,
        "ambiguous" => Code::InvalidArgument,
        "forbidden" => Code::PermissionDenied,
        "name_taken" | "already_succeeded" | "session_busy" => Code::AlreadyExists,
        "quota_exceeded"
        | "budget_exceeded"
        | "node_full"
        | "no_node"
        | "disk_full"
        | "too_many_connections" => Code::ResourceExhausted,
        "project_archived" | "live_runners" | "refused" | "busy" | "ask_over" => {
            Code::FailedPrecondition
        }
        "idempotency_key_reuse" => Code::InvalidArgument,
        "conflict" => Code::Aborted,
        "trimmed" => Code::OutOfRange,
        "timeout" => Code::DeadlineExceeded,
        "unavailable" | "store_unavailable" | "vault_unavailable" | "agent_unreachable"
        | "node_unreachable" => Code::Unavailable,
        _ => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use stratavore_core::RunnerId;
    use stratavore_core::limits::Limits;
    use stratavore_core::quota::{Holder, QuotaExceeded, Resource};
    use stratavore_store::StoreError;

    use super::*;

    #[test]
    fn a_status_fits_into_headers_however_much_it_is_about() {
        let holder = |n: u16| Holder {
            runner: RunnerId::from_entropy([n as u8; 16]),
            name: format!("runner-{n}").parse().unwrap(),
            limits: Limits::default(),
        };
        let exceeded = QuotaExceeded {
            resource: Resource::Runners,
            limit: 5000,
            used: 5000,
            requested: Some(1),
            holders: (0..5000).map(holder).collect(),
        };
        let long = "ü\u{1b}".repeat(50_000);
        for error in [
            Error::Store(StoreError::Quota(Box::new(exceeded))),
            Error::NotFound { noun: "runner", wanted: long.clone(), nearest: Vec::new() },
            Error::invalid(long.clone(), long.clone()),
        ] {
            let status = status(error);
            assert!(status.details().len() + status.message().len() < 6000, "{}", status.message());
            let problem = stratavore_proto::client::problem(&status);
            assert!(!problem.message.is_empty() && !problem.code.is_empty());
        }
    }
}
