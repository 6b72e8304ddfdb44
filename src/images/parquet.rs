//! Parquet files of the hub: an image column is a struct of `bytes` (the picture's file) and `path`. Behind the cargo feature
//! `parquet`, because its readers are larger than the rest of the picture code together.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;

use ::parquet::basic::Type;
use ::parquet::column::reader::ColumnReader;
use ::parquet::data_type::ByteArray;
use ::parquet::errors::Result as Parquet;
use ::parquet::file::reader::{FileReader, SerializedFileReader};

use crate::{Error, Result};

/// One file with its column of pictures.
pub struct Table {
    /// Reads of one file share its position, so they come one after the other.
    reader: Mutex<SerializedFileReader<File>>,
    column: usize,
    /// The first row of each row group, and the number of rows.
    starts: Vec<u64>,
}

impl Table {
    /// Opens a file and finds its image column: `image.bytes`, or the only column called `*.bytes`.
    ///
    /// Errors (kind corrupt): no parquet file, no such column, several and none called "image" (named).
    pub fn open(path: &Path, file: File) -> Result<Self> {
        let bad = |what: String| Error::corrupt(format!("{}: {what}", path.display()));
        let reader = guarded(|| SerializedFileReader::new(file)).map_err(|e| bad(format!("unreadable parquet file: {e}")))?;
        let meta = reader.metadata();
        let schema = meta.file_metadata().schema_descr();
        let columns: Vec<(usize, String)> = schema
            .columns()
            .iter()
            .enumerate()
            .filter(|(_, c)| c.physical_type() == Type::BYTE_ARRAY && c.max_rep_level() == 0)
            .map(|(i, c)| (i, c.path().string()))
            .filter(|(_, name)| name == "bytes" || name.ends_with(".bytes"))
            .collect();
        let image = columns.iter().find(|(_, name)| name == "image.bytes").or(if columns.len() == 1 { columns.first() } else { None });
        let Some(&(column, _)) = image else {
            let names: Vec<&str> = columns.iter().map(|(_, n)| n.as_str()).collect();
            return Err(bad(format!("no column image.bytes, and {} others that could be pictures: {}", names.len(), names.join(", "))));
        };
        let mut starts = vec![0u64];
        for group in meta.row_groups() {
            let rows = u64::try_from(group.num_rows()).ok().and_then(|rows| rows.checked_add(*starts.last().unwrap_or(&0)));
            starts.push(rows.ok_or_else(|| bad("a row group says that it has a negative number of rows".into()))?);
        }
        Ok(Table { reader: Mutex::new(reader), column, starts })
    }

    pub fn rows(&self) -> u64 {
        *self.starts.last().unwrap_or(&0)
    }

    /// The file of the picture in `row`.
    pub fn bytes(&self, row: u64) -> Result<Vec<u8>> {
        let reader = self.reader.lock().map_err(|_| Error::internal("a reader of the parquet file failed"))?;
        let group = self.starts.partition_point(|start| *start <= row) - 1;
        let read = || -> Parquet<Vec<ByteArray>> {
            let mut values = Vec::new();
            if let ColumnReader::ByteArrayColumnReader(mut column) = reader.get_row_group(group)?.get_column_reader(self.column)? {
                column.skip_records((row - self.starts[group]) as usize)?;
                column.read_records(1, Some(&mut Vec::new()), None, &mut values)?;
            }
            Ok(values)
        };
        let values = guarded(read).map_err(|e| Error::corrupt(format!("row {row}: {e}")))?;
        values.first().map(|v| v.data().to_vec()).ok_or_else(|| Error::corrupt(format!("row {row} has no picture")))
    }
}

/// The reader's answer; where it panics on a damaged file, an error instead.
fn guarded<T>(read: impl FnOnce() -> Parquet<T>) -> std::result::Result<T, String> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(result) => result.map_err(|e| e.to_string().lines().next().unwrap_or("damaged").to_string()),
        Err(_) => Err("the file is damaged".into()),
    }
}
