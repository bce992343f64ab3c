//! How long what a request says may take to come: who asks and then says nothing, or next to nothing, is
//! refused, and does not hold a stream for ever.

use std::time::Duration;

use tonic::body::Body;
use tonic::codegen::http::Request;
use tower_http::timeout::{DeadlineBody, TimeoutBody};

use crate::times::or_as_tested;

/// Between two pieces of it.
const IDLE: Duration = Duration::from_secs(10);
/// In all. The largest message takes less over any network that hosts share.
const WHOLE: Duration = Duration::from_secs(60);
/// What lasts as long as somebody looks, or as there is something to send.
const STREAMS: [&str; 2] = ["/stratavore.v1.Runners/Connect", "/stratavore.v1.Vault/ImportSession"];

pub(super) fn in_time(request: Request<Body>) -> Request<Body> {
    if STREAMS.contains(&request.uri().path()) {
        return request;
    }
    let (idle, whole) = (or_as_tested("body_idle", IDLE), or_as_tested("body_whole", WHOLE));
    request.map(|body| Body::new(DeadlineBody::new(whole, TimeoutBody::new(idle, body))))
}
