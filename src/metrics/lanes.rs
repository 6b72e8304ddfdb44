//! Loops compiled twice, for any x86-64 (or other) CPU and for AVX2, chosen when the program runs. No operation is
//! reordered and none is fused, so both give the same bits.

/// Defines a function and, on x86-64, its AVX2 twin.
macro_rules! versions {
    ($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) -> $out:ty $body:block) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            #[inline(always)]
            fn body($($arg: $type),*) -> $out $body
            $(#[$doc])*
            pub fn any($($arg: $type),*) -> $out {
                body($($arg),*)
            }
            /// The same for CPUs with AVX2.
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            pub fn avx2($($arg: $type),*) -> $out {
                body($($arg),*)
            }
        }
    };
}

/// Calls the version of the function that this CPU can run.
macro_rules! dispatch {
    ($name:ident($($arg:expr),* $(,)?)) => {{
        #[cfg(target_arch = "x86_64")]
        let value = if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has AVX2, which is all that the function asks for.
            unsafe { $name::avx2($($arg),*) }
        } else {
            $name::any($($arg),*)
        };
        #[cfg(not(target_arch = "x86_64"))]
        let value = $name::any($($arg),*);
        value
    }};
}

pub(super) use {dispatch, versions};

/// The sum of `values` in eight interleaved parts, combined in a fixed order.
#[inline(always)]
pub(super) fn sum(values: &[f64]) -> f64 {
    let mut parts = [0f64; 8];
    let chunks = values.chunks_exact(8);
    let rest: f64 = chunks.remainder().iter().sum();
    for chunk in chunks {
        for (p, v) in parts.iter_mut().zip(chunk) {
            *p += v;
        }
    }
    ((parts[0] + parts[1]) + (parts[2] + parts[3])) + ((parts[4] + parts[5]) + (parts[6] + parts[7])) + rest
}

/// The dot product of two equally long lines in eight interleaved parts, combined in a fixed order.
#[inline(always)]
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut parts = [0f64; 8];
    let (left, right) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = left.remainder().iter().zip(right.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in left.zip(right) {
        for (p, (x, y)) in parts.iter_mut().zip(x.iter().zip(y)) {
            *p += x * y;
        }
    }
    ((parts[0] + parts[1]) + (parts[2] + parts[3])) + ((parts[4] + parts[5]) + (parts[6] + parts[7])) + rest
}
