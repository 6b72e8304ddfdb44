//! The memory that `plan` expects against what a run was seen to need.
#![cfg(target_os = "linux")]

use crate::sandbox::{STUDY, Sandbox};

/// The mini profile with another batch, and short: memory is a matter of the step, not of their number.
fn shortened(batch: usize) -> String {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/experiments/profiles/mini.toml")).expect("the mini profile");
    let mut changed = text;
    for (old, new) in [
        ("steps = 1500", "steps = 3"),
        ("\nbatch = 8", &format!("\nbatch = {batch}")),
        ("images = { synthesized = 64, real = 64 }", "images = { synthesized = 16, real = 16 }"),
        ("curve = { points = 10, images = 16 }", "curve = { points = 1, images = 16 }"),
    ] {
        assert!(changed.contains(old), "the profile has no {old:?}");
        changed = changed.replacen(old, new, 1);
    }
    changed
}

/// The most memory that a run of the study took, in bytes. The kernel's own mark, read while the run goes on: the one that it gives at the
/// end counts what the parent held when it started the child.
fn peak(sandbox: &Sandbox) -> u64 {
    let mut child = sandbox.start(&["run", "small.toml", "--profile", "mini", "--device", "cpu", "--threads", "2"]);
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    loop {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let mark = text.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        most = most.max(mark.unwrap_or(0) * 1024);
        if let Some(end) = child.try_wait().expect("waiting for mtv-bench") {
            assert!(end.success(), "the run failed: {end}");
            return most;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// At the profile's batch and at a larger one, so that both of its constants are tested.
#[test]
fn the_plan_expects_the_measured_memory_within_a_fifth() {
    for batch in [8, 24] {
        let sandbox = Sandbox::new();
        let whole = STUDY.replacen("attention = { views = \"none\" }\n", "", 1).replacen("tiny = \"seconds\"", "mini = \"seconds\"", 1);
        // One arm is enough; the recipe is that of case 2 with both views, the largest of the mini studies.
        let one = whole.replacen("[[arms]]\nname = \"w_zn\"\nlabel = \"w + z_n\"\nlatents = \"w+zn\"\n", "", 1);
        assert!(one.len() < whole.len() && whole.len() < STUDY.len(), "the study has changed");
        sandbox.write("small.toml", one);
        sandbox.write("experiments/profiles/mini.toml", shortened(batch));
        let plan = sandbox.run(&["plan", "small.toml", "--profile", "mini"]);
        let said = plan.stdout.split(" of memory").next().and_then(|t| t.rsplit(", ").next()).unwrap_or_default().to_string();
        let expected = match said.split_once(' ') {
            Some((n, "MB")) => n.parse::<f64>().ok(),
            Some((n, "GB")) => n.parse::<f64>().ok().map(|n| 1e3 * n),
            _ => None,
        };
        let expected = expected.unwrap_or_else(|| panic!("{said:?} in {}{}", plan.stdout, plan.stderr));
        let measured = peak(&sandbox) as f64 / 1e6;
        let ratio = expected / measured;
        assert!((0.8..=1.2).contains(&ratio), "batch {batch}: {expected} MB expected, {measured:.0} MB measured");
    }
}
