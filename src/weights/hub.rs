//! Files from the Hugging Face hub, each verified before anything may open it.
//!
//! hf-hub 1.0 makes the addresses, the authorization, the requests and their redirects; what it leaves out is done here,
//! because its own `download_file` cannot be trusted with weights (all measured against a fake hub): it stores the body of a
//! 403 or 500 answer as the file, starts a broken download again from zero, builds cache paths from the server's ETag and
//! commit headers even where they say `../..`, checks no hash, knows no timeout and no offline mode. So only its stream of
//! bytes is used. Names in the cache come from the card alone; the layout is the hub's own, so a file that Python has
//! fetched is found and one fetched here is found by Python:
//!
//! ```text
//! <cache>/models--owner--name/blobs/<sha256>               the verified bytes
//! <cache>/models--owner--name/blobs/<sha256>.mtv-part      a download under way; resumed by the next attempt
//! <cache>/models--owner--name/snapshots/<commit>/<file>    -> ../../blobs/<sha256>
//! <cache>/.locks/models--owner--name/<sha256>.lock
//! ```

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hf_hub::{HFClient, HFError, HFRepository, RepoType};

use super::cache::{Place, is_hex, remove, size, split};
use super::transfer::Again;
use super::verify::{self, Want};
use crate::error::Kind;
use crate::{Error, Result};

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For the answer to a request, connection included.
    pub answer: Duration,
    /// For the next bytes of a body.
    pub idle: Duration,
    /// A body must bring `window_bytes` in every `window`.
    pub window: Duration,
    pub window_bytes: u64,
    /// Attempts that bring nothing new before it is given up.
    pub attempts: u32,
    /// The pause after the first failed attempt; doubled after each.
    pub pause: Duration,
    /// The longest Retry-After that is obeyed.
    pub retry_after: Duration,
    /// How long to wait for another process whose download does not grow.
    pub lock: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            answer: Duration::from_secs(30),
            idle: Duration::from_secs(30),
            window: Duration::from_secs(60),
            window_bytes: 64 << 10,
            attempts: 5,
            pause: Duration::from_secs(1),
            retry_after: Duration::from_secs(120),
            lock: Duration::from_secs(120),
        }
    }
}

/// The hub and its cache.
#[derive(Debug, Clone)]
pub struct Hub {
    /// `None` lets hf-hub read HF_ENDPOINT.
    pub endpoint: Option<String>,
    /// `None` lets hf-hub read HF_TOKEN and the token file. Public files need none.
    pub token: Option<String>,
    pub cache: PathBuf,
    pub offline: bool,
    /// Progress on stderr.
    pub progress: bool,
    pub patience: Patience,
}

/// A file of a repository: where it is and what it must be.
#[derive(Debug, Clone, PartialEq)]
pub struct RepoFile {
    /// "owner/name".
    pub repo: String,
    /// "model", "dataset" or "space".
    pub repo_type: String,
    /// A full commit, 40 hexadecimal digits.
    pub revision: String,
    pub file: String,
    pub want: Want,
}

/// Whether HF_HUB_OFFLINE asks for no connections, as Python reads it.
pub fn offline_by_environment() -> bool {
    std::env::var("HF_HUB_OFFLINE").is_ok_and(|v| matches!(v.to_ascii_lowercase().as_str(), "1" | "on" | "yes" | "true"))
}

impl Hub {
    /// The hub as the environment says: HF_ENDPOINT, HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_HUB_OFFLINE.
    pub fn from_environment(offline: bool, progress: bool) -> Self {
        Hub {
            endpoint: None,
            token: None,
            cache: hf_hub::resolve_cache_dir(),
            offline: offline || offline_by_environment(),
            progress,
            patience: Patience::default(),
        }
    }

    /// The verified file, from the cache or from the hub.
    ///
    /// Errors: [`Kind::Missing`] where it is not cached and can't be fetched, [`Kind::Corrupt`] where what arrived is not what
    /// the card says, [`Kind::Resource`] where the disk can't take it, [`Kind::Busy`] where another process holds it.
    /// Nothing that failed its check stays in the cache.
    pub fn fetch(&self, file: &RepoFile) -> Result<PathBuf> {
        let place = Place::of(&self.cache, file)?;
        if let Some(path) = place.cached(&file.want)? {
            return Ok(path);
        }
        if self.offline {
            return Err(Error::missing(format!(
                "{}/{} is not in the cache ({}) and --offline or HF_HUB_OFFLINE forbids to fetch it",
                file.repo,
                file.file,
                self.cache.display()
            )));
        }
        let _lock = self.lock(&place)?;
        // Another process may have brought it while this one waited.
        if let Some(path) = place.cached(&file.want)? {
            return Ok(path);
        }
        verify::room(&place.blob, file.want.bytes.unwrap_or(0).saturating_sub(size(&place.part)))?;
        for last in [false, true] {
            let resumed = size(&place.part) > 0;
            self.download(file, &place.part)?;
            match verify::file(&place.part, &file.want) {
                Ok(()) => break,
                Err(e) => {
                    remove(&place.part)?;
                    // What was there before this attempt may be to blame: once more, from the first byte.
                    if last || !resumed {
                        return Err(e.at(format!("{}/{}", file.repo, file.file)));
                    }
                }
            }
        }
        fs::rename(&place.part, &place.blob).map_err(|e| Error::io(&place.blob, "putting the file in its place", e))?;
        verify::stamp(&place.blob, &file.want.sha256);
        place.link()
    }

    /// The commit, size and hash that the hub itself states for a file whose card is not pinned yet.
    pub fn resolve(&self, repo: &str, repo_type: &str, revision: &str, file: &str) -> Result<RepoFile> {
        if self.offline {
            return Err(Error::missing(format!("{repo}/{file}: its card is not pinned, and --offline forbids to ask the hub")));
        }
        let (owner, name) = split(repo)?;
        let client = self.client()?;
        let work = async {
            match repo_type {
                "dataset" => {
                    let repo = client.dataset(owner, name);
                    let info = repo.info().revision(revision).send().await?;
                    about(&repo, info.sha, file).await
                }
                _ => {
                    let repo = client.model(owner, name);
                    let info = repo.info().revision(revision).send().await?;
                    about(&repo, info.sha, file).await
                }
            }
        };
        let (commit, bytes, sha256) =
            self.block_on(async { within(self.patience.answer * 2, work).await })?.map_err(|e| self.explain(e, repo, file).1)?;
        let Some(commit) = commit.filter(|c| is_hex(c, 40)) else {
            return Err(Error::corrupt(format!("{repo}: the hub does not name a commit of 40 hexadecimal digits")));
        };
        let Some(sha256) = sha256.filter(|s| is_hex(s, 64)) else {
            return Err(Error::missing(format!(
                "{repo}/{file}: the hub states no sha256 for it (a small file outside LFS): pin it by hand"
            )));
        };
        let want = Want { bytes: Some(bytes), sha256 };
        Ok(RepoFile { repo: repo.into(), repo_type: repo_type.into(), revision: commit, file: file.into(), want })
    }

    fn client(&self) -> Result<HFClient> {
        // Retries are made here, where a download can go on and Retry-After is obeyed.
        let mut builder = HFClient::builder().retry_max_attempts(0).cache_dir(&self.cache);
        if let Some(endpoint) = &self.endpoint {
            builder = builder.endpoint(endpoint);
        }
        if let Some(token) = &self.token {
            builder = builder.token(token);
        }
        builder.build().map_err(|e| Error::usage(format!("the hub's address (HF_ENDPOINT) or client: {}", first_line(&e.to_string()))))
    }

    fn block_on<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| Error::resource(format!("starting the network: {e}")))?;
        let value = runtime.block_on(work);
        // A name look-up that never returns must not hold up the end of the program.
        runtime.shutdown_background();
        Ok(value)
    }

    /// Fills `part` up to the whole file. Failures of the network are tried again as long as attempts bring bytes.
    fn download(&self, file: &RepoFile, part: &Path) -> Result<()> {
        let (owner, name) = split(&file.repo)?;
        let client = self.client()?;
        match file.repo_type.as_str() {
            "dataset" => self.block_on(self.attempts(&client.dataset(owner, name), file, part))?,
            "space" => self.block_on(self.attempts(&client.space(owner, name), file, part))?,
            _ => self.block_on(self.attempts(&client.model(owner, name), file, part))?,
        }
    }

    /// What an error of hf-hub means to a user, and whether another attempt can help.
    pub(super) fn explain(&self, error: HFError, repo: &str, file: &str) -> (Again, Error) {
        let endpoint =
            self.endpoint.clone().or_else(|| std::env::var("HF_ENDPOINT").ok()).unwrap_or_else(|| "https://huggingface.co".into());
        let missing = |what: String| Error::missing(format!("{repo}/{file}: {what}"));
        match &error {
            HFError::AuthRequired { .. } | HFError::Forbidden { .. } => (
                Again::No,
                missing(format!(
                    "the hub refuses it ({}): open {endpoint}/{repo}, accept its conditions, and set HF_TOKEN",
                    status(&error)
                )),
            ),
            HFError::RepoNotFound { .. } | HFError::RevisionNotFound { .. } | HFError::EntryNotFound { .. } => {
                (Again::No, missing(format!("{endpoint} does not have it, or not at this commit: {}", first_line(&error.to_string()))))
            }
            HFError::RateLimited { retry_after, .. } => {
                let wait = retry_after.unwrap_or(Duration::from_secs(5));
                (Again::After(wait), missing(format!("the hub limits requests (wait {} s)", wait.as_secs())))
            }
            HFError::Http { context } => {
                let status = context.status.as_u16();
                let again = if status >= 500 || status == 408 { Again::Soon } else { Again::No };
                (again, missing(format!("the hub answers {status}")))
            }
            HFError::Other(_) => (Again::Soon, missing(format!("no answer from {endpoint}"))),
            _ => (
                Again::Soon,
                missing(format!(
                    "can't be fetched from {endpoint}: {}; without a network, put the file into a folder and name it with --weights-dir",
                    first_line(&chain(&error))
                )),
            ),
        }
    }

    /// Waits for another process that fetches the same file, as long as its download grows.
    fn lock(&self, place: &Place) -> Result<File> {
        for dir in [place.lock.parent(), place.blob.parent(), place.snapshot.parent()].into_iter().flatten() {
            fs::create_dir_all(dir).map_err(|e| Error::io(dir, "making a folder of the weights cache", e))?;
        }
        let file =
            File::options().create(true).append(true).open(&place.lock).map_err(|e| Error::io(&place.lock, "opening the lock", e))?;
        let (mut since, mut seen) = (Instant::now(), size(&place.part));
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(e)) => return Err(Error::io(&place.lock, "locking", e)),
                Err(TryLockError::WouldBlock) => {}
            }
            if size(&place.part) != seen {
                (since, seen) = (Instant::now(), size(&place.part));
            }
            if since.elapsed() > self.patience.lock {
                return Err(Error::new(
                    Kind::Busy,
                    format!(
                        "another process has been fetching this file for {} s without progress ({})",
                        since.elapsed().as_secs(),
                        place.lock.display()
                    ),
                ));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

async fn about<T: RepoType>(
    repo: &HFRepository<T>,
    commit: Option<String>,
    file: &str,
) -> Result<(Option<String>, u64, Option<String>), HFError> {
    let entries = repo.get_paths_info().paths(vec![file.to_string()]).maybe_revision(commit.clone()).send().await?;
    let found = entries.into_iter().find_map(|entry| match entry {
        hf_hub::repository::RepoTreeEntry::File { path, size, lfs, .. } if path == file => Some((size, lfs.and_then(|l| l.sha256))),
        _ => None,
    });
    match found {
        Some((size, sha256)) => Ok((commit, size, sha256)),
        None => Err(HFError::EntryNotFound { path: file.into(), repo_id: repo.repo_path(), context: None }),
    }
}

/// hf-hub's answer, or its `Other` error when it takes too long.
pub(super) async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, HFError>>) -> Result<T, HFError> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(HFError::Other("timeout".into())),
    }
}

fn status(error: &HFError) -> u16 {
    match error {
        HFError::AuthRequired { context } | HFError::Forbidden { context } | HFError::Http { context } => context.status.as_u16(),
        _ => 0,
    }
}

/// An error with its causes: the outer one alone seldom says why.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

pub(super) fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or("").chars().take(300).collect()
}
