//! A real S3 server as a process, which `tiered-storage/tests/setup.sh` installs: versitygw, or MinIO where
//! `MERIDIAN_TEST_S3=minio` asks for it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::BucketAddress;
use crate::process::{Process, wait_for};
use crate::server::free_port;
use crate::workspace;

const ACCESS_KEY: &str = "meridian-test";
const SECRET_KEY: &str = "a-secret-for-tests";
const BUCKET: &str = "cold";
const READY: Duration = Duration::from_secs(60);

/// A port that was free a moment ago may be another's by now: so often it is tried.
const STARTS_MAX: u32 = 3;

/// Whose server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Versitygw,
    Minio,
}

impl Kind {
    /// # Panics
    /// When `MERIDIAN_TEST_S3` is neither `versitygw` nor `minio`.
    fn from_environment() -> Self {
        match std::env::var("MERIDIAN_TEST_S3").as_deref() {
            Ok("minio") => Self::Minio,
            Ok("versitygw") | Err(_) => Self::Versitygw,
            Ok(other) => panic!("MERIDIAN_TEST_S3 is '{other}': expected 'versitygw' or 'minio'"),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Versitygw => "versitygw",
            Self::Minio => "minio",
        }
    }

    fn program(self) -> PathBuf {
        workspace::clients().join(self.name()).join(self.name())
    }

    /// The server, on a port of loopback, with its data and accounts below `directory`.
    fn command(self, directory: &Path, data: &Path, port: u16) -> Command {
        let mut command = Command::new(self.program());
        command.current_dir(directory);
        match self {
            Self::Versitygw => command
                .args(["--access", ACCESS_KEY, "--secret", SECRET_KEY])
                .args(["--port", &format!("127.0.0.1:{port}")])
                .args(["--virtual-domain", &format!("localhost:{port}")])
                .arg("--iam-dir")
                .arg(directory.join("s3-accounts"))
                .args(["--quiet", "posix"])
                .arg(data),
            Self::Minio => command
                .env("MINIO_ROOT_USER", ACCESS_KEY)
                .env("MINIO_ROOT_PASSWORD", SECRET_KEY)
                .env("MINIO_DOMAIN", "localhost")
                .env("MINIO_BROWSER", "off")
                .env("MINIO_UPDATE", "off")
                .args(["server", "--quiet", "--address", &format!("127.0.0.1:{port}")])
                .arg(data),
        };
        command
    }

    /// Whether it takes requests.
    fn is_ready(self, port: u16) -> bool {
        match self {
            Self::Versitygw => connect(port).is_some(),
            // It listens before it knows its disk.
            Self::Minio => answers_200(port, "/minio/health/ready").unwrap_or(false),
        }
    }
}

/// The server, with one bucket; it ends with this value.
pub struct Gateway {
    _process: Process,
    port: u16,
}

impl Gateway {
    /// Why it cannot run here, if it cannot.
    pub fn missing() -> Option<String> {
        let kind = Kind::from_environment();
        missing(kind.name(), &kind.program())
    }

    /// Starts it with its data in `directory`.
    ///
    /// Errors: it does not listen in time; with the end of its log.
    pub fn start(directory: &Path) -> Result<Self, String> {
        let mut started = Self::try_start(directory);
        for _ in 1..STARTS_MAX {
            if started.is_err() {
                started = Self::try_start(directory);
            }
        }
        started
    }

    fn try_start(directory: &Path) -> Result<Self, String> {
        let kind = Kind::from_environment();
        let data = directory.join("s3");
        let make = |path: &Path| {
            std::fs::create_dir_all(path).map_err(|e| format!("cannot make {}: {e}", path.display()))
        };
        make(&data)?;
        make(&directory.join("s3-accounts"))?;
        let port = free_port();
        let name = kind.name();
        let [log, out] = ["log", "out"].map(|ending| directory.join(format!("{name}.{ending}")));
        let mut process = Process::start(name, kind.command(directory, &data, port), &out, &log);
        let is_ready = wait_for(READY, || {
            let has_ended = process.try_wait().is_some();
            (has_ended || kind.is_ready(port)).then_some(!has_ended)
        });
        if is_ready != Some(true) {
            return Err(format!(
                "{name} has ended, or takes no requests after {READY:?}\n{}",
                process.log_tail(20)
            ));
        }
        // To both a bucket is a directory below their data.
        make(&data.join(BUCKET))?;
        Ok(Self {
            _process: process,
            port,
        })
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its bucket, below a prefix.
    pub fn bucket(&self, prefix: &str) -> BucketAddress {
        BucketAddress::s3(BUCKET, prefix, self.port, ACCESS_KEY, SECRET_KEY)
    }
}

/// Why a store of `tiered-storage/tests/setup.sh` cannot run here, if it cannot. `program`: what was installed.
pub fn missing(name: &str, program: &Path) -> Option<String> {
    if program.is_file() {
        return None;
    }
    let reason = workspace::clients().join(format!("{name}.missing"));
    let told = std::fs::read_to_string(reason).map(|text| text.trim().to_owned());
    Some(told.unwrap_or_else(|_| format!("{name} is not set up: run tiered-storage/tests/setup.sh {name}")))
}

fn connect(port: u16) -> Option<TcpStream> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()
}

fn answers_200(port: u16, path: &str) -> Option<bool> {
    let mut stream = connect(port)?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut status = [0; 12];
    stream.read_exact(&mut status).ok()?;
    Some(status.ends_with(b" 200"))
}
