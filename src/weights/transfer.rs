//! The transfer of one file: requests until it is whole, each going on where the last one broke off.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use hf_hub::{HFError, HFRepository, RepoType};

use super::cache::{remove, size};
use super::hub::{Hub, RepoFile, chain, first_line, within};
use crate::{Error, Result};

enum Fault {
    /// No attempt can mend it.
    Final(Error),
    Hub(HFError),
    Network(String),
}

pub(super) enum Again {
    No,
    Soon,
    After(Duration),
}

impl Hub {
    /// Attempts until the file is whole, as long as they bring bytes.
    pub(super) async fn attempts<T: RepoType>(&self, repo: &HFRepository<T>, file: &RepoFile, part: &Path) -> Result<()> {
        let label = format!("{}/{}", file.repo, file.file);
        let progress = Progress::start(self.progress, &label, file.want.bytes, size(part));
        let (mut fruitless, mut pause) = (0, self.patience.pause);
        loop {
            let before = size(part);
            let fault = match self.attempt(repo, file, part, &progress).await {
                Ok(()) => {
                    progress.end(size(part));
                    return Ok(());
                }
                Err(fault) => fault,
            };
            let (again, error) = match fault {
                Fault::Final(error) => return Err(error),
                Fault::Hub(e) => self.explain(e, &file.repo, &file.file),
                Fault::Network(what) => (Again::Soon, Error::missing(format!("{label}: {what}"))),
            };
            fruitless = if size(part) > before { 0 } else { fruitless + 1 };
            match again {
                Again::No => return Err(error),
                _ if fruitless >= self.patience.attempts => {
                    return Err(Error::new(
                        error.kind,
                        format!("{} (given up after {} attempts; the next run resumes at byte {})", error.message, fruitless, size(part)),
                    ));
                }
                Again::After(wait) if wait > self.patience.retry_after => {
                    return Err(Error::missing(format!(
                        "{label}: the hub asks to wait {} s: try again later, or set HF_TOKEN",
                        wait.as_secs()
                    )));
                }
                Again::After(wait) => tokio::time::sleep(wait).await,
                Again::Soon => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(30));
                }
            }
        }
    }

    /// One request, appended to `part`.
    async fn attempt<T: RepoType>(&self, repo: &HFRepository<T>, file: &RepoFile, part: &Path, progress: &Progress) -> Result<(), Fault> {
        let mut have = size(part);
        let total = file.want.bytes;
        if total.is_some_and(|total| have > total) {
            remove(part).map_err(Fault::Final)?;
            have = 0;
        }
        if total == Some(have) && have > 0 {
            return Ok(());
        }
        // Without a known size a range has no end to name, so such a file starts again.
        let range = total.filter(|_| have > 0).map(|total| have..total);
        if range.is_none() && have > 0 {
            remove(part).map_err(Fault::Final)?;
            have = 0;
        }
        let ask = repo.download_file_stream().filename(&file.file).revision(&file.revision).maybe_range(range).send();
        let (_, mut body) = match within(self.patience.answer, ask).await {
            Ok(answer) => answer,
            Err(HFError::Other(_)) => return Err(Fault::Network(format!("no answer within {} s", self.patience.answer.as_secs_f32()))),
            Err(e) => return Err(Fault::Hub(e)),
        };
        let io = |e| Fault::Final(Error::io(part, "writing the download", e));
        let mut out = File::options().create(true).append(true).open(part).map_err(io)?;
        let (mut window, mut in_window) = (Instant::now(), 0u64);
        loop {
            let chunk = match tokio::time::timeout(self.patience.idle, body.next()).await {
                Err(_) => return Err(Fault::Network(format!("the hub sent nothing for {} s", self.patience.idle.as_secs_f32()))),
                Ok(None) => break,
                Ok(Some(Err(e))) => return Err(Fault::Network(format!("the connection broke: {}", first_line(&chain(&e))))),
                Ok(Some(Ok(chunk))) => chunk,
            };
            have += chunk.len() as u64;
            if total.is_some_and(|total| have > total) {
                // More than asked for: another file, or a server that ignores ranges and began from the first byte.
                drop(out);
                remove(part).map_err(Fault::Final)?;
                return Err(Fault::Network(format!("the hub sends more than the {} bytes of the card", total.unwrap_or(0))));
            }
            out.write_all(&chunk).map_err(io)?;
            progress.at(have);
            in_window += chunk.len() as u64;
            if window.elapsed() >= self.patience.window {
                if in_window < self.patience.window_bytes {
                    return Err(Fault::Network(format!(
                        "the hub sends less than {} bytes in {} s",
                        self.patience.window_bytes,
                        self.patience.window.as_secs_f32()
                    )));
                }
                (window, in_window) = (Instant::now(), 0);
            }
        }
        out.sync_all().map_err(io)?;
        match total {
            Some(total) if have < total => Err(Fault::Network(format!("the connection ended after {have} of {total} bytes"))),
            _ => Ok(()),
        }
    }
}

/// The bar on a terminal; two lines elsewhere.
struct Progress {
    bar: Option<indicatif::ProgressBar>,
    label: String,
    start: Instant,
    from: u64,
    on: bool,
}

impl Progress {
    fn start(on: bool, label: &str, total: Option<u64>, from: u64) -> Self {
        use std::io::IsTerminal;
        let mut bar = None;
        if on && std::io::stderr().is_terminal() {
            let made = indicatif::ProgressBar::new(total.unwrap_or(0)).with_message(label.to_string());
            let style = indicatif::ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}");
            bar = Some(match style {
                Ok(style) => made.with_style(style),
                Err(_) => made,
            });
            if let Some(bar) = &bar {
                bar.reset_elapsed();
                bar.set_position(from);
            }
        } else if on {
            let size = total.map(|n| format!(", {n} bytes")).unwrap_or_default();
            let resumed = if from > 0 { format!(", resumed at byte {from}") } else { String::new() };
            eprintln!("fetching {label}{size}{resumed}");
        }
        Progress { bar, label: label.into(), start: Instant::now(), from, on }
    }

    fn at(&self, have: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(have);
        }
    }

    fn end(&self, have: u64) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if self.on {
            let seconds = self.start.elapsed().as_secs_f64().max(1e-3);
            let bytes = have.saturating_sub(self.from);
            eprintln!("fetched {}: {bytes} bytes in {seconds:.1} s, {:.1} MB/s", self.label, bytes as f64 / 1e6 / seconds);
        }
    }
}
