//! The stand-in's server: requests in, the script's answers out.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::script::reply_to;
use super::{
    Answer, Asked, End, Entry, Other, Outcome, Place, Protocol, Reply, Response, Shared, Spoken,
    Usage, chat, gemini, locked, messages, responses, tool,
};

pub(super) fn run(
    listener: std::net::TcpListener,
    shared: Arc<Shared>,
    mut ended: oneshot::Receiver<()>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener).expect("the runtime takes the listener");
        // All connections end with this set.
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                _ = &mut ended => return,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                accepted = listener.accept() => {
                    let Ok((stream, _)) = accepted else { continue };
                    stream.set_nodelay(true).ok();
                    let shared = shared.clone();
                    connections.spawn(async move {
                        let service = service_fn(|request| handle(shared.clone(), request));
                        // Whoever asked may be gone; the bill says so.
                        http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
                    });
                }
            }
        }
    });
}

type Sent = hyper::Response<Pieces>;

async fn handle(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Sent, Infallible> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let Some(protocol) = (head.method == Method::POST).then(|| protocol_of(&path)).flatten() else {
        let (status, body) = other(&head.method, &path);
        let method = head.method.to_string();
        locked(&shared.others).push(Other { method, path, status });
        return Ok(plain(status, &body));
    };
    let Ok(body) = serde_json::from_slice::<Value>(&body) else {
        return Ok(plain(400, &refusal(protocol, 400, "the body is not JSON")));
    };
    let headers = head.headers.iter().map(|(name, value)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    let (asked, reply) = {
        let mut all = locked(&shared.asked);
        let number = all.len() as u64 + 1;
        let asked = Arc::new(Asked::new(number, protocol, &path, headers.collect(), body));
        all.push(Arc::clone(&asked));
        // Under the same lock: two requests at once take their replies in the order of their numbers.
        let reply = reply_to(&mut locked(&shared.rules), &asked);
        (asked, reply)
    };
    let response = respond(&shared, &asked, reply);
    let mut head = hyper::Response::builder().status(response.status);
    for (name, value) in &response.headers {
        head = head.header(*name, value);
    }
    let entry = Open { shared, entry: response.entry, told: false };
    response.wait(Place::Start).await;
    let (pieces, body) = mpsc::channel(1);
    let writing = write(response, pieces, entry);
    let body = Pieces { pieces: body, writing: Some(Box::pin(writing)) };
    Ok(head.body(body).expect("the headers are plain"))
}

fn protocol_of(path: &str) -> Option<Protocol> {
    if path.ends_with("/chat/completions") {
        return Some(Protocol::Chat);
    }
    if path.ends_with("/responses") {
        return Some(Protocol::Responses);
    }
    if path.ends_with("/messages") {
        return Some(Protocol::Messages);
    }
    let (_, verb) = gemini::model_and_verb(path);
    matches!(verb, "generateContent" | "streamGenerateContent").then_some(Protocol::Gemini)
}

/// The small things that assistants ask for beside answers.
fn other(method: &Method, path: &str) -> (u16, Value) {
    let is = |wanted: Method, end: &str| *method == wanted && path.ends_with(end);
    if is(Method::POST, "/messages/count_tokens") {
        return (200, json!({ "input_tokens": 1_000 }));
    }
    if is(Method::POST, ":countTokens") {
        return (200, json!({ "totalTokens": 1_000 }));
    }
    if is(Method::GET, "/models") {
        return (200, json!({ "object": "list", "data": [], "models": [], "has_more": false }));
    }
    if *method == Method::HEAD && path == "/" {
        return (200, Value::Null);
    }
    (404, json!({ "error": { "message": format!("the stand-in has no {method} {path}") } }))
}

fn refusal(protocol: Protocol, status: u16, message: &str) -> Value {
    match protocol {
        Protocol::Messages => messages::refusal(status, message),
        Protocol::Responses | Protocol::Chat => responses::refusal(status, message),
        Protocol::Gemini => gemini::refusal(status, message),
    }
}

fn plain(status: u16, body: &Value) -> Sent {
    let (pieces, receiver) = mpsc::channel(1);
    pieces.try_send(Ok(Bytes::from(body.to_string()))).ok();
    let body = Pieces { pieces: receiver, writing: None };
    let head = hyper::Response::builder().status(status).header("content-type", "application/json");
    head.body(body).expect("the headers are plain")
}

/// What the script's reply is for this request; what is answered goes on the bill.
fn respond(shared: &Shared, asked: &Asked, reply: Reply) -> Response {
    let Reply { parts, usage, delay, hold, end } = reply;
    let id = |kind: &str| format!("{kind}_{}_{:06}", shared.port, asked.number);
    let request_id = id("req");
    let mut headers = [("request-id", request_id.clone()), ("x-request-id", request_id.clone())]
        .into_iter()
        .collect::<std::collections::BTreeMap<_, _>>();
    headers.insert("content-type", "application/json".into());
    headers.extend(locked(&shared.windows).iter().cloned());

    let spoken: Result<Vec<Spoken>, String> = parts
        .iter()
        .map(|part| match part {
            super::Part::Text(text) => Ok(Spoken::Text(text.clone())),
            super::Part::Call(wanted) => tool::call(wanted, asked).map(Spoken::Call),
        })
        .collect();
    let refused = match (spoken, end) {
        (Ok(spoken), End::Whole) => Ok((spoken, false)),
        (Ok(spoken), End::Cut) => Ok((spoken, true)),
        (_, End::Refused { status, message, retry_after, resets_at }) => {
            let mut body = refusal(asked.protocol, status, &message);
            if let (Some(resets_at), Protocol::Responses) = (resets_at, asked.protocol) {
                responses::limited(&mut body, resets_at);
                headers.extend(responses::windows(resets_at));
            }
            match (retry_after, asked.protocol) {
                (Some(after), Protocol::Gemini) => gemini::retry_after(&mut body, after),
                (Some(after), Protocol::Messages | Protocol::Responses | Protocol::Chat) => {
                    headers.insert("retry-after", after.as_secs().to_string());
                }
                (None, _) => {}
            }
            Err((status, body))
        }
        (Err(fault), End::Whole | End::Cut) => {
            locked(&shared.faults).push(format!("request {}: {fault}", asked.number));
            Err((400, refusal(asked.protocol, 400, &fault)))
        }
    };
    let (spoken, cut) = match refused {
        Ok(answered) => answered,
        Err((status, body)) => {
            let answer = Answer::whole(body);
            return Response { status, headers, answer, delay, hold, cut: false, entry: None };
        }
    };
    let usage = usage.unwrap_or_else(|| Usage::of_request(asked.protocol, asked.number));
    let write = match asked.protocol {
        Protocol::Messages => messages::answer,
        Protocol::Responses => responses::answer,
        Protocol::Chat => chat::answer,
        Protocol::Gemini => gemini::answer,
    };
    let message_id = id(match asked.protocol {
        Protocol::Messages => "msg",
        Protocol::Responses => "resp",
        Protocol::Chat => "chatcmpl",
        Protocol::Gemini => "gemini",
    });
    let answer = write(asked, &message_id, &spoken, &usage);
    headers.insert("content-type", answer.content_type.into());
    let mut bill = locked(&shared.bill);
    bill.entries.push(Entry {
        number: asked.number,
        protocol: asked.protocol,
        request_id,
        message_id,
        model: asked.model.clone(),
        purpose: asked.purpose,
        usage,
        outcome: Outcome::Open,
    });
    let entry = Some(bill.entries.len() - 1);
    Response { status: 200, headers, answer, delay, hold, cut, entry }
}

/// An entry whose answer is being written. One that is let go of before the end was dropped.
struct Open {
    shared: Arc<Shared>,
    entry: Option<usize>,
    told: bool,
}

impl Open {
    fn set(&mut self, outcome: Outcome) {
        self.told = outcome == Outcome::Complete;
        if let Some(at) = self.entry {
            locked(&self.shared.bill).entries[at].outcome = outcome;
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.told {
            self.set(Outcome::Dropped);
        }
    }
}

impl Response {
    async fn wait(&self, place: Place) {
        if let Some((at, delay)) = self.delay
            && at == place
        {
            tokio::time::sleep(delay).await;
        }
        if let Some((at, hold)) = &self.hold
            && *at == place
        {
            hold.pass().await;
        }
    }
}

async fn write(response: Response, pieces: mpsc::Sender<io::Result<Bytes>>, mut entry: Open) {
    let events = &response.answer.events;
    for (at, event) in events.iter().enumerate() {
        if at == response.answer.middle {
            response.wait(Place::Middle).await;
            if response.cut {
                // What was written before goes out first, which it does while nothing more comes.
                if let Ok(room) = pieces.reserve().await {
                    drop(room);
                    tokio::task::yield_now().await;
                }
                pieces.send(Err(io::Error::other("cut, as the script says"))).await.ok();
                return;
            }
        }
        if at + 1 == events.len() {
            // Before it is sent: whoever has read it finds it on the bill.
            entry.set(Outcome::Complete);
        }
        if pieces.send(Ok(Bytes::from(event.clone()))).await.is_err() {
            entry.set(Outcome::Dropped);
            return;
        }
    }
}

/// A body that is written while it is sent. Dropped with its connection, it ends the writing.
struct Pieces {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    writing: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(writing) = &mut self.writing
            && writing.as_mut().poll(context).is_ready()
        {
            self.writing = None;
        }
        self.pieces.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}
