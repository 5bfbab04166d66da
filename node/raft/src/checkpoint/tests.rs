use meridian_journal::{Disk, FaultyDisk, RealDisk};

use super::*;

fn head(index: u64) -> Head {
    Head {
        position: LogPosition {
            term: Term(2),
            index: RaftIndex(index),
        },
        membership_position: Some(LogPosition {
            term: Term(1),
            index: RaftIndex(1),
        }),
        membership: Bytes::from_static(b"members"),
    }
}

fn state(index: u64) -> Bytes {
    Bytes::from(vec![u8::try_from(index % 251).expect("small"); 10_000])
}

fn save(store: &CheckpointStore, index: u64, purged: Option<u64>) {
    let state = state(index);
    let pieces = [state.slice(..100), state.slice(100..)];
    let purged = purged.map(RaftIndex);
    store.save(&head(index), &pieces, purged).expect("saved");
}

fn loaded(store: &CheckpointStore, purged: Option<u64>) -> Option<(u64, Bytes)> {
    let loaded = store.load(purged.map(RaftIndex)).expect("readable");
    loaded.map(|(stored, state)| {
        let index = stored.head.position.index.0;
        assert_eq!(stored.head, head(index));
        (index, state)
    })
}

fn store(shard: u32) -> (tempfile::TempDir, Arc<dyn Disk>, CheckpointStore) {
    let directory = tempfile::tempdir().expect("a directory");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(directory.path()).expect("a disk"));
    let store = CheckpointStore::new(Arc::clone(&disk), ShardId(shard));
    (directory, disk, store)
}

#[test]
fn the_newest_checkpoint_is_loaded() {
    let (_directory, _disk, store) = store(3);
    assert_eq!(loaded(&store, None), None);
    for index in [5, 9, 12] {
        save(&store, index, None);
    }
    assert_eq!(loaded(&store, None), Some((12, state(12))));
}

#[test]
fn a_replica_is_given_the_oldest_that_the_log_continues() {
    let (_directory, _disk, store) = store(3);
    for index in (10..=200).step_by(10) {
        save(&store, index, Some(40.min(index)));
    }
    let kept = store.kept().expect("listed");
    assert_eq!(kept.len(), ladder::KEPT_MAX);
    assert_eq!(kept[0], RaftIndex(40));
    let base = store.base(Some(RaftIndex(40))).expect("listed").expect("one");
    assert_eq!(base.head, head(40));
    assert_eq!(
        base.state().expect("read").expect("whole"),
        state(40),
        "its state is still there"
    );
    assert_eq!(store.newest().expect("listed").expect("one").head, head(200));
}

#[test]
fn a_checkpoint_that_the_log_does_not_continue_is_never_loaded() {
    let (directory, _disk, store) = store(0);
    for index in [5, 9] {
        save(&store, index, None);
    }
    damage(directory.path(), "00009");
    let error = store.load(Some(RaftIndex(6))).expect_err("a gap");
    assert!(error.to_string().contains("checksum"), "{error}");
    assert_eq!(loaded(&store, Some(5)), Some((5, state(5))));
}

#[test]
fn a_log_that_was_purged_without_any_checkpoint_is_an_error() {
    let (_directory, _disk, store) = store(0);
    let error = store.load(Some(RaftIndex(6))).expect_err("no state");
    assert!(matches!(error, CheckpointError::Damaged { .. }), "{error}");
}

#[test]
fn shards_in_one_directory_do_not_see_each_other() {
    let (_directory, disk, one) = store(1);
    let eleven = CheckpointStore::new(disk, ShardId(11));
    save(&one, 7, None);
    assert_eq!(loaded(&eleven, None), None);
    save(&eleven, 8, None);
    one.clear().expect("cleared");
    assert_eq!(loaded(&one, None), None);
    assert_eq!(loaded(&eleven, None), Some((8, state(8))));
}

#[test]
fn a_damaged_newest_checkpoint_falls_back_to_the_one_before() {
    let (directory, _disk, store) = store(0);
    save(&store, 5, None);
    save(&store, 9, None);
    damage(directory.path(), "00009");
    assert_eq!(loaded(&store, Some(3)), Some((5, state(5))));
    assert_eq!(store.newest().expect("listed").expect("one").head, head(5));
    damage(directory.path(), "00005");
    assert!(matches!(
        store.load(Some(RaftIndex(3))),
        Err(CheckpointError::Damaged { .. })
    ));
    assert_eq!(loaded(&store, None), None, "a whole log makes the state alone");
}

#[test]
fn a_copy_is_adopted_only_when_every_byte_arrived() {
    let (_directory, _disk, here) = store(4);
    let (_there_directory, _there_disk, there) = store(4);
    save(&here, 30, None);
    let sent = here.newest().expect("listed").expect("one");
    for flipped in [None, Some(sent.bytes / 2)] {
        let file = there.receive(sent.bytes).expect("created");
        let mut at = 0;
        while at < sent.bytes {
            let mut chunk = sent.read(at, 4096).expect("read").to_vec();
            if let Some(flipped) = flipped.filter(|flipped| (at..at + 4096).contains(flipped)) {
                chunk[usize::try_from(flipped - at).expect("small")] ^= 1;
            }
            file.write_at(at, &mut [std::io::IoSlice::new(&chunk)])
                .expect("written");
            at += chunk.len() as u64;
        }
        match (flipped, there.received(&file).expect("read")) {
            (None, Ok(stored)) => {
                let state = stored.state().expect("read").expect("whole");
                there.adopt(&stored, &state, None).expect("adopted");
            }
            (Some(_), Err(reason)) => assert!(reason.contains("checksum"), "{reason}"),
            (flipped, received) => panic!("flipped {flipped:?}: {received:?}"),
        }
    }
    assert_eq!(loaded(&there, None), Some((30, state(30))));
}

#[test]
fn a_checkpoint_that_does_not_fit_the_disk_leaves_the_others_alone() {
    let disk = FaultyDisk::seeded(3);
    let store = CheckpointStore::new(disk.mount(), ShardId(0));
    save(&store, 5, None);
    disk.set_capacity(15_000);
    let error = store.save(&head(9), &[state(9)], None).expect_err("no room");
    assert!(matches!(error, CheckpointError::Io { .. }), "{error}");
    assert_eq!(loaded(&store, None), Some((5, state(5))));
    disk.set_capacity(u64::MAX);
    save(&store, 9, None);
    assert_eq!(loaded(&store, None), Some((9, state(9))));
}

#[test]
fn every_cut_of_a_checkpoint_is_an_error() {
    let disk = FaultyDisk::seeded(1).mount();
    let store = CheckpointStore::new(Arc::clone(&disk), ShardId(4));
    save(&store, 3, None);
    let whole = store.newest().expect("listed").expect("one");
    let whole = whole.read(0, usize::MAX).expect("read");
    for length in (0..whole.len()).step_by(7) {
        assert!(open(&disk, ShardId(4), &whole[..length]).is_err(), "{length}");
    }
    assert!(open(&disk, ShardId(4), &whole).is_ok());
    assert!(open(&disk, ShardId(5), &whole).is_err());
}

#[test]
fn the_stored_checkpoint_of_version_1_is_read() {
    let stored = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/checkpoint-v1.bin");
    let pieces = [Bytes::from_static(b"state")];
    if std::env::var_os("BLESS").is_some() {
        let (start, end) = frame(ShardId(3), &head(9), &pieces);
        let whole = [&start[..], &head(9).membership, &pieces[0], &end].concat();
        std::fs::write(&stored, whole).expect("written");
    }
    let content = std::fs::read(&stored).expect("the fixture is there; BLESS=1 makes it for a new version");
    let disk = FaultyDisk::seeded(1).mount();
    let (found, state) = open(&disk, ShardId(3), &content).expect("readable");
    assert_eq!((found, state), (head(9), pieces[0].clone()));
}

/// Reads a file of this content.
fn open(disk: &Arc<dyn Disk>, shard: ShardId, content: &[u8]) -> Result<(Head, Bytes), String> {
    let file = disk.create("tried", content.len() as u64).expect("created");
    file.write_at(0, &mut [std::io::IoSlice::new(content)])
        .expect("written");
    disk.remove("tried").expect("removed");
    let stored = Stored::open(shard, "tried".to_owned(), file).expect("read")?;
    stored.verify().expect("read")?;
    Ok((stored.head.clone(), stored.state().expect("read")?))
}

fn damage(directory: &std::path::Path, part_of_name: &str) {
    let file = std::fs::read_dir(directory)
        .expect("listed")
        .map(|entry| entry.expect("listed").path())
        .find(|path| path.to_string_lossy().contains(part_of_name))
        .expect("the checkpoint's file");
    let mut content = std::fs::read(&file).expect("read");
    content[700] ^= 1;
    std::fs::write(&file, content).expect("written");
}
