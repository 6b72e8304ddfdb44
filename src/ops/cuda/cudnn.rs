//! The three products of a convolution by cuDNN. candle has the forward one only, and leaves the precision and the algorithm to cuDNN;
//! here both are chosen: full f32 unless TF32 was asked for, and only algorithms that give the same bits every time.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::c_int;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::cudnn::{result as api, sys};
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr};
use candle_core::cuda_backend::{CudaDevice, DeviceId};
use candle_core::{Error, Result, Storage, Tensor, bail};

use super::super::unfold::Geometry;
use super::conv::Product;
use super::launch::Buffer;

/// The most workspace that an algorithm may ask for, in bytes. It is kept, and counts as memory of the step.
const WORKSPACE: usize = 1 << 30;

/// What decides about the algorithm.
type Key = (Product, Geometry, bool);

#[derive(Clone, Copy)]
enum Algorithm {
    Forward(sys::cudnnConvolutionFwdAlgo_t),
    BackwardData(sys::cudnnConvolutionBwdDataAlgo_t),
    BackwardFilter(sys::cudnnConvolutionBwdFilterAlgo_t),
}

/// Descriptions of the tensors of one convolution, and the algorithm with its workspace in bytes; no algorithm where cuDNN has none.
struct Plan {
    x: sys::cudnnTensorDescriptor_t,
    w: sys::cudnnFilterDescriptor_t,
    y: sys::cudnnTensorDescriptor_t,
    conv: sys::cudnnConvolutionDescriptor_t,
    algorithm: Option<(Algorithm, usize)>,
}

impl Drop for Plan {
    fn drop(&mut self) {
        // At the end of the process the library may be closed already; then nothing is left to free.
        // SAFETY: the plan made these descriptors and is their only owner.
        unsafe {
            let _ = api::destroy_tensor_descriptor(self.x);
            let _ = api::destroy_tensor_descriptor(self.y);
            let _ = api::destroy_filter_descriptor(self.w);
            let _ = api::destroy_convolution_descriptor(self.conv);
        }
    }
}

/// cuDNN on one card, for one thread.
struct Library {
    handle: sys::cudnnHandle_t,
    plans: HashMap<Key, Plan>,
    workspace: Option<CudaSlice<u8>>,
}

thread_local! {
    static LIBRARIES: RefCell<HashMap<DeviceId, Library>> = RefCell::new(HashMap::new());
}

fn failed(e: api::CudnnError) -> Error {
    let status = format!("{:?}", e.0);
    Error::Msg(match e.0 {
        sys::cudnnStatus_t::CUDNN_STATUS_NOT_INITIALIZED => "cuDNN: libcudnn.so.9 was not found, or fails to start".into(),
        _ => format!("cuDNN: {status}"),
    })
}

impl Library {
    fn open(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        stream.context().bind_to_thread().map_err(Error::wrap)?;
        let handle = api::create_handle().map_err(failed)?;
        // SAFETY: both were just made and live.
        unsafe { api::set_stream(handle, stream.cu_stream().cast()) }.map_err(failed)?;
        Ok(Library { handle, plans: HashMap::new(), workspace: None })
    }
}

/// The first algorithm of cuDNN's list, which is ordered by expected speed, that is exact enough, repeatable and modest.
macro_rules! choose {
    ($kind:ident, $count:expr, $list:expr, $size:expr, $exact:expr, $conv:expr) => {{
        // SAFETY: plain numbers, for which zero is a value.
        let mut found = [unsafe { std::mem::zeroed() }; $count];
        let mut count: c_int = 0;
        // SAFETY: room for as many as asked for.
        unsafe { $list($count as c_int, &mut count, found.as_mut_ptr()) }.map_err(failed)?;
        let mut chosen = None;
        for perf in &found[..(count.max(0) as usize).min($count)] {
            let usable = perf.status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS
                && perf.determinism == sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC
                && !($exact && perf.mathType == sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH);
            if !usable {
                continue;
            }
            let math = if $exact { sys::cudnnMathType_t::CUDNN_FMA_MATH } else { perf.mathType };
            // SAFETY: the descriptor lives. The workspace depends on the kind of arithmetic, so it is asked for again.
            unsafe { api::set_convolution_math_type($conv, math) }.map_err(failed)?;
            match unsafe { $size(perf.algo) } {
                Ok(bytes) if bytes <= WORKSPACE => {
                    chosen = Some((Algorithm::$kind(perf.algo), bytes));
                    break;
                }
                _ => continue,
            }
        }
        chosen
    }};
}

impl Plan {
    fn new(h: sys::cudnnHandle_t, product: Product, g: &Geometry, exact: bool) -> Result<Self> {
        let sizes = |all: [usize; 4]| all.map(|v| v as c_int);
        let (nchw, float) = (sys::cudnnTensorFormat_t::CUDNN_TENSOR_NCHW, sys::cudnnDataType_t::CUDNN_DATA_FLOAT);
        let mut plan = Plan {
            x: api::create_tensor_descriptor().map_err(failed)?,
            w: api::create_filter_descriptor().map_err(failed)?,
            y: api::create_tensor_descriptor().map_err(failed)?,
            conv: api::create_convolution_descriptor().map_err(failed)?,
            algorithm: None,
        };
        let (pad, stride) = (g.pad as c_int, g.stride as c_int);
        let cross = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
        let math = if exact { sys::cudnnMathType_t::CUDNN_FMA_MATH } else { sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH };
        // SAFETY: the descriptors were just made.
        unsafe {
            api::set_tensor4d_descriptor(plan.x, nchw, float, sizes([g.n, g.ci, g.h, g.w])).map_err(failed)?;
            api::set_filter4d_descriptor(plan.w, float, nchw, sizes([g.co, g.ci, g.kh, g.kw])).map_err(failed)?;
            api::set_tensor4d_descriptor(plan.y, nchw, float, sizes([g.n, g.co, g.oh, g.ow])).map_err(failed)?;
            api::set_convolution2d_descriptor(plan.conv, pad, pad, stride, stride, 1, 1, cross, float).map_err(failed)?;
            api::set_convolution_math_type(plan.conv, math).map_err(failed)?;
        }
        let Plan { x, w, y, conv, .. } = plan;
        plan.algorithm = match product {
            Product::Forward => choose!(
                Forward,
                8,
                |n, count, list| api::get_convolution_forward_algorithm(h, x, w, conv, y, n, count, list),
                |algo| api::get_convolution_forward_workspace_size(h, x, w, conv, y, algo),
                exact,
                conv
            ),
            Product::BackwardData => choose!(
                BackwardData,
                6,
                |n, count, list| api::get_convolution_backward_data_algorithm(h, w, y, conv, x, n, count, list),
                |algo| api::get_convolution_backward_data_workspace_size(h, w, y, conv, x, algo),
                exact,
                conv
            ),
            Product::BackwardFilter => choose!(
                BackwardFilter,
                7,
                |n, count, list| api::get_convolution_backward_filter_algorithm(h, x, y, conv, w, n, count, list),
                |algo| api::get_convolution_backward_filter_workspace_size(h, x, y, conv, w, algo),
                exact,
                conv
            ),
        };
        Ok(plan)
    }
}

/// The product of two contiguous tensors on one card; None where cuDNN has no algorithm for it.
pub(super) fn product(product: Product, g: &Geometry, a: &Tensor, b: &Tensor) -> Result<Option<Buffer>> {
    let device = a.device().as_cuda_device()?.clone();
    LIBRARIES.with(|libraries| {
        let mut libraries = libraries.borrow_mut();
        let Library { handle, plans, workspace } = match libraries.entry(device.id()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Library::open(&device)?),
        };
        let exact = super::exact();
        let plan = match plans.entry((product, *g, exact)) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Plan::new(*handle, product, g, exact)?),
        };
        let Some((algorithm, bytes)) = plan.algorithm else { return Ok(None) };
        if workspace.as_ref().is_none_or(|w| w.len() < bytes) {
            // The old one first: its memory may serve the new one.
            *workspace = None;
            // SAFETY: cuDNN writes before it reads.
            *workspace = Some(unsafe { device.alloc::<u8>(bytes.max(1))? });
        }
        let out = Buffer::new(product.shape(g).iter().product(), a)?;
        run(*handle, plan, algorithm, (workspace.as_ref(), bytes), a, b, &out)?;
        Ok(Some(out))
    })
}

fn run(
    handle: sys::cudnnHandle_t,
    plan: &Plan,
    algorithm: Algorithm,
    (workspace, bytes): (Option<&CudaSlice<u8>>, usize),
    a: &Tensor,
    b: &Tensor,
    out: &Buffer,
) -> Result<()> {
    let start = |t: &Tensor| -> Result<u64> {
        let (storage, layout) = t.storage_and_layout();
        match (&*storage, layout.contiguous_offsets()) {
            (Storage::Cuda(s), Some((start, _))) => {
                let stream = s.device().cuda_stream();
                Ok(s.as_cuda_slice::<f32>()?.device_ptr(&stream).0 + 4 * start as u64)
            }
            _ => bail!("convolution needs contiguous tensors on one card"),
        }
    };
    let (a, b, out) = (start(a)? as *const _, start(b)? as *const _, out.address()? as *mut _);
    let space = match workspace {
        Some(w) if bytes > 0 => w.device_ptr(w.stream()).0 as *mut _,
        _ => std::ptr::null_mut(),
    };
    let (one, zero) = (1f32, 0f32);
    let (one, zero) = ((&raw const one).cast(), (&raw const zero).cast());
    let Plan { x, w, y, conv, .. } = *plan;
    // SAFETY: descriptors and addresses describe live tensors of these sizes; the two factors live until the call returns.
    unsafe {
        match algorithm {
            Algorithm::Forward(algo) => api::convolution_forward(handle, one, x, a, w, b, conv, algo, space, bytes, zero, y, out),
            Algorithm::BackwardData(algo) => {
                api::convolution_backward_data(handle, one, w, b, y, a, conv, algo, space, bytes, zero, x, out)
            }
            Algorithm::BackwardFilter(algo) => {
                api::convolution_backward_filter(handle, one, x, a, y, b, conv, algo, space, bytes, zero, w, out)
            }
        }
    }
    .map_err(failed)
}
