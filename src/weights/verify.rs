//! Whether a file is the one that a card names: size, SHA-256, and no web page under its name.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use sha2::{Digest, Sha256};

use super::source::not_weights;
use crate::{Error, Result};

/// What a file must be.
#[derive(Debug, Clone, PartialEq)]
pub struct Want {
    /// Its size, where the card knows it.
    pub bytes: Option<u64>,
    /// SHA-256, 64 lower-case hexadecimal digits.
    pub sha256: String,
}

/// The SHA-256 of a file in lower-case hexadecimal, and its size in bytes.
pub fn sha256_of(path: &Path) -> Result<(String, u64)> {
    let fail = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => Error::missing(format!("{}: there is no such file", path.display())),
        _ => Error::io(path, "reading", e),
    };
    let mut file = File::open(path).map_err(fail)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let n = file.read(&mut buffer).map_err(fail)?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
        bytes += n as u64;
    }
    Ok((hex(&hasher.finalize()), bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Checks a file against what it must be.
///
/// Errors: [`crate::error::Kind::Corrupt`], with both sizes or hashes, or with what the file is instead.
pub fn file(path: &Path, want: &Want) -> Result<()> {
    let have = fs::metadata(path).map_err(|e| Error::io(path, "reading", e))?.len();
    let mut head = vec![0; 4096];
    let n = File::open(path).and_then(|mut f| f.read(&mut head)).map_err(|e| Error::io(path, "reading", e))?;
    // Said first, because "a web page" helps more than two hashes.
    let instead = || match not_weights(&head[..n], have) {
        Some(what) => format!("; what is there {what}"),
        None => String::new(),
    };
    if want.bytes.is_some_and(|bytes| bytes != have) {
        let bytes = want.bytes.unwrap_or(0);
        return Err(Error::corrupt(format!("has {have} bytes, its card says {bytes}{}", instead())));
    }
    let (sha256, _) = sha256_of(path)?;
    if sha256 != want.sha256 {
        return Err(Error::corrupt(format!("has sha256 {sha256}, its card says {}{}", want.sha256, instead())));
    }
    Ok(())
}

/// Whether there is room for `bytes` more beside `path`, with 64 MiB to spare.
pub fn room(path: &Path, bytes: u64) -> Result<()> {
    let Some(dir) = path.ancestors().find(|p| p.is_dir()) else { return Ok(()) };
    match free(dir) {
        Some(free) if free < bytes.saturating_add(64 << 20) => Err(Error::resource(format!(
            "{}: the file needs {:.1} GB and the disk has {:.1} GB free: free some, or set HF_HOME to a folder on another disk",
            dir.display(),
            bytes as f64 / 1e9,
            free as f64 / 1e9
        ))),
        _ => Ok(()),
    }
}

/// Free bytes on the disk of `dir`, where the system tells.
fn free(dir: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        let path = std::ffi::CString::new(dir.as_os_str().as_bytes()).ok()?;
        let mut about = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
        // SAFETY: `path` is a C string and `about` is memory for one statvfs; all-zero is a valid value of it.
        let about = unsafe { if libc::statvfs(path.as_ptr(), about.as_mut_ptr()) != 0 { return None } else { about.assume_init() } };
        Some((about.f_bavail as u64).saturating_mul(about.f_frsize as u64))
    }
    #[cfg(not(unix))]
    {
        let _ = dir;
        None
    }
}

/// The note beside a verified file that saves hashing a gigabyte at each start: size, time of change and hash.
fn stamp_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".mtv-verified");
    path.with_file_name(name)
}

fn stamp_text(path: &Path, sha256: &str) -> Option<String> {
    let about = fs::metadata(path).ok()?;
    let changed = about.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(format!("{} {} {sha256}\n", about.len(), changed.as_nanos()))
}

/// Notes that a file was verified. A folder that can't be written only costs the next start a hash.
pub(super) fn stamp(path: &Path, sha256: &str) {
    let Some(text) = stamp_text(path, sha256) else { return };
    let Some(dir) = path.parent() else { return };
    if let Ok(mut temp) = tempfile::NamedTempFile::new_in(dir)
        && temp.write_all(text.as_bytes()).is_ok()
    {
        let _ = temp.persist(stamp_path(path));
    }
}

/// Whether a note says that this very file, unchanged since, has the wanted hash.
pub(super) fn stamped(path: &Path, want: &Want) -> bool {
    let size_fits = fs::metadata(path).is_ok_and(|m| want.bytes.is_none_or(|b| b == m.len()));
    size_fits && stamp_text(path, &want.sha256).is_some_and(|text| fs::read_to_string(stamp_path(path)).is_ok_and(|note| note == text))
}
