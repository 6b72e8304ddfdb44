//! Pictures: the typed image and its quantiser, decoding rules, sets from folders and archives, pairing, alignment.

use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use mtv_bench::error::Kind;
use mtv_bench::images::{Filter, Pairs, Pictures, Rgb8, align, decode, resize};

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pictures").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn picture(w: usize, h: usize, seed: usize) -> Rgb8 {
    Rgb8::new(w, h, (0..3 * w * h).map(|i| (i * 31 + seed * 7 + i / 5) as u8).collect()).unwrap()
}

fn write(folder: &Path, name: &str, image: &Rgb8) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    image.write_png(&path).unwrap();
    path
}

#[test]
fn every_level_survives_the_way_to_a_tensor_and_back() {
    let image = Rgb8::new(16, 16, (0..768).map(|i| (i / 3) as u8).collect()).unwrap();
    let x = image.to_tensor(&Device::Cpu).unwrap();
    assert_eq!(Rgb8::from_tensor(&x).unwrap(), image);
    assert_eq!(x.flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap(), 1.0);
    assert_eq!(Rgb8::from_batch(&Rgb8::to_batch(&[image.clone(), image.clone()], &Device::Cpu).unwrap()).unwrap(), [image.clone(), image]);
}

#[test]
fn the_quantiser_clamps_rounds_and_refuses_nan() {
    let x = Tensor::new(&[-7f32, -1.0, -0.999, 0.001, 1.0, 9.0, 0.0, 0.5, f32::INFINITY, -0.5, 0.25, 0.75], &Device::Cpu).unwrap();
    let image = Rgb8::from_tensor(&x.reshape((3, 2, 2)).unwrap()).unwrap();
    assert_eq!(image.data(), [0, 255, 255, 0, 255, 64, 0, 128, 159, 128, 191, 223]);
    let nan = Tensor::new(&[f32::NAN, 0.0, 0.0], &Device::Cpu).unwrap().reshape((3, 1, 1)).unwrap();
    assert_eq!(Rgb8::from_tensor(&nan).unwrap_err().kind, Kind::Diverged);
    assert!(Rgb8::new(2, 2, vec![0; 11]).is_err() && Rgb8::new(0, 2, vec![]).is_err());
}

#[test]
fn files_of_every_kind_become_rgb_by_rule_as_pillow_reads_them() {
    let expected: serde_json::Value = serde_json::from_slice(&fixture("expected.json")).unwrap();
    for (name, pixels) in expected.as_object().unwrap() {
        let want: Vec<u8> = pixels.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u8).collect();
        let got = decode(&fixture(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(got.data().len(), want.len(), "{name}");
        let worst = got.data().iter().zip(&want).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        // PNG and lossless WebP are exact; two JPEG decoders may differ by their inverse transforms and chroma interpolation.
        let allowed = if name.ends_with(".png") || name == "lossless.webp" { 0 } else { 4 };
        assert!(worst <= allowed, "{name}: {worst} levels");
    }
    assert_eq!(decode(&fixture("turned.jpg")).unwrap().height(), 26, "EXIF turns 26x18 upright");
}

#[test]
fn what_has_no_rule_is_refused_by_name() {
    for (name, word) in [
        ("rgba_transparent.png", "1 of 117 pixels are transparent"),
        ("cmyk.jpg", "CMYK"),
        ("cut.jpg", "cut"),
        ("cut.png", "PNG"),
        ("flipped.png", "PNG"),
        ("page.png", "HTML page"),
        ("pointer.png", "git-lfs"),
        ("gif_named.png", "GIF"),
        ("animated.webp", "a moving WebP"),
        ("transparent.webp", "1 of 117 pixels are transparent"),
    ] {
        let error = decode(&fixture(name)).expect_err(name);
        assert_eq!(error.kind, Kind::Corrupt, "{name}");
        assert!(error.message.contains(word), "{name}: {error}");
    }
    assert!(decode(b"").unwrap_err().message.contains("empty"));
}

#[test]
fn no_mutation_of_a_picture_panics_or_hangs() {
    let files = ["rgb.png", "palette.png", "grey16.png", "rgb.jpg", "progressive.jpg", "turned.jpg"].map(fixture);
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize
    };
    let start = std::time::Instant::now();
    let mut read = 0;
    for _ in 0..1500 {
        let mut bytes = files[next() % files.len()].clone();
        for _ in 0..1 + next() % 6 {
            let at = next() % bytes.len();
            bytes[at] = next() as u8;
        }
        bytes.truncate(bytes.len() - (next() % 8) * (next() % 2) * 10);
        read += decode(&bytes).is_ok() as usize;
    }
    assert!(start.elapsed().as_secs() < 60, "{read} of 1500 read in {:?}", start.elapsed());
}

#[test]
fn a_resize_to_the_same_size_is_the_image_and_one_pixel_fills_all() {
    let image = picture(7, 5, 1);
    assert_eq!(resize(&image, 7, 5, Filter::Lanczos), image);
    let one = Rgb8::new(1, 1, vec![3, 200, 77]).unwrap();
    for filter in [Filter::Nearest, Filter::Box, Filter::Bilinear, Filter::Hamming, Filter::Bicubic, Filter::Lanczos] {
        assert!(resize(&one, 4, 3, filter).data().chunks(3).all(|p| p == [3, 200, 77]), "{filter:?}");
    }
}

#[test]
fn folder_zip_and_tar_give_the_same_set_in_the_same_order() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("set");
    for (i, name) in ["b/2.png", "a.png", "b/10.png", "c.PNG"].into_iter().enumerate() {
        write(&folder, name, &picture(5, 4, i));
    }
    std::fs::write(folder.join("readme.txt"), "x").unwrap();
    let zip_path = dir.path().join("set.zip");
    let mut zip = zip::ZipWriter::new(std::fs::File::create(&zip_path).unwrap());
    let tar_path = dir.path().join("set.tar");
    let mut tar = tar::Builder::new(std::fs::File::create(&tar_path).unwrap());
    for name in ["c.PNG", "readme.txt", "b/10.png", "a.png", "b/2.png"] {
        let bytes = std::fs::read(folder.join(name)).unwrap();
        zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(&bytes).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, format!("./{name}"), bytes.as_slice()).unwrap();
    }
    zip.finish().unwrap();
    tar.into_inner().unwrap();
    let lists = [folder, zip_path, tar_path].map(|path| {
        let set = Pictures::open(&path).unwrap();
        assert_eq!(set.others, ["readme.txt"]);
        set.hashed().into_iter().map(|l| l.unwrap()).map(|l| (l.id, l.sha256, l.pixels_sha256)).collect::<Vec<_>>()
    });
    assert_eq!(lists[0].iter().map(|l| l.0.as_str()).collect::<Vec<_>>(), ["a", "b/10", "b/2", "c"]);
    assert_eq!(lists[0], lists[1]);
    assert_eq!(lists[0], lists[2]);
}

#[test]
fn sets_pair_by_name_and_one_bad_file_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    for i in 0..3 {
        write(&a, &format!("{i}.png"), &picture(8, 8, i));
        write(&b, &format!("{i}.png"), &picture(8, 8, i + 1));
    }
    write(&a, "lonely.png", &picture(8, 8, 9));
    write(&b, "other.png", &picture(8, 8, 9));
    std::fs::write(b.join("1.png"), "<html>").unwrap();
    let pairs = Pairs::of_sets(&a, &b).unwrap();
    assert_eq!(
        (pairs.len(), pairs.only_a.as_slice(), pairs.only_b.as_slice()),
        (3, &["lonely".to_string()][..], &["other".to_string()][..])
    );
    let read: Vec<bool> = (0..3).map(|i| pairs.read(i).and_then(|f| pairs.decode(i, &f)).is_ok()).collect();
    assert_eq!(read, [true, false, true]);
    let hashed = Pictures::open(&b).unwrap().hashed();
    assert_eq!(hashed.iter().filter(|h| h.is_err()).count(), 1);
    assert!(hashed[1].as_ref().unwrap_err().message.contains("1.png"));
    // The same stem twice would make pairing a matter of chance.
    write(&a, "0.jpg", &picture(8, 8, 0));
    assert!(Pairs::of_sets(&a, &b).err().unwrap().message.contains("same id"));
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    assert_eq!(Pairs::of_sets(&empty, &b).err().unwrap().kind, Kind::Missing);
}

#[test]
fn alignment_puts_the_landmarks_where_ffhq_has_them() {
    // A face drawn upright in a large picture: dots on eyes and mouth corners, then the crop must hold them in place.
    let mut points = [[0f64; 2]; 68];
    let (eyes, mouth) = ([[180.0, 200.0], [260.0, 200.0]], [[195.0, 290.0], [245.0, 290.0]]);
    for i in 36..42 {
        points[i] = eyes[0];
    }
    for i in 42..48 {
        points[i] = eyes[1];
    }
    points[48] = mouth[0];
    points[54] = mouth[1];
    let mut data = vec![40u8; 3 * 440 * 480];
    for (x, y) in [(180, 200), (260, 200), (195, 290), (245, 290)] {
        for dy in 0..5 {
            for dx in 0..5 {
                let at = 3 * ((y - 2 + dy) * 440 + x - 2 + dx);
                data[at..at + 3].fill(250);
            }
        }
    }
    let image = Rgb8::new(440, 480, data).unwrap();
    let face = align::ffhq(&image, &points, 256).unwrap();
    assert_eq!((face.width(), face.height()), (256, 256));
    let quad = align::quad(&points).unwrap();
    // The centre of the crop is the mean of the eyes moved a tenth of the way to the mouth's mean.
    let centre = [220.0, 200.0 + 0.1 * 90.0];
    for k in 0..2 {
        assert!((quad.iter().map(|p| p[k]).sum::<f64>() / 4.0 - centre[k]).abs() < 1e-9);
    }
    // Each dot is bright where the crop's own map puts it.
    let side = quad[3][0] - quad[0][0];
    for [x, y] in eyes.into_iter().chain(mouth) {
        let at = |v: f64, from: f64| ((v - from) / side * 256.0) as usize;
        let (px, py) = (at(x, quad[0][0]), at(y, quad[0][1]));
        assert!(face.data()[3 * (py * 256 + px)] > 180, "{x},{y} -> {px},{py}: {}", face.data()[3 * (py * 256 + px)]);
    }
    assert!(align::ffhq(&image, &[[10.0, 10.0]; 68], 256).is_err(), "all landmarks in one point");
}

/// The database of the fixture, written by py-lmdb (LMDB 0.9.36) in four transactions: 120 names of 40 digits less the first,
/// 2x2 pictures in the colour of their number; one value that takes two pages; one key that is no text.
fn database(dir: &Path) -> PathBuf {
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(fixture("lmdb.zip"))).unwrap();
    let path = dir.join("lsun");
    std::fs::create_dir(&path).unwrap();
    let mut file = std::fs::File::create(path.join("data.mdb")).unwrap();
    std::io::copy(&mut archive.by_name("data.mdb").unwrap(), &mut file).unwrap();
    path
}

#[test]
fn an_archives_own_words_cannot_write_on_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(4);
    tar.append_data(&mut header, "a\u{1b}[2J.png", &b"none"[..]).unwrap();
    let mut bytes = tar.into_inner().unwrap();
    std::fs::write(dir.path().join("set.tar"), &bytes).unwrap();
    let (code, text) = images(dir.path(), &["list", "set.tar"]);
    assert!(code == 5 && text.contains("a\\u{1b}[2J.png") && !text.contains('\u{1b}'), "{text:?}");
    bytes[148..156].copy_from_slice(b"1\n\x1b[2J\n\0");
    std::fs::write(dir.path().join("set.tar"), &bytes).unwrap();
    let (code, text) = images(dir.path(), &["list", "set.tar"]);
    assert!(code == 5 && text.lines().count() == 1 && !text.contains('\u{1b}'), "{text:?}");
}

#[test]
fn an_lmdb_database_is_a_set_of_pictures_by_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(dir.path());
    let set = Pictures::open(&path).unwrap();
    assert_eq!(set.list().len(), 121);
    let key = |i: u128| format!("{:040x}", i * 0x9E37_79B9_7F4A_7C15);
    for i in 1..120u128 {
        let image = set.read(set.find(&key(i)).unwrap()).unwrap();
        assert_eq!((image.width(), image.height()), (2, 2));
        assert!(image.data().iter().all(|v| *v == i as u8), "{i}");
    }
    assert!(set.find(&key(0)).is_none(), "deleted");
    let big = set.read(set.find(&"f".repeat(40)).unwrap()).unwrap();
    assert_eq!((big.width(), big.height()), (32, 32));
    assert!(set.read(set.find("ff0001").unwrap()).unwrap().data().iter().all(|v| *v == 200));
    let ids: Vec<&str> = set.list().iter().map(|p| p.id.as_str()).collect();
    assert!(ids.is_sorted());
    // The file itself is the same set; one that was not copied whole is refused.
    assert_eq!(Pictures::open(&path.join("data.mdb")).unwrap().list().len(), 121);
    let bytes = std::fs::read(path.join("data.mdb")).unwrap();
    for keep in [20_000, 8200, 200] {
        std::fs::write(dir.path().join("cut"), &bytes[..keep]).unwrap();
        let error = Pictures::open(&dir.path().join("cut")).err().unwrap();
        assert!(error.kind == Kind::Corrupt && error.message.contains("LMDB"), "{keep}: {error}");
    }
}

#[test]
#[cfg(feature = "parquet")]
fn parquet_files_of_the_hub_are_a_set_of_pictures_by_row() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["hub-0.parquet", "hub-1.parquet"] {
        std::fs::write(dir.path().join(name), fixture(name)).unwrap();
    }
    let colour = |set: &Pictures, id: &str| set.read(set.find(id).unwrap()).map(|i| (i.width(), i.height(), i.data()[0]));
    // Written by pyarrow: Snappy in row groups of three, a row without a picture; zstd.
    let one = Pictures::open(&dir.path().join("hub-0.parquet")).unwrap();
    assert_eq!(one.list().len(), 7);
    for i in [6, 0, 5, 1, 3, 2] {
        assert_eq!(colour(&one, &format!("{i:08}")).unwrap(), (3, 2, 10 + i));
    }
    assert!(colour(&one, "00000004").unwrap_err().message.contains("no picture"));
    let both = Pictures::open(dir.path()).unwrap();
    assert_eq!(both.list().len(), 9);
    assert_eq!(colour(&both, "hub-1/00000001").unwrap().2, 51);
    let mut bytes = fixture("hub-0.parquet");
    for at in 4..bytes.len() - 8 {
        bytes[at] ^= 0x55;
        let path = dir.path().join("damaged");
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(set) = Pictures::open(&path) {
            set.list().iter().take(10).for_each(|p| drop(set.bytes(p)));
        }
        bytes[at] ^= 0x55;
    }
}

#[test]
#[cfg(not(feature = "parquet"))]
fn a_parquet_file_is_named_with_the_way_to_read_it() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pictures/hub-0.parquet");
    let error = Pictures::open(&path).err().unwrap();
    assert!(error.kind == Kind::Usage && error.message.contains("--features parquet"), "{error}");
}

/// mtv-bench images ..., in a folder; its exit code and all that it says.
fn images(dir: &Path, args: &[&str]) -> (i32, String) {
    let command = std::process::Command::new(env!("CARGO_BIN_EXE_mtv-bench")).arg("images").args(args).current_dir(dir).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&command.stdout), String::from_utf8_lossy(&command.stderr));
    (command.status.code().unwrap_or(-1), text)
}

#[test]
fn the_list_of_a_set_has_hashes_and_names_what_is_bad() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..20 {
        write(dir.path(), &format!("set/{i:02}.png"), &picture(6, 6, i));
    }
    let (code, text) = images(dir.path(), &["list", "set", "--out", "list.json"]);
    assert!(code == 0 && text.contains("20 pictures, 0 other files"), "{text}");
    let list: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.path().join("list.json")).unwrap()).unwrap();
    assert_eq!(list["pictures"][7]["pixels_sha256"], picture(6, 6, 7).sha256());
    write(dir.path(), "set/wide.png", &picture(12, 6, 1));
    std::fs::write(dir.path().join("set/page.png"), "<html>").unwrap();
    let (code, text) = images(dir.path(), &["list", "set", "--faces", "--out", "list.json"]);
    assert_eq!(code, 5, "{text}");
    assert!(text.contains("21 pictures") && text.contains("FAIL  set/page.png: an HTML page"), "{text}");
    assert!(text.contains("warning: wide: is 12x6, an aligned face is square") && text.matches("warning").count() == 1, "{text}");
    let list: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.path().join("list.json")).unwrap()).unwrap();
    assert_eq!((list["pictures"].as_array().unwrap().len(), list["failed"][0]["id"].as_str()), (21, Some("page")));
    assert_eq!(images(dir.path(), &["list", "nowhere"]).0, 4);
}

#[test]
fn faces_are_aligned_from_ffhqs_landmark_file_and_then_no_longer_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "wild/00042.png", &picture(300, 300, 3));
    write(dir.path(), "wild/00043.png", &picture(300, 300, 4));
    let mut points = vec![[0f64; 2]; 68];
    points[36..42].fill([130.0, 120.0]);
    points[42..48].fill([170.0, 120.0]);
    (points[48], points[54]) = ([138.0, 165.0], [162.0, 165.0]);
    let json = serde_json::json!({"42": {"in_the_wild": {"face_landmarks": points}}});
    std::fs::write(dir.path().join("marks.json"), json.to_string()).unwrap();
    let (code, text) = images(dir.path(), &["list", "wild", "--faces", "--landmarks", "marks.json"]);
    assert!(code == 0 && text.contains("warning: 00042: its landmarks are"), "{text}");
    let (code, text) = images(dir.path(), &["align", "wild", "marks.json", "out", "--side", "64"]);
    assert!(code == 5 && text.contains("00043.png: no landmarks in marks.json") && text.contains("out: 1 pictures"), "{text}");
    let face = decode(&std::fs::read(dir.path().join("out/00042.png")).unwrap()).unwrap();
    let mut marks = [[0f64; 2]; 68];
    marks.copy_from_slice(&points);
    assert_eq!(face, align::ffhq(&picture(300, 300, 3), &marks, 64).unwrap());
    // In the crop the landmarks are where an aligned face has them.
    let corners = align::quad(&marks).unwrap();
    let scale = 64.0 / (corners[3][0] - corners[0][0]);
    let moved = marks.map(|p| [(p[0] - corners[0][0]) * scale, (p[1] - corners[0][1]) * scale]);
    assert_eq!(align::looks_unaligned(64, 64, Some(&moved)), None);
    assert!(align::looks_unaligned(300, 300, Some(&marks)).is_some());
    let (code, text) = images(dir.path(), &["align", "wild", "no.json", "out"]);
    assert!(code == 4 && text.starts_with("error: no.json"), "{text}");
}

#[test]
fn a_set_is_exported_at_one_size_and_no_name_leaves_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    database(dir.path());
    let (code, text) = images(dir.path(), &["export", "lsun", "png", "--side", "16", "--enlarge", "--limit", "5"]);
    assert!(code == 0 && text.contains("png: 5 pictures"), "{text}");
    let (code, text) = images(dir.path(), &["export", "lsun", "small", "--side", "16"]);
    assert!(code == 5 && text.contains("smaller than 16x16") && text.contains("small: 1 pictures"), "{text}");
    let image = picture(24, 16, 1);
    write(dir.path(), "wide/a.png", &image);
    let (code, text) = images(dir.path(), &["export", "wide", "square", "--side", "8"]);
    assert!(code == 5 && text.contains("is 24x16, not square"), "{text}");
    assert_eq!(images(dir.path(), &["export", "wide", "square", "--side", "8", "--crop", "--filter", "bilinear"]).0, 0);
    let middle = Rgb8::new(16, 16, (0..16).flat_map(|y| image.data()[3 * (y * 24 + 4)..][..48].to_vec()).collect()).unwrap();
    let got = decode(&std::fs::read(dir.path().join("square/a.png")).unwrap()).unwrap();
    assert_eq!(got, resize(&middle, 8, 8, Filter::Bilinear));
    // An archive that wants to write elsewhere.
    let mut zip = zip::ZipWriter::new(std::fs::File::create(dir.path().join("evil.zip")).unwrap());
    for name in ["../../evil.png", "good.png"] {
        zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(&image.to_png().unwrap()).unwrap();
    }
    zip.finish().unwrap();
    let (code, text) = images(dir.path(), &["export", "evil.zip", "deep/er/out", "--side", "8", "--crop"]);
    assert!(code == 5 && text.contains("is no path inside a folder") && text.contains("1 pictures"), "{text}");
    assert!(!dir.path().join("deep/evil.png").exists() && !dir.path().join("evil.png").exists());
}
