//! What every disk must do, held against each of them.

use std::io::{ErrorKind, IoSlice};
use std::sync::Arc;

use meridian_journal::{Disk, Fault, FaultyDisk, FileEntry, RealDisk};

fn read(file: &Arc<dyn meridian_journal::DiskFile>, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; len];
    file.read_at(at, &mut bytes).unwrap();
    bytes
}

fn sorted(disk: &Arc<dyn Disk>) -> Vec<FileEntry> {
    let mut files = disk.list().unwrap();
    files.sort();
    files
}

fn entry(name: &str, bytes: u64) -> FileEntry {
    FileEntry {
        name: name.into(),
        bytes,
    }
}

/// The suite: `remount` gives the same directory to a new process.
fn conformance(mut disk: Arc<dyn Disk>, remount: impl Fn(Arc<dyn Disk>) -> Arc<dyn Disk>) {
    assert_eq!(sorted(&disk), []);
    assert_eq!(
        disk.open("a").map(|_| ()).unwrap_err().kind(),
        ErrorKind::NotFound
    );

    let a = disk.create("a", 10_000).unwrap();
    assert_eq!(
        disk.create("a", 1).map(|_| ()).unwrap_err().kind(),
        ErrorKind::AlreadyExists
    );
    assert_eq!(a.bytes().unwrap(), 10_000);
    assert_eq!(read(&a, 0, 10_000), vec![0; 10_000], "a new file is zeros");

    a.write_at(
        100,
        &mut [IoSlice::new(b"one"), IoSlice::new(b""), IoSlice::new(b"two")],
    )
    .unwrap();
    assert_eq!(read(&a, 99, 8), b"\0onetwo\0");
    let many: Vec<Vec<u8>> = (0..3000_u32).map(|n| n.to_le_bytes()[..2].to_vec()).collect();
    let mut slices: Vec<IoSlice<'_>> = many.iter().map(|part| IoSlice::new(part)).collect();
    a.write_at(2000, &mut slices).unwrap();
    assert_eq!(
        read(&a, 2000, 6000),
        many.concat(),
        "more parts than one system call takes"
    );

    let mut beyond = [0; 2];
    assert_eq!(
        a.read_at(9_999, &mut beyond).unwrap_err().kind(),
        ErrorKind::UnexpectedEof
    );
    a.read_at(9_998, &mut beyond).unwrap();
    a.sync_data().unwrap();

    let b = disk.create("b", 512).unwrap();
    b.write_at(0, &mut [IoSlice::new(b"b")]).unwrap();
    b.sync_data().unwrap();
    disk.rename("b", "c").unwrap();
    assert_eq!(
        disk.open("b").map(|_| ()).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(read(&b, 0, 1), b"b", "an open handle outlives the name");
    disk.sync_dir().unwrap();
    assert_eq!(sorted(&disk), [entry("a", 10_000), entry("c", 512)]);

    drop((a, b));
    disk = remount(disk);
    assert_eq!(sorted(&disk), [entry("a", 10_000), entry("c", 512)]);
    assert_eq!(read(&disk.open("a").unwrap(), 100, 6), b"onetwo");
    assert_eq!(read(&disk.open("c").unwrap(), 0, 1), b"b");

    disk.remove("a").unwrap();
    assert_eq!(disk.remove("a").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(disk.rename("a", "x").unwrap_err().kind(), ErrorKind::NotFound);
    disk.rename("c", "d").unwrap();
    disk.sync_dir().unwrap();
    assert_eq!(sorted(&disk), [entry("d", 512)]);
    assert!(disk.free_bytes().unwrap() > 0);
}

/// Appends of all lengths one after another, as a journal makes them, with a last word at the end of the file: what was
/// written stays, whatever is written behind it.
fn appends(disk: &Arc<dyn Disk>, remount: impl Fn() -> Arc<dyn Disk>) {
    const BYTES: usize = 3 << 20;
    let mut file = disk.create("appends", BYTES as u64).unwrap();
    disk.sync_dir().unwrap();
    let mut expected: Vec<u8> = Vec::new();
    let lengths = [
        1,
        63,
        4032,
        4096,
        100,
        5000,
        8192,
        1 << 20,
        3996,
        20,
        1_200_000,
        4095,
        7,
    ];
    for (nth, len) in lengths.into_iter().cycle().take(17).enumerate() {
        let bytes: Vec<u8> = (0..len)
            .map(|n: usize| (n * 7 + nth).to_le_bytes()[0] | 1)
            .collect();
        let (one, two) = bytes.split_at(len / 3);
        let at = expected.len() as u64;
        file.write_at(at, &mut [IoSlice::new(one), IoSlice::new(two)])
            .unwrap();
        expected.extend(bytes);
        assert!(expected.len() <= BYTES - 8192);
        if nth == 4 {
            file.write_at(BYTES as u64 - 64, &mut [IoSlice::new(&[9; 64])])
                .unwrap();
        }
        if nth == 8 {
            // Zeros ahead, as a round makes them before its frames.
            let zeros = expected.len().next_multiple_of(4096) as u64;
            file.write_at(zeros, &mut [IoSlice::new(&[0; 65_536])]).unwrap();
        }
        assert!(read(&file, 0, expected.len()) == expected, "append {nth}");
        if nth == 10 {
            file.sync_data().unwrap();
            file = remount().open("appends").unwrap();
            assert!(read(&file, 0, expected.len()) == expected, "after the remount");
        }
    }
    assert_eq!(read(&file, BYTES as u64 - 64, 64), [9; 64]);
}

#[test]
fn appends_leave_alone_what_precedes_them_in_their_block() {
    let directory = tempfile::tempdir().unwrap();
    let real: Arc<dyn Disk> = Arc::new(RealDisk::open(directory.path().join("a")).unwrap());
    appends(&real, || real.clone());
    for seed in 0..5 {
        let disk = FaultyDisk::seeded(seed);
        appends(&disk.mount(), || {
            disk.power_cut();
            disk.mount()
        });
    }
}

#[test]
fn what_follows_a_write_in_its_block_may_become_zeros() {
    let zeroed = |disk: Arc<dyn Disk>| {
        let file = disk.create("f", 8192).unwrap();
        file.write_at(0, &mut [IoSlice::new(&[1; 8192])]).unwrap();
        file.write_at(50, &mut [IoSlice::new(&[2; 50])]).unwrap();
        let bytes = read(&file, 0, 8192);
        assert_eq!((&bytes[..50], &bytes[50..100]), (&[1; 50][..], &[2; 50][..]));
        assert!(bytes[4096..].iter().all(|byte| *byte == 1), "other blocks stay");
        assert!(bytes[100..4096].iter().all(|byte| *byte == bytes[100]));
        bytes[100] == 0
    };
    let seeds = 0..20;
    let count = seeds
        .clone()
        .filter(|seed| zeroed(FaultyDisk::seeded(*seed).mount()))
        .count();
    assert!((1..seeds.count()).contains(&count), "{count}: both must be met");
}

#[test]
fn a_directory_of_the_file_system_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deep/journal");
    conformance(Arc::new(RealDisk::open(&path).unwrap()), |disk| {
        drop(disk);
        Arc::new(RealDisk::open(&path).unwrap())
    });
}

#[test]
fn the_faulty_disk_conforms_also_across_power_cuts() {
    for seed in 0..20 {
        let disk = FaultyDisk::seeded(seed);
        conformance(disk.mount(), |_| {
            disk.power_cut();
            disk.mount()
        });
    }
}

#[test]
fn a_second_process_is_refused_with_a_clear_error() {
    let directory = tempfile::tempdir().unwrap();
    let first = RealDisk::open(directory.path()).unwrap();
    let error = RealDisk::open(directory.path()).unwrap_err();
    assert!(error.to_string().contains("in use by another process"), "{error}");
    assert!(
        RealDisk::open_unlocked(directory.path()).is_ok(),
        "looking is allowed"
    );
    drop(first);
    RealDisk::open(directory.path()).unwrap();
}

/// A file with `synced` all over, then `fresh` written over it without a sync.
fn half_written(seed: u64) -> FaultyDisk {
    let disk = FaultyDisk::seeded(seed);
    let mount = disk.mount();
    let file = mount.create("f", 8192).unwrap();
    file.write_at(0, &mut [IoSlice::new(&[1; 8192])]).unwrap();
    file.sync_data().unwrap();
    mount.sync_dir().unwrap();
    file.write_at(100, &mut [IoSlice::new(&[2; 8000])]).unwrap();
    disk
}

#[test]
fn a_power_cut_tears_at_sectors_and_may_keep_later_ones() {
    let mut later_without_earlier = false;
    let mut all = false;
    let mut none = false;
    for seed in 0..50 {
        let disk = half_written(seed);
        disk.power_cut();
        let bytes = read(&disk.mount().open("f").unwrap(), 0, 8192);
        let sector = |n: usize| &bytes[(n * 512).max(100)..((n + 1) * 512).min(8100)];
        let kept: Vec<bool> = (0..16).map(|n| sector(n)[0] == 2).collect();
        for (n, kept) in kept.iter().enumerate() {
            assert!(
                sector(n).iter().all(|byte| (*byte == 2) == *kept),
                "a sector is old or new"
            );
        }
        assert!(bytes[..100].iter().all(|byte| *byte == 1), "synced bytes stay");
        assert!(
            bytes[8100..].iter().all(|byte| *byte == bytes[8191] && *byte < 2),
            "what follows in the last block stays or becomes zeros"
        );
        all |= kept.iter().all(|kept| *kept);
        none |= kept.iter().all(|kept| !*kept);
        later_without_earlier |= kept.windows(2).any(|pair| !pair[0] && pair[1]);
    }
    assert!(all && none && later_without_earlier);
}

#[test]
fn after_a_failed_sync_the_next_one_succeeds_and_saves_nothing() {
    let lost = (0..20).any(|seed| {
        let disk = half_written(seed);
        // The mount that wrote is gone; a new one sees the page cache.
        disk.kill();
        let mount = disk.mount();
        let file = mount.open("f").unwrap();
        disk.plan(0, Fault::Error);
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
        assert_eq!(read(&file, 100, 1), [2], "still visible");
        disk.power_cut();
        read(&disk.mount().open("f").unwrap(), 100, 8000).contains(&1)
    });
    assert!(lost);
}

#[test]
fn a_full_disk_refuses_new_files_only() {
    let disk = FaultyDisk::seeded(1);
    let mount = disk.mount();
    disk.set_capacity(10_000);
    let file = mount.create("f", 8000).unwrap();
    assert_eq!(
        mount.create("g", 8000).map(|_| ()).unwrap_err().kind(),
        ErrorKind::StorageFull
    );
    file.write_at(7990, &mut [IoSlice::new(&[1; 10])]).unwrap();
    mount.remove("f").unwrap();
    mount.sync_dir().unwrap();
    assert!(
        mount.create("g", 8000).is_err(),
        "who has it open keeps the space"
    );
    drop(file);
    mount.create("g", 8000).unwrap();
}
