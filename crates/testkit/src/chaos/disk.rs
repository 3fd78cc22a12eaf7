// SPDX-License-Identifier: Apache-2.0
//! A small disk of its own for one folder, so that it can be filled without filling the
//! machine's: a tmpfs, which takes root to mount. Unmounted when dropped; `cargo xtask
//! chaos` runs in a mount namespace of its own besides, so that nothing is left even when
//! the run is killed.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const FILLER: &str = "filler";
const CHUNK: usize = 64 * 1024;

/// A mounted small disk.
pub struct SmallDisk {
    place: PathBuf,
}

impl SmallDisk {
    /// Mounts one of this size over an empty folder; `None` where that is not allowed.
    #[must_use]
    pub fn mount(place: &Path, size: &str) -> Option<SmallDisk> {
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(place).ok()?.permissions());
        let options = format!("size={size},mode={:o}", mode & 0o7777);
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(place)
            .stderr(Stdio::null())
            .status();
        mounted.is_ok_and(|status| status.success()).then(|| SmallDisk { place: place.to_owned() })
    }

    /// Writes until nothing fits any more.
    ///
    /// # Errors
    /// When the filler cannot be made at all.
    pub fn fill(&self) -> std::io::Result<()> {
        let mut filler = std::fs::File::create(self.place.join(FILLER))?;
        let mut chunk = vec![0; CHUNK];
        while !chunk.is_empty() {
            if filler.write_all(&chunk).is_err() {
                // Whatever is left is less than this.
                chunk.truncate(chunk.len() / 2);
            }
        }
        Ok(())
    }

    /// Makes room again.
    ///
    /// # Errors
    /// When the filler is not there.
    pub fn free(&self) -> std::io::Result<()> {
        std::fs::remove_file(self.place.join(FILLER))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a server that is just being stopped may still have files open.
        Command::new("umount").arg("-l").arg(&self.place).status().ok();
    }
}
