//! Starting a kernel: results, arguments, number of blocks.

#[cfg(feature = "cuda")]
use candle_core::backend::BackendStorage;
use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, Device, Layout, Result, Shape, Storage, Tensor, bail};

/// Threads of a block and elements that a block takes of a plane, as in `kernels.cu`.
const THREADS: usize = 256;
const CHUNK: usize = 16384;
/// Places of a block of the norms over channels.
const PLACES: usize = 32;

/// A result on the device: values of f32 that a kernel is about to write.
pub(in crate::ops) struct Buffer {
    storage: Storage,
}

impl Buffer {
    /// Room on the device of `like`.
    pub(in crate::ops) fn new(len: usize, like: &Tensor) -> Result<Self> {
        let storage = match like.device() {
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => {
                // SAFETY: kernels write every element before any is read.
                let slice = unsafe { device.alloc::<f32>(len.max(1))? };
                Storage::Cuda(candle_core::CudaStorage::wrap_cuda_slice(slice, device.clone()))
            }
            // What a kernel leaves unwritten shows up in every comparison.
            Device::Cpu => Storage::Cpu(CpuStorage::F32(vec![f32::NAN; len])),
            other => bail!("no kernels for {:?}", other.location()),
        };
        Ok(Buffer { storage })
    }

    /// The values as a tensor outside the graph.
    pub(in crate::ops) fn tensor(self, shape: impl Into<Shape>) -> Tensor {
        Tensor::from_storage(self.storage, shape, BackpropOp::none(), false)
    }

    pub(in crate::ops) fn into_storage(self) -> Storage {
        self.storage
    }

    /// A copy of a tensor's values.
    pub(in crate::ops) fn copy(of: &Tensor) -> Result<Self> {
        let of = of.contiguous()?;
        let (storage, layout) = of.storage_and_layout();
        let (from, to) = (span(layout, "copy")?, span(layout, "copy")? + of.elem_count());
        let storage = match &*storage {
            Storage::Cpu(s) => Storage::Cpu(CpuStorage::F32(s.as_slice::<f32>()?[from..to].to_vec())),
            #[cfg(feature = "cuda")]
            Storage::Cuda(s) => {
                let device = s.device();
                // SAFETY: the copy fills it.
                let mut copy = unsafe { device.alloc::<f32>((to - from).max(1))? };
                if to > from {
                    device.memcpy_dtod(&s.as_cuda_slice::<f32>()?.slice(from..to), &mut copy)?;
                }
                Storage::Cuda(candle_core::CudaStorage::wrap_cuda_slice(copy, device.clone()))
            }
            _ => bail!("no kernels for this device"),
        };
        Ok(Buffer { storage })
    }

    pub(super) fn address(&self) -> Result<u64> {
        address(&self.storage, 0)
    }
}

/// Where the values of a storage from `start` on lie on the device.
fn address(storage: &Storage, start: usize) -> Result<u64> {
    match storage {
        Storage::Cpu(s) => Ok(s.as_slice::<f32>()?[start..].as_ptr() as u64),
        #[cfg(feature = "cuda")]
        Storage::Cuda(s) => cuda_address(s, start),
        _ => bail!("no kernels for this device"),
    }
}

#[cfg(feature = "cuda")]
fn cuda_address(storage: &candle_core::CudaStorage, start: usize) -> Result<u64> {
    use candle_core::cuda_backend::cudarc::driver::DevicePtr;
    let stream = storage.device().cuda_stream();
    // The program has one stream, which orders all uses of an address.
    let (address, _) = storage.as_cuda_slice::<f32>()?.device_ptr(&stream);
    Ok(address + 4 * start as u64)
}

/// Where the values of a contiguous storage lie; `what` names it in the error.
fn span(layout: &Layout, what: &str) -> Result<usize> {
    match layout.contiguous_offsets() {
        Some((start, _)) => Ok(start),
        None => bail!("{what}: the tensor is not contiguous"),
    }
}

/// An argument of a kernel, laid out as the kernel declares it.
#[derive(Clone, Copy)]
pub(super) enum Argument {
    Address(u64),
    Long(i64),
    Int(i32),
    Float(f32),
}

/// A kernel with its arguments so far, in the order of its declaration.
pub(super) struct Launch {
    name: &'static str,
    arguments: Vec<Argument>,
}

impl Launch {
    pub(super) fn new(name: &'static str) -> Self {
        Launch { name, arguments: Vec::with_capacity(16) }
    }

    fn with(mut self, argument: Argument) -> Self {
        self.arguments.push(argument);
        self
    }

    pub(super) fn float(self, v: f64) -> Self {
        self.with(Argument::Float(v as f32))
    }

    pub(super) fn int(self, v: usize) -> Self {
        // `run` refuses sizes past i32: only products of several dimensions reach it, and those are `long`.
        self.with(Argument::Int(i32::try_from(v).unwrap_or(i32::MAX)))
    }

    pub(super) fn ints<const N: usize>(self, all: [usize; N]) -> Self {
        all.into_iter().fold(self, Launch::int)
    }

    pub(super) fn long(self, v: usize) -> Self {
        self.with(Argument::Long(v as i64))
    }

    pub(super) fn null(self) -> Self {
        self.with(Argument::Address(0))
    }

    /// A contiguous tensor that the kernel reads.
    pub(super) fn tensor(self, t: &Tensor) -> Result<Self> {
        let (storage, layout) = t.storage_and_layout();
        let start = span(layout, self.name)?;
        let at = address(&storage, start)?;
        drop(storage);
        Ok(self.with(Argument::Address(at)))
    }

    pub(super) fn optional(self, t: Option<&Tensor>) -> Result<Self> {
        match t {
            Some(t) => self.tensor(t),
            None => Ok(self.null()),
        }
    }

    /// A buffer that the kernel reads or writes.
    pub(super) fn buffer(self, b: &Buffer) -> Result<Self> {
        let at = b.address()?;
        Ok(self.with(Argument::Address(at)))
    }

    pub(super) fn optional_buffer(self, b: Option<&Buffer>) -> Result<Self> {
        match b {
            Some(b) => self.buffer(b),
            None => Ok(self.null()),
        }
    }

    /// A storage of f32 on the CPU, as an address to write to.
    #[cfg(feature = "emulate-cuda")]
    pub(super) fn host(self, storage: &mut [f32]) -> Self {
        let at = storage.as_mut_ptr() as u64;
        self.with(Argument::Address(at))
    }

    #[cfg(feature = "cuda")]
    pub(super) fn storage(self, storage: &candle_core::CudaStorage, layout: &Layout) -> Result<Self> {
        let at = cuda_address(storage, span(layout, self.name)?)?;
        Ok(self.with(Argument::Address(at)))
    }

    /// An element kernel over n elements, on the device of `like`.
    pub(super) fn each(self, n: usize, like: &Device) -> Result<()> {
        self.run(n.div_ceil(THREADS).min(1 << 20), like)
    }

    /// A plane kernel: `planes` planes of `size` elements.
    pub(super) fn planes(self, planes: usize, size: usize, like: &Device) -> Result<()> {
        self.run(planes * chunks(size), like)
    }

    /// A kernel of norms over channels.
    pub(super) fn places(self, places: usize, like: &Device) -> Result<()> {
        self.run(places.div_ceil(PLACES), like)
    }

    /// A kernel that one block runs.
    pub(super) fn one_block(self, like: &Device) -> Result<()> {
        self.run(1, like)
    }

    /// `blocks` blocks of 256 threads. Nothing to do is no error.
    pub(super) fn run(self, blocks: usize, like: &Device) -> Result<()> {
        if blocks == 0 {
            return Ok(());
        }
        if blocks > i32::MAX as usize || self.arguments.iter().any(|a| matches!(a, Argument::Int(i32::MAX))) {
            bail!("{}: the tensor is too large for one kernel", self.name)
        }
        match like {
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => super::device::launch(device, self.name, blocks as u32, THREADS as u32, &self.arguments),
            #[cfg(feature = "emulate-cuda")]
            Device::Cpu => super::emulator::launch(self.name, blocks as u32, &self.arguments),
            other => bail!("{}: no kernels for {:?}", self.name, other.location()),
        }
    }
}

/// Blocks that share a plane of `size` elements.
pub(super) fn chunks(size: usize) -> usize {
    size.div_ceil(CHUNK).max(1)
}

/// Blocks of CHUNK elements of a whole tensor.
pub(super) fn blocks_of(n: usize) -> usize {
    n.div_ceil(CHUNK)
}
