//! `mtv-bench images`: what is in a set of pictures, alignment of faces, and the way from any set to a folder of PNG files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use rayon::prelude::*;
use serde_json::json;

use crate::images::align::{self, Landmarks};
use crate::images::{Filter, Listed, Picture, Pictures, Rgb8, Shape, fit};
use crate::record::store::{sha256_hex, write_atomic};
use crate::weights::visible;
use crate::{Error, Result};

/// Sets of pictures: a folder, a .zip or .tar, an LMDB database (LSUN), parquet files (built with --features parquet).
///
/// A picture that can't be read is reported, the rest goes on, and the exit code is then 5.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Every picture with its size and hashes, in the order in which all commands take them.
    List {
        set: PathBuf,
        /// Write the list with the hashes of files and pixels as JSON.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// The pictures are faces: warn of those that do not look aligned as FFHQ's.
        #[arg(long)]
        faces: bool,
        /// Landmarks of the faces (as for align): lets --faces judge more than the shape.
        #[arg(long, value_name = "FILE", requires = "faces")]
        landmarks: Option<PathBuf>,
    },
    /// Crop faces as FFHQ's were, from landmarks, into a folder of PNG files.
    Align {
        set: PathBuf,
        /// JSON, {"id": [[x, y], 68 times]}, in pixels of the picture; or FFHQ's own ffhq-dataset-v2.json.
        landmarks: PathBuf,
        out: PathBuf,
        /// Side of the aligned faces in pixels.
        #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u16).range(16..=4096))]
        side: u16,
    },
    /// Write the pictures as square PNG files of one size, resized in 8 bits as Pillow does.
    Export {
        set: PathBuf,
        out: PathBuf,
        /// Side in pixels.
        #[arg(long, value_parser = clap::value_parser!(u16).range(4..=8192))]
        side: u16,
        /// Pillow's filter.
        #[arg(long, value_enum, default_value = "lanczos")]
        filter: FilterName,
        /// Take the middle of pictures that are not square, instead of refusing them.
        #[arg(long)]
        crop: bool,
        /// Enlarge pictures that are smaller, instead of refusing them.
        #[arg(long)]
        enlarge: bool,
        /// Only the first N.
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum FilterName {
    Box,
    Bilinear,
    Bicubic,
    Lanczos,
}

pub fn run(args: Args) -> Result<()> {
    match args.action {
        Action::List { set, out, faces, landmarks } => list(&set, out.as_deref(), faces, landmarks.as_deref()),
        Action::Align { set, landmarks, out, side } => {
            let all = align::read_landmarks(&landmarks)?;
            let none = || Error::missing(format!("no landmarks in {}", landmarks.display()));
            write(&Pictures::open(&set)?, usize::MAX, &out, |picture, image| {
                align::ffhq(&image, align::of(&all, &picture.id).ok_or_else(none)?, side.into())
            })
        }
        Action::Export { set, out, side, filter, crop, enlarge, limit } => {
            let filter = match filter {
                FilterName::Box => Filter::Box,
                FilterName::Bilinear => Filter::Bilinear,
                FilterName::Bicubic => Filter::Bicubic,
                FilterName::Lanczos => Filter::Lanczos,
            };
            let shape = if crop { Shape::Crop } else { Shape::Square };
            write(&Pictures::open(&set)?, limit.unwrap_or(usize::MAX), &out, |_, image| fit(&image, side.into(), filter, shape, enlarge))
        }
    }
}

fn list(set: &Path, out: Option<&Path>, faces: bool, landmarks: Option<&Path>) -> Result<()> {
    let landmarks: BTreeMap<String, Landmarks> = landmarks.map(align::read_landmarks).transpose()?.unwrap_or_default();
    let pictures = Pictures::open(set)?;
    let hashed = pictures.hashed();
    let mut lines = String::new();
    let (mut read, mut failed): (Vec<&Listed>, Vec<_>) = (Vec::new(), Vec::new());
    for (picture, result) in pictures.list().iter().zip(&hashed) {
        match result {
            Ok(one) => {
                lines += &format!("{}  {:>5}x{:<5}  {}\n", one.pixels_sha256, one.width, one.height, visible(&one.id));
                if let Some(why) = faces.then(|| align::looks_unaligned(one.width, one.height, align::of(&landmarks, &one.id))).flatten() {
                    eprintln!(
                        "warning: {}: {why}; a network trained on aligned faces does not fit it (see images align)",
                        visible(&one.id)
                    );
                }
                read.push(one);
            }
            Err(e) => {
                eprintln!("FAIL  {e}");
                failed.push(json!({"id": picture.id, "error": e.message}));
            }
        }
    }
    print!("{lines}");
    let set_hash = sha256_hex(lines.as_bytes());
    println!("{} pictures, {} other files, sha256 of the lines above {set_hash}", read.len(), pictures.others.len());
    if let Some(path) = out {
        let list = json!({"set": set.display().to_string(), "sha256": set_hash, "pictures": read, "failed": failed});
        let text = serde_json::to_string_pretty(&list).map_err(|e| Error::internal(e.to_string()))?;
        write_atomic(path, (text + "\n").as_bytes())?;
    }
    all_read(failed.len(), hashed.len())
}

fn all_read(failed: usize, of: usize) -> Result<()> {
    if failed > 0 {
        return Err(Error::corrupt(format!("{failed} of {of} pictures could not be used, each is named above")));
    }
    Ok(())
}

/// Writes every picture of a set, as `change` makes it, under its id.
fn write(set: &Pictures, limit: usize, out: &Path, change: impl Fn(&Picture, Rgb8) -> Result<Rgb8> + Sync) -> Result<()> {
    let pictures = &set.list()[..set.list().len().min(limit)];
    let one = |picture: &Picture| -> Result<()> {
        let path = inside(out, &picture.id)?;
        let image = change(picture, set.read(picture)?).map_err(|e| e.at(set.place(picture)))?;
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, "making the folder", e))?;
        }
        image.write_png(&path)
    };
    let results: Vec<Result<()>> = pictures.par_iter().map(one).collect();
    let mut failed = 0;
    for error in results.into_iter().filter_map(Result::err) {
        // What no other picture can survive either ends the command: a full disk, a folder that can't be written.
        if error.kind == crate::error::Kind::Resource {
            return Err(error);
        }
        eprintln!("FAIL  {error}");
        failed += 1;
    }
    println!("{}: {} pictures", out.display(), pictures.len() - failed);
    all_read(failed, pictures.len())
}

/// The file of a picture below `out`; an archive chooses the names in it, so they are not trusted.
fn inside(out: &Path, id: &str) -> Result<PathBuf> {
    let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', ':', '\0']);
    if !id.split('/').all(plain) {
        return Err(Error::corrupt(format!("\"{}\" is no path inside a folder", visible(id))));
    }
    Ok(out.join(format!("{id}.png")))
}
