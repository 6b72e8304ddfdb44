//! A file (or bytes in memory) that is read in bounded pieces, and what its first bytes say it is.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use crate::{Error, Result};

/// Where a checkpoint is read from. Every read is checked against the length before memory is taken for it.
pub(super) struct Source<'a> {
    data: Data<'a>,
    pub len: u64,
}

enum Data<'a> {
    File(File),
    Bytes(&'a [u8]),
}

impl<'a> Source<'a> {
    pub fn open(path: &Path) -> Result<Self> {
        use std::io::ErrorKind as K;
        let file = File::open(path).map_err(|e| match e.kind() {
            K::NotFound => Error::missing("there is no such file"),
            _ => Error::resource(format!("can't be opened: {e}")),
        })?;
        let about = file.metadata().map_err(|e| Error::resource(format!("can't be read: {e}")))?;
        if !about.is_file() {
            return Err(Error::usage("is not a file"));
        }
        Ok(Source { data: Data::File(file), len: about.len() })
    }

    pub fn bytes(bytes: &'a [u8]) -> Self {
        Source { data: Data::Bytes(bytes), len: bytes.len() as u64 }
    }

    /// `len` bytes at `offset`.
    pub fn read_at(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let end = offset.checked_add(len as u64).filter(|end| *end <= self.len);
        let Some(end) = end else {
            return Err(Error::corrupt(format!(
                "the file is truncated: {len} bytes are expected at byte {offset}, the file has {} bytes; download it again",
                self.len
            )));
        };
        match &self.data {
            Data::Bytes(bytes) => Ok(bytes[offset as usize..end as usize].to_vec()),
            Data::File(file) => {
                let mut out = vec![0; len];
                let mut file: &File = file;
                file.seek(SeekFrom::Start(offset))
                    .and_then(|_| file.read_exact(&mut out))
                    .map_err(|e| Error::resource(format!("can't be read at byte {offset}: {e}")))?;
                Ok(out)
            }
        }
    }

    /// At most the first `len` bytes.
    pub fn head(&self, len: usize) -> Result<Vec<u8>> {
        self.read_at(0, self.len.min(len as u64) as usize)
    }
}

/// What the first bytes of a file say it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// PyTorch's zip container (1.6 and later).
    TorchZip,
    /// PyTorch's older stream of pickles and raw storages.
    TorchLegacy,
    /// A numpy array file.
    Npy,
    /// A pickle without a container.
    Pickle,
    Safetensors,
}

impl Format {
    pub fn name(self) -> &'static str {
        match self {
            Format::TorchZip => "PyTorch zip",
            Format::TorchLegacy => "PyTorch legacy",
            Format::Npy => "numpy",
            Format::Pickle => "pickle",
            Format::Safetensors => "safetensors",
        }
    }
}

/// The pickle of the number that opens a legacy PyTorch file, after its two protocol bytes.
const LEGACY_MAGIC: &[u8] = &[0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// The format of a file of `len` bytes that begins with `head` (its first 4 KiB or so).
///
/// Errors: what people save under a checkpoint's name by mistake is named as such: a web page, a git-lfs pointer, an
/// empty file, a server's error message, an archive.
pub fn sniff(head: &[u8], len: u64) -> Result<Format> {
    let is = |magic: &[u8]| head.starts_with(magic);
    if let Some(what) = not_weights(head, len) {
        return Err(Error::corrupt(what));
    }
    if is(b"PK\x03\x04") {
        return Ok(Format::TorchZip);
    }
    if is(b"\x93NUMPY") {
        return Ok(Format::Npy);
    }
    if head.len() > 14 && head[0] == 0x80 && head[2..].starts_with(LEGACY_MAGIC) {
        return Ok(Format::TorchLegacy);
    }
    if head.len() > 8 && head[8] == b'{' {
        let mut size = [0; 8];
        size.copy_from_slice(&head[..8]);
        if u64::from_le_bytes(size) < len {
            return Ok(Format::Safetensors);
        }
        return Err(Error::corrupt("looks like safetensors, but is shorter than its own header says: it is truncated; download it again"));
    }
    if head.len() > 2 && head[0] == 0x80 && (2..=5).contains(&head[1]) {
        return Ok(Format::Pickle);
    }
    // Protocol 0 has no mark of its own: a global, an open tuple, or an empty collection begins it.
    if matches!(head.first(), Some(b'c' | b'(' | b']' | b'}' | b')')) {
        return Ok(Format::Pickle);
    }
    Err(Error::corrupt(format!("is not a checkpoint: it begins with {}", printable(head))))
}

/// What a file is when it is certainly not weights; used for downloads too, where the format is not known.
pub fn not_weights(head: &[u8], len: u64) -> Option<String> {
    let is = |magic: &[u8]| head.starts_with(magic);
    if head.is_empty() {
        return Some("the file is empty; download it again".into());
    }
    // The header length of a safetensors file may begin with any byte, '<' too; its high bytes are zero.
    if head.len() > 8 && head[8] == b'{' && head[6] == 0 && head[7] == 0 {
        return None;
    }
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    if text.starts_with(b"<") {
        let lower = String::from_utf8_lossy(text).to_lowercase();
        let title = lower.split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>")).map(|(title, _)| title.trim());
        let title = title.map(|t| format!(" titled \"{}\"", t.chars().take(60).collect::<String>())).unwrap_or_default();
        return Some(format!(
            "is a web page{title}, not weights: the server sent a login, quota or error page under this name; open the address in a browser, or download it again"
        ));
    }
    if is(b"version https://git-lfs") {
        let text = String::from_utf8_lossy(head);
        let field = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)).map(|v| v.trim().to_string()).unwrap_or_default();
        return Some(format!(
            "is a git-lfs pointer, not weights: it stands for a file of {} bytes with {}; run `git lfs pull` where it came from, or download that file",
            field("size "),
            field("oid ")
        ));
    }
    if is(b"{\"error") || is(b"{\"message") || is(b"{\"detail") {
        return Some(format!("is a server's message, not weights: {}", printable(head)));
    }
    let archive = match head {
        h if h.starts_with(b"\x1f\x8b") => "gzip",
        h if h.starts_with(b"BZh") => "bzip2",
        h if h.starts_with(b"\xfd7zXZ") => "xz",
        h if h.starts_with(b"7z\xbc\xaf") => "7z",
        h if h.starts_with(b"Rar!") => "rar",
        h if h.starts_with(b"PK\x05\x06") => "empty zip",
        h if h.len() > 262 && &h[257..262] == b"ustar" => "tar",
        _ => "",
    };
    if !archive.is_empty() {
        return Some(format!("is a {archive} archive, not weights: unpack it and give the file inside"));
    }
    if is(b"\x89HDF\r\n") {
        return Some("is an HDF5 file, which is not read here: convert it to safetensors first".into());
    }
    if len < 16 && !is(b"\x80") && !is(b"PK") {
        return Some(format!("is not a checkpoint: it has {len} bytes, {}", printable(head)));
    }
    None
}

/// The first bytes for a message: as text where they are text, else in hexadecimal.
pub(super) fn printable(head: &[u8]) -> String {
    let start = &head[..head.len().min(48)];
    match std::str::from_utf8(start) {
        Ok(text) if text.chars().all(|c| !c.is_control() || c.is_whitespace()) => format!("the text {:?}", text.trim_end()),
        _ => format!("the bytes {}", start.iter().take(16).map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")),
    }
}

/// A text of the file, made fit for a message or a terminal: control characters are shown, not sent.
pub fn visible(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}
