//! A server that speaks as much of S3 as a bucket is asked for, without credentials, and takes conditional puts as some
//! servers do: the start-up probe must notice.

use std::collections::BTreeMap;
use std::io::{self, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::BucketAddress;
use super::http::Message;

/// How long a raced put waits between its look and its write: long enough for others to come in between on a slow machine.
const RACE: Duration = Duration::from_millis(50);

/// How conditional puts are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conditions {
    /// As S3 does.
    Honoured,
    /// They overwrite, and success is answered (Garage and s3rver do).
    Ignored,
    /// They look first and write then, as if nobody came in between (s3s-fs and s3mock do).
    Raced,
    /// They are refused as not implemented.
    Refused,
    /// They answer that the object exists, and overwrite it nevertheless.
    RefusedAndDone,
}

/// The server; it ends with this value.
pub struct LyingStore {
    shared: Arc<Shared>,
    address: SocketAddr,
}

struct Shared {
    conditions: Conditions,
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    has_stopped: AtomicBool,
}

impl LyingStore {
    /// Listens on a free port of loopback.
    ///
    /// Errors: no port, or no thread.
    pub fn start(conditions: Conditions) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            conditions,
            objects: Mutex::default(),
            has_stopped: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        thread::Builder::new().name("lying-store".into()).spawn(move || {
            for client in listener.incoming() {
                if accepting.has_stopped.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(client) = client else { continue };
                let shared = Arc::clone(&accepting);
                // A connection that cannot be served is the client's to make again.
                drop(thread::Builder::new().spawn(move || shared.serve(client)));
            }
        })?;
        Ok(Self { shared, address })
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Any bucket of it; all are one.
    pub fn bucket(&self) -> BucketAddress {
        BucketAddress::s3("lies", "", self.port(), "any", "any")
    }
}

impl Drop for LyingStore {
    fn drop(&mut self) {
        self.shared.has_stopped.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.address));
    }
}

impl Shared {
    fn serve(&self, client: TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        let mut writer = client.try_clone()?;
        let mut reader = BufReader::new(client);
        while let Some(request) = Message::read_request(&mut reader)? {
            self.answer(&request).write(&mut writer)?;
        }
        Ok(())
    }

    fn answer(&self, request: &Message) -> Message {
        let Some((method, target)) = request.target() else {
            return Message::error(400, "Bad Request", "InvalidRequest", "no request line");
        };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        match method {
            "PUT" => self.put(path, request),
            "GET" if query.contains("list-type=2") => self.list(path, query),
            "GET" => self.get(path, request),
            "HEAD" => match self.objects().get(path) {
                Some(object) => {
                    let mut found = Message::response(200, "OK", Vec::new());
                    found.set("Content-Length", &object.len().to_string());
                    described(found)
                }
                None => Message::response(404, "Not Found", Vec::new()),
            },
            "POST" if query.starts_with("delete") => {
                let text = String::from_utf8_lossy(&request.body).into_owned();
                let root = path.trim_end_matches('/');
                let mut body = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?><DeleteResult>");
                for part in text.split("<Key>").skip(1) {
                    let key = part.split("</Key>").next().unwrap_or_default();
                    self.objects().remove(&format!("{root}/{key}"));
                    body.push_str(&format!("<Deleted><Key>{key}</Key></Deleted>"));
                }
                body.push_str("</DeleteResult>");
                Message::response(200, "OK", body.into_bytes())
            }
            "DELETE" => {
                self.objects().remove(path);
                Message::response(204, "No Content", Vec::new())
            }
            _ => Message::error(501, "Not Implemented", "NotImplemented", method),
        }
    }

    fn put(&self, path: &str, request: &Message) -> Message {
        let exists = || {
            Message::error(
                412,
                "Precondition Failed",
                "PreconditionFailed",
                "the object exists",
            )
        };
        let mut objects = self.objects();
        if request.header("If-None-Match").is_some() {
            let is_there = objects.contains_key(path);
            match self.conditions {
                Conditions::Honoured if is_there => return exists(),
                Conditions::Raced if is_there => return exists(),
                Conditions::Raced => {
                    drop(objects);
                    thread::sleep(RACE);
                    objects = self.objects();
                }
                Conditions::Refused => {
                    return Message::error(
                        501,
                        "Not Implemented",
                        "NotImplemented",
                        "A header you provided implies functionality that is not implemented.",
                    );
                }
                Conditions::RefusedAndDone if is_there => {
                    objects.insert(path.to_owned(), request.body.clone());
                    return exists();
                }
                _ => {}
            }
        }
        objects.insert(path.to_owned(), request.body.clone());
        described(Message::response(200, "OK", Vec::new()))
    }

    fn get(&self, path: &str, request: &Message) -> Message {
        let objects = self.objects();
        let Some(object) = objects.get(path) else {
            return Message::error(404, "Not Found", "NoSuchKey", "no such key");
        };
        let Some((start, last)) = request.header("Range").and_then(range) else {
            return described(Message::response(200, "OK", object.clone()));
        };
        let end = last.saturating_add(1).min(object.len());
        let Some(part) = object.get(start..end).filter(|part| !part.is_empty()) else {
            return Message::error(416, "Range Not Satisfiable", "InvalidRange", "beyond the end");
        };
        let mut found = Message::response(206, "Partial Content", part.to_vec());
        let total = object.len();
        found.set("Content-Range", &format!("bytes {start}-{}/{total}", end - 1));
        described(found)
    }

    /// Everything at once: tests have few objects.
    fn list(&self, bucket: &str, query: &str) -> Message {
        let value = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs
                .find(|(key, _)| *key == name)
                .map(|(_, value)| decoded(value))
        };
        let root = format!("{}/", bucket.trim_end_matches('/'));
        let prefix = value("prefix").unwrap_or_default();
        let has_delimiter = value("delimiter").is_some_and(|delimiter| delimiter == "/");
        let mut directories = std::collections::BTreeSet::new();
        let mut body = String::from(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult><IsTruncated>false</IsTruncated>",
        );
        for (path, object) in self.objects().iter() {
            let Some(key) = path.strip_prefix(&root).filter(|key| key.starts_with(&prefix)) else {
                continue;
            };
            if let Some((directory, _)) = key[prefix.len()..].split_once('/').filter(|_| has_delimiter) {
                directories.insert(format!("{prefix}{directory}/"));
                continue;
            }
            body.push_str(&format!(
                "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>\"x\"</ETag>\
                 <Size>{}</Size></Contents>",
                object.len()
            ));
        }
        for directory in directories {
            body.push_str(&format!(
                "<CommonPrefixes><Prefix>{directory}</Prefix></CommonPrefixes>"
            ));
        }
        body.push_str("</ListBucketResult>");
        let mut listing = Message::response(200, "OK", body.into_bytes());
        listing.set("Content-Type", "application/xml");
        listing
    }

    fn objects(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What clients want to know of every object.
fn described(mut message: Message) -> Message {
    message.set("ETag", "\"x\"");
    message.set("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT");
    message
}

/// `bytes=START-LAST`.
fn range(text: &str) -> Option<(usize, usize)> {
    let (start, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    Some((start.parse().ok()?, last.parse().unwrap_or(usize::MAX)))
}

/// Without the per cent signs of a query.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex
            .filter(|_| *first == b'%')
            .and_then(|hex| u8::from_str_radix(hex, 16).ok())
        {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_and_ranges_are_understood() {
        assert_eq!(decoded("a%2Fb+c%zz"), "a/b c%zz");
        assert_eq!(range("bytes=3-7"), Some((3, 7)));
        assert_eq!(range("bytes=3-"), Some((3, usize::MAX)));
        assert_eq!(range("lines=1-2"), None);
    }
}
