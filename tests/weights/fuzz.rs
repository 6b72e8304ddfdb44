//! Damaged and random input for everything that parses files of strangers: no panic, no hang, no blow-up. The budget is ten
//! seconds in all unless `MTV_FUZZ_SECONDS` says more; the number of inputs is printed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mtv_bench::images::{Pictures, align, decode};
use mtv_bench::spec::Card;
use mtv_bench::spec::document::Document;
use mtv_bench::weights::{Options, Unknown, read_bytes};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn budget(share: f64) -> Duration {
    let seconds = std::env::var("MTV_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(10.0);
    Duration::from_secs_f64(seconds * share)
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

/// The small containers, good and bad: what the mutations start from.
fn corpus() -> Vec<Vec<u8>> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut paths = Vec::new();
    files(&fixtures.join("generators/containers"), &mut paths);
    files(&fixtures.join("baselines"), &mut paths);
    let all: Vec<Vec<u8>> = paths.iter().filter_map(|p| std::fs::read(p).ok()).filter(|b| b.len() < 70_000).collect();
    assert!(all.len() > 50, "the fixtures are not there");
    all
}

/// Interesting values for lengths, offsets, sizes and counts.
const NUMBERS: [u64; 10] = [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 0x7fff_ffff_ffff_ffff, u64::MAX];

/// The operations of the pickle machine.
const OPERATIONS: &[u8] = b"(.012NIJKM}]t)lauesdbRcXUBQqhjgpio\x80\x81\x85\x86\x87\x88\x89\x8a\x8c\x8f\x90\x92\x93\x94\x95";

fn mutate(seed: &[u8], other: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..rng.random_range(1..8) {
        if bytes.is_empty() {
            return other.to_vec();
        }
        // Most structure is in the first bytes (the pickle) and the last (the directory of a zip).
        let len = bytes.len();
        let at = match rng.random_range(0..4) {
            0 => rng.random_range(0..len.min(1024)),
            1 => len - 1 - rng.random_range(0..len.min(2048)),
            _ => rng.random_range(0..len),
        };
        match rng.random_range(0..8) {
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => bytes[at] = rng.random_range(0..=255),
            2 => bytes.truncate(at),
            3 => {
                let n = NUMBERS[rng.random_range(0..NUMBERS.len())].to_le_bytes();
                let width = [1, 2, 4, 8][rng.random_range(0..4)].min(len - at);
                bytes[at..at + width].copy_from_slice(&n[..width]);
            }
            4 => {
                let end = (at + rng.random_range(1..64)).min(len);
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            5 => drop(bytes.drain(at..(at + rng.random_range(1..32)).min(len))),
            6 if !other.is_empty() => {
                let from = rng.random_range(0..other.len());
                let piece = other[from..(from + rng.random_range(1..128)).min(other.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            // An operation of the pickle machine where it is likely to be read as one.
            _ => bytes.insert(at, OPERATIONS[rng.random_range(0..OPERATIONS.len())]),
        }
    }
    bytes
}

/// Zip members are protected by a CRC, so a mutated pickle inside would never be reached: it is put back with the right one.
fn rewrap(data_pkl: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut directory = Vec::new();
    let members: [(&str, &[u8]); 3] = [("a/data.pkl", data_pkl), ("a/byteorder", b"little"), ("a/data/0", &[0u8; 64])];
    for (name, bytes) in members {
        let header_at = out.len() as u32;
        let crc = crc32fast::hash(bytes);
        let mut common = Vec::new();
        common.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0]);
        common.extend_from_slice(&crc.to_le_bytes());
        common.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        common.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        common.extend_from_slice(&(name.len() as u16).to_le_bytes());
        common.extend_from_slice(&[0, 0]);
        out.extend_from_slice(b"PK\x03\x04\x14\x00");
        out.extend_from_slice(&common);
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(bytes);
        directory.extend_from_slice(b"PK\x01\x02\x14\x00\x14\x00");
        directory.extend_from_slice(&common);
        directory.extend_from_slice(&[0; 10]);
        directory.extend_from_slice(&header_at.to_le_bytes());
        directory.extend_from_slice(name.as_bytes());
    }
    let (start, size) = (out.len() as u32, directory.len() as u32);
    out.extend_from_slice(&directory);
    out.extend_from_slice(b"PK\x05\x06\x00\x00\x00\x00\x03\x00\x03\x00");
    out.extend_from_slice(&size.to_le_bytes());
    out.extend_from_slice(&start.to_le_bytes());
    out.extend_from_slice(&[0, 0]);
    out
}

/// The pickles of the corpus: from a zip member of that name, or the file itself.
fn pickles(corpus: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let in_zip = |bytes: &Vec<u8>| {
        let name = bytes.windows(9).position(|w| w == b"/data.pkl")? + 9;
        let start = name + bytes[name..].iter().take(64).position(|b| *b == 0x80)?;
        Some(bytes[start..(start + 4000).min(bytes.len())].to_vec())
    };
    corpus.iter().filter_map(|b| if b.starts_with(b"PK") { in_zip(b) } else { Some(b[..b.len().min(4000)].to_vec()) }).collect()
}

/// The highest resident memory of this process in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// The processor time of this thread: unlike the clock, it does not count the waiting for a busy machine.
pub fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec to write to.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn one(bytes: &[u8], unknown: Unknown, slowest: &mut Duration) -> bool {
    let start = processor_time();
    let result = catch_unwind(AssertUnwindSafe(|| read_bytes(bytes, Options { unknown })));
    *slowest = (*slowest).max(processor_time() - start);
    match result {
        Ok(Ok(_)) => true,
        Ok(Err(e)) => {
            assert!(!e.message.is_empty() && e.message.lines().count() == 1, "{e}");
            false
        }
        Err(_) => {
            let path = std::env::temp_dir().join("mtv-bench-fuzz-crash.bin");
            let _ = std::fs::write(&path, bytes);
            panic!("the reader panicked; the input is in {}", path.display());
        }
    }
}

#[test]
fn damaged_checkpoints_never_panic_hang_or_blow_up() {
    let corpus = corpus();
    let pickles = pickles(&corpus);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (start, mut inputs, mut read, mut slowest) = (Instant::now(), 0u64, 0u64, Duration::ZERO);
    let before = peak();
    while start.elapsed() < budget(0.4) {
        let pick = |rng: &mut ChaCha8Rng, from: &[Vec<u8>]| from[rng.random_range(0..from.len())].clone();
        let bytes = match rng.random_range(0..4) {
            0 => {
                let (a, b) = (pick(&mut rng, &pickles), pick(&mut rng, &pickles));
                rewrap(&mutate(&a, &b, &mut rng))
            }
            1 => {
                let mut bytes: Vec<u8> = (0..rng.random_range(0..400)).map(|_| rng.random_range(0..=255)).collect();
                let magic: &[u8] =
                    [&b"PK\x03\x04"[..], b"\x93NUMPY\x01\x00", b"\x80\x02", b"\x10\0\0\0\0\0\0\0{", b"c", b"("][rng.random_range(0..6)];
                bytes.splice(0..0, magic.iter().copied());
                bytes
            }
            _ => {
                let (a, b) = (pick(&mut rng, &corpus), pick(&mut rng, &corpus));
                mutate(&a, &b, &mut rng)
            }
        };
        let unknown = if rng.random_range(0..2) == 0 { Unknown::Refuse } else { Unknown::Record };
        read += u64::from(one(&bytes, unknown, &mut slowest));
        inputs += 1;
    }
    let grown = peak().saturating_sub(before);
    eprintln!(
        "fuzz: {inputs} checkpoints in {:.0} s, {read} still readable, slowest {slowest:?}, memory grew by {} MB",
        start.elapsed().as_secs_f64(),
        grown >> 20
    );
    assert!(inputs > 100 && slowest < Duration::from_secs(1), "{inputs} inputs, slowest {slowest:?}");
    assert!(grown < 1 << 30, "memory grew by {grown} bytes");
}

/// The fixtures of pictures: files of every kind, and an LMDB database in a zip archive.
fn pictures_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pictures")
}

/// Runs `read` on an input; a panic is a failure of the test that names the input.
fn guarded(what: &str, bytes: &[u8], slowest: &mut Duration, read: impl FnOnce() -> mtv_bench::Result<()>) -> bool {
    let start = processor_time();
    let result = catch_unwind(AssertUnwindSafe(read));
    *slowest = (*slowest).max(processor_time() - start);
    match result {
        Ok(Ok(())) => true,
        Ok(Err(e)) => {
            assert!(!e.message.is_empty() && e.message.lines().count() == 1, "{e}");
            false
        }
        Err(_) => {
            let path = std::env::temp_dir().join(format!("mtv-bench-fuzz-crash-{what}.bin"));
            let _ = std::fs::write(&path, bytes);
            panic!("reading {what} panicked; the input is in {}", path.display());
        }
    }
}

#[test]
fn damaged_pictures_never_panic_hang_or_blow_up() {
    let mut paths = Vec::new();
    files(&pictures_folder(), &mut paths);
    let corpus: Vec<Vec<u8>> = paths
        .iter()
        .filter(|p| p.extension().is_some_and(|e| e == "png" || e == "jpg" || e == "webp"))
        .filter_map(|p| std::fs::read(p).ok())
        .collect();
    assert!(corpus.len() > 15, "the fixtures are not there");
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let (start, mut inputs, mut read, mut slowest) = (Instant::now(), 0u64, 0u64, Duration::ZERO);
    let before = peak();
    while start.elapsed() < budget(0.25) {
        let (a, b) = (&corpus[rng.random_range(0..corpus.len())], &corpus[rng.random_range(0..corpus.len())]);
        let mut bytes = mutate(a, b, &mut rng);
        if rng.random_range(0..2) == 0 {
            mend_png(&mut bytes);
        }
        read += u64::from(guarded("a picture", &bytes, &mut slowest, || decode(&bytes).map(drop)));
        inputs += 1;
    }
    let grown = peak().saturating_sub(before);
    eprintln!(
        "fuzz: {inputs} pictures in {:.0} s, {read} readable, slowest {slowest:?}, {} MB more",
        start.elapsed().as_secs_f64(),
        grown >> 20
    );
    // A picture of the largest size that is read takes its time; anything beyond is a hang.
    assert!(inputs > 100 && slowest < Duration::from_secs(10), "{inputs} inputs, slowest {slowest:?}");
    assert!(grown < 3 << 30, "memory grew by {grown} bytes");
}

/// Chunks of a PNG are protected by a CRC, so damage inside would never be reached: the right ones are put back.
fn mend_png(bytes: &mut [u8]) {
    let mut at = 8;
    while bytes.starts_with(b"\x89PNG") {
        let Some(length) = bytes.get(at..at + 4).and_then(|l| l.first_chunk::<4>()).map(|l| u32::from_be_bytes(*l) as usize) else {
            return;
        };
        let Some(end) = at.checked_add(8 + length).filter(|end| end + 4 <= bytes.len()) else { return };
        let crc = crc32fast::hash(&bytes[at + 4..end]).to_be_bytes();
        bytes[end..end + 4].copy_from_slice(&crc);
        at = end + 4;
    }
}

#[test]
fn damaged_sets_and_landmarks_never_panic_hang_or_blow_up() {
    let dir = tempfile::tempdir().expect("a folder");
    let zipped = std::fs::read(pictures_folder().join("lmdb.zip")).expect("the fixture");
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(&zipped)).expect("a zip archive");
    let mut database = Vec::new();
    std::io::Read::read_to_end(&mut archive.by_name("data.mdb").expect("the database"), &mut database).expect("the database");
    let png = std::fs::read(pictures_folder().join("rgb.png")).expect("the fixture");
    let (mut tar, mut set) = (tar::Builder::new(Vec::new()), zip::ZipWriter::new(std::io::Cursor::new(Vec::new())));
    for name in ["a.png", "b/c.png", "notes.txt"] {
        let mut header = tar::Header::new_gnu();
        header.set_size(png.len() as u64);
        tar.append_data(&mut header, name, png.as_slice()).expect("an entry");
        set.start_file(name, zip::write::SimpleFileOptions::default()).expect("an entry");
        std::io::Write::write_all(&mut set, &png).expect("an entry");
    }
    let landmarks = format!("{{\"0\": {{\"in_the_wild\": {{\"face_landmarks\": {:?}}}}}}}", [[1.5, 2.0]; 68]).into_bytes();
    let corpus = [database, tar.into_inner().expect("a tar archive"), set.finish().expect("a zip archive").into_inner(), landmarks];
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let (start, mut inputs, mut read, mut slowest) = (Instant::now(), 0u64, 0u64, Duration::ZERO);
    let before = peak();
    while start.elapsed() < budget(0.25) {
        let which = rng.random_range(0..corpus.len());
        let bytes = mutate(&corpus[which], &corpus[rng.random_range(0..3)], &mut rng);
        let path = dir.path().join("set");
        std::fs::write(&path, &bytes).expect("a file");
        read += u64::from(guarded("a set", &bytes, &mut slowest, || {
            if which == 3 {
                let all = align::read_landmarks(&path)?;
                return all.values().try_for_each(|points| align::quad(points).map(drop));
            }
            let set = Pictures::open(&path)?;
            set.list().iter().try_for_each(|picture| set.read(picture).map(drop))
        }));
        inputs += 1;
    }
    let grown = peak().saturating_sub(before);
    eprintln!(
        "fuzz: {inputs} sets in {:.0} s, {read} readable, slowest {slowest:?}, {} MB more",
        start.elapsed().as_secs_f64(),
        grown >> 20
    );
    assert!(inputs > 20 && slowest < Duration::from_secs(10), "{inputs} inputs, slowest {slowest:?}");
    assert!(grown < 3 << 30, "memory grew by {grown} bytes");
}

#[test]
fn damaged_cards_never_panic() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let names = Card::names();
    let texts: Vec<(String, String)> =
        names.iter().filter_map(|n| Some((n.clone(), Document::open(&format!("baselines/{n}.toml")).ok()??.text))).collect();
    assert!(texts.len() > 10);
    let (start, mut inputs, mut valid) = (Instant::now(), 0u64, 0u64);
    while start.elapsed() < budget(0.1) {
        let (name, text) = &texts[rng.random_range(0..texts.len())];
        let other = &texts[rng.random_range(0..texts.len())].1;
        let bytes = mutate(text.as_bytes(), other.as_bytes(), &mut rng);
        let document = Document { path: format!("baselines/{name}.toml"), text: String::from_utf8_lossy(&bytes).into_owned() };
        match catch_unwind(AssertUnwindSafe(|| Card::of(&document))) {
            Ok(result) => valid += u64::from(result.is_ok()),
            Err(_) => panic!("the card parser panicked on:\n{}", document.text),
        }
        inputs += 1;
    }
    eprintln!("fuzz: {inputs} cards in {:.0} s, {valid} still valid", start.elapsed().as_secs_f64());
    assert!(inputs > 100);
}
