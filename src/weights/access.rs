//! From a card to a verified file: built in, in a folder of the user's, in the hub's cache, or on the hub; and what is missing,
//! said in one list with size, origin and licence.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::checkpoint::{self, Checkpoint, Options};
use super::hub::{Hub, RepoFile};
use super::verify::{self, Want, sha256_of};
use crate::spec::card::{Card, Kind, Source};
use crate::spec::files;
use crate::{Error, Result};

/// How files are found and fetched in this process.
#[derive(Debug, Clone)]
pub struct Access {
    pub hub: Hub,
    /// A folder with files that the user fetched or converted: `--weights-dir` or MTV_BENCH_WEIGHTS.
    pub folder: Option<PathBuf>,
    /// Take files whose card states no hash.
    pub unpinned: bool,
}

/// Where a card's file is.
#[derive(Debug, Clone, PartialEq)]
pub enum Located {
    /// Inside the binary, or below `baselines/`: its path there.
    Embedded(String),
    /// Drawn from a seed: there is no file.
    Seeded,
    File(PathBuf),
}

/// A file that a study needs and that is not here.
#[derive(Debug, Clone, PartialEq)]
pub struct Missing {
    pub card: String,
    pub from: String,
    /// In bytes; rounded where `exact` is false.
    pub bytes: Option<u64>,
    pub exact: bool,
    pub licence: String,
    /// Whether a program can fetch it.
    pub fetchable: bool,
    pub how: String,
}

static CURRENT: OnceLock<Access> = OnceLock::new();

impl Access {
    /// As the environment says; `folder` goes before MTV_BENCH_WEIGHTS.
    pub fn from_environment(offline: bool, folder: Option<PathBuf>, progress: bool) -> Self {
        let folder = folder.or_else(|| std::env::var_os("MTV_BENCH_WEIGHTS").filter(|v| !v.is_empty()).map(PathBuf::from));
        Access { hub: Hub::from_environment(offline, progress), folder, unpinned: false }
    }

    /// Makes this the access of the whole process; a command calls it once, before any stage.
    pub fn install(self) {
        let _ = CURRENT.set(self);
    }

    /// The access that the command installed, else the environment's, without a network.
    pub fn current() -> Access {
        CURRENT.get().cloned().unwrap_or_else(|| Access::from_environment(true, None, false))
    }

    /// The file, if it is here and verified; nothing is fetched.
    ///
    /// Errors: a file of the user's folder is there and is not what the card says.
    pub fn find(&self, card: &Card) -> Result<Option<Located>> {
        match &card.source {
            Source::Seeded(_) => return Ok(Some(Located::Seeded)),
            Source::Embedded(e) => {
                let path = format!("baselines/{}", e.file);
                return Ok(files::read(&path)?.map(|_| Located::Embedded(path)));
            }
            _ => {}
        }
        for path in self.candidates(card) {
            if path.is_dir() {
                return Ok(Some(Located::File(path)));
            }
            if path.is_file() {
                self.check(card, &path)?;
                return Ok(Some(Located::File(path)));
            }
        }
        let Some(file) = repo_file(card) else { return Ok(None) };
        let offline = Hub { offline: true, ..self.hub.clone() };
        Ok(offline.fetch(&file).ok().map(Located::File))
    }

    /// The verified file; fetched where that is possible and allowed.
    ///
    /// Errors: as [`Hub::fetch`]; and [`crate::error::Kind::Missing`] with what to do for a file that only a person can fetch.
    pub fn fetch(&self, card: &Card) -> Result<Located> {
        if let Some(found) = self.find(card)? {
            return Ok(found);
        }
        if let Source::Hub(_) = &card.source {
            let file = match repo_file(card) {
                Some(file) => file,
                None => {
                    if card.sha256.is_none() && !self.unpinned {
                        return Err(Error::missing(format!(
                            "{}: its card is not pinned (nobody could hash the file yet): `mtv-bench weights fetch {} --unpinned` takes what \
                             the hub states now and notes it",
                            card.name, card.name
                        )));
                    }
                    self.resolve(card)?
                }
            };
            return self.hub.fetch(&file).map(Located::File);
        }
        Err(Error::missing(list(&[self.missing_one(card)])))
    }

    /// What the hub itself states for a card without full pins; a hash that the card does state must agree.
    pub fn resolve(&self, card: &Card) -> Result<RepoFile> {
        let Source::Hub(hub) = &card.source else {
            return Err(Error::usage(format!("{}: is not a file of the hub", card.name)));
        };
        let found = self.hub.resolve(&hub.repo, &hub.repo_type, &hub.revision, &hub.file)?;
        if card.sha256.as_ref().is_some_and(|own| *own != found.want.sha256) {
            return Err(Error::corrupt(format!(
                "{}: the hub now has another file (sha256 {}) than the card says ({})",
                card.name,
                found.want.sha256,
                card.sha256.as_deref().unwrap_or("")
            )));
        }
        Ok(found)
    }

    /// A checkpoint of the card's file, finite throughout.
    ///
    /// Errors: the file is not here ([`crate::error::Kind::Missing`]), or not readable.
    pub fn open(&self, card: &Card) -> Result<Checkpoint> {
        let checkpoint = match self.find(card)? {
            Some(Located::File(path)) => checkpoint::open(&path)?,
            Some(Located::Embedded(path)) => {
                let bytes = files::read(&path)?.ok_or_else(|| Error::missing(format!("{path}: there is no such file")))?;
                checkpoint::read_bytes(&bytes, Options::default()).map_err(|e| e.at(&path))?
            }
            Some(Located::Seeded) => return Err(Error::usage(format!("{}: is drawn from a seed, it has no file", card.name))),
            None => return Err(Error::missing(list(&[self.missing_one(card)]))),
        };
        checkpoint.require_finite().map_err(|e| e.at(&card.name))?;
        Ok(checkpoint)
    }

    /// Which of these cards have no file here, each with where it is from. A file that is here and wrong is an error.
    pub fn missing(&self, cards: &[Card]) -> Result<Vec<Missing>> {
        let mut missing = Vec::new();
        for card in cards {
            if self.find(card)?.is_none() {
                missing.push(self.missing_one(card));
            }
        }
        Ok(missing)
    }

    fn missing_one(&self, card: &Card) -> Missing {
        let folder = self.folder.as_ref().map_or("the folder of --weights-dir".into(), |f| f.display().to_string());
        let (from, fetchable, how) = match &card.source {
            Source::Hub(hub) => {
                let unpinned = if card.sha256.is_none() { " --unpinned" } else { "" };
                let dataset = if hub.repo_type == "dataset" { "datasets/" } else { "" };
                let from = format!("https://huggingface.co/{dataset}{}/blob/{}/{}", hub.repo, hub.revision, hub.file);
                (from, true, format!("mtv-bench weights fetch {}{unpinned}", card.name))
            }
            Source::Url(url) => {
                let name = url.url.rsplit('/').next().unwrap_or("file");
                (url.url.clone(), false, format!("download it and put it into {folder} as {name}"))
            }
            Source::Manual(manual) => (
                first_address(&manual.instructions),
                false,
                format!("{} Put it into {folder} as {}.", manual.instructions.trim(), manual.file),
            ),
            Source::Embedded(e) => (format!("baselines/{}", e.file), false, "build mtv-bench with this file in place".into()),
            Source::Seeded(_) => ("a seed".into(), true, String::new()),
        };
        Missing {
            card: card.name.clone(),
            from,
            bytes: card.bytes.or(card.bytes_about),
            exact: card.bytes.is_some(),
            licence: licence_line(card),
            fetchable,
            how,
        }
    }

    /// The places of the user's folder where a card's file may lie.
    fn candidates(&self, card: &Card) -> Vec<PathBuf> {
        let Some(folder) = &self.folder else { return Vec::new() };
        let base = |path: &str| path.rsplit('/').next().unwrap_or(path).to_string();
        let file = match &card.source {
            Source::Hub(hub) => base(&hub.file),
            Source::Url(url) => base(&url.url),
            Source::Manual(manual) => manual.file.clone(),
            _ => return Vec::new(),
        };
        // Many files of the hub are called pytorch_model.bin: the card's own folder comes first.
        let mut places = vec![folder.join(format!("{}.safetensors", card.name)), folder.join(&card.name).join(&file), folder.join(&file)];
        if card.kind == Kind::Dataset {
            // Any folder of pictures under the name of the card.
            places.push(folder.join(&card.name));
        }
        places
    }

    /// Whether a file of the user's is the card's, or was converted from it.
    fn check(&self, card: &Card, path: &Path) -> Result<()> {
        let Some(sha256) = &card.sha256 else {
            if self.unpinned {
                return Ok(());
            }
            return Err(Error::missing(format!(
                "{}: is here, but the card {} states no hash to check it with: if you trust it, `mtv-bench weights pin {}` notes its hash",
                path.display(),
                card.name,
                card.name
            )));
        };
        let want = Want { bytes: card.bytes, sha256: sha256.clone() };
        if verify::stamped(path, &want) {
            return Ok(());
        }
        let Err(error) = verify::file(path, &want) else {
            verify::stamp(path, sha256);
            return Ok(());
        };
        let converted =
            path.extension().is_some_and(|e| e == "safetensors").then(|| super::safetensors_file::metadata(path)).and_then(Result::ok);
        match converted.and_then(|m| m.get("source_sha256").cloned()) {
            Some(source) if source == *sha256 => Ok(()),
            Some(source) => Err(Error::corrupt(format!(
                "{}: was converted from a file with sha256 {source}, the card {} says {sha256}",
                path.display(),
                card.name
            ))),
            None => Err(error.at(path.display())),
        }
    }

    /// The hash and size of a file that is here but not pinned, to be noted by `weights pin`.
    pub fn measure(&self, card: &Card) -> Result<(String, u64)> {
        match self.candidates(card).into_iter().find(|p| p.is_file()) {
            Some(path) => {
                // An archive of pictures is no checkpoint.
                if card.kind != Kind::Dataset {
                    checkpoint::open(&path)?.require_finite()?;
                }
                sha256_of(&path)
            }
            None => Err(Error::missing(list(&[self.missing_one(card)]))),
        }
    }
}

/// The exact file of a hub card that is pinned.
pub fn repo_file(card: &Card) -> Option<RepoFile> {
    let (Source::Hub(hub), Some(sha256)) = (&card.source, &card.sha256) else { return None };
    let commit = hub.revision.len() == 40 && hub.revision.bytes().all(|b| b.is_ascii_hexdigit());
    commit.then(|| RepoFile {
        repo: hub.repo.clone(),
        repo_type: hub.repo_type.clone(),
        revision: hub.revision.clone(),
        file: hub.file.clone(),
        want: Want { bytes: card.bytes, sha256: sha256.clone() },
    })
}

/// A card's licence in one line: the origin's, and the re-upload's tag where it says something else.
pub fn licence_line(card: &Card) -> String {
    let limit = if card.licence.non_commercial { " (not for commercial use)" } else { "" };
    let tag = card.licence.reupload_tag.as_ref().map(|t| format!("; the re-upload is tagged \"{t}\"")).unwrap_or_default();
    format!("{}{limit}{tag}", card.licence.name)
}

/// The first address of some instructions.
fn first_address(text: &str) -> String {
    text.split_whitespace().find(|w| w.starts_with("http")).map_or("see below".into(), |w| w.trim_end_matches(['.', ',', ')']).to_string())
}

/// What is missing, for people: one block per file, then the total.
pub fn list(missing: &[Missing]) -> String {
    let mut text = format!("{} of the files needed {} not here:", missing.len(), if missing.len() == 1 { "is" } else { "are" });
    let mut licences: BTreeMap<&str, usize> = BTreeMap::new();
    for m in missing {
        let size = m.bytes.map_or("not known".to_string(), |b| format!("{}{}", if m.exact { "" } else { "about " }, human(b)));
        let _ = write!(
            text,
            "\n  {}\n    from     {}\n    size     {size}\n    licence  {}\n    get it   {}",
            m.card, m.from, m.licence, m.how
        );
        *licences.entry(&m.licence).or_default() += 1;
    }
    let known: u64 = missing.iter().filter_map(|m| m.bytes).sum();
    let unknown = missing.iter().filter(|m| m.bytes.is_none()).count();
    if missing.len() > 1 {
        let more = if unknown > 0 { format!(" and {unknown} of unknown size") } else { String::new() };
        let _ = write!(
            text,
            "\n  in all {}{more}; {} can be fetched by a program",
            human(known),
            missing.iter().filter(|m| m.fetchable).count()
        );
    }
    text
}

/// A card's size for people.
pub fn size_line(card: &Card) -> String {
    match (card.bytes, card.bytes_about) {
        (Some(bytes), _) => human(bytes),
        (None, Some(bytes)) => format!("~{}", human(bytes)),
        _ => "?".into(),
    }
}

/// A size for people: 132.7 MB.
pub fn human(bytes: u64) -> String {
    match bytes {
        0..1000 => format!("{bytes} B"),
        1000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}
