//! Settings of the process that the speed of a step depends on. Freed memory stays with the process: a training step frees and asks for the same large buffers again and again, and pages that went
//! back to the system in between cost more than the arithmetic on them.

use std::ffi::{c_int, c_long};
use std::sync::Once;

use mimalloc as _;

unsafe extern "C" {
    fn mi_option_set(option: c_int, value: c_long);
}

/// mimalloc's `mi_option_purge_delay`: milliseconds until unused pages are given back; -1 is never.
const PURGE_DELAY: c_int = 15;

/// Tells mimalloc, which is the allocator of this crate's binaries, to keep what is freed. Without effect on other allocators, or where
/// the environment sets MIMALLOC_PURGE_DELAY.
pub(super) fn keep_freed() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
            // SAFETY: sets one integer inside mimalloc, which is linked in.
            unsafe { mi_option_set(PURGE_DELAY, -1) }
        }
    });
}

/// To be called first in `main`: keeps candle's elementwise loops on the calling thread, unless CANDLE_NUM_THREADS is set. They have a
/// pool of their own, whose threads spin while they wait and take the cores from rayon's: with two threads on busy cores the mini step
/// takes four times as long.
pub fn one_pool() {
    if std::env::var_os("CANDLE_NUM_THREADS").is_none() {
        // SAFETY: no other thread runs yet.
        unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") }
    }
}
