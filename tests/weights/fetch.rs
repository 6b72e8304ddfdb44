//! Every way in which a download goes wrong, and the ways in which it goes right.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mtv_bench::error::Kind;
use mtv_bench::weights::hub::{Hub, Patience, RepoFile};
use mtv_bench::weights::verify::{Want, sha256_of};

use super::fake_hub::{Behaviour, COMMIT, FakeHub, Get, nobody};

/// 300 kB that are no web page and no text.
fn body() -> Vec<u8> {
    (0u32..75_000).flat_map(|i| (i.wrapping_mul(2_654_435_761) | 0x8000_0000).to_be_bytes()).collect()
}

fn sha(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("x");
    std::fs::write(&path, bytes).expect("a file");
    sha256_of(&path).expect("a hash").0
}

fn want(bytes: &[u8]) -> Want {
    Want { bytes: Some(bytes.len() as u64), sha256: sha(bytes) }
}

fn file(want: Want) -> RepoFile {
    RepoFile { repo: "org/gan".into(), repo_type: "model".into(), revision: COMMIT.into(), file: "sub/w.safetensors".into(), want }
}

fn patience() -> Patience {
    Patience {
        answer: Duration::from_millis(800),
        idle: Duration::from_millis(500),
        window: Duration::from_millis(400),
        window_bytes: 2000,
        attempts: 2,
        pause: Duration::from_millis(5),
        retry_after: Duration::from_secs(3),
        lock: Duration::from_millis(600),
    }
}

struct Case {
    server: FakeHub,
    dir: tempfile::TempDir,
    hub: Hub,
    file: RepoFile,
}

impl Case {
    fn new() -> Case {
        Case::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Behaviour)) -> Case {
        let body = body();
        let mut behaviour = Behaviour::of(&body, &sha(&body));
        change(&mut behaviour);
        let server = FakeHub::start(behaviour);
        let dir = tempfile::tempdir().expect("a folder");
        let hub = Hub {
            endpoint: Some(server.url.clone()),
            token: Some("hf_secret".into()),
            cache: dir.path().join("cache"),
            offline: false,
            progress: false,
            patience: patience(),
        };
        Case { server, dir, hub, file: file(want(&body)) }
    }

    fn fetch(&self) -> mtv_bench::Result<PathBuf> {
        self.hub.fetch(&self.file)
    }

    /// Every file below the test's folder that is neither a lock nor a note.
    fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        walk(self.dir.path(), &mut found);
        let mut names: Vec<String> = found
            .iter()
            .map(|p| p.strip_prefix(self.dir.path()).unwrap_or(p).display().to_string())
            .filter(|n| !n.contains(".locks") && !n.ends_with(".mtv-verified"))
            .collect();
        names.sort();
        names
    }

    fn blob(&self) -> PathBuf {
        self.hub.cache.join("models--org--gan/blobs").join(&self.file.want.sha256)
    }

    fn part(&self) -> PathBuf {
        self.hub.cache.join("models--org--gan/blobs").join(format!("{}.mtv-part", self.file.want.sha256))
    }

    /// The file is there, whole, and its blob and link are all that is in the cache.
    fn assert_good(&self, path: &Path) {
        assert_eq!(std::fs::read(path).expect("the file"), body());
        assert!(path.ends_with(format!("snapshots/{COMMIT}/sub/w.safetensors")), "{}", path.display());
        assert_eq!(self.files().len(), 2, "{:?}", self.files());
        assert_eq!(path.canonicalize().expect("a path"), self.blob().canonicalize().expect("a path"));
    }

    /// Nothing bad stays: no blob, no link; at most a part that the next attempt resumes.
    fn assert_nothing(&self) {
        let left: Vec<String> = self.files().into_iter().filter(|n| !n.ends_with(".mtv-part")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) { walk(&entry.path(), found) } else { found.push(entry.path()) }
    }
}

#[test]
fn first_fetch_then_cache_then_server_gone() {
    let mut case = Case::new();
    let path = case.fetch().expect("the first fetch");
    case.assert_good(&path);
    assert_eq!(case.server.gets().len(), 1);
    let before = case.server.requests().len();
    case.assert_good(&case.fetch().expect("the second"));
    assert_eq!(case.server.requests().len(), before, "a cached file asks nothing");
    case.hub.endpoint = Some(nobody());
    case.assert_good(&case.fetch().expect("without a server"));
    case.hub.offline = true;
    case.assert_good(&case.fetch().expect("offline"));
}

#[test]
fn offline_and_not_cached_says_so_without_asking() {
    let mut case = Case::new();
    case.hub.offline = true;
    let error = case.fetch().expect_err("nothing is cached");
    assert_eq!(error.kind, Kind::Missing);
    assert!(error.message.contains("--offline"), "{error}");
    assert!(case.server.requests().is_empty());
}

#[test]
fn a_server_that_is_gone_is_named_with_the_way_out() {
    let mut case = Case::new();
    case.hub.endpoint = Some(nobody());
    let error = case.fetch().expect_err("nobody listens");
    assert_eq!(error.kind, Kind::Missing);
    assert!(error.message.contains("--weights-dir") && error.message.contains("127.0.0.1"), "{error}");
    case.assert_nothing();
}

#[test]
fn a_cut_body_is_resumed_where_it_broke() {
    let case = Case::with(|b| b.gets = [Get::Cut(100_000), Get::Cut(50_000), Get::Serve].into());
    case.assert_good(&case.fetch().expect("resumed"));
    let ranges: Vec<Option<String>> = case.server.gets().iter().map(|r| r.header("range").map(str::to_string)).collect();
    assert_eq!(ranges, [None, Some("bytes=100000-299999".into()), Some("bytes=150000-299999".into())]);
}

#[test]
fn a_later_process_resumes_what_an_earlier_one_left() {
    let case = Case::with(|b| b.gets = [Get::Cut(100_000), Get::Cut(0), Get::Cut(0)].into());
    let error = case.fetch().expect_err("cut and nothing more");
    assert!(error.message.contains("the next run resumes at byte 100000"), "{error}");
    assert_eq!(std::fs::metadata(case.part()).expect("a part").len(), 100_000);
    case.assert_nothing();
    case.assert_good(&case.fetch().expect("resumed"));
    assert_eq!(case.server.gets().last().and_then(|r| r.header("range").map(str::to_string)).as_deref(), Some("bytes=100000-299999"));
}

#[test]
fn a_server_that_ignores_ranges_costs_a_fresh_start_only() {
    let case = Case::with(|b| b.gets = [Get::Cut(100_000), Get::IgnoreRange, Get::Serve].into());
    case.assert_good(&case.fetch().expect("from the first byte"));
}

#[test]
fn a_bad_part_left_behind_is_dropped() {
    let case = Case::new();
    std::fs::create_dir_all(case.part().parent().expect("a folder")).expect("a folder");
    std::fs::write(case.part(), vec![7; 120_000]).expect("a part");
    case.assert_good(&case.fetch().expect("fetched again from the first byte"));
    std::fs::remove_file(case.blob()).expect("the blob");
    std::fs::write(case.part(), vec![7; 400_000]).expect("a part that is too long");
    case.assert_good(&case.fetch().expect("fetched again from the first byte"));
}

#[test]
fn an_error_page_after_a_good_head_is_never_the_file() {
    for status in [401, 403, 404, 500, 503] {
        let case = Case::with(|b| b.gets = vec![Get::Status(status); 8].into());
        let error = case.fetch().expect_err("an error page");
        assert_eq!(error.kind, Kind::Missing, "{error}");
        let says = match status {
            401 | 403 => "set HF_TOKEN",
            404 => "does not have it",
            _ => "the hub answers 50",
        };
        assert!(error.message.contains(says), "{status}: {error}");
        case.assert_nothing();
        assert!(!case.part().exists() || std::fs::metadata(case.part()).is_ok_and(|m| m.len() == 0));
        if status >= 500 {
            case.server.set(|b| b.gets.clear());
            case.assert_good(&case.fetch().expect("the server is well again"));
        }
    }
}

#[test]
fn a_web_page_with_status_200_is_named_as_such() {
    let page = b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head></html>".to_vec();
    let case = Case::with(|b| b.body = page);
    let error = case.fetch().expect_err("a web page");
    assert_eq!(error.kind, Kind::Missing, "{error}");
    case.assert_nothing();
    // The same length as the card says: only the hash and the first bytes tell.
    let mut page = b"<html><title>Log in</title>".to_vec();
    page.resize(body().len(), b' ');
    let case = Case::with(|b| b.body = page);
    let error = case.fetch().expect_err("a web page");
    assert_eq!(error.kind, Kind::Corrupt);
    assert!(error.message.contains("web page titled \"log in\""), "{error}");
    case.assert_nothing();
    assert!(!case.part().exists());
}

#[test]
fn a_flipped_byte_is_refused_and_removed() {
    let case = Case::with(|b| b.body[1234] ^= 1);
    let error = case.fetch().expect_err("another file");
    assert_eq!(error.kind, Kind::Corrupt);
    assert!(error.message.contains("sha256") && error.message.contains(&case.file.want.sha256), "{error}");
    assert!(case.files().is_empty(), "{:?}", case.files());
    case.server.set(|b| b.body[1234] ^= 1);
    case.assert_good(&case.fetch().expect("the right file"));
}

#[test]
fn a_wrong_size_is_refused() {
    for change in [-1000isize, 1000] {
        let case = Case::with(|b| b.body.resize((b.body.len() as isize + change) as usize, 9));
        let error = case.fetch().expect_err("another size");
        assert!(error.message.contains("300000"), "{error}");
        case.assert_nothing();
    }
    // Where the card does not know the size, the hash still tells.
    let mut case = Case::with(|b| b.body.truncate(1000));
    case.file.want.bytes = None;
    assert_eq!(case.fetch().expect_err("another file").kind, Kind::Corrupt);
    case.assert_nothing();
}

#[test]
fn hostile_headers_cannot_reach_outside_the_cache() {
    let case = Case::with(|b| {
        b.etag = "../../../../evil-etag".into();
        b.commit = "../../../../evil-commit".into();
    });
    case.assert_good(&case.fetch().expect("names come from the card"));
    let outside: Vec<String> = case.files().into_iter().filter(|n| n.contains("evil")).collect();
    assert!(outside.is_empty(), "{outside:?}");
    for (repo, name) in [("org/gan", "../../x"), ("org/gan", "/etc/x"), ("../x", "w"), ("org/..", "w"), ("org", "w"), ("org/gan", "a//b")] {
        let file = RepoFile { repo: repo.into(), file: name.into(), ..case.file.clone() };
        assert_eq!(case.hub.fetch(&file).expect_err("a bad name").kind, Kind::Usage, "{repo} {name}");
    }
    let file = RepoFile { revision: "main".into(), ..case.file.clone() };
    assert_eq!(case.hub.fetch(&file).expect_err("a branch").kind, Kind::Usage);
}

#[test]
fn a_redirect_to_a_cdn_takes_no_token_along() {
    let cdn = FakeHub::start(Behaviour::of(&body(), "x"));
    cdn.set(|b| b.gets = [Get::Cut(100_000), Get::Serve].into());
    let case = Case::with(|b| b.cdn = Some(cdn.url.clone()));
    case.assert_good(&case.fetch().expect("through the CDN"));
    assert!(case.server.requests().iter().all(|r| r.header("authorization") == Some("Bearer hf_secret")));
    assert!(cdn.gets().len() == 2 && cdn.requests().iter().all(|r| r.header("authorization").is_none()), "{:?}", cdn.requests());
    assert!(cdn.requests().iter().all(|r| r.path == "/cdn/blob"));
    assert_eq!(cdn.gets()[1].header("range"), Some("bytes=100000-299999"));
}

#[test]
fn a_slow_server_is_waited_for_and_a_hung_one_is_not() {
    let case = Case::with(|b| b.gets = [Get::Drip(30_000, Duration::from_millis(100))].into());
    case.assert_good(&case.fetch().expect("slow but steady"));
    let case = Case::with(|b| b.gets = vec![Get::Hang; 8].into());
    let start = Instant::now();
    let error = case.fetch().expect_err("a hung server");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(error.kind == Kind::Missing && error.message.contains("sent nothing for"), "{error}");
    // Drops so few bytes that it would take for ever.
    let case = Case::with(|b| b.gets = vec![Get::Drip(100, Duration::from_millis(100)); 8].into());
    let start = Instant::now();
    case.hub.fetch(&case.file).map(drop).unwrap_or(());
    assert!(start.elapsed() < Duration::from_secs(60));
    assert!(case.server.gets().len() > 1, "each drip is cut short and resumed");
}

#[test]
fn a_server_without_end_is_cut_off_at_the_size_of_the_card() {
    let case = Case::with(|b| b.gets = vec![Get::Endless; 8].into());
    let error = case.fetch().expect_err("too much");
    assert!(error.message.contains("more than the 300000 bytes"), "{error}");
    case.assert_nothing();
}

#[test]
fn retry_after_is_obeyed_within_reason() {
    let case = Case::with(|b| (b.limited, b.retry_after) = (1, Some(1)));
    let start = Instant::now();
    case.assert_good(&case.fetch().expect("after the wait"));
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    let case = Case::with(|b| (b.limited, b.retry_after) = (9, Some(3600)));
    let start = Instant::now();
    let error = case.fetch().expect_err("an hour is too long");
    assert!(error.message.contains("3600 s") && start.elapsed() < Duration::from_secs(1), "{error}");
}

#[test]
fn a_file_that_does_not_fit_the_disk_is_not_begun() {
    let mut case = Case::new();
    case.file.want.bytes = Some(1 << 60);
    let error = case.fetch().expect_err("an exabyte");
    assert_eq!(error.kind, Kind::Resource);
    assert!(error.message.contains("free some, or set HF_HOME"), "{error}");
    assert!(case.server.requests().is_empty());
}

#[test]
fn a_damaged_copy_in_the_cache_is_removed_and_fetched_again() {
    let case = Case::new();
    case.fetch().expect("the first fetch");
    let mut bytes = body();
    bytes[5] ^= 1;
    std::fs::write(case.blob(), &bytes).expect("damage");
    case.assert_good(&case.fetch().expect("fetched again"));
    assert_eq!(case.server.gets().len(), 2);
    // Cut short, with the note of an earlier check beside it.
    std::fs::write(case.blob(), &body()[..1000]).expect("damage");
    case.assert_good(&case.fetch().expect("fetched again"));
}

#[test]
fn a_link_that_leads_out_of_the_cache_is_not_followed() {
    let case = Case::new();
    let outside = case.dir.path().join("outside");
    std::fs::write(&outside, b"mine").expect("a file");
    let link = case.hub.cache.join(format!("models--org--gan/snapshots/{COMMIT}/sub/w.safetensors"));
    std::fs::create_dir_all(link.parent().expect("a folder")).expect("a folder");
    std::os::unix::fs::symlink(&outside, &link).expect("a link");
    let path = case.fetch().expect("fetched");
    assert_eq!(std::fs::read(path).expect("the file"), body());
    assert_eq!(std::fs::read(outside).expect("the file outside"), b"mine");
}

#[test]
fn two_at_once_fetch_it_once() {
    let case = Case::with(|b| b.gets = [Get::Drip(60_000, Duration::from_millis(60))].into());
    let (a, b) = std::thread::scope(|s| {
        let one = s.spawn(|| case.fetch());
        let two = s.spawn(|| case.fetch());
        (one.join().expect("no panic"), two.join().expect("no panic"))
    });
    case.assert_good(&a.expect("the one"));
    case.assert_good(&b.expect("the other"));
    assert_eq!(case.server.gets().len(), 1);
}

#[test]
fn a_lock_that_does_not_move_ends_the_wait() {
    let case = Case::new();
    let lock = case.hub.cache.join(".locks/models--org--gan").join(format!("{}.lock", case.file.want.sha256));
    std::fs::create_dir_all(lock.parent().expect("a folder")).expect("a folder");
    let held = std::fs::File::create(&lock).expect("a lock");
    held.lock().expect("locked");
    let error = case.fetch().expect_err("somebody holds it");
    assert_eq!(error.kind, Kind::Busy);
}

#[test]
fn a_card_without_pins_is_resolved_by_the_hub_itself() {
    let case = Case::new();
    let found = case.hub.resolve("org/gan", "model", "main", "w.safetensors").expect("resolved");
    assert_eq!(found, RepoFile { file: "w.safetensors".into(), ..case.file.clone() });
    case.server.set(|b| b.commit = "../../evil".into());
    assert_eq!(case.hub.resolve("org/gan", "model", "main", "w.safetensors").expect_err("a bad commit").kind, Kind::Corrupt);
    case.server.set(|b| (b.commit, b.sha256) = (COMMIT.into(), "../../evil".into()));
    assert!(case.hub.resolve("org/gan", "model", "main", "w.safetensors").is_err());
}
