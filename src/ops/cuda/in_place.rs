//! What the optimizers and the moving average do to their tensors.

use candle_core::{CpuStorage, CudaStorage, InplaceOp2, InplaceOp3, Layout, Result, Tensor, bail};

use super::launch::Launch;

/// The last argument of these kernels: the tensor that changes.
#[cfg(feature = "emulate-cuda")]
fn host(launch: Launch, s: &mut CpuStorage, l: &Layout) -> Result<()> {
    match (s, l.contiguous_offsets()) {
        (CpuStorage::F32(v), Some((from, to))) => launch.host(&mut v[from..to]).each(to - from, &candle_core::Device::Cpu),
        _ => bail!("the kernels write contiguous f32 tensors"),
    }
}

#[cfg(not(feature = "emulate-cuda"))]
fn host(_: Launch, _: &mut CpuStorage, _: &Layout) -> Result<()> {
    bail!("the CPU has its own loops")
}

#[cfg(feature = "cuda")]
fn device(launch: Launch, s: &mut CudaStorage, l: &Layout) -> Result<()> {
    use candle_core::backend::BackendStorage;
    let on = candle_core::Device::Cuda(s.device().clone());
    launch.storage(s, l)?.each(l.shape().elem_count(), &on)
}

#[cfg(not(feature = "cuda"))]
fn device(_: Launch, _: &mut CudaStorage, _: &Layout) -> Result<()> {
    bail!("this build has no CUDA")
}

/// A kernel that is complete but for the tensor that it changes. The other arguments are addresses already: candle holds their tensors
/// for the call.
struct InPlace(std::sync::Mutex<Option<Launch>>);

impl InPlace {
    fn new(launch: Launch) -> Self {
        InPlace(std::sync::Mutex::new(Some(launch)))
    }
    fn take(&self) -> Result<Launch> {
        match self.0.lock().ok().and_then(|mut l| l.take()) {
            Some(launch) => Ok(launch),
            None => bail!("an update in place runs once"),
        }
    }
}

impl InplaceOp2 for InPlace {
    fn name(&self) -> &'static str {
        "in-place"
    }
    fn cpu_fwd(&self, s: &mut CpuStorage, l: &Layout, _: &CpuStorage, _: &Layout) -> Result<()> {
        host(self.take()?, s, l)
    }
    fn cuda_fwd(&self, s: &mut CudaStorage, l: &Layout, _: &CudaStorage, _: &Layout) -> Result<()> {
        device(self.take()?, s, l)
    }
}

impl InplaceOp3 for InPlace {
    fn name(&self) -> &'static str {
        "in-place"
    }
    fn cpu_fwd(&self, s: &mut CpuStorage, l: &Layout, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<()> {
        host(self.take()?, s, l)
    }
    fn cuda_fwd(&self, s: &mut CudaStorage, l: &Layout, _: &CudaStorage, _: &Layout, _: &CudaStorage, _: &Layout) -> Result<()> {
        device(self.take()?, s, l)
    }
}

/// acc = decay * acc + weight * (grad or grad^2); `grad` is contiguous and of its shape.
pub fn accumulate(acc: &Tensor, grad: &Tensor, decay: f64, weight: f64, square: bool) -> Result<()> {
    let launch = Launch::new("accumulate").long(acc.elem_count()).float(decay).float(weight).int(square.into()).tensor(grad)?;
    acc.inplace_op2(grad, &InPlace::new(launch))
}

/// p -= scale * d / (sqrt(v) * root_scale + eps).
pub fn optimizer_step(p: &Tensor, v: &Tensor, d: &Tensor, scale: f64, root_scale: f64, eps: f64) -> Result<()> {
    let launch = Launch::new("optimizer_step").long(p.elem_count()).float(scale).float(root_scale).float(eps).tensor(v)?.tensor(d)?;
    p.inplace_op3(v, d, &InPlace::new(launch))
}

/// a += weight * (b - a).
pub fn towards(a: &Tensor, b: &Tensor, weight: f64) -> Result<()> {
    let launch = Launch::new("towards").long(a.elem_count()).float(weight).tensor(b)?;
    a.inplace_op2(b, &InPlace::new(launch))
}
