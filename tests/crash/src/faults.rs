//! Disks that are full or fail: clear errors, reads go on, and nothing acknowledged is lost.

use std::path::Path;
use std::time::{Duration, Instant};

use meridian_compat::image::{Backing, Image};
use meridian_compat::load::create_topic;
use meridian_compat::process::wait_for;
use meridian_compat::raw::{RawClient, batches, plain_batch};
use meridian_compat::{Random, Server, ServerOptions, workspace};

/// Errors of Produce after which a client tries again: LEADER_NOT_AVAILABLE, NOT_LEADER_OR_FOLLOWER, REQUEST_TIMED_OUT,
/// NOT_ENOUGH_REPLICAS, NOT_ENOUGH_REPLICAS_AFTER_APPEND, KAFKA_STORAGE_ERROR, UNKNOWN_LEADER_EPOCH, THROTTLING_QUOTA_EXCEEDED.
const RETRIABLE: [i16; 8] = [5, 6, 7, 19, 20, 56, 75, 89];

/// How the disk goes bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// No space is left.
    Full,
    /// The block layer fails below the file system.
    WriteBack,
    /// One fsync reports an error, and those after it report success: what Linux does when write-back fails.
    FsyncError,
}

/// What a run has shown, when nothing was wrong.
#[derive(Clone, Debug)]
pub struct FaultOutcome {
    /// Batches acknowledged before the fault took hold; all were found afterwards.
    pub acknowledged: usize,
    /// What Produce answered then.
    pub refusal: Refusal,
    /// Whether the server had to be started again to write.
    pub restarted: bool,
}

/// How a server says that it cannot write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A Kafka error code.
    Error(i16),
    /// It closed the connection, or ended.
    Closed,
}

/// How long a server that refuses connections may take until its process is gone.
const ENDED: Duration = Duration::from_secs(30);

const TOPIC: &str = "crash";
const BATCH_BYTES: usize = 256 << 10;

/// Runs the server under strace, which makes the 300th fdatasync of each thread, and only that one, fail with EIO. Some
/// thread syncs for each acknowledgement, so that it comes long after the start. `-D`: the server keeps its own pid.
const FAILING_FSYNC: [&str; 9] = [
    "strace",
    "-D",
    "-f",
    "--seccomp-bpf",
    "-qqq",
    "-o",
    "/dev/null",
    "-e",
    "inject=fdatasync,fsync:error=EIO:when=300",
];

/// Writes until the disk refuses, looks at what clients are told, repairs the disk, and looks for everything.
///
/// Errors: what went wrong, and where the logs lie.
pub fn run(name: &str, server: ServerOptions, fault: DiskFault) -> Result<FaultOutcome, String> {
    let directory = workspace::run_directory(&format!("{name}-disk"));
    let (size_mib, backing) = match fault {
        DiskFault::Full => (2048, Backing::Disk),
        DiskFault::WriteBack => (8192, Backing::Tmpfs { size_mib: 1024 }),
        DiskFault::FsyncError => (2048, Backing::Disk),
    };
    let mut image = Image::create(&directory, size_mib, backing)?;
    let server = match fault {
        DiskFault::FsyncError => server.wrapper(&FAILING_FSYNC),
        DiskFault::Full | DiskFault::WriteBack => server,
    };
    let server = server.data(&image.path().join("data"));
    let mut server = Server::try_start(name, server)?;
    let result = faulty(&mut server, &mut image, fault);
    let tail = server.log_tail(30);
    server.kill();
    let unmounted = image.unmount();
    result
        .map_err(|e| {
            format!(
                "{e}\n--- end of the server's log\n{tail}\n--- logs below {}",
                directory.display()
            )
        })
        .and_then(|outcome| unmounted.map(|()| outcome))
}

fn faulty(server: &mut Server, image: &mut Image, fault: DiskFault) -> Result<FaultOutcome, String> {
    create_topic(server.bootstrap(), TOPIC, 1, 1)?;
    let mut acknowledged: Vec<i64> = Vec::new();
    let mut next = 0;
    // The server is at work before its disk goes bad.
    for _ in 0..20 {
        let offset = produce(server, next)?.map_err(|r| format!("refused on a good disk: {r:?}"))?;
        acknowledged.push(offset);
        next += 1;
    }
    let filler = match fault {
        DiskFault::Full => Some(image.fill()?),
        DiskFault::WriteBack | DiskFault::FsyncError => None,
    };
    let deadline = Instant::now() + Duration::from_secs(180);
    let refusal = loop {
        match produce(server, next)? {
            Ok(offset) => acknowledged.push(offset),
            Err(refusal) => break refusal,
        }
        next += 1;
        if Instant::now() > deadline {
            return Err(format!("{next} batches were taken, and the disk never refused"));
        }
    };
    if let Refusal::Error(code) = refusal
        && !RETRIABLE.contains(&code)
    {
        return Err(format!(
            "produce was refused with {code}, which no client tries again"
        ));
    }
    // A full disk takes nothing away. After a failed fsync a node may stop altogether: what it holds may differ from what
    // the disk holds.
    if fault == DiskFault::Full && server.is_alive() {
        all_there(server, &acknowledged).map_err(|e| format!("reading while the disk is bad: {e}"))?;
    }
    if fault == DiskFault::FsyncError {
        stays_refused(server, next)?;
    }
    let restarted = repair(server, image, fault, filler.as_deref(), next)?;
    all_there(server, &acknowledged)?;
    Ok(FaultOutcome {
        acknowledged: acknowledged.len(),
        refusal,
        restarted,
    })
}

/// After a failed fsync nobody knows what is on the disk, whatever the next fsync says: the process may acknowledge
/// nothing any more.
fn stays_refused(server: &mut Server, next: u64) -> Result<(), String> {
    for _ in 0..4 {
        let started = Instant::now();
        let answer = produce(server, next)?;
        println!(
            "after the failed fsync: {answer:?} within {:?}",
            started.elapsed()
        );
        if answer.is_ok() {
            return Err("a batch was acknowledged after a failed fsync, without a restart".to_owned());
        }
    }
    Ok(())
}

/// Makes the disk good again, and waits until the server writes; starts it again when it does not by itself.
fn repair(
    server: &mut Server,
    image: &mut Image,
    fault: DiskFault,
    filler: Option<&Path>,
    next: u64,
) -> Result<bool, String> {
    if let Some(filler) = filler {
        image.free(filler)?;
        let deadline = Instant::now() + Duration::from_secs(15);
        while server.is_alive() && Instant::now() < deadline {
            if produce(server, next)?.is_ok() {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        server.kill();
    } else {
        // What fsync could not write is lost for good: only a new process on a good disk may go on.
        server.kill();
        if fault == DiskFault::WriteBack {
            image.unmount()?;
            image.grow_backing(10_000)?;
            image.mount()?;
        }
    }
    server
        .try_start_again()
        .map_err(|e| format!("on the repaired disk: {e}"))?;
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match produce(server, next)? {
            Ok(_) => return Ok(true),
            Err(refusal) if Instant::now() > deadline => {
                return Err(format!(
                    "the restarted server still refuses on a good disk: {refusal:?}"
                ));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

/// Sends batch `number`. The outer error is ours: the server cannot be reached though it runs.
fn produce(server: &mut Server, number: u64) -> Result<Result<i64, Refusal>, String> {
    let address = server
        .bootstrap()
        .parse()
        .map_err(|_| "the address is not IP:PORT")?;
    let mut client = match RawClient::connect(address) {
        Ok(client) => client,
        // One that is ending takes no more connections a while before it is gone.
        Err(_) if wait_for(ENDED, || (!server.is_alive()).then_some(())).is_some() => {
            return Ok(Err(Refusal::Closed));
        }
        Err(e) => return Err(format!("cannot connect to a server that runs: {e}")),
    };
    let mut value = number.to_be_bytes().to_vec();
    // Not compressible, should anything below want to.
    let mut random = Random::seeded(number);
    while value.len() < BATCH_BYTES {
        value.extend(random.next_u64().to_be_bytes());
    }
    Ok(match client.produce(TOPIC, 0, &plain_batch(&[&value])) {
        Ok((0, offset)) => Ok(offset),
        Ok((code, _)) => Err(Refusal::Error(code)),
        Err(_) => Err(Refusal::Closed),
    })
}

/// Every acknowledged offset is readable, with a CRC that holds.
fn all_there(server: &Server, acknowledged: &[i64]) -> Result<(), String> {
    let address = server
        .bootstrap()
        .parse()
        .map_err(|_| "the address is not IP:PORT")?;
    let mut client = RawClient::connect(address).map_err(|e| format!("cannot connect: {e}"))?;
    let last = acknowledged.iter().max().copied().unwrap_or(-1);
    let mut offset = 0;
    let mut found = std::collections::BTreeSet::new();
    while offset <= last {
        let (error, _, records) = client
            .fetch(TOPIC, 0, offset, 8 << 20)
            .map_err(|e| format!("fetching offset {offset}: {e}"))?;
        let headers = batches(&records);
        let Some(end) = headers.last() else {
            return Err(format!(
                "fetching offset {offset} gives error {error} and no batch; {last} was acknowledged"
            ));
        };
        for header in &headers {
            if !header.crc_holds {
                return Err(format!("the batch at {} is corrupt", header.base_offset));
            }
            found.insert(header.base_offset);
        }
        offset = end.base_offset + i64::from(end.record_count);
    }
    match acknowledged.iter().find(|offset| !found.contains(offset)) {
        Some(lost) => Err(format!("the acknowledged batch at offset {lost} is lost")),
        None => Ok(()),
    }
}
