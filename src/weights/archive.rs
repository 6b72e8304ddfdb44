//! The zip container of PyTorch, read strictly: stored entries only, each once, inside the file, without overlap, with
//! the CRC-32 that PyTorch itself does not check. One such archive holds `<folder>/data.pkl`, `<folder>/byteorder`
//! (since 2.1) and one `<folder>/data/<key>` per storage.
//!
//! A reader of its own, because it must be stricter than a general one: there, a name that occurs twice silently hides
//! the first, and an archive with a byte missing is searched for in vain instead of being called truncated.
//! Source of the layout: APPNOTE.TXT of the zip format, sections 4.3.6 to 4.3.16 and 4.5.3.

use std::collections::BTreeMap;

use super::source::Source;
use crate::{Error, Result};

/// Entries of one archive. The largest checkpoint of the field has about two thousand.
const MAX_ENTRIES: u64 = 200_000;

#[derive(Debug, Clone)]
struct Entry {
    crc: u32,
    size: u64,
    /// Where the local header begins.
    header: u64,
}

pub(super) struct Archive<'s> {
    source: &'s Source<'s>,
    entries: BTreeMap<String, Entry>,
}

fn u16_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 2).map_or(0, |b| u64::from(u16::from_le_bytes([b[0], b[1]])))
}

fn u32_at(bytes: &[u8], at: usize) -> u64 {
    u16_at(bytes, at) | u16_at(bytes, at + 2) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u32_at(bytes, at) | u32_at(bytes, at + 4) << 32
}

fn corrupt<T>(what: impl std::fmt::Display) -> Result<T> {
    Err(Error::corrupt(format!("zip: {what}")))
}

impl<'s> Archive<'s> {
    /// Reads the directory of the archive and checks every entry's place.
    pub fn open(source: &'s Source<'s>) -> Result<Self> {
        let (count, size, start) = directory(source)?;
        if count > MAX_ENTRIES || size > 64 << 20 {
            return corrupt(format!("{count} entries with a directory of {size} bytes: not a checkpoint of this field"));
        }
        let directory = source.read_at(start, size as usize)?;
        let mut entries = BTreeMap::new();
        let mut places = Vec::new();
        let mut at = 0;
        for _ in 0..count {
            let header = directory.get(at..at + 46).filter(|h| h.starts_with(b"PK\x01\x02"));
            let Some(header) = header else { return corrupt("the directory is damaged: the file is corrupt; download it again") };
            let lengths = [28, 30, 32].map(|i| u16_at(header, i) as usize);
            let Some(variable) = directory.get(at + 46..at + 46 + lengths.iter().sum::<usize>()) else {
                return corrupt("the directory ends too early: the file is corrupt; download it again");
            };
            at += 46 + variable.len();
            let Ok(name) = std::str::from_utf8(&variable[..lengths[0]]) else { return corrupt("an entry's name is not UTF-8") };
            let entry = entry(header, &variable[lengths[0]..lengths[0] + lengths[1]], name)?;
            if name.starts_with('/') || name.contains('\\') || name.split('/').any(|part| part == "..") {
                return corrupt(format!("the entry \"{}\" points outside the archive: refused", name.escape_debug()));
            }
            places.push((entry.header, entry.size, name.len()));
            if entries.insert(name.to_string(), entry).is_some() {
                return corrupt(format!("the entry \"{}\" occurs twice: refused", name.escape_debug()));
            }
        }
        places.sort_unstable();
        for pair in places.windows(2) {
            if pair[0].0.saturating_add(30 + pair[0].2 as u64).saturating_add(pair[0].1) > pair[1].0 {
                return corrupt("two entries overlap: refused");
            }
        }
        if places.last().is_some_and(|(header, size, _)| header.saturating_add(*size) > start) {
            return corrupt("an entry reaches into the directory: the file is corrupt");
        }
        Ok(Archive { source, entries })
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    pub fn size(&self, name: &str) -> Option<u64> {
        self.entries.get(name).map(|e| e.size)
    }

    /// The bytes of an entry, after its CRC-32 is checked.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let Some(entry) = self.entries.get(name) else { return corrupt(format!("there is no entry \"{}\"", name.escape_debug())) };
        let header = self.source.read_at(entry.header, 30)?;
        if !header.starts_with(b"PK\x03\x04") {
            return corrupt(format!("the entry \"{name}\" is not where the directory says: the file is corrupt; download it again"));
        }
        let variable = self.source.read_at(entry.header + 30, (u16_at(&header, 26) + u16_at(&header, 28)) as usize)?;
        if variable.get(..u16_at(&header, 26) as usize) != Some(name.as_bytes()) {
            return corrupt(format!("the entry \"{name}\" has another name in its own header: the file is corrupt"));
        }
        let bytes = self.source.read_at(entry.header + 30 + variable.len() as u64, entry.size as usize)?;
        if crc32fast::hash(&bytes) != entry.crc {
            return corrupt(format!(
                "the entry \"{name}\" does not match its CRC-32: the file is corrupt (a bit flipped on disk or on the way); download it again"
            ));
        }
        Ok(bytes)
    }
}

/// Count, size and start of the directory, from the records at the end of the file.
fn directory(source: &Source) -> Result<(u64, u64, u64)> {
    let tail_len = source.len.min(22 + 65_535);
    let tail_at = source.len - tail_len;
    let tail = source.read_at(tail_at, tail_len as usize)?;
    // The comment must end exactly with the file, so a file that lost or gained a byte has no end record.
    let end = (0..tail.len().saturating_sub(21))
        .rev()
        .find(|&i| tail[i..].starts_with(b"PK\x05\x06") && i + 22 + u16_at(&tail, i + 20) as usize == tail.len());
    let Some(end) = end else {
        return corrupt("there is no end record: the file is truncated or has other bytes at its end; download it again");
    };
    let record = &tail[end..];
    let (mut count, mut size, mut start) = (u16_at(record, 10), u32_at(record, 12), u32_at(record, 16));
    if u16_at(record, 4) != 0 || u16_at(record, 6) != 0 {
        return corrupt("the archive is one of several volumes: refused");
    }
    let end_at = tail_at + end as u64;
    let mut limit = end_at;
    // Zip64: a locator of 20 bytes before the end record says where the wide record is.
    if end_at >= 20 {
        let locator = source.read_at(end_at - 20, 20)?;
        if locator.starts_with(b"PK\x06\x07") {
            let at = u64_at(&locator, 8);
            let wide = source.read_at(at, 56)?;
            if !wide.starts_with(b"PK\x06\x06") {
                return corrupt("the zip64 end record is damaged: the file is corrupt");
            }
            (count, size, start) = (u64_at(&wide, 32), u64_at(&wide, 40), u64_at(&wide, 48));
            limit = at;
        }
    }
    if start.checked_add(size).is_none_or(|end| end > limit) {
        return corrupt("the directory is not inside the file: the file is truncated or corrupt; download it again");
    }
    Ok((count, size, start))
}

/// One entry of the directory from its fixed part and its extra fields.
fn entry(header: &[u8], extra: &[u8], name: &str) -> Result<Entry> {
    let (flags, method) = (u16_at(header, 8), u16_at(header, 10));
    let mut packed = u32_at(header, 20);
    let mut size = u32_at(header, 24);
    let mut place = u32_at(header, 42);
    let wide = u64::from(u32::MAX);
    let mut rest = extra;
    while rest.len() >= 4 {
        let len = u16_at(rest, 2) as usize;
        let Some(field) = rest.get(4..4 + len) else { break };
        if u16_at(rest, 0) == 1 {
            // The wide values stand in this order, each only where the narrow one is all ones.
            let mut values = field.chunks_exact(8).map(|c| u64_at(c, 0));
            for value in [&mut size, &mut packed, &mut place] {
                if *value == wide {
                    *value = values.next().unwrap_or(wide);
                }
            }
        }
        rest = &rest[4 + len..];
    }
    let name = name.escape_debug();
    if flags & 1 != 0 {
        return corrupt(format!("the entry \"{name}\" is encrypted: refused"));
    }
    if method != 0 || packed != size {
        return corrupt(format!(
            "the entry \"{name}\" is compressed ({packed} bytes for {size}); PyTorch stores its entries as they are: refused"
        ));
    }
    Ok(Entry { crc: u32_at(header, 16) as u32, size, header: place })
}
