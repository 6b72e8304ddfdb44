//! A hub on loopback that behaves as badly as a test asks for. Nothing but the standard library.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the next GET of the file does.
#[derive(Clone)]
pub enum Get {
    /// The body, or the part that Range asks for.
    Serve,
    /// The body cut off after so many bytes, and the connection closed.
    Cut(usize),
    /// This status with a page of HTML.
    Status(u16),
    /// The whole body, whatever Range says.
    IgnoreRange,
    /// Headers, then nothing more.
    Hang,
    /// Pieces of so many bytes with a pause before each.
    Drip(usize, Duration),
    /// No Content-Length, and no end.
    Endless,
}

pub struct Behaviour {
    pub body: Vec<u8>,
    pub etag: String,
    pub commit: String,
    /// Status of HEAD; with 302 it names `cdn`.
    pub head: u16,
    pub retry_after: Option<u64>,
    /// How many requests are answered 429 first.
    pub limited: u32,
    /// Behaviour of each GET in turn; `Serve` when it is empty.
    pub gets: VecDeque<Get>,
    pub cdn: Option<String>,
    /// What paths-info and info say.
    pub sha256: String,
}

impl Behaviour {
    pub fn of(body: &[u8], sha256: &str) -> Self {
        Behaviour {
            body: body.to_vec(),
            etag: sha256.into(),
            commit: COMMIT.into(),
            head: 200,
            retry_after: None,
            limited: 0,
            gets: VecDeque::new(),
            cdn: None,
            sha256: sha256.into(),
        }
    }
}

#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

pub struct FakeHub {
    pub url: String,
    pub behaviour: Arc<Mutex<Behaviour>>,
    pub log: Arc<Mutex<Vec<Request>>>,
}

impl FakeHub {
    pub fn start(behaviour: Behaviour) -> FakeHub {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let behaviour = Arc::new(Mutex::new(behaviour));
        let log = Arc::new(Mutex::new(Vec::new()));
        let (b, l) = (behaviour.clone(), log.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (b, l) = (b.clone(), l.clone());
                std::thread::spawn(move || answer(stream, &b, &l));
            }
        });
        FakeHub { url, behaviour, log }
    }

    pub fn requests(&self) -> Vec<Request> {
        self.log.lock().expect("the log").clone()
    }

    pub fn gets(&self) -> Vec<Request> {
        self.requests().into_iter().filter(|r| r.method == "GET").collect()
    }

    pub fn set(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.behaviour.lock().expect("the behaviour"));
    }
}

/// An address where nobody listens.
pub fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
    format!("http://{}", listener.local_addr().expect("an address"))
}

fn answer(stream: TcpStream, behaviour: &Mutex<Behaviour>, log: &Mutex<Vec<Request>>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_string(), words.next()?.to_string());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_string()));
    }
    let request = Request { method: method.clone(), path: path.clone(), headers };
    log.lock().ok()?.push(request.clone());
    let mut out = stream;
    let (status, extra, body, get) = {
        let mut b = behaviour.lock().ok()?;
        let about = format!("ETag: \"{}\"\r\nX-Repo-Commit: {}\r\n", b.etag, b.commit);
        if b.limited > 0 {
            b.limited -= 1;
            let wait = b.retry_after.map(|s| format!("Retry-After: {s}\r\n")).unwrap_or_default();
            (429, wait, b"slow down".to_vec(), Get::Serve)
        } else if path.contains("/paths-info/") {
            let name = "w.safetensors";
            let json = format!(
                "[{{\"type\":\"file\",\"oid\":\"x\",\"size\":{},\"path\":\"{name}\",\"lfs\":{{\"size\":{},\"oid\":\"{}\",\"sha256\":\"{}\",\"pointerSize\":130,\"pointer_size\":130}}}}]",
                b.body.len(),
                b.body.len(),
                b.sha256,
                b.sha256
            );
            (200, "Content-Type: application/json\r\n".into(), json.into_bytes(), Get::Serve)
        } else if path.starts_with("/api/") {
            let json = format!("{{\"id\":\"org/gan\",\"_id\":\"x\",\"sha\":\"{}\",\"siblings\":[]}}", b.commit);
            (200, "Content-Type: application/json\r\n".into(), json.into_bytes(), Get::Serve)
        } else if let Some(cdn) = &b.cdn {
            let location = format!("Location: {cdn}/cdn/blob\r\nX-Linked-Size: {}\r\nX-Linked-Etag: \"{}\"\r\n", b.body.len(), b.etag);
            (302, about + &location, Vec::new(), Get::Serve)
        } else if method == "HEAD" {
            (b.head, about, b.body.clone(), Get::Serve)
        } else {
            let get = b.gets.pop_front().unwrap_or(Get::Serve);
            (200, about, b.body.clone(), get)
        }
    };
    let asked =
        request.header("range").and_then(|r| r.strip_prefix("bytes=")?.split_once('-').map(|(a, b)| (a.to_string(), b.to_string())));
    let (status, extra, body) = match (&get, asked) {
        (Get::Status(code), _) => (*code, extra, b"<!DOCTYPE html><html><head><title>Sign in</title></head></html>".to_vec()),
        (Get::IgnoreRange | Get::Endless, _) | (_, None) => (status, extra, body),
        (_, Some((start, end))) if status == 200 => {
            let start: usize = start.parse().ok()?;
            let end = end.parse::<usize>().ok()?.min(body.len().saturating_sub(1));
            let part = body.get(start..=end)?.to_vec();
            (206, format!("{extra}Content-Range: bytes {start}-{end}/{}\r\n", body.len()), part)
        }
        _ => (status, extra, body),
    };
    let length = if matches!(get, Get::Endless) { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    write!(out, "HTTP/1.1 {status} X\r\n{extra}{length}Connection: close\r\n\r\n").ok()?;
    if method == "HEAD" {
        return Some(());
    }
    match get {
        Get::Cut(n) => out.write_all(&body[..n.min(body.len())]).ok()?,
        Get::Hang => std::thread::sleep(Duration::from_secs(20)),
        Get::Drip(n, pause) => {
            for piece in body.chunks(n) {
                std::thread::sleep(pause);
                out.write_all(piece).ok()?;
                out.flush().ok()?;
            }
        }
        Get::Endless => loop {
            out.write_all(&body).ok()?;
        },
        _ => out.write_all(&body).ok()?,
    }
    out.flush().ok()
}
