//! Sets of pictures: a folder (with its subfolders), a zip or a tar archive, an LMDB database (LSUN), parquet files (the
//! hub's image columns). The order is that of the ids, whatever the file system or the archive says; nothing is ever
//! written to disk from an archive.
//!
//! | set | id of a picture |
//! |---|---|
//! | folder, zip, tar | path without ending |
//! | LMDB (`data.mdb`, or the folder around it) | key, in hexadecimal where it is no plain text |
//! | parquet (cargo feature `parquet`) | row, eight digits; in a folder of several files `<file>/<row>` |

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::{Rgb8, decode, lmdb};
use crate::weights::visible;
use crate::{Error, Result};

/// A picture file above this size is refused (no 8-bit picture within the pixel limit needs more).
const MAX_BYTES: u64 = 1 << 30;
/// Folders deeper than this are an error: most likely a loop of links.
const MAX_DEPTH: usize = 32;
/// What is taken for a picture by its name; whether it can be read is for the decoder to say.
const ENDINGS: [&str; 14] = ["png", "jpg", "jpeg", "jpe", "jfif", "webp", "gif", "bmp", "tif", "tiff", "heic", "avif", "jxl", "ppm"];

/// One picture of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Its name without ending, with the subfolder: "test/00012". Pictures of two sets pair by it.
    pub id: String,
    /// Its name as the folder or archive has it.
    pub file: String,
    place: Place,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    File(PathBuf),
    Zip(usize),
    /// A file of a tar archive.
    Tar {
        offset: u64,
        size: u64,
    },
    /// A value of an LMDB database.
    Record {
        offset: u64,
        size: u64,
    },
    #[cfg(feature = "parquet")]
    Row {
        table: usize,
        row: u64,
    },
}

/// A set of pictures, listed but not read.
pub struct Pictures {
    origin: PathBuf,
    pictures: Vec<Picture>,
    /// Files that are no pictures by their ending, left alone.
    pub others: Vec<String>,
    archive: Option<Archive>,
}

enum Archive {
    Zip(Mutex<zip::ZipArchive<File>>),
    /// A tar archive or an LMDB database: the pictures lie in it as they are.
    Plain(Mutex<File>),
    #[cfg(feature = "parquet")]
    Tables(Vec<super::parquet::Table>),
}

/// One line of an image list: what was read.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Listed {
    pub id: String,
    pub file: String,
    /// SHA-256 of the file's bytes.
    pub sha256: String,
    pub width: usize,
    pub height: usize,
    /// SHA-256 of the decoded 8-bit RGB samples.
    pub pixels_sha256: String,
}

impl Pictures {
    /// Lists the pictures of a folder or an archive (told by its first bytes).
    ///
    /// Errors: nothing there, no picture in it, two pictures with one id, an archive that can't be read.
    pub fn open(path: &Path) -> Result<Self> {
        let missing = |e: std::io::Error| Error::missing(format!("{}: {e}", path.display()));
        let kind = std::fs::metadata(path).map_err(missing)?;
        let database = path.join("data.mdb");
        let (archive, files) = if kind.is_dir() && database.is_file() {
            lmdb(&database, File::open(&database).map_err(missing)?)?
        } else if kind.is_dir() {
            let files = folder(path)?;
            let some = |what: fn(&str) -> bool| files.iter().any(|(name, _)| what(name));
            if some(|name| name.ends_with(".parquet")) && !some(is_picture) { parquet(path, files)? } else { (None, files) }
        } else {
            let mut head = [0u8; 512];
            let mut file = File::open(path).map_err(missing)?;
            let n = file.read(&mut head).map_err(missing)?;
            file.rewind().map_err(missing)?;
            match &head[..n] {
                h if h.starts_with(b"PK") => zip(path, file)?,
                h if h.len() == 512 && h[257..262] == *b"ustar" => tar(path, file)?,
                h if lmdb::is(h) => lmdb(path, file)?,
                h if h.starts_with(b"PAR1") => parquet(path, vec![(String::new(), Place::File(path.to_path_buf()))])?,
                [0x1f, 0x8b, ..] => return Err(refuse(path, "a gzip file: unpack it to a plain .tar first")),
                _ => return Err(refuse(path, "neither a folder, nor a zip or tar archive, nor an LMDB database, nor a parquet file")),
            }
        };
        // Archives of files hold files of other kinds too; the records of a database are pictures, or are reported when they are read.
        let (pictures, others) = pictures(path, files)?;
        if pictures.is_empty() {
            return Err(Error::missing(format!("{}: no picture in it ({} other files)", path.display(), others.len())));
        }
        Ok(Pictures { origin: path.to_path_buf(), pictures, others, archive })
    }

    /// The pictures, by ascending id.
    pub fn list(&self) -> &[Picture] {
        &self.pictures
    }

    pub fn find(&self, id: &str) -> Option<&Picture> {
        self.pictures.binary_search_by(|p| p.id.as_str().cmp(id)).ok().map(|i| &self.pictures[i])
    }

    /// Where a picture is, for messages.
    pub fn place(&self, picture: &Picture) -> String {
        visible(&self.origin.join(&picture.file).display().to_string())
    }

    /// The file's bytes.
    pub fn bytes(&self, picture: &Picture) -> Result<Vec<u8>> {
        let fail = |e: std::io::Error| Error::corrupt(format!("{}: {}", self.place(picture), visible(&e.to_string())));
        match (&picture.place, &self.archive) {
            (Place::File(path), _) => read_limited(File::open(path).map_err(fail)?).map_err(fail),
            (Place::Zip(index), Some(Archive::Zip(archive))) => {
                let mut archive = archive.lock().map_err(|_| Error::internal("a reader of the archive failed"))?;
                let entry = archive.by_index(*index).map_err(|e| Error::corrupt(format!("{}: {e}", self.place(picture))))?;
                read_limited(entry).map_err(fail)
            }
            (Place::Tar { offset, size } | Place::Record { offset, size }, Some(Archive::Plain(file))) => {
                let mut file = file.lock().map_err(|_| Error::internal("a reader of the archive failed"))?;
                file.seek(SeekFrom::Start(*offset)).map_err(fail)?;
                let bytes = read_limited((&mut *file).take(*size)).map_err(fail)?;
                if bytes.len() as u64 != *size {
                    return Err(Error::corrupt(format!("{}: the archive ends within it", self.place(picture))));
                }
                Ok(bytes)
            }
            #[cfg(feature = "parquet")]
            (Place::Row { table, row }, Some(Archive::Tables(tables))) => tables[*table].bytes(*row).map_err(|e| e.at(self.place(picture))),
            _ => Err(Error::internal("a picture of another set")),
        }
    }

    /// The decoded picture.
    pub fn read(&self, picture: &Picture) -> Result<Rgb8> {
        decode(&self.bytes(picture)?).map_err(|e| e.at(self.place(picture)))
    }

    /// The list of the set with hashes, in its order; what can't be read comes as its error, and the rest goes on.
    pub fn hashed(&self) -> Vec<Result<Listed>> {
        use rayon::prelude::*;
        let one = |p: &Picture| {
            let bytes = self.bytes(p)?;
            let image = decode(&bytes).map_err(|e| e.at(self.place(p)))?;
            let sha256 = crate::record::store::sha256_hex(&bytes);
            let (width, height) = (image.width(), image.height());
            Ok(Listed { id: p.id.clone(), file: p.file.clone(), sha256, width, height, pixels_sha256: image.sha256() })
        };
        self.pictures.par_iter().map(one).collect()
    }
}

/// `what` may quote the archive, so it is shown without its control characters.
fn refuse(path: &Path, what: &str) -> Error {
    Error::corrupt(format!("{}: {}", path.display(), visible(what)))
}

fn read_limited(source: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(std::io::Error::other("larger than 1 GiB, which no picture needs"));
    }
    Ok(bytes)
}

/// Sorts named places into pictures and other files.
fn pictures(origin: &Path, files: Vec<(String, Place)>) -> Result<(Vec<Picture>, Vec<String>)> {
    let mut by_id: BTreeMap<String, Picture> = BTreeMap::new();
    let mut others = Vec::new();
    for (file, place) in files {
        if is_record(&place) {
            by_id.insert(file.clone(), Picture { id: file.clone(), file, place });
            continue;
        }
        if !is_picture(&file) {
            others.push(file);
            continue;
        }
        let id = file.rsplit_once('.').map_or(file.as_str(), |(stem, _)| stem).to_string();
        if let Some(other) = by_id.get(&id) {
            return Err(refuse(origin, &format!("{} and {file} have the same id \"{id}\": remove one of them", other.file)));
        }
        by_id.insert(id.clone(), Picture { id, file, place });
    }
    others.sort();
    Ok((by_id.into_values().collect(), others))
}

/// Whether a file is taken for a picture, by its name.
fn is_picture(file: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or(file);
    let ending = name.rsplit_once('.').filter(|(stem, _)| !stem.is_empty()).map(|(_, ending)| ending.to_ascii_lowercase());
    ending.is_some_and(|e| ENDINGS.contains(&e.as_str())) && !name.starts_with("._")
}

/// Whether the place is a record of a database, whose name has no ending.
fn is_record(place: &Place) -> bool {
    match place {
        Place::Record { .. } => true,
        #[cfg(feature = "parquet")]
        Place::Row { .. } => true,
        _ => false,
    }
}

fn folder(root: &Path) -> Result<Vec<(String, Place)>> {
    let mut found = Vec::new();
    let mut open = vec![(root.to_path_buf(), String::new(), 0)];
    while let Some((path, prefix, depth)) = open.pop() {
        if depth > MAX_DEPTH {
            return Err(refuse(&path, "more than 32 folders deep: a loop of links?"));
        }
        let unreadable = |e| Error::io(&path, "listing the folder", e);
        for entry in std::fs::read_dir(&path).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let Ok(name) = entry.file_name().into_string() else {
                return Err(refuse(&entry.path(), "its name is not UTF-8: rename it"));
            };
            let full = format!("{prefix}{name}");
            // A link counts as what it points to; one that points nowhere stays in the list and is reported when it is read.
            if std::fs::metadata(entry.path()).is_ok_and(|m| m.is_dir()) {
                open.push((entry.path(), format!("{full}/"), depth + 1));
            } else {
                found.push((full, Place::File(entry.path())));
            }
        }
    }
    Ok(found)
}

type Opened = (Option<Archive>, Vec<(String, Place)>);

fn zip(path: &Path, file: File) -> Result<Opened> {
    let archive = zip::ZipArchive::new(file).map_err(|e| refuse(path, &format!("unreadable zip archive: {e}")))?;
    let mut found = Vec::with_capacity(archive.len());
    for index in 0..archive.len() {
        match archive.name_for_index(index) {
            Some(Ok(name)) if name.ends_with('/') => {}
            Some(Ok(name)) => found.push((name.into_owned(), Place::Zip(index))),
            _ => return Err(refuse(path, "a name in the archive is not readable text")),
        }
    }
    Ok((Some(Archive::Zip(Mutex::new(archive))), found))
}

fn tar(path: &Path, file: File) -> Result<Opened> {
    let unreadable = |e: std::io::Error| refuse(path, &format!("unreadable tar archive: {e}"));
    let mut found = Vec::new();
    {
        let mut archive = tar::Archive::new(&file);
        for entry in archive.entries_with_seek().map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let name = entry.path().map_err(unreadable)?.to_string_lossy().into_owned();
            let place = Place::Tar { offset: entry.raw_file_position(), size: entry.size() };
            found.push((name.trim_start_matches("./").to_string(), place));
        }
    }
    Ok((Some(Archive::Plain(Mutex::new(file))), found))
}

fn lmdb(path: &Path, mut file: File) -> Result<Opened> {
    let named = |key: &[u8]| match std::str::from_utf8(key) {
        Ok(text) if text.bytes().all(|b| b.is_ascii_graphic()) => text.to_string(),
        _ => key.iter().map(|b| format!("{b:02x}")).collect(),
    };
    let entries = lmdb::entries(path, &mut file)?;
    let found = entries.into_iter().map(|e| (named(&e.key), Place::Record { offset: e.offset, size: e.size })).collect();
    Ok((Some(Archive::Plain(Mutex::new(file))), found))
}

/// The rows of one parquet file, or of all of a folder.
#[cfg(feature = "parquet")]
fn parquet(root: &Path, mut files: Vec<(String, Place)>) -> Result<Opened> {
    files.retain(|(name, _)| name.is_empty() || name.ends_with(".parquet"));
    files.sort_by(|a, b| a.0.cmp(&b.0));
    let (mut tables, mut found) = (Vec::new(), Vec::new());
    for (name, place) in files {
        let Place::File(path) = place else { continue };
        let file = File::open(&path).map_err(|e| Error::io(&path, "reading", e))?;
        let table = super::parquet::Table::open(&path, file)?;
        // A row costs at least a few bits of the file; more rows than that are a lie that would fill the memory.
        let bytes = std::fs::metadata(&path).map_or(0, |m| m.len());
        if table.rows() > bytes.saturating_mul(8) {
            return Err(refuse(root, &format!("{name} says that it has {} rows in {bytes} bytes", table.rows())));
        }
        let prefix = if name.is_empty() { String::new() } else { format!("{}/", name.trim_end_matches(".parquet")) };
        found.extend((0..table.rows()).map(|row| (format!("{prefix}{row:08}"), Place::Row { table: tables.len(), row })));
        tables.push(table);
    }
    Ok((Some(Archive::Tables(tables)), found))
}

#[cfg(not(feature = "parquet"))]
fn parquet(root: &Path, _: Vec<(String, Place)>) -> Result<Opened> {
    Err(Error::usage(format!(
        "{}: parquet files are read by a mtv-bench that was built with them: cargo build --release --features parquet",
        root.display()
    )))
}
