//! A proxy in front of an S3 server: every request, and every answer, can go wrong on its way.
//!
//! Faults are switched while it runs. Connections to the server are made for each request, so that a lost answer is
//! lost alone; those of clients stay open.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::http::Message;
use crate::random::Random;

/// How often the proxy looks for connections and for an outage.
const TICK: Duration = Duration::from_millis(5);

/// How long the server may take to answer.
const SERVER_PATIENCE: Duration = Duration::from_secs(60);

/// How long a request is left without an answer; clients give up long before.
const SILENCE: Duration = Duration::from_secs(30);

/// How long a slow answer takes.
const SLOW: Duration = Duration::from_secs(2);

/// What goes wrong with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProxyFault {
    /// Not done; 500 InternalError is answered.
    ServerError,
    /// Not done; 503 SlowDown is answered.
    SlowDown,
    /// Not done, and nothing is answered.
    Silence,
    /// Done, and the connection is cut before the answer.
    LoseAnswer,
    /// Done, and 500 is answered.
    DoneAndError,
    /// Done, and what comes back comes in pieces, for two seconds.
    SlowAnswer,
    /// Done; of what is read only the first half comes, then the connection is cut.
    Truncate,
    /// Done; in an object that is read one bit is wrong.
    FlipBit,
}

impl ProxyFault {
    /// All faults.
    pub const ALL: [Self; 8] = [
        Self::ServerError,
        Self::SlowDown,
        Self::Silence,
        Self::LoseAnswer,
        Self::DoneAndError,
        Self::SlowAnswer,
        Self::Truncate,
        Self::FlipBit,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::ServerError => "500",
            Self::SlowDown => "503 SlowDown",
            Self::Silence => "no answer",
            Self::LoseAnswer => "answer lost after it was done",
            Self::DoneAndError => "500 after it was done",
            Self::SlowAnswer => "slow answer",
            Self::Truncate => "body cut short",
            Self::FlipBit => "flipped bit",
        }
    }

    /// Whether it can befall this request: only an object that is read has bytes to spoil.
    fn befalls(self, is_read_of_object: bool) -> bool {
        is_read_of_object || !matches!(self, Self::SlowAnswer | Self::Truncate | Self::FlipBit)
    }
}

/// What a proxy has seen.
#[derive(Clone, Debug, Default)]
pub struct ProxyFigures {
    /// Requests that reached it.
    pub requests: u64,
    /// How often each fault came.
    pub faults: BTreeMap<ProxyFault, u64>,
    /// Conditions that were taken out of requests.
    pub conditions_stripped: u64,
    /// Outages.
    pub outages: u64,
}

impl fmt::Display for ProxyFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} requests, {} outages", self.requests, self.outages)?;
        for (fault, count) in &self.faults {
            write!(f, ", {count} x {}", fault.name())?;
        }
        Ok(())
    }
}

/// A running proxy; dropping it ends it.
pub struct FaultProxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    server: SocketAddr,
    switches: Mutex<Switches>,
    has_stopped: AtomicBool,
}

struct Switches {
    /// What can befall a request, and how many of a thousand it befalls, each alike.
    faults: Vec<ProxyFault>,
    of_thousand: u64,
    random: Random,
    is_out: bool,
    strips_conditions: bool,
    figures: ProxyFigures,
    /// Connections of clients, to be cut by an outage.
    clients: BTreeMap<u64, TcpStream>,
    next_client: u64,
}

impl FaultProxy {
    /// Listens on a free port of loopback and passes everything on to a server on a port of loopback. What goes wrong later is
    /// drawn from `seed`.
    ///
    /// Errors: no port, or no thread.
    pub fn start(server_port: u16, seed: u64) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            server: SocketAddr::from(([127, 0, 0, 1], server_port)),
            switches: Mutex::new(Switches {
                faults: Vec::new(),
                of_thousand: 0,
                random: Random::seeded(seed),
                is_out: false,
                strips_conditions: false,
                figures: ProxyFigures::default(),
                clients: BTreeMap::new(),
                next_client: 0,
            }),
            has_stopped: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        let accepting = thread::Builder::new()
            .name("fault-proxy".into())
            .spawn(move || accept(&accepting, listener, address))?;
        Ok(Self {
            shared,
            address,
            accepting: Some(accepting),
        })
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// From now on so many of a thousand requests meet one of these faults.
    pub fn fail(&self, faults: &[ProxyFault], of_thousand: u64) {
        let mut switches = self.shared.switches();
        switches.faults = faults.to_vec();
        switches.of_thousand = of_thousand;
    }

    /// From now on nothing goes wrong, and an outage is over.
    pub fn calm(&self) {
        self.fail(&[], 0);
        self.outage(false);
    }

    /// Connections are refused from now on, and those that are there are cut; or taken again.
    pub fn outage(&self, is_out: bool) {
        let mut switches = self.shared.switches();
        switches.figures.outages += u64::from(is_out && !switches.is_out);
        switches.is_out = is_out;
        if is_out {
            for client in std::mem::take(&mut switches.clients).into_values() {
                drop(client.shutdown(Shutdown::Both));
            }
        }
    }

    /// Conditions of puts are taken out on the way, so that the server overwrites what it was told not to. Only for servers
    /// that check no signature, which covers them.
    pub fn strip_conditions(&self) {
        self.shared.switches().strips_conditions = true;
    }

    /// What it has seen so far.
    pub fn figures(&self) -> ProxyFigures {
        self.shared.switches().figures.clone()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.has_stopped.store(true, Ordering::Relaxed);
        self.outage(true);
        if let Some(accepting) = self.accepting.take() {
            drop(accepting.join());
        }
    }
}

/// Takes connections while there is no outage. A listener that is gone refuses them, as a server does that is gone.
fn accept(shared: &Arc<Shared>, listener: TcpListener, address: SocketAddr) {
    let mut listener = Some(listener);
    while !shared.has_stopped.load(Ordering::Relaxed) {
        let is_out = shared.switches().is_out;
        if is_out {
            listener = None;
            thread::sleep(TICK);
            continue;
        }
        let listening = match &listener {
            Some(listening) => listening,
            None => match TcpListener::bind(address) {
                Ok(bound) => listener.insert(bound),
                Err(_) => {
                    thread::sleep(TICK);
                    continue;
                }
            },
        };
        let accepted = listening.set_nonblocking(true).and_then(|()| listening.accept());
        let Ok((client, _)) = accepted else {
            thread::sleep(TICK);
            continue;
        };
        let shared = Arc::clone(shared);
        // A connection that cannot be served is the client's to make again.
        drop(thread::Builder::new().spawn(move || shared.take(client)));
    }
}

/// How a request ends.
enum End {
    Answer(Message),
    /// The head of an answer, so much of its body, and the connection is cut.
    Part(Message, usize),
    Slowly(Message),
    Cut,
    Silence,
}

impl Shared {
    fn switches(&self) -> MutexGuard<'_, Switches> {
        self.switches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, client: TcpStream) -> io::Result<()> {
        client.set_nonblocking(false)?;
        client.set_nodelay(true)?;
        let id = {
            let mut switches = self.switches();
            if switches.is_out {
                return Ok(());
            }
            let id = switches.next_client;
            switches.next_client += 1;
            switches.clients.insert(id, client.try_clone()?);
            id
        };
        let served = self.serve(client);
        self.switches().clients.remove(&id);
        served
    }

    fn serve(&self, client: TcpStream) -> io::Result<()> {
        let mut writer = client.try_clone()?;
        let mut reader = BufReader::new(client);
        while let Some(request) = Message::read_request(&mut reader)? {
            let is_head = request.target().is_some_and(|(method, _)| method == "HEAD");
            match self.end_of(request)? {
                End::Answer(mut answer) => {
                    if is_head {
                        answer.body.clear();
                    }
                    answer.write(&mut writer)?;
                }
                End::Part(answer, bytes) => {
                    writer.write_all(&answer.head())?;
                    writer.write_all(&answer.body[..bytes])?;
                    break;
                }
                End::Slowly(answer) => {
                    writer.write_all(&answer.head())?;
                    let pieces = answer.body.chunks(answer.body.len() / 8 + 1);
                    for piece in pieces {
                        thread::sleep(SLOW / 8);
                        writer.write_all(piece)?;
                    }
                }
                End::Cut => break,
                End::Silence => {
                    self.keep_silent();
                    break;
                }
            }
        }
        drop(writer.shutdown(Shutdown::Both));
        Ok(())
    }

    fn end_of(&self, mut request: Message) -> io::Result<End> {
        let fault = self.draw(&mut request);
        let failed =
            |status, reason, code| End::Answer(Message::error(status, reason, code, "by order of the test"));
        match fault {
            Some(ProxyFault::ServerError) => {
                return Ok(failed(500, "Internal Server Error", "InternalError"));
            }
            Some(ProxyFault::SlowDown) => return Ok(failed(503, "Slow Down", "SlowDown")),
            Some(ProxyFault::Silence) => return Ok(End::Silence),
            _ => {}
        }
        let mut answer = self.ask(request)?;
        let is_read = matches!(answer.status(), Some(200 | 206)) && !answer.body.is_empty();
        Ok(match fault {
            Some(ProxyFault::LoseAnswer) => End::Cut,
            Some(ProxyFault::DoneAndError) => failed(500, "Internal Server Error", "InternalError"),
            Some(ProxyFault::SlowAnswer) if is_read => End::Slowly(answer),
            Some(ProxyFault::Truncate) if is_read => {
                let half = answer.body.len() / 2;
                End::Part(answer, half)
            }
            Some(ProxyFault::FlipBit) if is_read => {
                let middle = answer.body.len() / 2;
                answer.body[middle] ^= 1;
                End::Answer(answer)
            }
            _ => End::Answer(answer),
        })
    }

    /// What befalls this request, if anything.
    fn draw(&self, request: &mut Message) -> Option<ProxyFault> {
        let mut switches = self.switches();
        switches.figures.requests += 1;
        if switches.strips_conditions && request.header("If-None-Match").is_some() {
            request.remove("If-None-Match");
            switches.figures.conditions_stripped += 1;
        }
        if switches.random.within(0..1000) >= switches.of_thousand {
            return None;
        }
        let is_read = request
            .target()
            .is_some_and(|(method, path)| method == "GET" && !path.contains("list-type="));
        let possible: Vec<ProxyFault> = switches
            .faults
            .iter()
            .copied()
            .filter(|fault| fault.befalls(is_read))
            .collect();
        if possible.is_empty() {
            return None;
        }
        let fault = possible[switches.random.within(0..possible.len() as u64) as usize];
        *switches.figures.faults.entry(fault).or_default() += 1;
        Some(fault)
    }

    /// Has the server do it.
    fn ask(&self, mut request: Message) -> io::Result<Message> {
        let mut server = TcpStream::connect_timeout(&self.server, SERVER_PATIENCE)?;
        server.set_nodelay(true)?;
        server.set_read_timeout(Some(SERVER_PATIENCE))?;
        server.set_write_timeout(Some(SERVER_PATIENCE))?;
        let method = request.target().map(|(method, _)| method.to_owned());
        request.set("Connection", "close");
        request.write(&mut server)?;
        let mut answer =
            Message::read_response(&mut BufReader::new(server), method.as_deref().unwrap_or_default())?;
        answer.remove("Connection");
        Ok(answer)
    }

    fn keep_silent(&self) {
        let until = Instant::now() + SILENCE;
        while Instant::now() < until {
            let is_over = self.switches().is_out || self.has_stopped.load(Ordering::Relaxed);
            if is_over {
                return;
            }
            thread::sleep(TICK * 10);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::wait_for;
    use crate::s3::{Conditions, LyingStore};

    /// One request on a connection of its own. Errors: nothing, or half of it, comes back.
    fn ask(port: u16, method: &str, path: &str, headers: &str, body: &str) -> io::Result<Message> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(SERVER_PATIENCE))?;
        let length = body.len();
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{headers}\r\n{body}");
        stream.write_all(request.as_bytes())?;
        Message::read_response(&mut BufReader::new(stream), method)
    }

    fn status(answer: io::Result<Message>) -> Option<u16> {
        answer.ok().and_then(|answer| answer.status())
    }

    #[test]
    fn every_fault_is_what_it_says() {
        let store = LyingStore::start(Conditions::Honoured).unwrap();
        let proxy = FaultProxy::start(store.port(), 1).unwrap();
        let put = |path: &str, fault: Option<ProxyFault>| {
            proxy.fail(fault.as_slice(), 1000);
            let answer = status(ask(proxy.port(), "PUT", path, "", "0123456789"));
            proxy.calm();
            let is_there = status(ask(proxy.port(), "HEAD", path, "", "")) == Some(200);
            (answer, is_there)
        };
        assert_eq!(put("/b/1", None), (Some(200), true));
        assert_eq!(put("/b/2", Some(ProxyFault::ServerError)), (Some(500), false));
        assert_eq!(put("/b/3", Some(ProxyFault::SlowDown)), (Some(503), false));
        assert_eq!(put("/b/4", Some(ProxyFault::LoseAnswer)), (None, true));
        assert_eq!(put("/b/5", Some(ProxyFault::DoneAndError)), (Some(500), true));
        let get = |fault: ProxyFault| {
            proxy.fail(&[fault], 1000);
            let answer = ask(proxy.port(), "GET", "/b/1", "", "");
            proxy.calm();
            answer
                .ok()
                .map(|answer| String::from_utf8_lossy(&answer.body).into_owned())
        };
        assert_eq!(get(ProxyFault::Truncate), None);
        assert_eq!(get(ProxyFault::FlipBit).as_deref(), Some("0123446789"));
        let began = Instant::now();
        assert_eq!(get(ProxyFault::SlowAnswer).as_deref(), Some("0123456789"));
        assert!(began.elapsed() >= SLOW / 2);
        assert_eq!(proxy.figures().faults.len(), 7);
    }

    #[test]
    fn an_outage_refuses_connections_until_it_is_over() {
        let store = LyingStore::start(Conditions::Honoured).unwrap();
        let proxy = FaultProxy::start(store.port(), 1).unwrap();
        assert_eq!(status(ask(proxy.port(), "PUT", "/b/1", "", "x")), Some(200));
        // The thread that accepts looks every now and then.
        let soon = |holds: &dyn Fn() -> bool| wait_for(SERVER_PATIENCE, || holds().then_some(()));
        proxy.outage(true);
        let refused = || {
            let connected = TcpStream::connect(("127.0.0.1", proxy.port()));
            connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        };
        assert_eq!(soon(&refused), Some(()));
        proxy.outage(false);
        let served = || status(ask(proxy.port(), "GET", "/b/1", "", "")) == Some(200);
        assert_eq!(soon(&served), Some(()));
        assert_eq!(proxy.figures().outages, 1);
    }

    #[test]
    fn conditions_are_taken_out_when_that_is_asked() {
        let store = LyingStore::start(Conditions::Honoured).unwrap();
        let proxy = FaultProxy::start(store.port(), 1).unwrap();
        let create = || status(ask(proxy.port(), "PUT", "/b/1", "If-None-Match: *\r\n", "x"));
        assert_eq!((create(), create()), (Some(200), Some(412)));
        proxy.strip_conditions();
        assert_eq!(create(), Some(200));
        assert_eq!(proxy.figures().conditions_stripped, 1);
    }
}
