//! Named tensors and a JSON description in one safetensors file: the state of a training and the weights that ship.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, TensorView};

use crate::record::store::write_atomic;
use crate::{Error, Result};

/// The metadata key of the description.
const ABOUT: &str = "mtv-bench";

/// Writes the file whole or not at all; an earlier file stays until the new one is complete.
///
/// Errors: a tensor that is not finite (kind `Diverged`: the earlier file is kept), an unwritable folder.
pub fn save(path: &Path, tensors: &BTreeMap<String, Tensor>, about: &serde_json::Value) -> Result<()> {
    let mut data: Vec<(&String, Dtype, Vec<usize>, Vec<u8>)> = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let flat = tensor.flatten_all()?;
        let (dtype, bytes) = match tensor.dtype() {
            DType::I64 => (Dtype::I64, flat.to_vec1::<i64>()?.iter().flat_map(|v| v.to_le_bytes()).collect()),
            dtype => {
                let values = flat.to_dtype(DType::F32)?.to_vec1::<f32>()?;
                if values.iter().any(|v| !v.is_finite()) {
                    return Err(Error::new(
                        crate::error::Kind::Diverged,
                        format!("{}: not saved, because \"{name}\" is not finite; the last good state is kept", path.display()),
                    ));
                }
                match dtype {
                    DType::F16 => (Dtype::F16, flat.to_vec1::<half::f16>()?.iter().flat_map(|v| v.to_le_bytes()).collect()),
                    _ => (Dtype::F32, values.iter().flat_map(|v| v.to_le_bytes()).collect()),
                }
            }
        };
        data.push((name, dtype, tensor.dims().to_vec(), bytes));
    }
    let mut views = Vec::with_capacity(data.len());
    for (name, dtype, shape, bytes) in &data {
        let view = TensorView::new(*dtype, shape.clone(), bytes).map_err(|e| Error::internal(format!("{}: {e}", path.display())))?;
        views.push((name.as_str(), view));
    }
    let metadata = HashMap::from([(ABOUT.to_string(), about.to_string())]);
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(|e| Error::internal(format!("{}: {e}", path.display())))?;
    write_atomic(path, &bytes)
}

/// Reads what [`save`] wrote.
///
/// Errors: no such file, no safetensors file, or one without the description.
pub fn load(path: &Path, device: &Device) -> Result<(BTreeMap<String, Tensor>, serde_json::Value)> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, "reading", e))?;
    read(&bytes, &path.display().to_string(), device)
}

/// As [`load`], of a training that goes on.
pub fn resume(path: &Path, device: &Device) -> Result<(BTreeMap<String, Tensor>, serde_json::Value)> {
    if path.is_file() { load(path, device) } else { Err(nothing_to_resume(path.parent().unwrap_or(path))) }
}

/// What `--resume` says of a folder that no training of the network has left.
pub fn nothing_to_resume(folder: &Path) -> Error {
    Error::usage(format!("{}: no state of this training is here; train without --resume", folder.display()))
}

/// As [`load`], from bytes; `origin` names them in errors.
pub fn read(bytes: &[u8], origin: &str, device: &Device) -> Result<(BTreeMap<String, Tensor>, serde_json::Value)> {
    let corrupt = |what: String| Error::corrupt(format!("{origin}: {what}"));
    let (_, header) = safetensors::SafeTensors::read_metadata(bytes).map_err(|e| corrupt(format!("no safetensors file: {e}")))?;
    let Some(about) = header.metadata().as_ref().and_then(|m| m.get(ABOUT)) else {
        return Err(corrupt("this safetensors file was not written by mtv-bench zoo".into()));
    };
    let about = serde_json::from_str(about).map_err(|e| corrupt(format!("its description is damaged: {e}")))?;
    let tensors = candle_core::safetensors::load_buffer(bytes, device).map_err(|e| corrupt(e.to_string()))?;
    Ok((tensors.into_iter().collect(), about))
}

/// The tensors whose names start with `prefix`, without it.
pub fn part(tensors: &BTreeMap<String, Tensor>, prefix: &str) -> BTreeMap<String, Tensor> {
    tensors.iter().filter_map(|(name, t)| Some((name.strip_prefix(prefix)?.to_string(), t.clone()))).collect()
}

/// Puts `prefix` before every name.
pub fn prefixed(prefix: &str, tensors: BTreeMap<String, Tensor>) -> impl Iterator<Item = (String, Tensor)> {
    tensors.into_iter().map(move |(name, t)| (format!("{prefix}{name}"), t))
}
