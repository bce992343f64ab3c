//! The receiver of the assistant's telemetry: OTLP over HTTP, JSON, on a port of the loopback.
//!
//! Whoever connects must be a process of this runner, found by the socket that the kernel names as its
//! own; nobody else is heard. Log records are taken down as signals; metrics and traces are
//! accepted and dropped.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Map, Value, json};
use stratavore_core::signal::What;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::procfs;
use crate::runner::Runner;

/// The largest request. Exporters send some hundred records at once.
const BODY_MAX: usize = 8 << 20;
/// Exporters keep one connection each.
const CONNECTIONS_MAX: usize = 16;
const HEAD: Duration = Duration::from_secs(10);
const ACCEPT_REST: Duration = Duration::from_millis(200);

/// Opens a port of the system's choice.
pub(crate) fn listen() -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Hears what the runner's processes have to tell. Never ends.
pub(crate) async fn serve(runner: Rc<Runner>, listener: &TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) if connections.len() < CONNECTIONS_MAX => {
                    connections.spawn_local(hear(Rc::clone(&runner), stream, peer));
                }
                Ok(_) => {}
                Err(error) => {
                    crate::log::note(format_args!("take in telemetry: {error}"));
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn hear(runner: Rc<Runner>, stream: TcpStream, peer: SocketAddr) {
    let Ok(own) = stream.local_addr() else { return };
    if !is_of_runner(&runner, peer, own) {
        crate::log::note(format_args!("telemetry of a process outside of the runner was refused"));
        return;
    }
    let answer = service_fn(move |request| answered(Rc::clone(&runner), request));
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD);
    // Exporters keep a connection open and are not to hear of it; that it breaks concerns only them.
    let _ended = http.serve_connection(TokioIo::new(stream), answer).await;
}

async fn answered(
    runner: Rc<Runner>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let answer = |status: StatusCode, text: &'static str| {
        let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
        *response.status_mut() = status;
        let json = header::HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        response
    };
    let path = request.uri().path().to_owned();
    if request.method() != Method::POST || !path.starts_with("/v1/") {
        return Ok(answer(StatusCode::NOT_FOUND, "{}"));
    }
    let Ok(body) = Limited::new(request.into_body(), BODY_MAX).collect().await else {
        return Ok(answer(StatusCode::PAYLOAD_TOO_LARGE, "{}"));
    };
    if path == "/v1/logs" {
        let Ok(body) = serde_json::from_slice::<Value>(&body.to_bytes()) else {
            return Ok(answer(StatusCode::BAD_REQUEST, "{}"));
        };
        let wanted = runner.spec.observe.as_ref().map_or(&[][..], |observe| &observe.telemetry);
        for record in records(&body).into_iter().filter(|record| tells(record, wanted)) {
            runner.note_signal(What::Telemetry { record });
        }
    }
    Ok(answer(StatusCode::OK, "{\"partialSuccess\":{}}"))
}

/// The log records of a request, each with the attributes of its resource, in plain JSON.
fn records(body: &Value) -> Vec<Value> {
    let list = |value: &Value, key: &str| -> Vec<Value> {
        value.get(key).and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let mut found = Vec::new();
    for of_resource in list(body, "resourceLogs") {
        let resource = attributes(&of_resource["resource"]);
        for of_scope in list(&of_resource, "scopeLogs") {
            for record in list(&of_scope, "logRecords") {
                let nanos = [&record["timeUnixNano"], &record["observedTimeUnixNano"]]
                    .into_iter()
                    .find_map(integer)
                    .unwrap_or(0);
                found.push(json!({
                    "body": plain(&record["body"]),
                    "time": nanos / 1000,
                    "attributes": attributes(&record),
                    "resource": resource,
                }));
            }
        }
    }
    found
}

/// True if the record has one of these attributes, or all are wanted.
fn tells(record: &Value, wanted: &[String]) -> bool {
    wanted.is_empty() || wanted.iter().any(|name| record["attributes"].get(name).is_some())
}

fn attributes(of: &Value) -> Value {
    let pairs = of.get("attributes").and_then(Value::as_array).into_iter().flatten();
    let plain =
        pairs.filter_map(|pair| Some((pair.get("key")?.as_str()?.into(), plain(&pair["value"]))));
    Value::Object(plain.collect::<Map<String, Value>>())
}

/// A value of OTLP as JSON has it.
fn plain(value: &Value) -> Value {
    if let Some(number) = value.get("intValue").and_then(integer) {
        return number.into();
    }
    if let Some(number) = value.get("doubleValue") {
        let read = number.as_f64().or_else(|| number.as_str()?.parse().ok());
        return read.map_or(Value::Null, Value::from);
    }
    if let Some(items) = value.get("arrayValue") {
        let items = items.get("values").and_then(Value::as_array).into_iter().flatten();
        return items.map(plain).collect();
    }
    let other = value.get("stringValue").or_else(|| value.get("boolValue"));
    other.cloned().unwrap_or(Value::Null)
}

/// 64-bit numbers are written as strings, by those who heed the specification.
fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

/// True if the other end of a connection from `peer` to `own` is held by a process of the runner.
fn is_of_runner(runner: &Runner, peer: SocketAddr, own: SocketAddr) -> bool {
    let Ok(table) = fs::read_to_string("/proc/net/tcp") else { return false };
    let Some(inode) = inode(&table, peer, own) else { return false };
    let link = format!("socket:[{inode}]");
    let holds = |pid: &u32| {
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        files
            .flatten()
            .any(|file| fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == link.as_str()))
    };
    procfs::descendants(runner.identity.pid).iter().any(holds)
}

/// The socket that is bound to `local` and connected to `remote`, in the kernel's table of TCP.
fn inode(table: &str, local: SocketAddr, remote: SocketAddr) -> Option<u64> {
    let (local, remote) = (hexadecimal(local)?, hexadecimal(remote)?);
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let is_it = fields.get(1)? == &local && fields.get(2)? == &remote;
        if is_it { fields.get(9)?.parse().ok() } else { None }
    })
}

/// An address as the table has it: each number of the host's byte order.
fn hexadecimal(address: SocketAddr) -> Option<String> {
    match address {
        SocketAddr::V4(v4) => {
            let ip = u32::from_ne_bytes(v4.ip().octets());
            Some(format!("{ip:08X}:{:04X}", v4.port()))
        }
        SocketAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_become_plain_json() {
        let body = json!({"resourceLogs": [{
            "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "x"}}]},
            "scopeLogs": [{"logRecords": [{
                "timeUnixNano": "1795236098697000000",
                "body": {"stringValue": "x.api_request"},
                "attributes": [
                    {"key": "a", "value": {"intValue": "12"}},
                    {"key": "b", "value": {"intValue": 13}},
                    {"key": "c", "value": {"doubleValue": 0.5}},
                    {"key": "d", "value": {"boolValue": true}},
                    {"key": "e", "value": {"stringValue": "14"}},
                    {"key": "f", "value": {"arrayValue": {"values": [{"stringValue": "g"}]}}},
                ],
            }]}],
        }]});
        let expected = json!({
            "body": "x.api_request",
            "time": 1_795_236_098_697_000i64,
            "attributes": {"a": 12, "b": 13, "c": 0.5, "d": true, "e": "14", "f": ["g"]},
            "resource": {"service.name": "x"},
        });
        let found = records(&body);
        assert_eq!(found, [expected]);
        for (wanted, tell) in
            [(&[][..], true), (&["e".to_owned()], true), (&["z".to_owned()], false)]
        {
            assert_eq!(tells(&found[0], wanted), tell, "{wanted:?}");
        }
        assert!(records(&json!([1, {"resourceLogs": 7}])).is_empty());
    }

    #[test]
    fn a_socket_is_found_in_the_table_of_the_kernel() {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (local, remote) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        let found = inode(&table, local, remote).unwrap();
        let link =
            fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&stream)));
        assert_eq!(link.unwrap().to_str().unwrap(), format!("socket:[{found}]"));
        assert_eq!(inode(&table, local, local), None);
    }
}
