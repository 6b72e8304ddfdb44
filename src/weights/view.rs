//! Element types of stored tensors, and views (offset, shape, strides) that are checked before anything is allocated.

use candle_core::{DType, Device, Tensor};

use crate::{Error, Result};

/// More dimensions than any tensor of this field has; a bound for hostile files.
const MAX_RANK: usize = 16;
/// A view may repeat elements (stride 0) only up to this many; beyond, it may not hold more elements than its storage.
const MAX_REPEATED: usize = 1 << 20;

/// The element type of a storage as the file names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U32,
    U16,
    U8,
    Bool,
}

impl Element {
    /// From a PyTorch storage class, such as `FloatStorage`.
    pub fn of_storage(class: &str) -> Option<Self> {
        Some(match class {
            "DoubleStorage" => Element::F64,
            "FloatStorage" => Element::F32,
            "HalfStorage" => Element::F16,
            "BFloat16Storage" => Element::BF16,
            "LongStorage" => Element::I64,
            "IntStorage" => Element::I32,
            "ShortStorage" => Element::I16,
            "CharStorage" => Element::I8,
            "ByteStorage" => Element::U8,
            "BoolStorage" => Element::Bool,
            _ => return None,
        })
    }

    /// From a numpy type code without its byte order, such as `f4`.
    pub fn of_numpy(code: &str) -> Option<Self> {
        Some(match code {
            "f8" => Element::F64,
            "f4" => Element::F32,
            "f2" => Element::F16,
            "i8" => Element::I64,
            "i4" => Element::I32,
            "i2" => Element::I16,
            "i1" => Element::I8,
            "u4" => Element::U32,
            "u2" => Element::U16,
            "u1" => Element::U8,
            "b1" => Element::Bool,
            _ => return None,
        })
    }

    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Element::F64 | Element::I64 => 8,
            Element::F32 | Element::I32 | Element::U32 => 4,
            Element::F16 | Element::BF16 | Element::I16 | Element::U16 => 2,
            Element::I8 | Element::U8 | Element::Bool => 1,
        }
    }

    /// The tensor type that holds it without loss: candle has no bool, i8 or u16, so these become u8, i16 and i32.
    pub fn dtype(self) -> DType {
        match self {
            Element::F64 => DType::F64,
            Element::F32 => DType::F32,
            Element::F16 => DType::F16,
            Element::BF16 => DType::BF16,
            Element::I64 => DType::I64,
            Element::I32 | Element::U16 => DType::I32,
            Element::I16 | Element::I8 => DType::I16,
            Element::U32 => DType::U32,
            Element::U8 | Element::Bool => DType::U8,
        }
    }

    /// A tensor from exactly the elements of `shape`, little-endian, row-major.
    pub fn tensor(self, bytes: &[u8], shape: &[usize]) -> Result<Tensor> {
        let widened: Vec<u8> = match self {
            Element::I8 => bytes.iter().flat_map(|b| i16::from(*b as i8).to_le_bytes()).collect(),
            Element::U16 => bytes.as_chunks::<2>().0.iter().flat_map(|b| i32::from(u16::from_le_bytes(*b)).to_le_bytes()).collect(),
            Element::Bool => bytes.iter().map(|b| u8::from(*b != 0)).collect(),
            _ => return Ok(Tensor::from_raw_buffer(bytes, self.dtype(), shape, &Device::Cpu)?),
        };
        Ok(Tensor::from_raw_buffer(&widened, self.dtype(), shape, &Device::Cpu)?)
    }

    /// How many of these little-endian numbers are NaN or infinite.
    pub fn non_finite(self, bytes: &[u8]) -> usize {
        match self {
            Element::F64 => bytes.as_chunks::<8>().0.iter().filter(|b| !f64::from_le_bytes(**b).is_finite()).count(),
            Element::F32 => bytes.as_chunks::<4>().0.iter().filter(|b| !f32::from_le_bytes(**b).is_finite()).count(),
            Element::F16 => bytes.as_chunks::<2>().0.iter().filter(|b| u16::from_le_bytes(**b) & 0x7c00 == 0x7c00).count(),
            Element::BF16 => bytes.as_chunks::<2>().0.iter().filter(|b| u16::from_le_bytes(**b) & 0x7f80 == 0x7f80).count(),
            _ => 0,
        }
    }
}

/// The number of elements of `shape`, or an error where it does not fit a machine word.
pub(super) fn element_count(shape: &[usize]) -> Result<usize> {
    // A zero anywhere makes the tensor empty, whatever the other sizes multiply to.
    if shape.contains(&0) {
        return Ok(0);
    }
    let overflow = || Error::corrupt(format!("a tensor of shape {shape:?} has more elements than a computer can count"));
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or_else(overflow)
}

/// A strided window into a storage. Built by [`View::new`] only, so its extent lies inside the storage.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct View {
    pub storage: String,
    pub element: Element,
    pub shape: Vec<usize>,
    offset: usize,
    stride: Vec<usize>,
    count: usize,
}

impl View {
    /// `start` and `len` bound the part of the storage that may be seen, in elements.
    pub fn new(storage: &str, element: Element, (start, len): (usize, usize), offset: i64, shape: &[i64], stride: &[i64]) -> Result<Self> {
        let bad = |what: String| Err(Error::corrupt(format!("a tensor in storage \"{storage}\" {what}; the file is corrupt")));
        if shape.len() != stride.len() {
            return bad(format!("has {} sizes and {} strides", shape.len(), stride.len()));
        }
        if shape.len() > MAX_RANK {
            return bad(format!("has {} dimensions (at most {MAX_RANK} are read)", shape.len()));
        }
        let whole = |values: &[i64]| values.iter().map(|&v| usize::try_from(v).ok()).collect::<Option<Vec<_>>>();
        let Some(sizes) = whole(shape) else { return bad(format!("has a negative size: {shape:?}")) };
        let Some(strides) = whole(stride) else { return bad(format!("has a negative stride: {stride:?}")) };
        let Ok(offset) = usize::try_from(offset) else { return bad(format!("has a negative offset: {offset}")) };
        let count = element_count(&sizes)?;
        if count > 0 {
            let last = sizes.iter().zip(&strides).try_fold(offset, |at, (n, s)| (n - 1).checked_mul(*s).and_then(|d| at.checked_add(d)));
            if last.is_none_or(|last| last >= len) {
                return bad(format!(
                    "reaches outside it: offset {offset}, shape {sizes:?}, strides {strides:?}, storage of {len} elements"
                ));
            }
        }
        if count > len && count > MAX_REPEATED {
            return bad(format!("repeats its elements to {count} (shape {sizes:?}, storage of {len})"));
        }
        Ok(View { storage: storage.into(), element, shape: sizes, offset: start + offset, stride: strides, count })
    }

    /// Bytes of the tensor once it is laid out.
    pub fn bytes(&self) -> usize {
        self.count.saturating_mul(self.element.size())
    }

    fn is_contiguous(&self) -> bool {
        let mut step = 1;
        self.shape.iter().zip(&self.stride).rev().all(|(&n, &s)| {
            let fits = n == 1 || s == step;
            step *= n;
            fits
        })
    }

    /// The elements in row-major order, from the bytes of the whole storage.
    pub fn gather<'a>(&self, storage: &'a [u8]) -> Result<std::borrow::Cow<'a, [u8]>> {
        let size = self.element.size();
        let outside = || Error::corrupt(format!("storage \"{}\" is shorter than its tensors need", self.storage));
        if self.count == 0 {
            return Ok((&[][..]).into());
        }
        if self.is_contiguous() {
            return Ok(storage.get(self.offset * size..(self.offset + self.count) * size).ok_or_else(outside)?.into());
        }
        let mut out = Vec::with_capacity(self.count * size);
        let mut index = vec![0usize; self.shape.len()];
        let mut at = self.offset;
        loop {
            out.extend_from_slice(storage.get(at * size..(at + 1) * size).ok_or_else(outside)?);
            // One step of the odometer: the last dimension turns fastest.
            let mut d = self.shape.len();
            loop {
                if d == 0 {
                    return Ok(out.into());
                }
                d -= 1;
                index[d] += 1;
                at += self.stride[d];
                if index[d] < self.shape[d] {
                    break;
                }
                at -= index[d] * self.stride[d];
                index[d] = 0;
            }
        }
    }
}
