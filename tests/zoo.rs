//! The mini zoo: its picture sources, its measures, and the files that ship.

use std::collections::BTreeMap;

use candle_core::Device;
use mtv_bench::generators::Stage;
use mtv_bench::random::Stream;
use mtv_bench::record::store::sha256_hex;
use mtv_bench::spec::Card;
use mtv_bench::spec::card::Curve;
use mtv_bench::zoo::card_notes;
use mtv_bench::zoo::checkpoint;
use mtv_bench::zoo::classifier::{self, log_probabilities};
use mtv_bench::zoo::curve;
use mtv_bench::zoo::drawing::{SIZE, Split};
use mtv_bench::zoo::faces::{FACTORS, Factor, Picture, Source, TRAIN_IDENTITIES, UNSEEN_EVERY};
use mtv_bench::zoo::linear_algebra::{Symmetric, logistic};
use mtv_bench::zoo::measure::{Sampler, Seen, frechet};
use mtv_bench::zoo::model_card;
use mtv_bench::zoo::networks;
use mtv_bench::zoo::objects::{self, CLASSES};
use mtv_bench::zoo::pool::Pool;
use mtv_bench::zoo::recipes;
use mtv_bench::zoo::source;

const CPU: Device = Device::Cpu;

#[test]
fn a_picture_depends_on_seed_split_and_index_only() {
    let source = Source::new(3);
    let one = source.draw(Split::Train, 41);
    assert_eq!(one.rgb, source::Source::Faces(Source::new(3)).draw_all(Split::Train, &[7, 41])[1].rgb);
    assert_eq!((one.rgb.len(), one.mask.len()), (3 * SIZE * SIZE, SIZE * SIZE));
    assert_ne!(one.rgb, Source::new(4).draw(Split::Train, 41).rgb);
    assert_ne!(one.rgb, source.draw(Split::Train, 42).rgb);
    assert_ne!(one.rgb, source.draw(Split::HeldOut, 41).rgb);
}

#[test]
fn no_person_is_in_both_splits_and_each_has_several_pictures() {
    let source = Source::new(1);
    let people = |split, n: u64| -> BTreeMap<u32, Vec<Picture>> {
        let mut people: BTreeMap<u32, Vec<Picture>> = BTreeMap::new();
        (0..n).map(|i| source.draw(split, i)).for_each(|p| people.entry(p.identity).or_default().push(p));
        people
    };
    let (train, held_out) = (people(Split::Train, 1500), people(Split::HeldOut, 1500));
    assert!(train.keys().all(|&id| u64::from(id) < TRAIN_IDENTITIES) && held_out.keys().all(|&id| u64::from(id) >= TRAIN_IDENTITIES));
    assert!(train.len() > 500 && held_out.len() > 500, "{} and {} people", train.len(), held_out.len());
    let same = held_out.values().find(|pictures| pictures.len() > 2).expect("some person has three of 1500 pictures");
    assert_eq!(same[0].factors[..17], same[1].factors[..17]);
    assert_ne!(same[0].factors[17..], same[1].factors[17..]);
    for (index, wears) in (0..20).map(|i| (i, source.draw(Split::HeldOut, i).unseen.is_some())) {
        assert_eq!(wears, index % UNSEEN_EVERY == UNSEEN_EVERY - 1);
    }
    assert!(train.values().flatten().all(|p| p.unseen.is_none()));
}

#[test]
fn an_object_lies_under_its_mask_wherever_it_is() {
    let source = objects::Source::new(3);
    let (mut seen, mut area, mut off_centre) = (BTreeMap::new(), 0.0, 0.0f64);
    for index in 0..200 {
        let one = source.draw(Split::Train, index);
        assert_eq!(one, objects::Source::new(3).draw(Split::Train, index));
        assert_eq!((one.rgb.len(), one.mask.len()), (3 * SIZE * SIZE, SIZE * SIZE));
        *seen.entry(one.class).or_insert(0) += 1;
        // The same picture with another class differs where one of both objects is, and nowhere else.
        let other = source.draw_with(Split::Train, index, Some((one.class + 1) % CLASSES.len()), &[]);
        for at in 0..SIZE * SIZE {
            if one.mask[at] == 0 && other.mask[at] == 0 {
                // The mask is rounded: a trace of the object may be left.
                let same = (0..3).all(|c| one.rgb[3 * at + c].abs_diff(other.rgb[3 * at + c]) <= 1);
                assert!(same, "picture {index}, pixel {at}");
            }
        }
        assert_ne!(one.rgb, other.rgb);
        let weights: Vec<f64> = one.mask.iter().map(|&v| f64::from(v) / 255.0).collect();
        let sum: f64 = weights.iter().sum();
        assert!(sum > 60.0, "picture {index}: the object has {sum} pixels");
        area += sum / (SIZE * SIZE) as f64 / 200.0;
        let across = weights.iter().enumerate().map(|(at, w)| w * (at % SIZE) as f64).sum::<f64>() / sum;
        off_centre = off_centre.max((across - 31.5).abs());
    }
    assert_eq!(seen.len(), CLASSES.len(), "{seen:?}");
    assert!(area > 0.05 && area < 0.3, "the objects cover {area} of the frame");
    assert!(off_centre > 20.0, "no object is more than {off_centre} pixels from the middle");
    assert_ne!(source.draw(Split::HeldOut, 0).rgb, source.draw(Split::Train, 0).rgb);
}

/// All else of a picture stays as it was; a network's pictures are those of its last phase.
#[test]
fn a_source_may_draw_one_class_alone() -> mtv_bench::Result<()> {
    let all = source::Source::Objects(objects::Source::new(3));
    let cars = all.clone().of_class(Some(1));
    assert_eq!((CLASSES[1], all.class(), cars.class()), ("car", None, Some(1)));
    for index in 0..30 {
        let (one, car) = (all.draw(Split::Train, index), cars.draw(Split::Train, index));
        assert_eq!((car.label.class, &car.label.factors), (1, &one.label.factors));
        assert_eq!(car.rgb == one.rgb, one.label.class == 1);
    }
    let network = networks::Network::named("mini/stylegan2_cars")?;
    assert_eq!((network.source().class(), network.source().name()), (Some(1), "mini/cars"));
    // Its card is that of the pictures, so that a study compares the network's images with cars.
    let named = |name: &str| source::Source::named(name, 3).map(|s| (s.class(), s.name(), s.draw(Split::HeldOut, 5).rgb));
    assert_eq!(named("mini/cars"), Some((Some(1), "mini/cars", cars.draw(Split::HeldOut, 5).rgb)));
    assert_eq!(named("mini/objects"), Some((None, "mini/objects", all.draw(Split::HeldOut, 5).rgb)));
    assert_eq!((named("mini/trees").is_none(), all.of_class(Some(2)).name()), (true, "mini/objects"));
    assert_eq!(Card::load(network.name)?.data.as_deref(), Some("mini/cars"));
    assert_eq!(networks::Network::named("mini/biggan")?.source().class(), None);
    let faces = source::Source::Faces(Source::new(3));
    assert_eq!(faces.clone().of_class(Some(1)).draw(Split::Train, 0).rgb, faces.draw(Split::Train, 0).rgb);
    Ok(())
}

#[test]
fn a_pool_finds_another_picture_of_the_same_class() {
    let pool = Pool::draw(&source::Source::Objects(objects::Source::new(1)), Split::Train, 60);
    let stream = Stream::new(1, "mates");
    for item in 0..200 {
        let first = pool.pick(&stream, item);
        let mate = pool.mate(first, &stream, 1000 + item);
        assert_eq!(pool.label(first).class, pool.label(mate).class);
        let alone = (0..pool.len()).filter(|&i| pool.label(i).class == pool.label(first).class).count() == 1;
        assert_eq!(mate == first, alone);
    }
}

/// Mean absolute change of the pixels in a box (rows, columns), from one value of a factor to another.
fn change(factor: Factor, values: (f32, f32), rows: std::ops::Range<usize>, columns: std::ops::Range<usize>) -> f64 {
    let source = Source::new(5);
    let (mut sum, mut count) = (0.0, 0.0);
    for index in 0..20 {
        // Straight faces without other things in the way.
        let draw = |v| source.draw_with(Split::Train, index, &[(Factor::Yaw, 0.0), (Factor::Beard, -1.0), (factor, v)]);
        let (a, b) = (draw(values.0).rgb, draw(values.1).rgb);
        for row in rows.clone() {
            for at in (row * SIZE + columns.start) * 3..(row * SIZE + columns.end) * 3 {
                sum += (f64::from(a[at]) - f64::from(b[at])).abs();
                count += 1.0;
            }
        }
    }
    sum / count
}

#[test]
fn factors_change_the_pixels_that_they_should() {
    let (eyes, mouth, corner) = ((28..36, 18..46), (42..50, 22..42), (0..6, 0..6));
    let glasses = |b: &(std::ops::Range<usize>, std::ops::Range<usize>)| change(Factor::Glasses, (-1.0, 1.0), b.0.clone(), b.1.clone());
    assert!(glasses(&eyes) > 10.0, "{}", glasses(&eyes));
    assert!(glasses(&mouth) < 0.1 && glasses(&corner) == 0.0);
    let smile = |b: &(std::ops::Range<usize>, std::ops::Range<usize>)| change(Factor::Smile, (-1.0, 1.0), b.0.clone(), b.1.clone());
    assert!(smile(&mouth) > 10.0 && smile(&corner) == 0.0, "{}", smile(&mouth));
    assert!(change(Factor::BackgroundLightness, (-0.5, 0.5), 0..6, 0..6) > 20.0);
    // The factors that were too weak in the feasibility study move at least some pixels by a visible amount.
    assert!(change(Factor::EyeSpacing, (-1.0, 1.0), 28..34, 18..46) > 8.0);
    assert!(change(Factor::MouthWidth, (-1.0, 1.0), 42..48, 18..46) > 4.0);
    assert!(change(Factor::Jaw, (-1.0, 1.0), 40..54, 12..52) > 4.0);
}

#[test]
fn the_mask_is_the_head() {
    let picture = Source::new(1).draw(Split::Train, 0);
    let at = |row: usize, column: usize| picture.mask[row * SIZE + column];
    assert_eq!((at(34, 32), at(0, 0), at(63, 0)), (255, 0, 0));
    let share = picture.mask.iter().map(|&m| f64::from(m)).sum::<f64>() / (255.0 * picture.mask.len() as f64);
    assert!((0.15..0.7).contains(&share), "{share}");
}

#[test]
fn each_group_of_classes_has_its_own_softmax() -> candle_core::Result<()> {
    let logits = Stream::new(1, "logits").normal((2, classifier::CLASSES), &CPU)?;
    for row in log_probabilities(&logits)?.exp()?.to_vec2::<f32>()? {
        let (bins, glasses) = row.split_at(classifier::CLASSES - 2);
        assert!(bins.chunks_exact(3).chain([glasses]).all(|group| (group.iter().sum::<f32>() - 1.0).abs() < 1e-5));
    }
    let mut factors = [0.0; FACTORS.len()];
    factors[0] = -1.0;
    factors[FACTORS.len() - 1] = 1.0;
    let bins = classifier::bins(&factors);
    assert_eq!((bins.len(), bins[0], bins[1], bins[FACTORS.len() - 2], bins[FACTORS.len() - 1]), (FACTORS.len(), 0, 1, 2, 0));
    Ok(())
}

#[test]
fn the_frechet_distance_of_known_normals() {
    // Two clouds on the axes: means 1 apart, standard deviations 1 and 3 along x, equal along y.
    let cloud = |shift: f64, wide: f64| -> Vec<Vec<f64>> {
        let root = (1.5f64).sqrt();
        vec![vec![shift + wide * root, 0.0], vec![shift - wide * root, 0.0], vec![shift, root], vec![shift, -root]]
    };
    let (a, b) = (cloud(0.0, 1.0), cloud(1.0, 3.0));
    assert!((frechet(&a, &b) - (1.0 + 4.0)).abs() < 1e-9, "{}", frechet(&a, &b));
    assert!(frechet(&a, &a).abs() < 1e-9);
    let mut m = Symmetric::zeros(3);
    [[1.0, 2.0, 0.5], [0.0, 1.0, -1.0], [2.0, 0.0, 1.0]].iter().for_each(|v| m.add_outer(v, 0.7));
    let root = m.sqrt();
    let mut one = Symmetric::zeros(3);
    (0..3).for_each(|i| one.add_outer(&std::array::from_fn::<f64, 3, _>(|j| f64::from(i == j)), 1.0));
    assert!((root.sandwich(&one).trace() - m.trace()).abs() < 1e-9);
}

#[test]
fn logistic_regression_finds_a_linear_rule() {
    let normal = Stream::new(1, "rows").normal((200, 3), &CPU).and_then(|t| t.to_vec2::<f32>()).expect("rows");
    let rows: Vec<(Vec<f64>, f64)> = normal
        .iter()
        .map(|r| (r.iter().map(|&v| f64::from(v)).collect::<Vec<_>>(), if r[0] - 2.0 * r[1] > 0.0 { 1.0 } else { -1.0 }))
        .collect();
    let v = logistic(&rows, 1e-4);
    let right = rows.iter().filter(|(x, y)| x.iter().zip(&v).map(|(a, b)| a * b).sum::<f64>() * y > 0.0).count();
    assert!(right > 190, "{right} of 200, {v:?}");
}

#[test]
fn shipped_networks_are_the_files_of_their_cards_and_open() -> mtv_bench::Result<()> {
    let mut found = 0;
    for network in recipes::all() {
        let path = format!("baselines/{}.safetensors", network.name);
        let Some(bytes) = mtv_bench::spec::files::read(&path)? else { continue };
        found += 1;
        let card = Card::load(network.name)?;
        assert_eq!(card.sha256.as_deref(), Some(sha256_hex(&bytes).as_str()), "{path}");
        assert_eq!(card.bytes, Some(bytes.len() as u64), "{path}");
        match network.training {
            networks::Training::Generator { .. } => {
                let generator = mtv_bench::stages::open::generator(network.name, &CPU)?;
                assert_eq!(Some(generator.layout().resolution), card.resolution);
                assert!(generator.centre().is_some() || generator.layout().rows == 0, "{path} has no mean w");
                // The file of ALAE holds its encoder, too.
                if mtv_bench::zoo::encoders::shape(&card).is_some() {
                    drop(mtv_bench::zoo::encoders::open_shipped(&card, (network.name, generator.as_ref()), &CPU)?);
                }
            }
            networks::Training::Classifier(_) | networks::Training::ObjectClassifier(_) => {
                let vgg = networks::open_classifier(&bytes, &path, &CPU)?;
                assert_eq!(vgg.config().classifier.last().copied(), network.shape().classes, "{path}");
            }
            networks::Training::Judge(_) | networks::Training::ObjectJudge(_) => {
                drop(networks::open_judge(&network.source(), &bytes, &path, &CPU)?)
            }
            networks::Training::Encoder(_) => {
                let name = network.shape().generator.unwrap_or_default();
                let generator = mtv_bench::stages::open::generator(&name, &CPU)?;
                drop(mtv_bench::zoo::encoders::open_shipped(&card, (&name, generator.as_ref()), &CPU)?)
            }
            networks::Training::Identity(_) => drop(networks::open_identity(&bytes, &path, &CPU)?),
        }
        // Nor has a recipe or its description changed since.
        assert_eq!((card.title.as_str(), card.notes), (network.title, card_notes::of(&network)), "{path}");
        let training = card.training.expect("how it was trained");
        assert_eq!(training.seed, network.seed(), "{path}");
        // The last batch is whole.
        assert!((0..64).contains(&(training.images - network.images())), "{path}: {} images", training.images);
        for picture in training.pictures {
            assert!(mtv_bench::spec::files::read(&format!("baselines/{picture}"))?.is_some(), "{picture}");
        }
    }
    assert!(found >= 4, "{found} networks ship");
    Ok(())
}

#[test]
fn a_curve_has_means_between_its_points() {
    let mut meter = curve::Meter::default();
    let mut shown = 0;
    for (step, loss) in [3.0, 1.0, 2.0, 4.0, 6.0].into_iter().enumerate() {
        meter.count([("loss", loss)]);
        shown = 2 * (step as u64 + 1);
        if step == 1 {
            meter.point(shown, Some(("frechet_distance", 12.3456)));
        }
    }
    // A state in between holds what was counted.
    let json = serde_json::to_string(&meter).expect("JSON");
    let mut meter: curve::Meter = serde_json::from_str(&json).expect("a meter");
    meter.point(shown, Some(("frechet_distance", 6.0)));
    assert_eq!((meter.curve.images.as_slice(), meter.curve.values["loss"].as_slice()), (&[4, 10][..], &[2.0, 4.0][..]));
    assert_eq!(meter.curve.values["frechet_distance"], [12.35, 6.0]);
    let mut whole = meter.curve.clone();
    whole.extend(&meter.curve, 10);
    assert_eq!(whole.images, [4, 10, 14, 20]);
    assert_eq!(whole.values["loss"], [2.0, 4.0, 2.0, 4.0]);
    // A phase too short for distances: they would stand beside the wrong images.
    let mut phases = Curve::default();
    phases.push(10, [("loss".into(), 1.0)]);
    phases.extend(&meter.curve, 10);
    assert_eq!(phases.values.keys().collect::<Vec<_>>(), ["loss"]);
    assert_eq!((phases.images.as_slice(), phases.values["loss"].as_slice()), (&[10, 14, 20][..], &[1.0, 2.0, 4.0][..]));
    let points = (0..1000).filter(|step| curve::due(16 * step, 16 * (step + 1), 16_000)).count();
    assert_eq!((points, curve::due(15_984, 16_000, 16_000)), (20, true));
    // A distance is measured at each point, so that those of a short phase are no closer than 500 images.
    let places = |total: u64| (0..total / 16).filter(|step| curve::due(16 * step, 16 * (step + 1), total)).collect::<Vec<_>>();
    assert_eq!((places(800), places(1600), places(160)), (vec![49], vec![33, 66, 99], vec![9]));
}

/// At the end of a training the curve stands where the card does.
#[test]
fn a_gauge_measures_what_the_card_says() -> mtv_bench::Result<()> {
    let network = networks::Network::named("mini/indomain_generator")?;
    let bytes = model_card::shipped(network.name)?;
    let generator = networks::open_generator(&bytes, network.name, &CPU)?;
    let judge = networks::open_judge(&network.source(), &model_card::shipped(network.judge())?, network.judge(), &CPU)?;
    let gauge = curve::Gauge::new(network.source(), judge, &CPU);
    let found = gauge.distance(generator.as_ref(), Stage { last: 4, blend: 1.0 })?;
    let said = Card::load(network.name)?.training.expect("a training").measured["frechet_distance"];
    assert!((found - said).abs() < 0.01, "{found}, card {said}");
    // Smaller images, enlarged, are far from pictures.
    let early = gauge.distance(generator.as_ref(), Stage { last: 2, blend: 1.0 })?;
    assert!(early > 3.0 * found, "{early} at 16 px");
    Ok(())
}

#[test]
fn a_card_says_whose_curve_it_shows() -> mtv_bench::Result<()> {
    let network = networks::Network::named("mini/stylegan1_tiny")?;
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir(path("out")).expect("a folder");
    let shipped = model_card::shipped(network.name)?;
    std::fs::write(path("shipped.safetensors"), &shipped).expect("written");
    let card = |repetition: Option<&std::path::Path>| -> mtv_bench::Result<Option<Curve>> {
        let judge = || networks::open_judge(&network.source(), &model_card::shipped(network.judge())?, network.judge(), &CPU);
        model_card::write(&network, &path("shipped.safetensors"), repetition, judge, &path("out"), &CPU)?;
        let text = std::fs::read_to_string(path("out/mini/stylegan1_tiny.toml")).expect("a card");
        let card: Card = toml::from_str(&text).expect("TOML");
        let training = card.training.expect("a training");
        let drawn = training.pictures.iter().any(|p| p.ends_with("curve.png"));
        assert_eq!((drawn, path("out/mini/stylegan1_tiny/curve.png").is_file()), (training.curve.is_some(), training.curve.is_some()));
        Ok(training.curve)
    };
    let again = path("again");
    std::fs::create_dir(&again).expect("a folder");
    std::fs::write(again.join("weights.safetensors"), &shipped).expect("written");
    let error = card(Some(&again)).expect_err("no curve there").message;
    assert!(error.contains("curve.json"), "{error}");
    let mut curve = Curve::default();
    (1..4u32).for_each(|i| curve.push(u64::from(i) * 1000, [("critic_real".into(), f64::from(i)), ("critic_fake".into(), -1.0)]));
    curve::write(&curve, &again)?;
    assert_eq!(card(Some(&again))?, Some(curve.clone()));
    let (mut tensors, mut about) = checkpoint::read(&shipped, "shipped", &CPU)?;
    let moved = tensors.iter().next().map(|(name, t)| (name.clone(), (t + 1.0).expect("a sum"))).expect("a tensor");
    tensors.extend([moved]);
    checkpoint::save(&again.join("weights.safetensors"), &tensors, &about)?;
    let other = card(Some(&again))?.expect("a curve");
    assert!(other.of.contains("other weights than these") && other.images == curve.images, "{}", other.of);
    about["recipe"]["lr"] = 1.0.into();
    checkpoint::save(&again.join("weights.safetensors"), &tensors, &about)?;
    let error = card(Some(&again)).expect_err("another recipe").message;
    assert!(error.contains("another recipe"), "{error}");
    std::fs::write(path("shipped.safetensors"), model_card::shipped("mini/stylegan1")?).expect("written");
    let error = card(None).expect_err("another network").message;
    assert!(error.contains("shipped.safetensors: weights of mini/stylegan1, not of mini/stylegan1_tiny"), "{error}");
    Ok(())
}

fn faces() -> source::Source {
    source::Source::Faces(Source::new(source::SEED))
}

/// The judge, which never saw a held-out person, reads glasses, smile and yaw off shipped samples as varied as the source's.
#[test]
fn the_shipped_generator_makes_varied_faces() -> mtv_bench::Result<()> {
    let read = |name: &str| mtv_bench::zoo::model_card::shipped(name);
    let generator = networks::open_generator(&read("mini/stylegan1")?, "mini/stylegan1", &CPU)?;
    let judge = networks::open_judge(&faces(), &read("mini/judge")?, "mini/judge", &CPU)?;
    let sampler = Sampler { generator: generator.as_ref(), seed: 77, device: &CPU };
    let seen = Seen::through(&judge, 100, |first, count| sampler.images(first, count))?;
    let real = Seen::held_out(&judge, &faces(), 0, 100, &CPU)?;
    for factor in [Factor::Smile, Factor::Yaw, Factor::Glasses, Factor::SkinTone] {
        let (a, b) = (seen.spread()[factor as usize], real.spread()[factor as usize]);
        assert!(a > 0.5 * b, "{factor:?}: {a} beside {b}");
    }
    assert!(seen.diversity() > 0.75 * real.diversity());
    Ok(())
}

/// Seen at 128 px, the map of the shipped classifier lies on the object far more than the object's area and a map of the middle would.
#[test]
fn the_shipped_classifier_finds_objects() -> mtv_bench::Result<()> {
    let bytes = mtv_bench::zoo::model_card::shipped("mini/vgg16_objects")?;
    let vgg = networks::open_classifier(&bytes, "mini/vgg16_objects", &CPU)?;
    let source = source::Source::Objects(objects::Source::new(source::SEED));
    let m = mtv_bench::zoo::heat_maps::measure(&vgg, &source, 60, &CPU)?.numbers;
    assert!(m["accuracy"] > 0.7, "{m:?}");
    assert!(m["cam_energy_in_mask_128px"] > 1.6 * m["mask_area"], "{m:?}");
    assert!(m["cam_energy_in_mask_128px"] > m["centre_prior_in_mask"], "{m:?}");
    assert!(m["cam_energy_in_mask_128px"] > m["cam_energy_in_mask_random_128px"] + 0.05, "{m:?}");
    Ok(())
}

/// The judge is sure of most renders, and of few pictures from which little can be told.
#[test]
fn the_shipped_judge_of_objects_is_sure_of_what_is_plain() -> mtv_bench::Result<()> {
    let source = source::Source::Objects(objects::Source::new(source::SEED));
    let judge = networks::open_judge(&source, &mtv_bench::zoo::model_card::shipped("mini/judge_objects")?, "mini/judge_objects", &CPU)?;
    let batch =
        |first: usize, count: usize| source.batch(Split::HeldOut, &(first as u64..(first + count) as u64).collect::<Vec<_>>(), SIZE, &CPU);
    let plain = Seen::through(&judge, 200, batch)?;
    let blurred = Seen::through(&judge, 200, |first, count| batch(first, count)?.avg_pool2d(16)?.upsample_nearest2d(SIZE, SIZE))?;
    assert!(plain.certainties.iter().chain(&blurred.certainties).all(|c| (0.1..=1.0001).contains(c)));
    assert!(plain.recognized() > 0.8 && blurred.recognized() < 0.5 * plain.recognized(), "{} {}", plain.recognized(), blurred.recognized());
    Ok(())
}

/// Sure and right, of the pictures of each class: a mistake counts against the class that was asked for.
#[test]
fn a_class_is_recognized_where_the_judge_is_sure_and_right() {
    let seen =
        Seen { features: Vec::new(), factors: Vec::new(), classes: vec![0, 0, 1, 0, 1], certainties: vec![0.95, 0.5, 0.99, 0.99, 0.9] };
    assert_eq!(seen.recognized_as(&[0, 0, 1, 1, 1], 2), [0.5, 2.0 / 3.0]);
    assert!(seen.recognized_as(&[0; 5], 2)[1].is_nan());
}

/// Persons whom the identity network never saw, with another smile, yaw and light.
#[test]
fn the_shipped_identity_network_tells_persons_apart() -> mtv_bench::Result<()> {
    let bytes = mtv_bench::zoo::model_card::shipped("mini/identity")?;
    let network = networks::open_identity(&bytes, "mini/identity", &CPU)?;
    let ranking = mtv_bench::zoo::identity::rank(&network, &faces(), 500, 100, &CPU)?;
    assert!(ranking.pairs >= 50, "{} pairs", ranking.pairs);
    assert!(ranking.first_of_100 > 0.85, "{}", ranking.first_of_100);
    assert!(ranking.same > ranking.other + 0.3, "{} and {}", ranking.same, ranking.other);
    assert!(mtv_bench::zoo::identity::rank(&network, &faces(), 50, 100, &CPU).is_err());
    Ok(())
}
