//! Listing of an LMDB database (LSUN: one per category, key = name, value = the picture's file) without liblmdb: read-only,
//! no memory map, no lock file, every offset checked against the file, so that a damaged database is an error and no crash.
//!
//! The layout is that of LMDB 0.9 (`mdb.c`, "Page and node headers"), 64 bit, little endian:
//!
//! ```text
//! page   number u64 | pad u16 | flags u16 | lower u16 | upper u16 | offsets of the nodes, u16 each ... nodes
//!        an overflow page has its count of pages, u32, in place of lower and upper, then the bytes of one value
//! node   low u16 | high u16 | flags u16 | key length u16 | key | value (leaf)
//!        leaf: high:low is the length of the value, which a flag moves to an overflow page; branch: flags:high:low is a page
//! meta   (pages 0 and 1; the higher transaction counts) magic u32 | version u32 | address u64 | map size u64 | the databases
//! ```

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use crate::{Error, Result};

const MAGIC: u32 = 0xBEEF_C0DE;
const HEADER: usize = 16;
const BRANCH: u16 = 1;
const LEAF: u16 = 2;
const OVERFLOW: u16 = 4;
/// Flags of a node: the value is on overflow pages; it is a database of its own; it has several values.
const BIG: u16 = 1;
const SUB: u16 = 2;
const DUPLICATES: u16 = 4;
/// The root of an empty database.
const NONE: u64 = u64::MAX;
const MAX_DEPTH: usize = 32;

/// One record: its key, and where its value lies in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: Vec<u8>,
    pub offset: u64,
    pub size: u64,
}

/// Whether a file that begins with `head` is an LMDB database.
pub fn is(head: &[u8]) -> bool {
    u32_at(head, HEADER) == Some(MAGIC)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|b| u16::from_le_bytes(*b))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_le_bytes(*b))
}

struct Database<'a> {
    path: &'a Path,
    file: &'a mut File,
    len: u64,
    page: usize,
}

/// What pages 0 and 1 say about the main database.
struct Meta {
    page: usize,
    depth: u16,
    entries: u64,
    root: u64,
    transaction: u64,
}

fn meta(bytes: &[u8]) -> Option<Meta> {
    // The meta data follow the page's header; the databases are 48 bytes each, the free list's first.
    let main = HEADER + 72;
    let found = Meta {
        page: u32_at(bytes, HEADER + 24)? as usize,
        depth: u16_at(bytes, main + 6)?,
        entries: u64_at(bytes, main + 32)?,
        root: u64_at(bytes, main + 40)?,
        transaction: u64_at(bytes, HEADER + 128)?,
    };
    let sound = is(bytes) && found.page.is_power_of_two() && (256..=65536).contains(&found.page);
    sound.then_some(found)
}

/// Every record of the main database, in the order of the keys.
///
/// Errors (kind corrupt): what in the database is damaged; databases with names or with several values of one key.
pub fn entries(path: &Path, file: &mut File) -> Result<Vec<Entry>> {
    let len = file.metadata().map_err(|e| Error::io(path, "reading", e))?.len();
    let mut database = Database { path, file, len, page: 256 };
    let first = database.read(0, 256)?;
    let one = meta(&first).ok_or_else(|| database.damaged("its first page is damaged"))?;
    database.page = one.page;
    let second = if len >= 2 * one.page as u64 { meta(&database.read(one.page as u64, 256)?) } else { None };
    let newest = match second {
        Some(two) if two.page == one.page && two.transaction > one.transaction => two,
        _ => one,
    };
    if newest.root == NONE {
        return Ok(Vec::new());
    }
    if newest.depth as usize > MAX_DEPTH {
        return Err(database.damaged("its tree is too deep"));
    }
    let mut found = Vec::new();
    // Depth first, children from the last to the first, so that keys come out in their order.
    let mut open = vec![(newest.root, 1)];
    let mut visits = 0;
    while let Some((number, depth)) = open.pop() {
        visits += 1;
        if depth > MAX_DEPTH || visits > len / database.page as u64 {
            return Err(database.damaged("its pages form a loop"));
        }
        let page = database.page_at(number)?;
        let nodes = database.nodes(&page)?;
        match u16_at(&page, 10).unwrap_or(0) & (BRANCH | LEAF | OVERFLOW) {
            BRANCH => {
                for at in nodes.into_iter().rev() {
                    open.push((database.child(&page, at)?, depth + 1));
                }
            }
            LEAF => {
                for at in nodes {
                    found.push(database.record(&page, at, number)?);
                }
            }
            _ => return Err(database.damaged(&format!("page {number} is neither a branch nor a leaf"))),
        }
    }
    if found.len() as u64 != newest.entries {
        return Err(database.damaged(&format!("it says that it has {} records and has {}", newest.entries, found.len())));
    }
    Ok(found)
}

impl Database<'_> {
    fn damaged(&self, what: &str) -> Error {
        Error::corrupt(format!("{}: unreadable LMDB database: {what}", self.path.display()))
    }

    fn read(&mut self, offset: u64, size: usize) -> Result<Vec<u8>> {
        if offset.checked_add(size as u64).is_none_or(|end| end > self.len) {
            return Err(self.damaged(&format!("it ends at byte {}, a page at byte {offset} is needed: was it copied whole?", self.len)));
        }
        let mut bytes = vec![0; size];
        let read = self.file.seek(SeekFrom::Start(offset)).and_then(|_| self.file.read_exact(&mut bytes));
        read.map_err(|e| Error::io(self.path, "reading", e))?;
        Ok(bytes)
    }

    fn start_of(&self, number: u64) -> Result<u64> {
        number.checked_mul(self.page as u64).ok_or_else(|| self.damaged("a page lies beyond any file"))
    }

    fn page_at(&mut self, number: u64) -> Result<Vec<u8>> {
        let page = self.read(self.start_of(number)?, self.page)?;
        if u64_at(&page, 0) != Some(number) {
            return Err(self.damaged(&format!("page {number} bears another number")));
        }
        Ok(page)
    }

    /// The offsets of the nodes of a branch or leaf.
    fn nodes(&self, page: &[u8]) -> Result<Vec<usize>> {
        let lower = u16_at(page, 12).unwrap_or(0) as usize;
        if !(HEADER..=page.len()).contains(&lower) {
            return Err(self.damaged("a page's list of nodes leaves the page"));
        }
        Ok((HEADER..lower).step_by(2).filter_map(|at| u16_at(page, at)).map(usize::from).collect())
    }

    fn child(&self, page: &[u8], at: usize) -> Result<u64> {
        let part = |k: usize| u16_at(page, at + 2 * k).map(u64::from);
        match (part(0), part(1), part(2)) {
            (Some(low), Some(high), Some(top)) => Ok(low | high << 16 | top << 32),
            _ => Err(self.damaged("a node leaves its page")),
        }
    }

    fn record(&mut self, page: &[u8], at: usize, number: u64) -> Result<Entry> {
        let outside = || self.damaged("a record leaves its page");
        let (size, flags, key) = (u32_at(page, at), u16_at(page, at + 4), u16_at(page, at + 6));
        let (Some(size), Some(flags), Some(key)) = (size, flags, key) else { return Err(outside()) };
        let (size, value) = (size as u64, at + 8 + key as usize);
        let name = page.get(at + 8..value).ok_or_else(outside)?.to_vec();
        if flags & (SUB | DUPLICATES) != 0 {
            return Err(self.damaged("it holds databases with names, or several values of one key; a set of pictures has neither"));
        }
        if flags & BIG == 0 {
            if value as u64 + size > page.len() as u64 {
                return Err(outside());
            }
            return Ok(Entry { key: name, offset: self.start_of(number)? + value as u64, size });
        }
        let first = u64_at(page, value).ok_or_else(outside)?;
        let start = self.start_of(first)?;
        let header = self.read(start, HEADER)?;
        let pages = u32_at(&header, 12).unwrap_or(0) as u64;
        let sound = u64_at(&header, 0) == Some(first) && u16_at(&header, 10).is_some_and(|f| f & OVERFLOW != 0);
        let end = start.checked_add(HEADER as u64 + size);
        if !sound || HEADER as u64 + size > pages * self.page as u64 || end.is_none_or(|end| end > self.len) {
            return Err(self.damaged(&format!("the value on page {first} is not whole")));
        }
        Ok(Entry { key: name, offset: start + HEADER as u64, size })
    }
}
