use meridian_journal::RealDisk;

use super::*;

fn checkpoint(index: u64) -> Checkpoint {
    let position = LogPosition {
        term: Term(2),
        index: RaftIndex(index),
    };
    Checkpoint {
        position,
        membership_position: Some(LogPosition {
            term: Term(1),
            index: RaftIndex(1),
        }),
        membership: Bytes::from_static(b"members"),
        state: Bytes::from(vec![u8::try_from(index % 251).expect("small"); 10_000]),
    }
}

fn store(shard: u32) -> (tempfile::TempDir, Arc<dyn Disk>, CheckpointStore) {
    let directory = tempfile::tempdir().expect("a directory");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(directory.path()).expect("a disk"));
    let store = CheckpointStore::new(Arc::clone(&disk), ShardId(shard));
    (directory, disk, store)
}

#[test]
fn the_newest_checkpoint_is_loaded_and_two_are_kept() {
    let (_directory, disk, store) = store(3);
    assert_eq!(store.load().expect("readable"), None);
    for index in [5, 9, 12] {
        store.save(&checkpoint(index)).expect("saved");
    }
    assert_eq!(store.load().expect("readable"), Some(checkpoint(12)));
    assert_eq!(disk.list().expect("listed").len(), 2);
}

#[test]
fn shards_in_one_directory_do_not_see_each_other() {
    let (_directory, disk, store) = store(1);
    store.save(&checkpoint(7)).expect("saved");
    assert_eq!(
        CheckpointStore::new(disk, ShardId(11)).load().expect("readable"),
        None
    );
}

#[test]
fn a_damaged_newest_checkpoint_falls_back_to_the_one_before() {
    let (directory, _disk, store) = store(0);
    store.save(&checkpoint(5)).expect("saved");
    store.save(&checkpoint(9)).expect("saved");
    damage(directory.path(), "00009");
    assert_eq!(store.load().expect("readable"), Some(checkpoint(5)));
    damage(directory.path(), "00005");
    assert!(matches!(store.load(), Err(CheckpointError::Damaged { .. })));
}

#[test]
fn every_cut_of_a_checkpoint_is_an_error() {
    let (head, tail) = encode(ShardId(4), &checkpoint(3));
    let whole: Vec<u8> = [&head[..], b"members", &checkpoint(3).state[..], &tail[..]].concat();
    assert_eq!(decode(ShardId(4), &Bytes::from(whole.clone())), Ok(checkpoint(3)));
    for length in (0..whole.len()).step_by(7) {
        assert!(decode(ShardId(4), &Bytes::copy_from_slice(&whole[..length])).is_err());
    }
    assert!(decode(ShardId(5), &Bytes::from(whole)).is_err());
}

#[test]
fn the_stored_checkpoint_of_version_1_is_read() {
    let stored = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/checkpoint-v1.bin");
    let want = Checkpoint {
        state: Bytes::from_static(b"state"),
        ..checkpoint(9)
    };
    if std::env::var_os("BLESS").is_some() {
        let (head, tail) = encode(ShardId(3), &want);
        let whole = [&head[..], &want.membership, &want.state, &tail].concat();
        std::fs::write(&stored, whole).expect("written");
    }
    let content = std::fs::read(&stored).expect("the fixture is there; BLESS=1 makes it for a new version");
    assert_eq!(decode(ShardId(3), &Bytes::from(content)), Ok(want));
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
