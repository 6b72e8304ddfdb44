//! `mtv-bench claims`: what the paper says in its text, beside what the records say.

use std::path::{Path, PathBuf};

use crate::record::Record;
use crate::record::store::{create_folder, folder_of, write_atomic};
use crate::report::claims::Claim;
use crate::report::table;
use crate::{Error, Result};

/// Set what the paper says in its text beside the records that test it.
#[derive(clap::Args)]
pub struct Args {
    /// Records (.json or .json.gz); without any, those of results/records.
    pub records: Vec<PathBuf>,
    /// Write the Markdown table to this file, too.
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
}

pub fn run(args: Args) -> Result<()> {
    let files = if args.records.is_empty() { committed()? } else { args.records };
    let records = files.iter().map(|f| Record::read(f)).collect::<Result<Vec<_>>>()?;
    let rows = Claim::all()?.iter().map(|c| c.judge(&records)).collect::<Result<Vec<_>>>()?;
    let text = table::of("claims.md", &serde_json::json!({ "rows": rows }))?;
    if let Some(path) = &args.markdown {
        create_folder(folder_of(path))?;
        write_atomic(path, text.as_bytes())?;
    }
    print!("{text}");
    Ok(())
}

fn committed() -> Result<Vec<PathBuf>> {
    let folder = Path::new("results/records");
    let entries = std::fs::read_dir(folder)
        .map_err(|_| Error::missing("there is no folder results/records here: name the records, or change to the project's folder"))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| p.to_string_lossy().contains(".json")).collect();
    files.sort();
    Ok(files)
}
