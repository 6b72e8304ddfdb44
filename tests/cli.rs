//! Every mistake that a user can make: one clear message on stderr, nothing on stdout, the documented exit code.

use crate::sandbox::{Output, STUDY, Sandbox, finish};

/// The program fails with this code and exactly this message.
#[track_caller]
fn refused(output: &Output, code: i32, message: &str) {
    assert_eq!(output.stderr, format!("error: {message}\n"));
    assert_eq!((output.code, output.stdout.as_str()), (Some(code), ""));
}

/// The program fails with this code, and its message has these parts.
#[track_caller]
fn refused_with(output: &Output, code: i32, parts: &[&str]) {
    for part in parts {
        assert!(output.stderr.contains(part), "\"{part}\" is not in: {}", output.stderr);
    }
    assert_eq!(output.code, Some(code), "{}", output.stderr);
    assert_eq!(output.stderr.matches("error:").count(), 1, "{}", output.stderr);
}

/// Plans `STUDY` with `old` replaced by `new`.
#[track_caller]
fn plan_edited(old: &str, new: &str) -> Output {
    assert!(STUDY.contains(old), "the study has no {old:?}");
    let sandbox = Sandbox::new();
    sandbox.write("small.toml", STUDY.replacen(old, new, 1));
    sandbox.run(&["plan", "small.toml", "--profile", "tiny"])
}

#[test]
fn the_unbroken_study_is_accepted() {
    let output = plan_edited("small", "small");
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""));
    assert!(output.stdout.contains("train w + z_n, seed 1"), "{}", output.stdout);
    assert!(output.stdout.contains("7 of 7 stages run"), "{}", output.stdout);
}

#[test]
fn unknown_study() {
    let output = Sandbox::new().run(&["run", "ablatoin_mtv"]);
    refused(&output, 2, "there is no study \"ablatoin_mtv\"; did you mean \"ablation_mtv\"? (`mtv-bench list` shows them)");
}

#[test]
fn unknown_study_like_nothing() {
    let output = Sandbox::new().run(&["run", "qqq"]);
    refused_with(&output, 2, &["there is no study \"qqq\"; there are: ablation_", ", recipes"]);
}

#[test]
fn unknown_profile() {
    let output = Sandbox::new().run(&["run", "ablation_mtv", "--profile", "minni"]);
    refused(&output, 2, "there is no profile \"minni\"; did you mean \"mini\"?");
}

#[test]
fn misspelt_key() {
    let output = plan_edited("latents = \"w\"", "latentz = \"w\"");
    refused(&output, 2, "small.toml:19:1: unknown key \"latentz\"; did you mean \"latents\"?\n   |\n19 | latentz = \"w\"\n   | ^^^^^^^");
}

#[test]
fn networks_of_an_arm_without_a_generator_of_its_own() {
    let output = plan_edited("latents = \"w\"", "latents = \"w\"\nfeatures = \"mini/vgg16\"");
    refused_with(&output, 2, &["small.toml:20:12: only an arm with a generator of its own", "20 | features = \"mini/vgg16\""]);
}

#[test]
fn arms_of_one_generator_with_different_networks() {
    let sandbox = Sandbox::new();
    let own = |latents: &str, more: &str| format!("latents = \"{latents}\"\ngenerator = \"tiny/stylegan2\"{more}");
    let both = STUDY.replace("latents = \"w\"", &own("w", "\nfeatures = \"mini/vgg16\""));
    sandbox.write("small.toml", both.replace("latents = \"w+zn\"", &own("w+zn", "")));
    let output = sandbox.run(&["plan", "small.toml", "--profile", "tiny"]);
    refused_with(&output, 2, &["small.toml:27:13: the arms of the generator tiny/stylegan2 share their images and scores"]);
}

#[test]
fn misspelt_key_of_a_recipe_table() {
    let output = plan_edited("views = \"none\"", "veiws = \"none\"");
    refused(
        &output,
        2,
        "small.toml:14:15: unknown key \"veiws\"; did you mean \"views\"?\n   |\n14 | attention = { veiws = \"none\" }\n   |               ^^^^^",
    );
}

#[test]
fn misspelt_value() {
    let output = plan_edited("latents = \"w+zn\"", "latents = \"w+nz\"");
    refused(
        &output,
        2,
        "small.toml:24:11: unknown value \"w+nz\"; did you mean \"w+zn\"?\n   |\n24 | latents = \"w+nz\"\n   |           ^^^^^^",
    );
}

#[test]
fn missing_key() {
    let output = plan_edited("latents = \"w+zn\"\n", "");
    refused(&output, 2, "small.toml:21:1: the key \"latents\" is missing here\n   |\n21 | [[arms]]\n   | ^^^^^^^^");
}

#[test]
fn not_toml() {
    let output = plan_edited("version = 1", "version == 1");
    refused_with(&output, 2, &["small.toml:2:", "2 | version == 1"]);
}

#[test]
fn arm_named_twice() {
    let output = plan_edited("name = \"w_zn\"", "name = \"w\"");
    refused(&output, 2, "small.toml:22:8: the arm \"w\" is named twice\n   |\n22 | name = \"w\"\n   |        ^^^");
}

#[test]
fn arm_with_the_name_of_a_reference_row() {
    let output = plan_edited("name = \"w_zn\"", "name = \"mean_image\"");
    refused_with(&output, 2, &["small.toml:22:8: \"mean_image\" is the name of a reference row"]);
}

#[test]
fn negative_steps() {
    let output = plan_edited("[evaluate]", "[train.tiny]\nsteps = -5\n\n[evaluate]");
    refused(&output, 2, "small.toml:27:9: invalid value: integer `-5`, expected a nonzero u64\n   |\n27 | steps = -5\n   |         ^^");
}

#[test]
fn zero_steps() {
    let output = plan_edited("[evaluate]", "[train.tiny]\nsteps = 0\n\n[evaluate]");
    refused_with(&output, 2, &["small.toml:27:9: invalid value: integer `0`, expected a nonzero u64"]);
}

#[test]
fn lengths_for_an_unknown_profile() {
    let output = plan_edited("[evaluate]", "[train.tinny]\nsteps = 5\n\n[evaluate]");
    refused_with(&output, 2, &["small.toml:26:1: there is no profile \"tinny\"; did you mean \"tiny\"?"]);
}

#[test]
fn a_case_that_the_paper_does_not_have() {
    let output = plan_edited("case = 2", "case = 3");
    refused(&output, 2, "small.toml:13:8: the paper has case 1 and case 2, not 3\n   |\n13 | case = 3\n   |        ^");
}

#[test]
fn a_negative_weight() {
    let output = plan_edited("case = 2", "case = 2\nweights = { kl = -1.0 }");
    refused_with(&output, 2, &["small.toml:14:18: a weight is a number of 0 or more", "^^^^"]);
}

#[test]
fn unknown_metric() {
    let output = plan_edited("\"psnr\", \"lpips\"", "\"psrn\", \"lpips\"");
    refused_with(&output, 2, &["small.toml:28:12: metric \"psrn@16\": no measure \"psrn\"; did you mean psnr?"]);
}

#[test]
fn unknown_card() {
    let output = plan_edited("generator = \"stylegan1_ffhq_1024\"", "generator = \"tiny/pgan\"");
    refused_with(&output, 2, &["small.toml:10:13: there is no card \"tiny/pgan\" below baselines/; did you mean \"tiny/pggan\"?"]);
}

#[test]
fn a_card_of_another_kind() {
    let output = plan_edited("generator = \"stylegan1_ffhq_1024\"", "generator = \"tiny/vgg16\"");
    refused_with(&output, 2, &["small.toml:10:13: the card \"tiny/vgg16\" is not of the kind needed here"]);
}

#[test]
fn latents_that_the_generator_lacks() {
    let sandbox = Sandbox::new();
    let card = include_str!("../baselines/tiny/stylegan1.toml");
    sandbox.write("baselines/test/pggan.toml", card.replace("tiny/stylegan1", "test/pggan").replace("\"stylegan1\"", "\"pggan\""));
    sandbox.write("small.toml", STUDY.replace("stylegan1_ffhq_1024", "test/pggan"));
    let output = sandbox.run(&["plan", "small.toml", "--profile", "tiny"]);
    refused(
        &output,
        2,
        "small.toml:19:11: the generator test/pggan (pggan) has no latents \"w\"; it has: z\n   |\n19 | latents = \"w\"\n   |           ^^^",
    );
}

#[test]
fn a_device_word_that_means_nothing() {
    let output = Sandbox::new().run(&["run", "ablation_mtv", "--profile", "tiny", "--device", "gpu"]);
    refused(&output, 2, "--device gpu: \"auto\", \"cpu\" or \"cuda:N\" is expected");
}

#[test]
fn precision_is_a_word_that_the_device_knows() {
    for (word, message) in [
        ("tf32", "--precision tf32: only CUDA devices have it; the CPU computes in f32"),
        ("bf16", "--precision bf16 is not offered: nothing has shown yet that it does the results no harm"),
        ("f64", "--precision f64: \"f32\" or \"tf32\" is expected"),
    ] {
        let output = Sandbox::new().run(&["run", "ablation_mtv", "--profile", "tiny", "--device", "cpu", "--precision", word]);
        refused(&output, 2, message);
    }
}

#[test]
#[cfg(not(feature = "cuda"))]
fn a_cuda_device_without_the_feature() {
    let output = Sandbox::new().run(&["run", "ablation_mtv", "--profile", "tiny", "--device", "cuda:0"]);
    refused(&output, 6, "cuda:0: this mtv-bench was built without the cuda feature; use --device cpu or build it with --features cuda");
}

#[test]
fn a_cuda_device_that_is_not_there() {
    // 977 GPUs are in no machine: with the feature, with or without a driver, this is refused, too.
    let output = Sandbox::new().run(&["run", "ablation_mtv", "--profile", "tiny", "--device", "cuda:976"]);
    refused_with(&output, 6, &["error: cuda:976: "]);
}

#[test]
fn unknown_option() {
    let output = Sandbox::new().run(&["run", "ablation_mtv", "--sed", "2"]);
    refused_with(&output, 2, &["error: unexpected argument '--sed' found", "--seed"]);
}

#[test]
fn no_threads() {
    refused_with(&Sandbox::new().run(&["list", "--threads", "0"]), 2, &["error: invalid value '0' for '--threads <N>'"]);
}

#[test]
fn too_little_memory() {
    let sandbox = Sandbox::new();
    let huge = include_str!("../experiments/profiles/tiny.toml").replace("memory_fixed_mb = 150.0", "memory_fixed_mb = 1e9");
    sandbox.write("experiments/profiles/tiny.toml", huge);
    let output = sandbox.run(&["run", "ablation_mtv", "--profile", "tiny", "--device", "cpu", "--quiet"]);
    refused_with(
        &output,
        6,
        &["error: ablation_mtv.tiny needs about 1000000.", "GB of memory, ", "available; use a smaller profile or batch"],
    );
}

#[test]
fn too_little_disk() {
    let sandbox = Sandbox::new();
    let huge = include_str!("../experiments/profiles/tiny.toml").replace("disk_per_arm_mb = 3.0", "disk_per_arm_mb = 1e12");
    sandbox.write("experiments/profiles/tiny.toml", huge);
    let output = sandbox.run(&["run", "ablation_mtv", "--profile", "tiny", "--quiet"]);
    refused_with(&output, 6, &["error: results: about ", "of disk are needed, ", "choose another folder with --out"]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_folder_that_may_not_be_written() {
    // Nobody may create a folder in /sys, root included.
    let output = Sandbox::new().run(&["run", "ablation_mtv", "--profile", "tiny", "--quiet", "--out", "/sys/mtv-bench"]);
    refused_with(
        &output,
        6,
        &["error: /sys/mtv-bench/runs/ablation_mtv.tiny: creating the folder: ", "choose a folder that you may write with --out"],
    );
}

#[test]
fn a_file_where_the_folder_should_be() {
    let sandbox = Sandbox::new();
    sandbox.write("results", "a file");
    let output = sandbox.run(&["run", "ablation_mtv", "--profile", "tiny", "--quiet"]);
    refused_with(&output, 6, &["error: results/runs/ablation_mtv.tiny: creating the folder: "]);
}

#[test]
#[cfg(unix)]
fn a_disk_that_is_full() {
    use std::os::unix::process::CommandExt;
    let sandbox = Sandbox::new();
    let args = ["run", "ablation_mtv", "--profile", "tiny", "--quiet"];
    let mut command = sandbox.command(&args);
    // A limit on the size of a file is met in the middle of a write, as a full disk is.
    unsafe {
        command.pre_exec(|| {
            let limit = libc::rlimit { rlim_cur: 20_000, rlim_max: libc::RLIM_INFINITY };
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            libc::setrlimit(libc::RLIMIT_FSIZE, &limit);
            Ok(())
        });
    }
    let output = finish(command);
    refused_with(&output, 6, &["error: ", ".tmp: writing: "]);
    // What was being written is gone, and the same command goes on when there is room again.
    let leftovers: Vec<_> = walk(&sandbox.path("results")).into_iter().filter(|p| p.ends_with(".tmp")).collect();
    assert_eq!(leftovers, Vec::<String>::new());
    assert_eq!(sandbox.run(&args).code, Some(0));
}

fn walk(folder: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        match entry.file_type().expect("a type").is_dir() {
            true => found.extend(walk(&entry.path())),
            false => found.push(entry.path().display().to_string()),
        }
    }
    found
}

#[test]
fn a_second_process_on_the_same_run() {
    let sandbox = Sandbox::new();
    sandbox.write("results/runs/ablation_mtv.tiny/lock", "4242");
    let lock = std::fs::File::options().write(true).open(sandbox.path("results/runs/ablation_mtv.tiny/lock")).expect("the lock");
    lock.lock().expect("locking");
    let output = sandbox.run(&["run", "ablation_mtv", "--profile", "tiny", "--quiet"]);
    refused(&output, 8, "process 4242 works on the run ablation_mtv.tiny; wait for it, or choose another folder with --out");
}

#[test]
fn weights_that_are_not_what_their_card_says() {
    let sandbox = Sandbox::new();
    let card = |sha: &str| {
        format!(
            "name = \"test/g\"\nkind = \"generator\"\ntitle = \"t\"\nresolution = 16\nsha256 = \"{sha}\"\n[source.embedded]\nfile = \"test/g.safetensors\"\n\
             [network]\nfamily = \"stylegan1\"\n[licence]\nname = \"MIT\"\n"
        )
    };
    sandbox.write("small.toml", STUDY.replace("stylegan1_ffhq_1024", "test/g"));
    let run = || sandbox.run(&["run", "small.toml", "--profile", "tiny", "--quiet"]);
    let sha = mtv_bench::record::store::sha256_hex;
    // The card names a file that is not there.
    sandbox.write("baselines/test/g.toml", card(&sha(b"nothing")));
    refused_with(&run(), 4, &["error: 1 of the files needed is not here:", "test/g", "baselines/test/g.safetensors"]);
    // Another file than the card's.
    sandbox.write("baselines/test/g.safetensors", b"something else");
    refused_with(&run(), 5, &["baselines/test/g.safetensors: ", &sha(b"something else"), &sha(b"nothing")]);
    // The right file, which is no weight file: a web page, as a download site sends it.
    let page = b"<!DOCTYPE html><html><body>Quota exceeded</body></html>";
    sandbox.write("baselines/test/g.safetensors", page);
    sandbox.write("baselines/test/g.toml", card(&sha(page)));
    refused_with(&run(), 5, &["baselines/test/g.safetensors: ", "web page"]);
}

#[test]
fn weights_of_another_shape() {
    use candle_core::{DType, Device, Tensor};
    let sandbox = Sandbox::new();
    let tensor = |shape: (usize, usize, usize, usize)| Tensor::zeros(shape, DType::F32, &Device::Cpu).expect("a tensor");
    let tensors = std::collections::HashMap::from([("features.0.weight".to_string(), tensor((4, 3, 5, 5)))]);
    candle_core::safetensors::save(&tensors, sandbox.path("v.safetensors")).expect("saving");
    let bytes = std::fs::read(sandbox.path("v.safetensors")).expect("the file");
    sandbox.write("baselines/test/v.safetensors", &bytes);
    let sha = mtv_bench::record::store::sha256_hex(&bytes);
    sandbox.write(
        "baselines/test/v.toml",
        format!(
            "name = \"test/v\"\nkind = \"classifier\"\ntitle = \"t\"\nsha256 = \"{sha}\"\n[source.embedded]\nfile = \"test/v.safetensors\"\n\
             [network]\nfamily = \"vgg16\"\n[licence]\nname = \"MIT\"\n"
        ),
    );
    sandbox.write("small.toml", STUDY.replace("[recipe]", "features = \"test/v\"\n\n[recipe]"));
    let output = sandbox.run(&["run", "small.toml", "--profile", "tiny", "--quiet"]);
    refused_with(&output, 5, &["baselines/test/v", "features.0.weight", "[4, 3, 5, 5]", "3, 3]"]);
}

#[test]
fn training_that_diverges() {
    let sandbox = Sandbox::new();
    sandbox.write("small.toml", STUDY.replace("case = 2", "case = 2\noptimizer = { lr = 1e30 }"));
    let output = sandbox.run(&["run", "small.toml", "--profile", "tiny", "--quiet"]);
    refused_with(
        &output,
        7,
        &["error: train w, seed 1: the loss term \"", "at step ", "the last good checkpoint is kept in results/cache/work/train-"],
    );
}

#[test]
fn a_closed_pipe_is_no_error() {
    let sandbox = Sandbox::new();
    let mut child =
        sandbox.command(&["list"]).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().expect("starting");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("waiting");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn help_names_every_exit_code() {
    let help = Sandbox::new().run(&["--help"]).stdout;
    for kind in mtv_bench::error::Kind::ALL {
        let code = kind.exit_code().to_string();
        assert!(help.split_whitespace().any(|word| word == code), "exit code {code} is not in:\n{help}");
    }
}

#[test]
fn a_training_that_was_never_begun_is_not_resumed() {
    let sandbox = Sandbox::new();
    for (network, folder) in [("stylegan1_tiny", "mini/stylegan1_tiny"), ("psp", "mini/psp")] {
        let message = format!("results/cache/zoo/{folder}: no state of this training is here; train without --resume");
        refused_with(&sandbox.run(&["zoo", "train", network, "--resume"]), 2, &[&message]);
    }
}

#[test]
fn a_card_of_weights_or_a_curve_that_is_not_there() {
    let sandbox = Sandbox::new();
    let card = |more: &[&str]| sandbox.run(&[&["zoo", "card", "stylegan1_tiny"], more].concat());
    let message = "results/cache/zoo/mini/stylegan1_tiny/weights.safetensors: no such file; \
                   `mtv-bench zoo train mini/stylegan1_tiny` leaves one, or name one with --weights";
    refused(&card(&[]), 4, message);
    sandbox.write("shipped.safetensors", mtv_bench::zoo::model_card::shipped("mini/stylegan1_tiny").expect("shipped"));
    let curve = ["--weights", "shipped.safetensors", "--curve", "again"];
    refused(&card(&curve), 2, "again: no curve.json is there; a training writes it at its end");
    sandbox.write("again/curve.json", "{\"images\":[1,2");
    refused_with(&card(&curve), 5, &["again/curve.json: damaged (", "; train again, or delete it to have no curve"]);
}
