//! safetensors files: read tensor by tensor, written once by `weights convert`.

use std::collections::BTreeMap;

use candle_core::Tensor;
use safetensors::{Dtype, SafeTensors};

use super::checkpoint::{Checkpoint, note_non_finite};
use super::source::{Format, Source};
use super::tree::Value;
use super::view::Element;
use crate::{Error, Result};

/// The longest header that is read, in bytes.
const MAX_HEADER: u64 = 64 << 20;

pub(super) fn open(source: &Source) -> Result<Checkpoint> {
    let size = source.read_at(0, 8)?;
    let size = size.as_chunks::<8>().0.first().map_or(0, |b| u64::from_le_bytes(*b));
    if size > MAX_HEADER {
        return Err(Error::corrupt(format!("a safetensors header of {size} bytes (at most {MAX_HEADER} are read)")));
    }
    let head = source.read_at(0, size as usize + 8)?;
    let (_, header) = SafeTensors::read_metadata(&head).map_err(|e| Error::corrupt(format!("its safetensors header is damaged: {e}")))?;
    let data_at = size + 8;
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
