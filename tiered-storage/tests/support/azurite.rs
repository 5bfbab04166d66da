//! Azurite, Microsoft's emulator of Azure Blob Storage, as a process; `tests/setup.sh azurite` installs it. No cloud is reached by any
//! test.
//!
//! There is none of Google's: `object_store` writes through the XML API, and fake-gcs-server does not take that
//! (fsouza/fake-gcs-server#331; 1.56.1 answers "invalid uploadType").

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use meridian_compat::Process;
use meridian_compat::process::{output_within, wait_for};
use meridian_compat::s3::missing;
use meridian_compat::server::free_port;
use meridian_compat::workspace;
use meridian_tiered_storage::store::StoreSettings;

const BUCKET: &str = "cold";
const READY: Duration = Duration::from_secs(30);

/// The account that Azurite has, and its key; both are public (Azurite's README).
const ACCOUNT: &str = "devstoreaccount1";
const ACCOUNT_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Makes a container by a signed request (Shared Key): ARGUMENTS port, account, key, container.
const CREATE_CONTAINER: &str = "
import base64, email.utils, hashlib, hmac, sys, urllib.request
port, account, key, container = sys.argv[1:]
date, version = email.utils.formatdate(usegmt=True), '2021-08-06'
text = 'PUT' + '\\n' * 12 + f'x-ms-date:{date}\\nx-ms-version:{version}\\n/{account}/{account}/{container}\\nrestype:container'
signature = base64.b64encode(hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()).decode()
headers = {'x-ms-date': date, 'x-ms-version': version, 'Content-Length': '0', 'Authorization': f'SharedKey {account}:{signature}'}
url = f'http://127.0.0.1:{port}/{account}/{container}?restype=container'
urllib.request.urlopen(urllib.request.Request(url, method='PUT', headers=headers))
";

/// A running emulator; it ends with this value.
pub(crate) struct Azurite {
    _process: Process,
    _directory: tempfile::TempDir,
    settings: StoreSettings,
}

impl Azurite {
    /// `None`, and the reason on standard output, where it is not installed: nothing requires it, not even where nothing else
    /// may be skipped.
    pub(crate) fn start() -> Option<Self> {
        let script = workspace::clients().join("azurite/node_modules/azurite/dist/src/blob/main.js");
        if let Some(reason) = missing("azurite", &script) {
            println!("SKIPPED: {reason}");
            return None;
        }
        let directory = tempfile::tempdir().expect("a directory");
        let port = free_port().to_string();
        let mut command = Command::new("node");
        command
            .arg(script)
            .args(["--blobHost", "127.0.0.1", "--blobPort", &port])
            .args(["--silent", "--skipApiVersionCheck", "--disableTelemetry"])
            .args(["--location", "."])
            .current_dir(directory.path());
        let file = |name: &str| directory.path().join(name);
        let process = Process::start("azurite", command, &file("azurite.out"), &file("azurite.log"));
        let create = [CREATE_CONTAINER, &port, ACCOUNT, ACCOUNT_KEY, BUCKET];
        let mut last = String::new();
        wait_for(READY, || match run_python(&create, directory.path()) {
            Ok(()) => Some(()),
            Err(reason) => {
                last = reason;
                None
            }
        })
        .unwrap_or_else(|| panic!("azurite makes no container: {last}\n{}", process.log_tail(20)));
        let mut settings = StoreSettings::new(format!("az://{BUCKET}/below/here"));
        let options = [
            ("endpoint", format!("http://127.0.0.1:{port}/{ACCOUNT}")),
            ("account_name", ACCOUNT.to_owned()),
            ("access_key", ACCOUNT_KEY.to_owned()),
        ];
        settings.options = options.map(|(key, value)| (key.to_owned(), value)).into();
        Some(Self {
            _process: process,
            _directory: directory,
            settings,
        })
    }

    /// Its container, below a prefix.
    pub(crate) fn settings(&self) -> StoreSettings {
        self.settings.clone()
    }
}

fn run_python(arguments: &[&str], directory: &Path) -> Result<(), String> {
    let mut command = Command::new("python3");
    command.arg("-c").args(arguments).current_dir(directory);
    let output = output_within(&mut command, Duration::from_secs(10))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}
