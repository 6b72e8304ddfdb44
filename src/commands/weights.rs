//! `mtv-bench weights`: list, fetch, verify, pin, convert and show pretrained weights and data sets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Subcommand;

use crate::error::Kind;
use crate::record::store::write_atomic;
use crate::spec::card::Source;
use crate::spec::pins::{self, Pin, Pins};
use crate::spec::{Card, files};
use crate::weights::access::{Access, Located, human, licence_line, repo_file, size_line};
use crate::weights::{self, Checkpoint, Options, Unknown, licence, verify, visible};
use crate::{Error, Result};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

/// Where weights come from: shared with `run` and `plan`.
#[derive(clap::Args, Clone, Default)]
pub struct AccessArgs {
    /// Fetch nothing (as HF_HUB_OFFLINE=1).
    #[arg(long)]
    pub offline: bool,
    /// Folder with files that you fetched or converted yourself (or MTV_BENCH_WEIGHTS).
    #[arg(long, value_name = "DIR")]
    pub weights_dir: Option<PathBuf>,
    /// Accept the non-commercial licences of what is fetched; asked once and recorded.
    #[arg(long)]
    pub accept_licence: bool,
}

impl AccessArgs {
    /// Errors: the folder is not there.
    pub fn open(&self, quiet: bool) -> Result<Access> {
        if let Some(dir) = self.weights_dir.as_ref().filter(|d| !d.is_dir()) {
            return Err(Error::usage(format!("--weights-dir {}: there is no such folder", dir.display())));
        }
        Ok(Access::from_environment(self.offline, self.weights_dir.clone(), !quiet))
    }
}

#[derive(Subcommand)]
enum Action {
    /// Every card: where its file comes from, its size, its licence, and whether it is here.
    List {
        #[command(flatten)]
        access: AccessArgs,
    },
    /// Fetch the files of these cards and verify them.
    Fetch {
        #[arg(required = true)]
        cards: Vec<String>,
        /// Take a file whose card states no hash: what the hub states now is checked and noted in baselines/pins.lock.
        #[arg(long)]
        unpinned: bool,
        #[command(flatten)]
        access: AccessArgs,
    },
    /// Hash the files that are here again and compare them with their cards.
    Verify {
        /// All cards whose files are here, if none is named.
        cards: Vec<String>,
        #[command(flatten)]
        access: AccessArgs,
    },
    /// Note commit, size and sha256 of a file whose card states none in baselines/pins.lock, to be committed.
    Pin {
        #[arg(required = true)]
        cards: Vec<String>,
        #[command(flatten)]
        access: AccessArgs,
    },
    /// Convert a checkpoint of any format once to safetensors.
    Convert {
        file: PathBuf,
        out: PathBuf,
        /// Only the tensors under this key, such as generator_smooth; the key is taken off their names.
        #[arg(long, default_value = "")]
        key: String,
        /// The card that the file belongs to: its hash is checked and its licence goes into the metadata.
        #[arg(long)]
        card: Option<String>,
        /// Keep Python objects of unknown classes as inert records instead of refusing the file. Nothing is run either way.
        #[arg(long)]
        allow_inert: bool,
    },
    /// Show a card, or what a file holds.
    Info {
        /// Name of a card, or a file.
        what: String,
        #[command(flatten)]
        access: AccessArgs,
    },
}

pub fn run(args: Args, quiet: bool) -> Result<()> {
    match args.action {
        Action::List { access } => list(&access.open(quiet)?),
        Action::Fetch { cards, unpinned, access } => fetch(&cards, unpinned, &access, quiet),
        Action::Verify { cards, access } => verify(&cards, &access.open(quiet)?),
        Action::Pin { cards, access } => pin(&cards, &access.open(quiet)?),
        Action::Convert { file, out, key, card, allow_inert } => convert(&file, &out, &key, card.as_deref(), allow_inert),
        Action::Info { what, access } => info(&what, &access.open(quiet)?),
    }
}

fn origin(card: &Card) -> String {
    match &card.source {
        Source::Embedded(_) => "built in".into(),
        Source::Seeded(_) => "drawn from a seed".into(),
        Source::Hub(hub) => format!("hub {}", hub.repo),
        Source::Url(url) => url.url.clone(),
        Source::Manual(_) => "by hand".into(),
    }
}

fn list(access: &Access) -> Result<()> {
    let mut rows = vec![["card", "size", "pinned", "here", "from", "licence"].map(String::from)];
    for name in Card::names() {
        let card = Card::load(&name)?;
        let here = match access.find(&card) {
            Ok(Some(_)) => "yes",
            Ok(None) => "no",
            Err(e) if e.kind == Kind::Missing => "not checked",
            Err(_) => "DAMAGED",
        };
        let pinned = if matches!(card.source, Source::Seeded(_)) || card.pinned { "yes" } else { "no" };
        rows.push([card.name.clone(), size_line(&card), pinned.into(), here.into(), origin(&card), licence_line(&card)]);
    }
    let width = |i: usize| rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, w)| format!("{cell:w$}")).collect();
        println!("{}", cells.join("  ").trim_end());
    }
    Ok(())
}

fn fetch(names: &[String], unpinned: bool, args: &AccessArgs, quiet: bool) -> Result<()> {
    let cards = names.iter().map(|n| Card::load(n)).collect::<Result<Vec<_>>>()?;
    let access = Access { unpinned, ..args.open(quiet)? };
    for card in &cards {
        if access.find(card)?.is_none() {
            // Nobody is asked about a licence for what no program can fetch, or may not.
            if !matches!(card.source, Source::Hub(_)) || access.hub.offline {
                access.fetch(card)?;
            }
            licence::consent(card, args.accept_licence, &licence::record_path())?;
        }
        // Resolved first, so that what is noted is what was verified.
        let resolved = match (access.find(card)?, &card.source) {
            (None, Source::Hub(_)) if repo_file(card).is_none() && (unpinned || card.sha256.is_some()) => Some(access.resolve(card)?),
            _ => None,
        };
        let path = match &resolved {
            Some(file) => access.hub.fetch(file)?,
            None => match access.fetch(card)? {
                Located::File(path) => path,
                Located::Embedded(_) | Located::Seeded => {
                    println!("{}: {}, nothing to fetch", card.name, origin(card));
                    continue;
                }
            },
        };
        if let Some(file) = resolved {
            let bytes = file.want.bytes.unwrap_or_default();
            note(&card.name, Pin { revision: Some(file.revision), bytes, sha256: file.want.sha256 })?;
        }
        println!("{}: {}", card.name, path.display());
    }
    Ok(())
}

fn verify(names: &[String], access: &Access) -> Result<()> {
    let named = !names.is_empty();
    let names = if named { names.to_vec() } else { Card::names() };
    let (mut bad, mut checked) = (Vec::new(), 0);
    for name in names {
        let card = Card::load(&name)?;
        let verdict = match access.find(&card) {
            Ok(None) if !named => continue,
            Ok(None) => Err(Error::missing("is not here".to_string())),
            Ok(Some(Located::Seeded)) => continue,
            Ok(Some(Located::Embedded(path))) => embedded(&card, &path),
            Ok(Some(Located::File(path))) if path.is_dir() => Ok(format!("a folder, not hashed: {}", path.display())),
            Ok(Some(Located::File(path))) => thorough(&card, &path),
            Err(e) if !named && e.kind == Kind::Missing => Ok(e.message),
            Err(e) => Err(e),
        };
        checked += 1;
        match verdict {
            Ok(what) => println!("ok    {name}: {what}"),
            Err(e) => {
                println!("FAIL  {name}: {e}");
                bad.push((name, e.kind));
            }
        }
    }
    match bad.first() {
        None => {
            println!("{checked} files verified");
            Ok(())
        }
        Some((_, kind)) => {
            let names: Vec<&str> = bad.iter().map(|(n, _)| n.as_str()).collect();
            Err(Error::new(*kind, format!("{} of {checked} files failed: {}", bad.len(), names.join(", "))))
        }
    }
}

fn embedded(card: &Card, path: &str) -> Result<String> {
    use sha2::{Digest, Sha256};
    let bytes = files::read(path)?.ok_or_else(|| Error::missing(format!("{path}: there is no such file")))?;
    let got: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
    match &card.sha256 {
        Some(want) if *want == got => Ok(format!("built in, sha256 {got}")),
        Some(want) => Err(Error::corrupt(format!("{path}: has sha256 {got}, its card says {want}"))),
        None => Ok(format!("built in, not pinned, sha256 {got}")),
    }
}

/// Hashed again, whatever an earlier check noted.
fn thorough(card: &Card, path: &Path) -> Result<String> {
    let (got, bytes) = verify::sha256_of(path)?;
    match &card.sha256 {
        Some(want) if *want == got => Ok(format!("{}, sha256 {got}", human(bytes))),
        // A file converted from the card's was recognised by its metadata when it was found.
        Some(_) if weights::open(path)?.metadata.contains_key("source_sha256") => {
            Ok(format!("{}, converted from the card's file", human(bytes)))
        }
        Some(want) => Err(Error::corrupt(format!("{}: has sha256 {got}, its card says {want}", path.display()))),
        None => Ok(format!("{}, not pinned, sha256 {got}", human(bytes))),
    }
}

fn pin(names: &[String], access: &Access) -> Result<()> {
    for name in names {
        let card = Card::load(name)?;
        if card.pinned {
            println!("{name}: is pinned already ({})", card.sha256.as_deref().unwrap_or("drawn from a seed"));
            continue;
        }
        let by_hand = Access { unpinned: true, ..access.clone() };
        let pin = match (&card.source, by_hand.find(&card)?) {
            (Source::Hub(_), None) => {
                let file = by_hand.resolve(&card)?;
                let path = by_hand.hub.fetch(&file)?;
                println!("{name}: {}", path.display());
                Pin { revision: Some(file.revision), bytes: file.want.bytes.unwrap_or_default(), sha256: file.want.sha256 }
            }
            _ => {
                let (sha256, bytes) = by_hand.measure(&card)?;
                Pin { revision: None, bytes, sha256 }
            }
        };
        println!("{name}: {} sha256 {}", human(pin.bytes), pin.sha256);
        note(name, pin)?;
    }
    println!("noted in {}: commit it", pins::PATH);
    Ok(())
}

/// Adds a pin to the project's file.
fn note(name: &str, pin: Pin) -> Result<()> {
    let mut pins = Pins::load()?;
    if pins.0.get(name) == Some(&pin) {
        return Ok(());
    }
    pins.0.insert(name.into(), pin);
    let path = Path::new(pins::PATH);
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, "making the folder", e))?;
    }
    write_atomic(path, pins.text().as_bytes())
}

fn convert(file: &Path, out: &Path, key: &str, card: Option<&str>, allow_inert: bool) -> Result<()> {
    let card = card.map(Card::load).transpose()?;
    if file.is_dir() {
        return Err(Error::usage(format!("{}: is a folder, a file is converted", file.display())));
    }
    let (sha256, bytes) = verify::sha256_of(file)?;
    if let Some(want) = card.as_ref().and_then(|c| c.sha256.as_ref())
        && *want != sha256
    {
        return Err(Error::corrupt(format!("{}: has sha256 {sha256}, its card says {want}", file.display())));
    }
    if out.extension().is_none_or(|e| e != "safetensors") {
        return Err(Error::usage(format!("{}: the converted file's name ends in .safetensors", out.display())));
    }
    let unknown = if allow_inert { Unknown::Record } else { Unknown::Refuse };
    let checkpoint = weights::open_with(file, Options { unknown })?;
    let tensors = checkpoint.under(key).map_err(|e| e.at(file.display()))?;
    let map = if key.is_empty() { "unchanged".into() } else { format!("{key}.* -> *") };
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut metadata = BTreeMap::from([
        ("source".to_string(), name),
        ("source_sha256".into(), sha256.clone()),
        ("source_bytes".into(), bytes.to_string()),
        ("source_format".into(), checkpoint.format.name().into()),
        ("key_map".into(), map),
        ("converted_by".into(), format!("mtv-bench {}", env!("CARGO_PKG_VERSION"))),
        ("licence".into(), card.as_ref().map_or("not stated: no card was named".into(), licence_line)),
    ]);
    if let Some(card) = &card {
        metadata.insert("card".into(), card.name.clone());
        metadata.insert("origin".into(), origin(card));
    }
    weights::save(out, &tensors, &metadata)?;
    for warning in &checkpoint.warnings {
        eprintln!("warning: {warning}");
    }
    println!("{}: {} tensors of {} ({}), sha256 {sha256}", out.display(), tensors.len(), file.display(), checkpoint.format.name());
    Ok(())
}

fn info(what: &str, access: &Access) -> Result<()> {
    let path = Path::new(what);
    if path.is_file() && !Card::names().iter().any(|n| n == what) {
        return describe(path, &weights::open_with(path, Options { unknown: Unknown::Record })?);
    }
    let names_file = what.starts_with(['.', '/']) || path.extension().is_some() || path.is_dir();
    if names_file && !Card::names().iter().any(|n| n == what) {
        return Err(match path.is_dir() {
            true => Error::usage(format!("{what}: is a folder; name a file in it, or a card")),
            false => Error::missing(format!("{what}: there is no such file")),
        });
    }
    let card = Card::load(what)?;
    println!("{}: {}", card.name, card.title);
    let field = |name: &str, value: String| println!("  {name:12} {value}");
    field("from", origin(&card));
    match &card.source {
        Source::Hub(hub) => {
            field("file", format!("{} at {}", hub.file, hub.revision));
        }
        Source::Manual(manual) => field("get it", format!("{} Put it into --weights-dir as {}.", manual.instructions.trim(), manual.file)),
        _ => {}
    }
    field("size", card.bytes.map_or(size_line(&card), |b| format!("{} ({b} bytes)", human(b))));
    field("sha256", card.sha256.clone().unwrap_or_else(|| "not known".into()));
    field("pinned", card.pinned.to_string());
    if !card.format.is_empty() {
        field("format", card.format.clone());
    }
    if let Some(r) = card.resolution {
        field("resolution", format!("{r} px"));
    }
    if let Some([low, high]) = card.pixel_range {
        field("pixel range", format!("{low} (black) to {high} (white)"));
    }
    field("licence", licence_line(&card));
    if let Some(url) = &card.licence.url {
        field("", url.clone());
    }
    if !card.licence.note.is_empty() {
        field("", card.licence.note.clone());
    }
    for v in &card.verified {
        field("verified", format!("{} [read in: {}]", v.what, v.where_));
    }
    if !card.notes.is_empty() {
        field("notes", card.notes.trim().to_string());
    }
    match access.find(&card)? {
        Some(Located::File(path)) if path.is_file() => describe(&path, &weights::open(&path)?),
        Some(Located::File(path)) => {
            field("here", path.display().to_string());
            Ok(())
        }
        Some(Located::Embedded(_)) => describe(Path::new("built in"), &access.open(&card)?),
        Some(Located::Seeded) => Ok(()),
        None => {
            field("here", "no".into());
            Ok(())
        }
    }
}

fn describe(path: &Path, checkpoint: &Checkpoint) -> Result<()> {
    let elements: usize = checkpoint.tensors.values().map(|t| t.elem_count()).sum();
    println!("{}: {}, {} tensors, {elements} numbers", path.display(), checkpoint.format.name(), checkpoint.tensors.len());
    println!("  under: {}", checkpoint.groups().join(", "));
    for (name, value) in &checkpoint.metadata {
        println!("  {}: {}", visible(name), visible(value.lines().next().unwrap_or("")));
    }
    for warning in checkpoint.warnings.iter().take(20) {
        println!("  warning: {warning}");
    }
    for (name, tensor) in &checkpoint.tensors {
        println!("  {}  {:?} {}", visible(name), tensor.dims(), tensor.dtype().as_str());
    }
    Ok(())
}
