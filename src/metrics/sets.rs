//! Distances of two sets of pictures by the features of a network: FID and KID, in the three preprocessings of the field.
//! Their values differ, so the preprocessing is part of the name: `fid-pytorch@299`, `fid-fidelity@299`, `fid-clean@299`,
//! and `kid-` likewise.

use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::{Moments, frechet_distance, kid};
use crate::images::{Pictures, decode};
use crate::perceptual::inception::{Inception, Preprocessing, SIDE};
use crate::record::store::{create_folder, sha256_hex};
use crate::{Error, Result};

/// Raise when the features change: saved ones are then made again.
const CODE: u32 = 1;
/// Pictures of one forward pass.
const BATCH: usize = 8;
/// Length of the header of a feature file, padded with spaces.
const HEADER: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distance {
    /// Fréchet distance of the Gaussians with the features' means and covariances.
    Fid,
    /// Unbiased squared MMD with a cubic kernel.
    Kid,
}

/// A distance with its preprocessing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetMetric {
    pub distance: Distance,
    pub way: Preprocessing,
}

impl SetMetric {
    pub fn all() -> impl Iterator<Item = SetMetric> {
        [Distance::Fid, Distance::Kid].into_iter().flat_map(|distance| Preprocessing::ALL.map(|way| SetMetric { distance, way }))
    }

    /// The metric of this name, with or without its size.
    pub fn by_name(name: &str) -> Option<SetMetric> {
        Self::all().find(|m| m.name() == name || m.name().strip_suffix("@299") == Some(name))
    }

    pub fn name(self) -> String {
        let distance = if self.distance == Distance::Fid { "fid" } else { "kid" };
        format!("{distance}-{}@{SIDE}", self.way.name())
    }

    pub fn about(self) -> String {
        let distance = match self.distance {
            Distance::Fid => "Fréchet distance of the Inception features of two sets",
            Distance::Kid => "kernel distance (cubic, unbiased, whole sets) of the Inception features of two sets",
        };
        let way = match self.way {
            Preprocessing::PytorchFid => "pytorch-fid",
            Preprocessing::TorchFidelity => "torch-fidelity",
            Preprocessing::CleanFid => "clean-fid",
        };
        format!("{distance}, resized as {way} does")
    }

    /// Why a value from so few pictures says little, if so.
    pub fn warning(self, n: usize, width: usize) -> Option<String> {
        match self.distance {
            Distance::Fid if n <= width => Some(format!(
                "{n} pictures for {width} features: the covariance is singular and FID far too high; compare at equal numbers only, or take KID"
            )),
            Distance::Fid if n < 10_000 => {
                Some(format!("{n} pictures: FID falls as their number rises (about as 1/n); compare at equal numbers only"))
            }
            Distance::Kid if n < 1000 => Some(format!("{n} pictures: KID is unbiased but its error is large")),
            _ => None,
        }
    }
}

/// The features of a set, on disk: a safetensors file with one `[n, width]` f32 tensor "features".
pub struct Features {
    map: memmap2::Mmap,
    pub count: usize,
    pub width: usize,
    /// They were saved by an earlier run.
    pub reused: bool,
    /// Pictures that could not be read, and why; they have no features.
    pub failed: Vec<(String, Error)>,
}

impl Features {
    /// The row-major values.
    fn values(&self) -> &[f32] {
        let bytes = &self.map[HEADER..HEADER + 4 * self.count * self.width];
        // SAFETY: the map begins at a page and the header has a multiple of four bytes, so the values are aligned; any bits
        // are a float; the file was written by this program on this machine's byte order or is refused by its length.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast::<f32>(), self.count * self.width) }
    }

    fn open(path: &Path, width: usize, reused: bool, failed: Vec<(String, Error)>) -> Result<Self> {
        let file = std::fs::File::open(path).map_err(|e| Error::io(path, "reading", e))?;
        // SAFETY: the file is complete and under its final name; this program never changes it in place.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io(path, "mapping", e))?;
        let row = 4 * width;
        if map.len() < HEADER + row
            || !(map.len() - HEADER).is_multiple_of(row)
            || map[..HEADER] != header((map.len() - HEADER) / row, width)[..]
        {
            return Err(Error::corrupt(format!("{}: a damaged feature file; remove it", path.display())));
        }
        Ok(Features { count: (map.len() - HEADER) / row, map, width, reused, failed })
    }
}

fn header(count: usize, width: usize) -> Vec<u8> {
    let json = format!("{{\"features\":{{\"dtype\":\"F32\",\"shape\":[{count},{width}],\"data_offsets\":[0,{}]}}}}", 4 * count * width);
    let mut bytes = ((HEADER - 8) as u64).to_le_bytes().to_vec();
    bytes.extend(json.as_bytes());
    bytes.resize(HEADER, b' ');
    bytes
}

/// The features of every picture of a set, from `folder` if an earlier run saved them for the same files, network and
/// preprocessing. Memory does not grow with the set. `network` identifies the weights.
///
/// Errors: no picture can be read, or the folder can't be written.
pub fn features(
    set: &Pictures,
    way: Preprocessing,
    net: &Inception,
    network: &str,
    folder: &Path,
    done: impl Fn() + Sync,
) -> Result<Features> {
    let hashes: Vec<String> = set.list().par_iter().map(|p| set.bytes(p).map_or_else(|e| e.message, |bytes| sha256_hex(&bytes))).collect();
    let key = sha256_hex(format!("{CODE} {} {network} {}", way.name(), hashes.join(" ")).as_bytes());
    let path: PathBuf = folder.join(format!("{key}.safetensors"));
    if path.is_file() {
        (0..set.list().len()).for_each(|_| done());
        return Features::open(&path, net.width(), true, Vec::new());
    }
    create_folder(folder)?;
    let write = |e| Error::io(&path, "writing", e);
    let mut file = tempfile::Builder::new().prefix(".features").tempfile_in(folder).map_err(write)?;
    file.write_all(&header(0, net.width())).map_err(write)?;
    let (mut count, mut failed) = (0, Vec::new());
    for batch in set.list().chunks(BATCH) {
        let one = |p: &crate::images::Picture| {
            let image = decode(&set.bytes(p)?).map_err(|e| e.at(set.place(p)))?;
            Ok(way.apply(&image, &Device::Cpu)?)
        };
        let images: Vec<Result<Tensor>> = batch.par_iter().map(one).collect();
        let mut rows = Vec::new();
        for (picture, image) in batch.iter().zip(images) {
            done();
            match image {
                Ok(x) => rows.push(x),
                Err(e) => failed.push((picture.id.clone(), e)),
            }
        }
        if rows.is_empty() {
            continue;
        }
        let values = net.features(&Tensor::stack(&rows, 0)?)?.flatten_all()?.to_vec1::<f32>()?;
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_ne_bytes()).collect();
        file.write_all(&bytes).map_err(write)?;
        count += rows.len();
    }
    if count == 0 {
        return Err(Error::corrupt(format!("none of the {} pictures could be read", set.list().len())));
    }
    file.seek(SeekFrom::Start(0)).map_err(write)?;
    file.write_all(&header(count, net.width())).map_err(write)?;
    if failed.is_empty() {
        file.persist(&path).map_err(|e| Error::io(&path, "writing", e.error))?;
        Features::open(&path, net.width(), false, failed)
    } else {
        // Not kept under the set's key: the next run must report the unreadable pictures again.
        Features::open(file.path(), net.width(), false, failed)
    }
}

/// The distance of two sets.
///
/// Errors: fewer than two pictures, features that are not finite.
pub fn distance(metric: SetMetric, a: &Features, b: &Features) -> Result<f64> {
    match metric.distance {
        Distance::Fid => {
            let (x, y) = rayon::join(|| Moments::of(a.values(), a.width)?.gaussian(), || Moments::of(b.values(), b.width)?.gaussian());
            frechet_distance(&x?, &y?)
        }
        Distance::Kid => kid(a.values(), b.values(), a.width),
    }
}
