//! safetensors files: read tensor by tensor, written once by `weights convert`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use candle_core::{DType, Tensor};
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::checkpoint::{Checkpoint, note_non_finite};
use super::source::{Format, Source};
use super::tree::Value;
use super::view::Element;
use crate::{Error, Result};

/// The longest header that is read, in bytes.
const MAX_HEADER: u64 = 64 << 20;

/// The header, its tensors checked to lie side by side without gaps, and where the data begins.
fn header(source: &Source) -> Result<(Metadata, u64)> {
    let size = source.read_at(0, 8)?;
    let size = size.as_chunks::<8>().0.first().map_or(0, |b| u64::from_le_bytes(*b));
    if size > MAX_HEADER {
        return Err(Error::corrupt(format!("a safetensors header of {size} bytes (at most {MAX_HEADER} are read)")));
    }
    let text = source.read_at(8, size as usize)?;
    let header = serde_json::from_slice(&text).map_err(|e| Error::corrupt(format!("its safetensors header is damaged: {e}")))?;
    Ok((header, size + 8))
}

pub(super) fn open(source: &Source) -> Result<Checkpoint> {
    let (header, data_at) = header(source)?;
    let want = header.tensors().values().map(|info| info.data_offsets.1).max().unwrap_or(0) as u64;
    if data_at.saturating_add(want) != source.len {
        return Err(Error::corrupt(format!(
            "its header describes {} bytes, the file has {}: it is truncated or corrupt; download it again",
            data_at.saturating_add(want),
            source.len
        )));
    }
    let mut tensors = BTreeMap::new();
    let mut warnings = Vec::new();
    for (name, info) in header.tensors() {
        let element = match info.dtype {
            Dtype::F64 => Element::F64,
            Dtype::F32 => Element::F32,
            Dtype::F16 => Element::F16,
            Dtype::BF16 => Element::BF16,
            Dtype::I64 => Element::I64,
            Dtype::I32 => Element::I32,
            Dtype::I16 => Element::I16,
            Dtype::I8 => Element::I8,
            Dtype::U32 => Element::U32,
            Dtype::U16 => Element::U16,
            Dtype::U8 => Element::U8,
            Dtype::BOOL => Element::Bool,
            other => return Err(Error::corrupt(format!("the tensor \"{name}\" is of type {other:?}, which is not read"))),
        };
        let (start, end) = info.data_offsets;
        let bytes = source.read_at(data_at + start as u64, end.saturating_sub(start))?;
        note_non_finite(&mut warnings, &name, element.non_finite(&bytes));
        let tensor: Tensor = element.tensor(&bytes, &info.shape)?;
        tensors.insert(name, tensor);
    }
    let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
    let tree = Value::Dict(tensors.keys().map(|name| (name.clone(), Value::Tensor(name.clone()))).collect());
    Ok(Checkpoint { format: Format::Safetensors, tree, tensors, metadata, warnings })
}

/// The header metadata of a file alone.
pub(super) fn metadata(path: &Path) -> Result<BTreeMap<String, String>> {
    let (header, _) = header(&Source::open(path)?)?;
    Ok(header.metadata().clone().unwrap_or_default().into_iter().collect())
}

/// Writes tensors and metadata; the same input gives the same bytes. The file appears whole or not at all.
///
/// The largest element types come first and then the names in order, so that every tensor is aligned.
pub fn save(path: &Path, tensors: &BTreeMap<String, Tensor>, metadata: &BTreeMap<String, String>) -> Result<()> {
    let mut order: Vec<(&String, &Tensor)> = tensors.iter().collect();
    order.sort_by_key(|(name, t)| (std::cmp::Reverse(t.dtype().size_in_bytes()), *name));
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".into(), serde_json::json!(metadata));
    let mut at = 0usize;
    for (name, tensor) in &order {
        let bytes = tensor.elem_count() * tensor.dtype().size_in_bytes();
        let dtype = match tensor.dtype() {
            DType::F64 => "F64",
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::BF16 => "BF16",
            DType::I64 => "I64",
            DType::I32 => "I32",
            DType::I16 => "I16",
            DType::U32 => "U32",
            DType::U8 => "U8",
            other => return Err(Error::internal(format!("the tensor \"{name}\" is of type {other:?}, which is not written"))),
        };
        header.insert((*name).clone(), serde_json::json!({ "dtype": dtype, "shape": tensor.dims(), "data_offsets": [at, at + bytes] }));
        at += bytes;
    }
    let mut text = serde_json::to_string(&header).map_err(|e| Error::internal(e.to_string()))?;
    text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
    let fail = |e: std::io::Error| Error::io(path, "writing", e);
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut temp = tempfile::NamedTempFile::new_in(dir).map_err(fail)?;
    {
        let mut out = std::io::BufWriter::with_capacity(1 << 20, &mut temp);
        out.write_all(&(text.len() as u64).to_le_bytes()).and_then(|_| out.write_all(text.as_bytes())).map_err(fail)?;
        for (_, tensor) in &order {
            use safetensors::View;
            out.write_all(&View::data(*tensor)).map_err(fail)?;
        }
        out.flush().map_err(fail)?;
    }
    temp.as_file().sync_all().map_err(fail)?;
    temp.persist(path).map_err(|e| fail(e.error))?;
    Ok(())
}
