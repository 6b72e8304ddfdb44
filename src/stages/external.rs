//! Methods that live elsewhere: a command that reconstructs a folder of pictures, or a folder of reconstructions that somebody made.
//!
//! Pictures and reconstructions pair by the image's id, which is the file's name without its ending; nothing pairs by order.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::Kind;
use crate::images::{Pictures, Rgb8};
use crate::record::ImageInfo;
use crate::record::store::{create_folder, sha256_file};
use crate::spec::method::External;
use crate::{Error, Result};

/// An external method as a stage's key has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExternalMethod {
    /// Program and arguments; empty for a folder.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
    /// SHA-256 of the arguments that are files (the script itself), or of the folder's pictures.
    pub files: BTreeMap<String, String>,
    pub timeout_seconds: f64,
}

/// Lines of a failed command's output that are shown.
const SHOWN: usize = 20;

/// How often a running command is looked at.
const LOOK: Duration = Duration::from_millis(20);

impl ExternalMethod {
    /// The method with the hashes of what it depends on.
    ///
    /// Errors (missing): the folder is not there or holds no picture.
    pub fn of(spec: &External) -> Result<Self> {
        let mut files = BTreeMap::new();
        match &spec.folder {
            Some(folder) => {
                for set in sets_in(folder) {
                    let pictures = Pictures::open(&set)?;
                    for picture in pictures.list() {
                        let sha256 = crate::record::store::sha256_hex(&pictures.bytes(picture)?);
                        files.insert(format!("{}/{}", set.display(), picture.id), sha256);
                    }
                }
                if files.is_empty() {
                    return Err(Error::missing(format!("{folder}: there is no folder of reconstructions")));
                }
            }
            None => {
                for argument in spec.command.iter().filter(|a| Path::new(a).is_file()) {
                    files.insert(argument.clone(), sha256_file(Path::new(argument))?);
                }
            }
        }
        let (command, folder) = (spec.command.clone(), spec.folder.clone());
        Ok(ExternalMethod { command, folder, files, timeout_seconds: spec.timeout_seconds })
    }

    /// The command as a person would type it.
    pub fn shown(&self) -> String {
        let quoted = |a: &String| if a.is_empty() || a.contains(char::is_whitespace) { format!("'{a}'") } else { a.clone() };
        self.command.iter().map(quoted).collect::<Vec<_>>().join(" ")
    }

    /// The reconstructions of these images of one set, in their order.
    ///
    /// Errors: (external) the command fails or takes too long; (incomparable) an image without reconstruction, a reconstruction without
    /// image, or one of another size; (corrupt) one that can't be read.
    pub fn reconstruct(&self, infos: &[&ImageInfo], inputs: &[Rgb8]) -> Result<Vec<Rgb8>> {
        let Some(first) = infos.first() else { return Ok(Vec::new()) };
        if let Some(folder) = &self.folder {
            return collect(Path::new(&folder.replace("{set}", &first.set)), infos, inputs);
        }
        let place = tempfile::tempdir().map_err(|e| Error::io(&std::env::temp_dir(), "making a folder", e))?;
        let (input, output) = (place.path().join("input"), place.path().join("output"));
        create_folder(&input)?;
        create_folder(&output)?;
        for (info, image) in infos.iter().zip(inputs) {
            image.write_png(&input.join(format!("{}.png", info.id)))?;
        }
        let filled = |argument: &String| {
            argument
                .replace("{input}", &input.display().to_string())
                .replace("{output}", &output.display().to_string())
                .replace("{set}", &first.set)
        };
        let command: Vec<String> = self.command.iter().map(filled).collect();
        self.execute(&command, &place.path().join("log"))?;
        collect(&output, infos, inputs).map_err(|e| e.at(format!("after the command `{}`", self.shown())))
    }

    fn execute(&self, command: &[String], log: &Path) -> Result<()> {
        let Some((program, arguments)) = command.split_first() else { return Err(Error::internal("a command without program")) };
        let failed = |why: String| Error::new(Kind::External, format!("the command `{}` {why}", self.shown()));
        let file = File::create(log).map_err(|e| Error::io(log, "writing", e))?;
        let both = file.try_clone().map_err(|e| Error::io(log, "writing", e))?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(both)
            .spawn()
            .map_err(|e| failed(format!("can't be started: {program}: {e}")))?;
        let began = Instant::now();
        let status = loop {
            match child.try_wait().map_err(|e| failed(format!("can't be waited for: {e}")))? {
                Some(status) => break status,
                None if began.elapsed().as_secs_f64() > self.timeout_seconds => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(failed(format!("was stopped after {} s (timeout_seconds){}", self.timeout_seconds, tail(log))));
                }
                None => std::thread::sleep(LOOK),
            }
        };
        match status.success() {
            true => Ok(()),
            false => Err(failed(format!("{}{}", ended(status), tail(log)))),
        }
    }
}

/// The folders that a `folder` with "{set}" in it stands for; itself without.
fn sets_in(folder: &str) -> Vec<PathBuf> {
    let Some((before, after)) = folder.split_once("{set}") else { return vec![PathBuf::from(folder)] };
    let candidates = ["synthesized", "real"].map(|set| PathBuf::from(format!("{before}{set}{after}")));
    candidates.into_iter().filter(|p| p.exists()).collect()
}

fn ended(status: ExitStatus) -> String {
    status.code().map_or_else(|| format!("was ended: {status}"), |code| format!("ended with exit code {code}"))
}

/// The end of what a command wrote.
fn tail(log: &Path) -> String {
    let text = String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    match lines.len() {
        0 => "; it wrote nothing".into(),
        n => format!("; it wrote last:\n  {}", lines[n.saturating_sub(SHOWN)..].join("\n  ")),
    }
}

/// The pictures of a folder as the reconstructions of these images.
fn collect(folder: &Path, infos: &[&ImageInfo], inputs: &[Rgb8]) -> Result<Vec<Rgb8>> {
    let unlike = |message: String| Error::new(Kind::Incomparable, format!("{}: {message}", folder.display()));
    if folder.is_dir() && std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none()) {
        return Err(unlike("no reconstruction in it".into()));
    }
    let pictures = Pictures::open(folder)?;
    let named = |ids: Vec<&str>| {
        let more = if ids.len() > 3 { format!(" and {} more", ids.len() - 3) } else { String::new() };
        format!("{}{more}", ids.iter().take(3).copied().collect::<Vec<_>>().join(", "))
    };
    let missing: Vec<&str> = infos.iter().map(|i| i.id.as_str()).filter(|id| pictures.find(id).is_none()).collect();
    if !missing.is_empty() {
        return Err(unlike(format!("no reconstruction of {}", named(missing))));
    }
    let extra: Vec<&str> = pictures.list().iter().map(|p| p.id.as_str()).filter(|id| !infos.iter().any(|i| i.id == *id)).collect();
    if !extra.is_empty() {
        return Err(unlike(format!("reconstructions of no image of the set: {}", named(extra))));
    }
    let one = |(info, input): (&&ImageInfo, &Rgb8)| {
        let picture = pictures.find(&info.id).ok_or_else(|| Error::internal("a picture that was there is gone"))?;
        let image = pictures.read(picture)?;
        let (got, wanted) = ((image.width(), image.height()), (input.width(), input.height()));
        match got == wanted {
            true => Ok(image),
            false => Err(unlike(format!("{} is {}x{}, the picture that it reconstructs {}x{}", info.id, got.0, got.1, wanted.0, wanted.1))),
        }
    };
    infos.iter().zip(inputs).map(one).collect()
}
