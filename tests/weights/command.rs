//! The `weights` commands, and what `plan` and `run` say about missing files, as a user sees them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use mtv_bench::spec::Card;
use mtv_bench::spec::card::{Kind, Source};

use super::fake_hub::{Behaviour, COMMIT, FakeHub};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/generators/containers");

/// mtv-bench in an empty folder, with a cache of its own and no network but `endpoint`.
struct Shell {
    dir: tempfile::TempDir,
    endpoint: String,
}

impl Shell {
    fn new() -> Shell {
        Shell { dir: tempfile::tempdir().expect("a folder"), endpoint: super::fake_hub::nobody() }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mtv-bench"));
        command.args(args).current_dir(self.dir.path()).env("HF_HOME", self.dir.path().join("hf")).env("HF_ENDPOINT", &self.endpoint);
        for name in ["HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "MTV_BENCH_WEIGHTS", "XDG_CACHE_HOME"] {
            command.env_remove(name);
        }
        command.stdin(std::process::Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> (i32, String) {
        let Output { status, stdout, stderr } = self.command(args).output().expect("mtv-bench runs");
        let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        (status.code().unwrap_or(-1), text.replace(&self.dir.path().display().to_string(), "DIR"))
    }

    /// A card of one's own in this project folder.
    fn card(&self, name: &str, text: &str) {
        let path = self.dir.path().join(format!("baselines/{name}.toml"));
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("a card");
    }

    fn files(&self) -> Vec<String> {
        let mut open = vec![self.dir.path().join("hf")];
        let mut found = Vec::new();
        while let Some(dir) = open.pop() {
            for path in std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()) {
                if path.is_dir() { open.push(path) } else { found.push(path.display().to_string()) }
            }
        }
        found
    }
}

fn sha(path: &Path) -> String {
    mtv_bench::weights::verify::sha256_of(path).expect("a hash").0
}

fn hub_card(name: &str, sha256: Option<&str>, bytes: usize, non_commercial: bool) -> String {
    let pins = sha256.map_or("pinned = false".to_string(), |s| format!("sha256 = \"{s}\"\nbytes = {bytes}"));
    let revision = if sha256.is_some() { COMMIT } else { "main" };
    format!(
        "name = \"{name}\"\nkind = \"generator\"\ntitle = \"A test\"\n{pins}\n\n[source.hub]\nrepo = \"org/gan\"\nrevision = \"{revision}\"\nfile = \"w.safetensors\"\n\n[licence]\nname = \"CC BY-NC 4.0\"\nnon_commercial = {non_commercial}\nreupload_tag = \"apache-2.0\"\n"
    )
}

fn container(name: &str) -> PathBuf {
    Path::new(FIXTURES).join(name)
}

#[test]
fn every_card_of_the_paper_is_there_and_says_where_it_was_read() {
    let names = Card::names();
    for name in [
        "pggan_celebahq_1024",
        "stylegan1_ffhq_1024",
        "stylegan1_car_512",
        "stylegan1_cat_256",
        "stylegan2_ffhq_1024",
        "stylegan2_cat_256",
        "stylegan2_horse_256",
        "biggan_deep_128",
        "biggan_deep_256",
        "biggan_deep_512",
        "alae_ffhq_1024",
        "psp_ffhq_1024",
        "indomain_ffhq_256_encoder",
        "indomain_ffhq_256_generator",
        "mtv_stylegan1_ffhq_1024",
        "vgg16",
        "lpips_vgg16",
        "inception_fid",
        "ir_se50",
        "interfacegan_ffhq_smile",
        "celebamask_hq",
        "celeba_hq",
        "ffhq",
        "lsun_cat",
        "lsun_car",
        "lsun_horse",
    ] {
        assert!(names.iter().any(|n| n == name), "no card {name}");
    }
    for name in names {
        let card = Card::load(&name).unwrap_or_else(|e| panic!("{e}"));
        let ours = matches!(card.source, Source::Embedded(_) | Source::Seeded(_));
        assert!(ours || !card.verified.is_empty(), "{name}: nothing says where its facts were read");
        assert!(ours || card.kind == Kind::Dataset || card.network.is_some(), "{name}: no [network]");
        assert!(!card.licence.name.is_empty());
        let nvidia = ["CC BY-NC", "NVIDIA"].iter().any(|l| card.licence.name.contains(l));
        assert!(!nvidia || card.licence.non_commercial, "{name}: its licence forbids commercial use, the card does not say so");
    }
}

#[test]
fn list_shows_licences_and_what_is_here() {
    let (code, text) = Shell::new().run(&["weights", "list"]);
    assert_eq!(code, 0, "{text}");
    let row = text.lines().find(|l| l.starts_with("pggan_celebahq_1024")).expect("a row");
    assert!(row.contains("CC BY-NC 4.0 (not for commercial use); the re-upload is tagged \"apache-2.0\""), "{row}");
    let row = text.lines().find(|l| l.starts_with("stylegan2_ffhq_1024")).expect("a row");
    let words: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(words[1..7], ["132.7", "MB", "no", "no", "hub", "wmpscc/StyleGene"], "{row}");
    assert!(text.lines().any(|l| l.starts_with("vgg16 ") && l.contains("~553.0 MB")), "{text}");
}

/// The exit code, what went to stderr, processor time and peak of resident memory of a command that is started here.
#[cfg(unix)]
#[allow(clippy::zombie_processes)] // wait4 waits for it
fn measured(mut command: Command) -> (Option<i32>, String, Duration, u64) {
    let errors = tempfile::NamedTempFile::new().expect("a file");
    let child = command.stdout(std::process::Stdio::null()).stderr(errors.reopen().expect("a file")).spawn().expect("mtv-bench starts");
    let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
    // SAFETY: the child is ours and is waited for nowhere else; both pointers are to memory of their types.
    let usage = unsafe {
        assert_eq!(libc::wait4(child.id() as i32, &mut status, 0, usage.as_mut_ptr()), child.id() as i32);
        usage.assume_init()
    };
    let time = |t: libc::timeval| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1000);
    let code = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
    let text = std::fs::read_to_string(errors.path()).expect("its messages");
    (code, text, time(usage.ru_utime) + time(usage.ru_stime), usage.ru_maxrss as u64 * 1024)
}

#[test]
#[cfg(unix)]
fn hostile_files_are_refused_within_a_second_and_a_gigabyte() {
    let more = std::env::var_os("MTV_PARITY_DIR").map(|dir| PathBuf::from(dir).join("generators/containers/hostile"));
    let (mut tried, mut slowest, mut largest) = (0, Duration::ZERO, 0);
    for dir in [Some(container("hostile")), more].into_iter().flatten() {
        for entry in std::fs::read_dir(dir).expect("the fixtures").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let good = name.starts_with("control") || name.starts_with("nan");
            let shell = Shell::new();
            let mut command = shell.command(&["weights", "convert", &entry.path().display().to_string(), "out.safetensors"]);
            // Ends what would take far more, instead of waiting for it.
            // SAFETY: setrlimit is async-signal-safe and takes a plain struct.
            unsafe {
                use std::os::unix::process::CommandExt;
                command.pre_exec(|| {
                    let bytes = libc::rlimit { rlim_cur: 4 << 30, rlim_max: 4 << 30 };
                    let seconds = libc::rlimit { rlim_cur: 5, rlim_max: 5 };
                    let set = libc::setrlimit(libc::RLIMIT_AS, &bytes) == 0 && libc::setrlimit(libc::RLIMIT_CPU, &seconds) == 0;
                    if set { Ok(()) } else { Err(std::io::Error::last_os_error()) }
                });
            }
            let (code, text, time, memory) = measured(command);
            assert_eq!(code, Some(if good { 0 } else { 5 }), "{name}: {text}");
            assert!(time < Duration::from_secs(1), "{name} took {time:?}");
            assert!(memory < 1 << 30, "{name} took {memory} bytes");
            assert_eq!(shell.dir.path().join("out.safetensors").exists(), good, "{name}");
            assert!(good || text.starts_with("error: ") && text.lines().count() == 1, "{name}: {text}");
            (tried, slowest, largest) = (tried + 1, slowest.max(time), largest.max(memory));
        }
    }
    eprintln!("{tried} files, slowest {slowest:?}, at most {} MB", largest >> 20);
    assert!(tried > 40);
    assert!(!Path::new("/tmp/mtv_bench_pickle_was_executed").exists());
}

#[test]
fn the_variables_of_the_hub_and_the_folder_of_weights_are_obeyed() {
    let file = container("akanimax_depth4.expected.safetensors");
    let body = std::fs::read(&file).expect("the fixture");
    let server = FakeHub::start(Behaviour::of(&body, &sha(&file)));
    let shell = Shell { endpoint: server.url.clone(), ..Shell::new() };
    shell.card("test/gan", &hub_card("test/gan", Some(&sha(&file)), body.len(), false));
    let with = |name: &str, value: &str| {
        let output = shell.command(&["weights", "fetch", "test/gan"]).env(name, value).output().expect("mtv-bench runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout))
    };
    let (code, text) = with("HF_HUB_OFFLINE", "1");
    assert!(code == Some(4) && text.contains("HF_HUB_OFFLINE") && server.requests().is_empty(), "{text}");
    // A folder with the file needs no hub, and neither the name nor the place of the cache matters.
    std::fs::create_dir(shell.dir.path().join("mine")).expect("a folder");
    std::fs::copy(&file, shell.dir.path().join("mine/w.safetensors")).expect("a copy");
    let (code, text) = with("MTV_BENCH_WEIGHTS", "mine");
    assert!(code == Some(0) && text.contains("mine/w.safetensors") && server.requests().is_empty(), "{text}");
    let other = shell.dir.path().join("elsewhere");
    let (code, text) = with("HF_HUB_CACHE", &other.display().to_string());
    assert!(code == Some(0) && other.join("models--org--gan").is_dir(), "{text}");
    assert!(server.requests().iter().all(|r| r.header("authorization").is_none()));
    let asked = server.requests().len();
    let (code, text) = with("HF_TOKEN", "hf_from_env");
    assert_eq!(code, Some(0), "{text}");
    let later = &server.requests()[asked..];
    assert!(!later.is_empty() && later.iter().all(|r| r.header("authorization") == Some("Bearer hf_from_env")), "{later:?}");
    assert!(!text.contains("hf_from_env"), "the token is never shown");
}

#[test]
fn wrong_names_of_files_and_cards_get_one_plain_line() {
    let shell = Shell::new();
    std::fs::create_dir(shell.dir.path().join("folder")).expect("a folder");
    std::fs::write(shell.dir.path().join("text.pth"), "not a checkpoint at all").expect("a file");
    for (args, code, says) in [
        (&["info", "nofile.pth"][..], 4, "nofile.pth: there is no such file"),
        (&["info", "folder"], 2, "folder: is a folder; name a file in it, or a card"),
        (&["info", "text.pth"], 5, "text.pth: is not a checkpoint"),
        (&["info", "vgg"], 2, "did you mean \"vgg16\"?"),
        (&["fetch", "qqqqqqqq"], 2, "`mtv-bench weights list` shows them all"),
        (&["verify", "ffhq"], 4, "1 of 1 files failed: ffhq"),
        (&["convert", "folder", "o.safetensors"], 2, "folder: is a folder, a file is converted"),
        (&["convert", "text.pth", "o.pth"], 2, "the converted file's name ends in .safetensors"),
        (&["convert", "text.pth", "no/such/o.safetensors"], 5, "is not a checkpoint"),
        (&["pin", "vgg16", "--offline"], 4, "--offline forbids to ask the hub"),
        (&["list", "--weights-dir", "text.pth"], 2, "there is no such folder"),
    ] {
        let output = shell.command(&[&["weights"][..], args].concat()).output().expect("mtv-bench runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        assert!(text.starts_with("error: ") && text.contains(says) && text.lines().count() == 1, "{args:?}: {text}");
    }
    // What no program can fetch is said before any question about its licence.
    let (code, text) = shell.run(&["weights", "fetch", "ffhq"]);
    assert!(code == 4 && text.contains("from     https://github.com/NVlabs/ffhq-dataset") && !text.contains("--accept-licence"), "{text}");
}

#[test]
fn two_processes_fetch_a_file_once() {
    let body: Vec<u8> = (0u32..75_000).flat_map(|i| (i.wrapping_mul(2_654_435_761) | 0x8000_0000).to_be_bytes()).collect();
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("x"), &body).expect("a file");
    let hash = sha(&dir.path().join("x"));
    let server = FakeHub::start(Behaviour::of(&body, &hash));
    server.set(|b| b.gets = [super::fake_hub::Get::Drip(30_000, Duration::from_millis(150))].into());
    let shell = Shell { endpoint: server.url.clone(), ..Shell::new() };
    shell.card("test/gan", &hub_card("test/gan", Some(&hash), body.len(), false));
    let start = || shell.command(&["weights", "fetch", "test/gan"]).stdout(std::process::Stdio::piped()).spawn().expect("mtv-bench starts");
    let both = [start(), start()].map(|child| child.wait_with_output().expect("it ends"));
    for output in &both {
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8_lossy(&output.stdout);
        let path = text.trim().strip_prefix("test/gan: ").expect("the path");
        assert_eq!(std::fs::read(path).expect("the file"), body);
    }
    assert_eq!(server.gets().len(), 1, "one of the two waited");
}

#[test]
fn convert_writes_source_hash_licence_and_key_map_and_the_same_bytes_twice() {
    let shell = Shell::new();
    let file = container("genforce_stylegan2_16px.pth");
    let name = file.display().to_string();
    let (code, text) = shell.run(&["weights", "convert", &name, "a.safetensors", "--key", "generator_smooth"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(shell.run(&["weights", "convert", &name, "b.safetensors", "--key", "generator_smooth"]).0, 0);
    let read = |n: &str| std::fs::read(shell.dir.path().join(n)).expect("the file");
    assert_eq!(read("a.safetensors"), read("b.safetensors"));
    let converted = mtv_bench::weights::open(&shell.dir.path().join("a.safetensors")).expect("it opens");
    let want = mtv_bench::weights::open(&container("genforce_stylegan2_16px.expected.safetensors")).expect("the expected tensors");
    assert_eq!(converted.tensors.keys().collect::<Vec<_>>(), want.tensors.keys().collect::<Vec<_>>());
    for (name, tensor) in &converted.tensors {
        let flat = |t: &candle_core::Tensor| t.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("numbers");
        assert_eq!(flat(tensor), flat(&want.tensors[name]), "{name}");
    }
    assert_eq!(converted.metadata["source_sha256"], sha(&file));
    assert_eq!(converted.metadata["key_map"], "generator_smooth.* -> *");
    assert_eq!(converted.metadata["source_format"], "PyTorch zip");
    assert!(converted.metadata["licence"].contains("not stated"));
    // The other libraries read it too.
    safetensors::SafeTensors::deserialize(&read("a.safetensors")).expect("a valid safetensors file");
    let (code, text) = shell.run(&["weights", "convert", &name, "c.safetensors", "--key", "generator_smoth"]);
    assert_eq!(code, 5);
    assert!(
        text.contains("no tensor lies under \"generator_smoth\"; this file has discriminator") || text.contains("this file has generator"),
        "{text}"
    );
    assert!(!shell.dir.path().join("c.safetensors").exists());
    let (code, text) = shell.run(&["weights", "convert", "nothing.pth", "d.safetensors"]);
    assert_eq!((code, text.trim()), (4, "error: nothing.pth: there is no such file"));
}

#[test]
fn fetch_asks_for_a_licence_once_then_verifies_and_works_offline() {
    let file = container("akanimax_depth4.expected.safetensors");
    let body = std::fs::read(&file).expect("the fixture");
    let server = FakeHub::start(Behaviour::of(&body, &sha(&file)));
    let shell = Shell { endpoint: server.url.clone(), ..Shell::new() };
    shell.card("test/gan", &hub_card("test/gan", Some(&sha(&file)), body.len(), true));
    let (code, text) = shell.run(&["weights", "fetch", "test/gan"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("CC BY-NC 4.0 (not for commercial use)") && text.contains("--accept-licence"), "{text}");
    assert!(server.requests().is_empty(), "nothing is fetched before the answer");
    let (code, text) = shell.run(&["weights", "fetch", "test/gan", "--offline"]);
    assert_ne!(code, 0, "{text}");
    let (code, text) = shell.run(&["weights", "fetch", "test/gan", "--accept-licence"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("MB/s") && text.contains("hf/hub/models--org--gan/snapshots"), "{text}");
    let asked = server.requests().len();
    assert_eq!(shell.run(&["weights", "fetch", "test/gan", "--offline"]).0, 0);
    let (code, text) = shell.run(&["weights", "verify", "test/gan"]);
    assert_eq!(code, 0, "{text}");
    let (code, text) = shell.run(&["weights", "info", "test/gan", "--offline"]);
    assert!(code == 0 && text.contains("tensors") && text.contains("the re-upload is tagged"), "{text}");
    assert_eq!(server.requests().len(), asked, "all that was local");
    // A flipped bit on the disk is found by verify, even with the size and time unchanged.
    let blob = shell.files().into_iter().find(|f| f.ends_with(&sha(&file)) && f.contains("blobs")).expect("the blob");
    let mut bytes = std::fs::read(&blob).expect("the blob");
    bytes[100] ^= 1;
    std::fs::write(&blob, bytes).expect("damage");
    let (code, text) = shell.run(&["weights", "verify", "test/gan"]);
    assert_ne!(code, 0, "{text}");
}

#[test]
fn an_unpinned_card_is_pinned_by_its_first_verified_download() {
    let file = container("akanimax_depth4.expected.safetensors");
    let body = std::fs::read(&file).expect("the fixture");
    let server = FakeHub::start(Behaviour::of(&body, &sha(&file)));
    let shell = Shell { endpoint: server.url.clone(), ..Shell::new() };
    shell.card("test/gan", &hub_card("test/gan", None, 0, false));
    let (code, text) = shell.run(&["weights", "fetch", "test/gan"]);
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("not pinned") && text.contains("--unpinned"), "{text}");
    let (code, text) = shell.run(&["weights", "pin", "test/gan"]);
    assert_eq!(code, 0, "{text}");
    let lock = std::fs::read_to_string(shell.dir.path().join("baselines/pins.lock")).expect("the lock file");
    assert!(
        lock.contains(&format!("[\"test/gan\"]\nrevision = \"{COMMIT}\"\nbytes = {}\nsha256 = \"{}\"", body.len(), sha(&file))),
        "{lock}"
    );
    let (code, text) = shell.run(&["weights", "fetch", "test/gan", "--offline"]);
    assert_eq!(code, 0, "{text}");
    let (code, text) = shell.run(&["weights", "pin", "test/gan"]);
    assert!(code == 0 && text.contains("is pinned already"), "{text}");
}

#[test]
fn a_file_in_the_weights_folder_is_checked_against_its_card_or_its_conversion() {
    let shell = Shell::new();
    let source = container("plain_state_dict_pggan_16px.pth");
    let card = |sha: &str| {
        format!(
            "name = \"test/by_hand\"\nkind = \"generator\"\ntitle = \"A test\"\nsha256 = \"{sha}\"\n\n[source.manual]\nfile = \"gan.pth\"\ninstructions = \"Download it from https://example.org/gan.pth.\"\n\n[licence]\nname = \"MIT\"\n"
        )
    };
    shell.card("test/by_hand", &card(&sha(&source)));
    let (code, text) = shell.run(&["weights", "fetch", "test/by_hand"]);
    assert_eq!(code, 4);
    assert!(
        text.contains("from     https://example.org/gan.pth") && text.contains("Put it into the folder of --weights-dir as gan.pth"),
        "{text}"
    );
    std::fs::create_dir(shell.dir.path().join("w")).expect("a folder");
    std::fs::write(shell.dir.path().join("w/gan.pth"), b"<html><title>Quota exceeded</title>").expect("a file");
    let (code, text) = shell.run(&["weights", "fetch", "test/by_hand", "--weights-dir", "w"]);
    assert!(code == 5 && text.contains("web page titled \"quota exceeded\""), "{code} {text}");
    std::fs::copy(&source, shell.dir.path().join("w/gan.pth")).expect("a copy");
    let (code, text) = shell.run(&["weights", "verify", "test/by_hand", "--weights-dir", "w"]);
    assert_eq!(code, 0, "{text}");
    std::fs::create_dir_all(shell.dir.path().join("w/test")).expect("a folder");
    let (code, text) = shell.run(&["weights", "convert", "w/gan.pth", "w/test/by_hand.safetensors", "--card", "test/by_hand"]);
    assert_eq!(code, 0, "{text}");
    std::fs::remove_file(shell.dir.path().join("w/gan.pth")).expect("removed");
    let (code, text) = shell.run(&["weights", "verify", "test/by_hand", "--weights-dir", "w"]);
    assert!(code == 0 && text.contains("converted from the card's file"), "{text}");
    shell.card("test/by_hand", &card(&"0".repeat(64)));
    let (code, text) = shell.run(&["weights", "verify", "test/by_hand", "--weights-dir", "w"]);
    assert!(code == 5 && text.contains("was converted from a file with sha256"), "{text}");
    let (code, text) = shell.run(&["weights", "list", "--weights-dir", "nowhere"]);
    assert_eq!((code, text.trim()), (2, "error: --weights-dir nowhere: there is no such folder"));
}

#[test]
fn plan_lists_what_is_missing_and_run_ends_with_the_same_list() {
    let shell = Shell::new();
    let study = ["ablation_mtv", "--profile", "paper", "--offline", "--device", "cpu"];
    let (code, plan) = shell.run(&[&["plan"][..], &study[..]].concat());
    assert_eq!(code, 0, "{plan}");
    let list = &plan[plan.find("of the files needed are not here").expect("the list") - 2..];
    for want in [
        "stylegan1_ffhq_1024",
        "from     https://www.dropbox.com",
        "size     not known",
        "size     about 553.0 MB",
        "CC BY-NC 4.0 (not for commercial use)",
        "vgg16",
        "lpips_vgg16",
        "7.3 kB",
        "can be fetched by a program",
    ] {
        assert!(list.contains(want), "{want} is not in\n{list}");
    }
    let (code, run) = shell.run(&[&["run"][..], &study[..]].concat());
    assert_eq!(code, 4, "{run}");
    assert!(run.contains(list.trim()), "{run}\n---\n{list}");
    // The study of every GAN of the paper needs them all.
    let study = ["gan_reconstruction", "--profile", "paper", "--offline", "--device", "cpu"];
    let (code, plan) = shell.run(&[&["plan"][..], &study[..]].concat());
    assert_eq!(code, 0, "{plan}");
    let list = &plan[plan.find("of the files needed are not here").expect("the list") - 3..];
    for card in ["pggan_celebahq_1024", "stylegan1_ffhq_1024", "stylegan2_ffhq_1024", "biggan_deep_256"] {
        assert!(list.contains(&format!("\n  {card}\n    from     http")), "{card} is not in\n{list}");
    }
    let (code, run) = shell.run(&[&["run"][..], &study[..]].concat());
    assert!(code == 4 && run.contains(list.trim()), "{code} {run}\n---\n{list}");
}

#[test]
#[cfg(unix)]
fn a_full_disk_is_said_and_leaves_no_file() {
    let body: Vec<u8> = (0u32..250_000).flat_map(|i| (i | 0x8000_0000).to_be_bytes()).collect();
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("x"), &body).expect("a file");
    let hash = sha(&dir.path().join("x"));
    let server = FakeHub::start(Behaviour::of(&body, &hash));
    let shell = Shell { endpoint: server.url.clone(), ..Shell::new() };
    shell.card("test/gan", &hub_card("test/gan", Some(&hash), body.len(), false));
    let mut command = shell.command(&["weights", "fetch", "test/gan"]);
    // A limit on the size of files stands in for a full disk: the write fails half way.
    // SAFETY: signal and setrlimit are async-signal-safe.
    unsafe {
        use std::os::unix::process::CommandExt;
        command.pre_exec(|| {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            let limit = libc::rlimit { rlim_cur: 500_000, rlim_max: 500_000 };
            if libc::setrlimit(libc::RLIMIT_FSIZE, &limit) == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        });
    }
    let output = command.output().expect("mtv-bench runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(6), "{text}");
    assert!(text.contains("writing the download"), "{text}");
    assert!(shell.files().iter().all(|f| f.ends_with(".lock") || f.ends_with(".mtv-part")), "{:?}", shell.files());
    // With room again, it goes on where it stopped.
    assert_eq!(shell.run(&["weights", "fetch", "test/gan"]).0, 0);
    assert_eq!(server.gets().last().and_then(|r| r.header("range").map(str::to_string)).as_deref(), Some("bytes=500000-999999"));
}

/// `nvidia_like.pkl` has the opcodes of NVIDIA's files (tuple of three `dnnlib.tflib.network.Network` with source code as text and
/// numpy variables); its numbers are 1, 2, 3 ... and its "source code" would create the marker file if anybody ran it.
#[test]
fn an_nvidia_pickle_is_refused_by_default_and_converted_as_inert_records() {
    let shell = Shell::new();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/weights/nvidia_like.pkl");
    let (code, text) = shell.run(&["weights", "convert", file, "gs.safetensors", "--key", "Gs"]);
    assert!(code == 5 && text.contains("dnnlib.tflib.network.Network") && text.contains("nothing was run"), "{text}");
    let (code, text) = shell.run(&["weights", "convert", file, "gs.safetensors", "--key", "Gs", "--allow-inert"]);
    assert_eq!(code, 0, "{text}");
    let gs = mtv_bench::weights::open(&shell.dir.path().join("gs.safetensors")).expect("it opens");
    assert_eq!(gs.tensors.keys().map(String::as_str).collect::<Vec<_>>(), ["4x4/Conv/weight", "dlatent_avg", "lod"]);
    assert_eq!(gs.tensors["4x4/Conv/weight"].dims(), [1, 1, 2, 3]);
    assert_eq!(gs.tensors["dlatent_avg"].to_vec1::<f32>().expect("numbers"), [3.0, 1.5, 0.75]);
    assert!(!Path::new("/tmp/mtv_bench_pickle_was_executed").exists());
}
