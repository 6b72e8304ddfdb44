//! The card itself: opening it, starting a kernel on it, its precision and its memory.

use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::backend::BackendDevice;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{LaunchConfig, PushKernelArg, result, sys};
use candle_core::{CudaDevice, Result};

use super::launch::Argument;

const PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels.ptx"));

static EXACT: AtomicBool = AtomicBool::new(true);

/// Whether products and convolutions are computed in full f32. Otherwise their factors are rounded to 10 bits of mantissa (TF32), sums
/// are kept in f32.
pub fn exact() -> bool {
    EXACT.load(Ordering::Relaxed)
}

/// Chooses for the whole process; to be called before the first operation.
pub fn set_exact(exact: bool) {
    EXACT.store(exact, Ordering::Relaxed);
    candle_core::cuda::set_gemm_reduced_precision_f32(!exact);
}

/// Opens card `ordinal` with one stream, on which everything runs in order, and keeps freed memory for the next tensor: a training step
/// asks for the same sizes again and again.
///
/// Errors: no driver, or no such card.
pub fn open(ordinal: usize) -> Result<candle_core::Device> {
    let device = candle_core::Device::new_cuda_with_stream(ordinal)?;
    let cuda = device.as_cuda_device()?;
    // SAFETY: there is one stream, so no use of a tensor needs to wait for another.
    unsafe { cuda.disable_event_tracking() };
    let pool = pool(cuda)?;
    let mut all = u64::MAX;
    // SAFETY: the attribute is a u64.
    unsafe { sys::cuMemPoolSetAttribute(pool, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, (&raw mut all).cast()) }
        .result()
        .w()?;
    Ok(device)
}

fn ordinal(device: &CudaDevice) -> i32 {
    match device.location() {
        candle_core::DeviceLocation::Cuda { gpu_id } => gpu_id as i32,
        _ => 0,
    }
}

fn pool(device: &CudaDevice) -> Result<sys::CUmemoryPool> {
    let mut pool = std::ptr::null_mut();
    // SAFETY: writes one handle.
    unsafe { sys::cuDeviceGetDefaultMemPool(&mut pool, result::device::get(ordinal(device)).w()?) }.result().w()?;
    Ok(pool)
}

/// What a record says about the card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// For example "NVIDIA H100 80GB HBM3".
    pub name: String,
    /// The newest CUDA version that the driver serves, for example "13.0".
    pub driver: String,
    /// Bytes of memory.
    pub memory: u64,
}

impl Card {
    /// Errors: not a CUDA device.
    pub fn of(device: &candle_core::Device) -> Result<Self> {
        let cuda = device.as_cuda_device()?;
        let handle = result::device::get(ordinal(cuda)).w()?;
        let mut version = 0;
        // SAFETY: writes one integer.
        unsafe { sys::cuDriverGetVersion(&mut version) }.result().w()?;
        // SAFETY: the handle is that of an open device.
        let memory = unsafe { result::device::total_mem(handle) }.w()? as u64;
        let driver = format!("{}.{}", version / 1000, version % 1000 / 10);
        Ok(Card { name: result::device::get_name(handle).w()?, driver, memory })
    }

    /// The most memory in use at a time since [`Card::reset_peak`], in bytes: tensors and workspaces, without what the pool keeps.
    pub fn peak(device: &candle_core::Device) -> Result<u64> {
        let mut bytes = 0u64;
        let pool = pool(device.as_cuda_device()?)?;
        // SAFETY: the attribute is a u64.
        unsafe { sys::cuMemPoolGetAttribute(pool, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH, (&raw mut bytes).cast()) }
            .result()
            .w()?;
        Ok(bytes)
    }

    /// Starts a new measurement of [`Card::peak`].
    pub fn reset_peak(device: &candle_core::Device) -> Result<()> {
        device.synchronize()?;
        let mut zero = 0u64;
        let pool = pool(device.as_cuda_device()?)?;
        // SAFETY: the attribute is a u64, and 0 the value that resets it.
        unsafe { sys::cuMemPoolSetAttribute(pool, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH, (&raw mut zero).cast()) }
            .result()
            .w()
    }
}

pub(super) fn launch(device: &CudaDevice, name: &str, blocks: u32, threads: u32, arguments: &[Argument]) -> Result<()> {
    let function = device.get_or_load_custom_func(name, "mtv-bench", PTX)?;
    let mut builder = function.builder();
    for argument in arguments {
        match argument {
            Argument::Address(v) => builder.arg(v),
            Argument::Long(v) => builder.arg(v),
            Argument::Int(v) => builder.arg(v),
            Argument::Float(v) => builder.arg(v),
        };
    }
    let shape = LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: the emulator has checked every launch of this crate against the kernel's declaration; addresses are those of live tensors,
    // whose memory is given back in the order of the stream.
    unsafe { builder.launch(shape) }.w()?;
    Ok(())
}
