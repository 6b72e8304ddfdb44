//! Where a file of the hub lies in the cache: the paths, the look-up, the removal of what is bad.

use std::fs;
use std::path::{Path, PathBuf};

use super::hub::RepoFile;
use super::verify::{self, Want};
use crate::{Error, Result};

/// The paths of one file in the cache, made of the card's own words only.
pub(super) struct Place {
    root: PathBuf,
    pub blob: PathBuf,
    pub part: PathBuf,
    pub snapshot: PathBuf,
    pub lock: PathBuf,
    /// From the snapshot's folder to the blob.
    relative: PathBuf,
}

impl Place {
    pub fn of(cache: &Path, file: &RepoFile) -> Result<Self> {
        let (owner, name) = split(&file.repo)?;
        let kind = match file.repo_type.as_str() {
            "model" | "dataset" | "space" => &file.repo_type,
            other => return Err(Error::usage(format!("\"{other}\" is no kind of repository: model, dataset or space"))),
        };
        if !is_hex(&file.revision, 40) {
            return Err(Error::usage(format!(
                "{}: the revision must be a full commit of 40 hexadecimal digits, not \"{}\"",
                file.repo, file.revision
            )));
        }
        if !is_hex(&file.want.sha256, 64) {
            return Err(Error::usage(format!("{}/{}: a sha256 has 64 hexadecimal digits", file.repo, file.file)));
        }
        let parts: Vec<&str> = file.file.split('/').collect();
        if parts.iter().any(|p| p.is_empty() || *p == "." || *p == ".." || p.contains(['\\', ':', '\0'])) {
            return Err(Error::usage(format!("\"{}\" is no path inside a repository", file.file)));
        }
        let folder = format!("{kind}s--{owner}--{name}");
        let repo = cache.join(&folder);
        let sha = &file.want.sha256;
        let mut relative: PathBuf = std::iter::repeat_n("..", parts.len() + 1).collect();
        relative.push("blobs");
        relative.push(sha);
        Ok(Place {
            root: cache.into(),
            blob: repo.join("blobs").join(sha),
            part: repo.join("blobs").join(format!("{sha}.mtv-part")),
            snapshot: repo.join("snapshots").join(&file.revision).join(parts.iter().collect::<PathBuf>()),
            lock: cache.join(".locks").join(folder).join(format!("{sha}.lock")),
            relative,
        })
    }

    /// The file, if it is in the cache and is what it must be. A copy that is not is removed, link and bytes.
    pub fn cached(&self, want: &Want) -> Result<Option<PathBuf>> {
        for path in [&self.snapshot, &self.blob] {
            let Ok(real) = path.canonicalize() else { continue };
            let inside = self.root.canonicalize().is_ok_and(|root| real.starts_with(root));
            if inside && verify::stamped(&real, want) {
                return if path == &self.blob { self.link().map(Some) } else { Ok(Some(path.clone())) };
            }
            if inside && verify::file(&real, want).is_ok() {
                verify::stamp(&real, &want.sha256);
                return if path == &self.blob { self.link().map(Some) } else { Ok(Some(path.clone())) };
            }
            if path == &self.snapshot {
                remove(path)?;
            }
            if inside {
                remove(&real)?;
            }
        }
        Ok(None)
    }

    /// Makes the snapshot name the blob.
    pub fn link(&self) -> Result<PathBuf> {
        let fail = |e| Error::io(&self.snapshot, "linking the file into the cache", e);
        if let Some(dir) = self.snapshot.parent() {
            fs::create_dir_all(dir).map_err(fail)?;
        }
        if fs::symlink_metadata(&self.snapshot).is_ok() {
            remove(&self.snapshot)?;
        }
        #[cfg(unix)]
        std::os::unix::fs::symlink(&self.relative, &self.snapshot).map_err(fail)?;
        #[cfg(not(unix))]
        fs::hard_link(&self.blob, &self.snapshot).map_err(fail)?;
        Ok(self.snapshot.clone())
    }
}

pub(super) fn split(repo: &str) -> Result<(&str, &str)> {
    let plain = |s: &str| !s.is_empty() && s != "." && s != ".." && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    match repo.split_once('/') {
        Some((owner, name)) if plain(owner) && plain(name) => Ok((owner, name)),
        _ => Err(Error::usage(format!("\"{repo}\" is no repository: \"owner/name\""))),
    }
}

pub(super) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

pub(super) fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |m| m.len())
}

pub(super) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, "removing a bad file", e)),
        _ => Ok(()),
    }
}
