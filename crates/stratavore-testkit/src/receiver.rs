//! An HTTP server on loopback that does as it is told, and keeps what it was sent.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

/// A request as it came in.
#[derive(Debug, Clone)]
pub struct Got {
    pub at: Instant,
    pub method: String,
    pub path: String,
    /// By their names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: String,
    /// The body as it came in.
    pub bytes: Vec<u8>,
}

impl Got {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// What it answers.
#[derive(Debug, Clone)]
pub enum Reply {
    Status(u16),
    /// With a header and a body.
    With(u16, &'static str, String, String),
    /// With headers, and a body of which so many bytes are sent before the connection ends.
    Part(u16, Vec<(&'static str, String)>, Vec<u8>, usize),
    /// Nothing, on a connection that stays open.
    Silence,
    /// Nothing, on a connection that ends.
    End,
}

type Answer = Box<dyn Fn(&Got, usize) -> Reply + Send>;

struct Shared {
    got: Mutex<Vec<Got>>,
    answer: Mutex<Answer>,
    over: AtomicBool,
}

/// The server. Dropping it ends it.
pub struct Receiver {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Receiver {
    /// One that takes everything.
    pub fn start() -> Self {
        Self::answering(|_, _| Reply::Status(200))
    }

    /// One that answers by what it was sent, and how many came before.
    pub fn answering(answer: impl Fn(&Got, usize) -> Reply + Send + 'static) -> Self {
        Self::at(IpAddr::V4(Ipv4Addr::LOCALHOST), answer)
    }

    /// The same on another address of this host.
    ///
    /// # Panics
    /// If it cannot listen there.
    pub fn at(address: IpAddr, answer: impl Fn(&Got, usize) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind((address, 0)).expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let shared = Arc::new(Shared {
            got: Mutex::default(),
            answer: Mutex::new(Box::new(answer)),
            over: AtomicBool::new(false),
        });
        let own = shared.clone();
        let listening = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if own.over.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), own) = (stream, own.clone()) else { continue };
                std::thread::spawn(move || own.serve(stream));
            }
        });
        Self { address, shared, listening: Some(listening) }
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// What has come in so far.
    pub fn got(&self) -> Vec<Got> {
        locked(&self.shared.got).clone()
    }

    /// Has it answer otherwise from now on.
    pub fn answers(&self, answer: impl Fn(&Got, usize) -> Reply + Send + 'static) {
        *locked(&self.shared.answer) = Box::new(answer);
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        // Whoever listens is woken by it.
        TcpStream::connect(self.address).ok();
        if let Some(listening) = self.listening.take() {
            listening.join().ok();
        }
    }
}

impl Shared {
    /// One request on one connection; one that is broken is nobody's.
    fn serve(&self, mut stream: TcpStream) {
        let Some(got) = read(&stream) else { return };
        let reply = {
            let mut all = locked(&self.got);
            let before = all.len();
            all.push(got.clone());
            drop(all);
            locked(&self.answer)(&got, before)
        };
        let (status, headers, body, sent) = match reply {
            Reply::Status(status) => (status, Vec::new(), Vec::new(), 0),
            Reply::With(status, header, value, body) => {
                let sent = body.len();
                (status, vec![(header, value)], body.into_bytes(), sent)
            }
            Reply::Part(status, headers, body, sent) => (status, headers, body, sent),
            Reply::End => return,
            Reply::Silence => {
                while !self.over.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(10));
                }
                return;
            }
        };
        let mut text = format!("HTTP/1.1 {status} -\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        // To a HEAD there is none, and to "no content" it must not be told.
        if status != 204 {
            text.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        text.push_str("connection: close\r\n\r\n");
        // Whoever asked may be gone.
        stream.write_all(text.as_bytes()).ok();
        stream.write_all(&body[..sent.min(body.len())]).ok();
    }
}

fn read(stream: &TcpStream) -> Option<Got> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(Ok(0), |text| text.parse()).ok()?;
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes).ok()?;
    let body = String::from_utf8_lossy(&bytes).into_owned();
    Some(Got { at: Instant::now(), method, path, headers, body, bytes })
}
