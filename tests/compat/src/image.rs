//! A small file system in a file, mounted through a loop device: its power can be cut, it can be full, and the block
//! layer below it can fail.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::output_within;
use crate::workspace;

/// How long `mkfs`, `mount` and the like may take.
const TOOL_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);

/// `FS_IOC_SHUTDOWN` with `NOLOGFLUSH` (2): what xfstests call godown. Unsynced data and unsynced renames vanish, as in a
/// power cut, and every later operation on the mount fails with EIO.
const SHUTDOWN: &str = "import fcntl, os, struct, sys\n\
    fd = os.open(sys.argv[1], os.O_RDONLY)\n\
    fcntl.ioctl(fd, 0x8004587d, struct.pack('I', 2))\n";

/// What the image lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// The file system of the run directory: the image never lacks blocks.
    Disk,
    /// A tmpfs smaller than the image: the inner file system believes in space that the block layer does not have, so
    /// that write-back, and then fsync, fails.
    Tmpfs {
        /// Size of the tmpfs, MiB.
        size_mib: u32,
    },
}

/// A mounted ext4 image. Dropping it unmounts and removes it.
pub struct Image {
    file: PathBuf,
    mount_point: PathBuf,
    tmpfs: Option<PathBuf>,
    mounted: bool,
}

/// Why images cannot be mounted here; `None` when they can.
pub fn unavailable() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("mounting a loop image needs root".to_owned());
    }
    for tool in ["mkfs.ext4", "mount", "umount", "python3", "truncate"] {
        if workspace::on_path(tool).is_none() {
            return Some(format!("{tool} is not installed"));
        }
    }
    (!Path::new("/dev/loop-control").exists()).then(|| "this kernel has no loop devices".to_owned())
}

impl Image {
    /// Makes and mounts an ext4 image of `size_mib` MiB below `directory`.
    ///
    /// Errors: what the failing tool printed.
    pub fn create(directory: &Path, size_mib: u32, backing: Backing) -> Result<Self, String> {
        let tmpfs = match backing {
            Backing::Disk => None,
            Backing::Tmpfs { size_mib } => {
                let at = directory.join("tmpfs");
                make_directory(&at)?;
                let size = format!("size={size_mib}m");
                run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", text(&at)])?;
                Some(at)
            }
        };
        let mut image = Self {
            file: tmpfs.as_deref().unwrap_or(directory).join("image.ext4"),
            mount_point: directory.join("mnt"),
            tmpfs,
            mounted: false,
        };
        run("truncate", &["-s", &format!("{size_mib}M"), text(&image.file)])?;
        // Everything is initialised now, so that later writes of ours are the only ones.
        let options = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
        run(
            "mkfs.ext4",
            &["-q", "-F", "-m", "0", "-E", options, text(&image.file)],
        )?;
        make_directory(&image.mount_point)?;
        image.mount()?;
        Ok(image)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount_point
    }

    /// Mounts it (again); recovers its journal as after a power cut.
    pub fn mount(&mut self) -> Result<(), String> {
        // A loop device is let go of a moment after its last user.
        let mut last = Ok(());
        for _ in 0..50 {
            last = run(
                "mount",
                &["-o", "loop", text(&self.file), text(&self.mount_point)],
            );
            if last.is_ok() {
                self.mounted = true;
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        last
    }

    /// Syncs everything on it.
    pub fn sync(&self) -> Result<(), String> {
        run("sync", &["-f", text(&self.mount_point)])
    }

    /// Throws away everything that was not synced; nothing on the mount works afterwards until it is mounted again.
    pub fn cut_power(&self) -> Result<(), String> {
        run("python3", &["-c", SHUTDOWN, text(&self.mount_point)])
    }

    /// Unmounts it. Nobody may use it any more.
    pub fn unmount(&mut self) -> Result<(), String> {
        let mut last = Ok(());
        for _ in 0..100 {
            last = run("umount", &[text(&self.mount_point)]);
            if last.is_ok() {
                self.mounted = false;
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        last
    }

    /// Gives the block layer more room: the broken disk is replaced by a good one.
    pub fn grow_backing(&self, size_mib: u32) -> Result<(), String> {
        let tmpfs = self.tmpfs.as_deref().ok_or("the image lies on a disk already")?;
        let size = format!("remount,size={size_mib}m");
        run("mount", &["-o", &size, text(tmpfs)])
    }

    /// Fills it to the last block with one file; gives its path.
    pub fn fill(&self) -> Result<PathBuf, String> {
        let filler = self.mount_point.join("filler");
        // Reserves until nothing is left: halves what it asks for when refused.
        let mut ask_kib: u64 = 1 << 22;
        let mut have_kib: u64 = 0;
        while ask_kib >= 4 {
            let length = format!("{}K", have_kib + ask_kib);
            if run("fallocate", &["-l", &length, text(&filler)]).is_ok() {
                have_kib += ask_kib;
            } else {
                ask_kib /= 2;
            }
        }
        Ok(filler)
    }

    /// Takes that file away, for good: a power cut right behind it does not bring it back.
    pub fn free(&self, filler: &Path) -> Result<(), String> {
        let removed = std::fs::remove_file(filler);
        let synced = removed.and_then(|()| File::open(&self.mount_point)?.sync_all());
        synced.map_err(|e| format!("cannot remove {}: {e}", filler.display()))
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if self.mounted {
            // Lazily: a test that panics may have left a reader.
            drop(run("umount", &["-l", text(&self.mount_point)]));
        }
        drop(std::fs::remove_file(&self.file));
        if let Some(tmpfs) = &self.tmpfs {
            drop(run("umount", &["-l", text(tmpfs)]));
        }
    }
}

fn make_directory(path: &Path) -> Result<(), String> {
    std::fs::create_dir_all(path).map_err(|e| format!("cannot make {}: {e}", path.display()))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("run directories have UTF-8 paths")
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = output_within(Command::new(program).args(arguments), TOOL_TIMEOUT)?;
    if output.status.success() {
        return Ok(());
    }
    let printed = String::from_utf8_lossy(&output.stderr);
    Err(format!(
        "{program} {arguments:?} ended with {}: {}",
        output.status,
        printed.trim()
    ))
}
