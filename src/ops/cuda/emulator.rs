//! The kernels on the CPU (`emulator.cpp`), for tests.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::sync::Mutex;

use candle_core::{Result, bail};

use super::launch::Argument;

unsafe extern "C" {
    fn mtv_emulate(
        name: *const c_char,
        blocks: c_uint,
        backwards: c_int,
        arguments: *mut *mut c_void,
        kinds: *const u8,
        count: usize,
    ) -> c_int;
}

thread_local! {
    static ON: Cell<Option<bool>> = const { Cell::new(None) };
}

/// How often each kernel ran. The lock also keeps emulated kernels apart: they share their "shared memory".
static LAUNCHES: Mutex<BTreeMap<&'static str, usize>> = Mutex::new(BTreeMap::new());

pub(super) fn on() -> bool {
    ON.get().is_some()
}

/// Runs `f`, and with it the backward passes of what it computes, with CPU tensors of f32 taking the way of CUDA tensors. `backwards`:
/// threads and blocks run from last to first; a kernel that needs a barrier it does not have then gives another result.
pub fn emulate<R>(backwards: bool, f: impl FnOnce() -> R) -> R {
    struct Reset(Option<bool>);
    impl Drop for Reset {
        fn drop(&mut self) {
            ON.set(self.0);
        }
    }
    let _reset = Reset(ON.replace(Some(backwards)));
    f()
}

/// Every kernel that has run in this process, and how often.
pub fn launches() -> BTreeMap<&'static str, usize> {
    LAUNCHES.lock().unwrap_or_else(|e| e.into_inner()).clone()
}

pub(super) fn launch(name: &'static str, blocks: u32, arguments: &[Argument]) -> Result<()> {
    let Ok(c_name) = CString::new(name) else { bail!("{name}: not a name") };
    let mut values = arguments.to_vec();
    let mut pointers: Vec<*mut c_void> = values
        .iter_mut()
        .map(|a| match a {
            Argument::Address(v) => (v as *mut u64).cast(),
            Argument::Long(v) => (v as *mut i64).cast(),
            Argument::Int(v) => (v as *mut i32).cast(),
            Argument::Float(v) => (v as *mut f32).cast(),
        })
        .collect();
    let kind = |a: &Argument| match a {
        Argument::Address(_) => b'p',
        Argument::Long(_) => b'l',
        Argument::Int(_) => b'i',
        Argument::Float(_) => b'f',
    };
    let kinds: Vec<u8> = arguments.iter().map(kind).collect();
    let mut launches = LAUNCHES.lock().unwrap_or_else(|e| e.into_inner());
    *launches.entry(name).or_default() += 1;
    let backwards = ON.get().unwrap_or(false).into();
    // SAFETY: the arguments have the declared types, or the call refuses them; addresses are those of live tensors.
    match unsafe { mtv_emulate(c_name.as_ptr(), blocks, backwards, pointers.as_mut_ptr(), kinds.as_ptr(), kinds.len()) } {
        0 => Ok(()),
        1 => bail!("{name}: no such kernel"),
        2 => bail!("{name}: the kernel declares other arguments"),
        _ => bail!("{name}: the threads of a block met different barriers"),
    }
}
