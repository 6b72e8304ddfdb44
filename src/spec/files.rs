//! The files that ship inside the binary: studies, cards with their weights, and report templates. A file of the same path
//! below the current folder (`experiments/`, `baselines/`, `paper/templates/`) is used in place of the built-in one.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use include_dir::{Dir, include_dir};

use crate::{Error, Result};

static EXPERIMENTS: Dir = include_dir!("$CARGO_MANIFEST_DIR/experiments");
static BASELINES: Dir = include_dir!("$CARGO_MANIFEST_DIR/baselines");
static TEMPLATES: Dir = include_dir!("$CARGO_MANIFEST_DIR/paper/templates");

/// The built-in folder that holds `path`, and the rest of the path.
fn split(path: &str) -> Option<(&'static Dir<'static>, &str)> {
    let roots = [("experiments", &EXPERIMENTS), ("baselines", &BASELINES), ("paper/templates", &TEMPLATES)];
    roots.into_iter().find_map(|(name, dir)| {
        let rest = path.strip_prefix(name)?;
        if rest.is_empty() { Some((dir, "")) } else { Some((dir, rest.strip_prefix('/')?)) }
    })
}

/// The bytes of `path`, for example "experiments/ablation_mtv.toml" or "baselines/mini/stylegan1.safetensors": from the
/// current folder if it is there, else from the binary. `None` when neither has it.
///
/// Errors: the file is there but can't be read.
pub fn read(path: &str) -> Result<Option<Cow<'static, [u8]>>> {
    match fs::read(path) {
        Ok(bytes) => return Ok(Some(Cow::Owned(bytes))),
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {}
        Err(e) => return Err(Error::corrupt(format!("{path}: can't be read: {e}"))),
    }
    Ok(split(path).and_then(|(dir, rest)| dir.get_file(rest)).map(|f| Cow::Borrowed(f.contents())))
}

/// As [`read`], as text.
///
/// Errors: as [`read`], or the bytes are not UTF-8.
pub fn read_text(path: &str) -> Result<Option<String>> {
    let Some(bytes) = read(path)? else { return Ok(None) };
    match String::from_utf8(bytes.into_owned()) {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(Error::usage(format!("{path}: not a text file (UTF-8 is expected)"))),
    }
}

/// The paths below `folder`, at any depth, whose names end in `ending` (".toml"), of the binary and the current folder together, sorted.
pub fn list(folder: &str, ending: &str) -> Vec<String> {
    let mut found = BTreeSet::new();
    if let Some((root, rest)) = split(folder)
        && let Some(dir) = if rest.is_empty() { Some(root) } else { root.get_dir(rest) }
    {
        let prefix = folder.strip_suffix(rest).unwrap_or(folder).trim_end_matches('/');
        walk_embedded(dir, &mut |path| _ = found.insert(format!("{prefix}/{path}")));
    }
    walk_disk(Path::new(folder), folder, &mut |path| _ = found.insert(path));
    found.into_iter().filter(|p| p.ends_with(ending)).collect()
}

fn walk_embedded(dir: &Dir, visit: &mut dyn FnMut(String)) {
    for file in dir.files() {
        visit(file.path().to_string_lossy().into_owned());
    }
    for sub in dir.dirs() {
        walk_embedded(sub, visit);
    }
}

fn walk_disk(dir: &Path, name: &str, visit: &mut dyn FnMut(String)) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = format!("{name}/{}", entry.file_name().to_string_lossy());
        match entry.file_type() {
            Ok(t) if t.is_dir() => walk_disk(&entry.path(), &path, visit),
            Ok(_) => visit(path),
            Err(_) => {}
        }
    }
}

/// The name nearest to `wrong` among `names`, if any is near enough to be a slip of the pen.
pub fn nearest<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names
        .into_iter()
        .map(|n| (strsim::jaro_winkler(&wrong.to_lowercase(), &n.to_lowercase()), n))
        .filter(|(similarity, _)| *similarity >= 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, n)| n)
}

/// `; did you mean "x"?` for the nearest name, else the whole list.
pub fn suggestion<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str> + Clone) -> String {
    match nearest(wrong, names.clone()) {
        Some(name) => format!("; did you mean \"{name}\"?"),
        None => {
            let all: Vec<&str> = names.into_iter().collect();
            if all.is_empty() { String::new() } else { format!("; there are: {}", all.join(", ")) }
        }
    }
}
