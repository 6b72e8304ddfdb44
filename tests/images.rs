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
        // PNG is exact; two JPEG decoders may differ by their inverse transforms and chroma interpolation.
        let allowed = if name.ends_with(".png") { 0 } else { 4 };
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
