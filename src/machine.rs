//! Facts about the machine: processor, memory, disk, time, and the device that was asked for.

use std::fs;
use std::path::Path;

use candle_core::Device;

use crate::{Error, Result};

/// The processor's name, for example "Intel(R) Xeon(R) Platinum 8481C".
pub fn cpu() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':').map(|(_, v)| v.trim().to_string()));
    name.unwrap_or_else(|| std::env::consts::ARCH.to_string())
}

fn meminfo(key: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kb| kb * 1024)
}

fn control_group(file: &str) -> Option<u64> {
    fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok()?.trim().parse().ok()
}

/// Bytes of memory that this process may still take: the least of what the system has, what the control group allows and
/// what the limit on the address space leaves. `None` where the system does not tell.
pub fn available_memory() -> Option<u64> {
    let system = meminfo("MemAvailable");
    let group = control_group("memory.max").map(|max| max.saturating_sub(control_group("memory.current").unwrap_or(0)));
    let limit = address_space_limit().map(|max| max.saturating_sub(status("VmSize").unwrap_or(0)));
    [system, group, limit].into_iter().flatten().min()
}

#[cfg(unix)]
fn address_space_limit() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes into the struct that it is given.
    let ok = unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut limit) } == 0;
    (ok && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

#[cfg(not(unix))]
fn address_space_limit() -> Option<u64> {
    None
}

fn status(key: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kb| kb * 1024)
}

/// Starts a new measurement of [`peak_memory`].
pub fn reset_peak_memory() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// The most resident memory, in bytes, since the start or the last reset; 0 where the system does not tell.
pub fn peak_memory() -> u64 {
    status("VmHWM").unwrap_or(0)
}

/// Free bytes on the disk that holds `path` or, where it does not exist yet, its nearest parent that does.
#[cfg(unix)]
pub fn free_disk(path: &Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt;
    let mut path = std::path::absolute(path).ok()?;
    while !path.exists() {
        path = path.parent()?.to_path_buf();
    }
    let name = std::ffi::CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut info = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the name ends in 0 and the struct is filled when the call succeeds.
    let info = unsafe {
        if libc::statvfs(name.as_ptr(), info.as_mut_ptr()) != 0 {
            return None;
        }
        info.assume_init()
    };
    Some(info.f_bavail as u64 * info.f_frsize as u64)
}

#[cfg(not(unix))]
pub fn free_disk(_path: &Path) -> Option<u64> {
    None
}

/// The date of today in UTC, "2026-11-22".
pub fn date() -> String {
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    // Days since 1 March of year 0 in the Gregorian calendar, whose years then end in February.
    let days = seconds / 86400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = (era * 400 + year, if month < 10 { month + 3 } else { month - 9 });
    format!("{:04}-{month:02}-{day:02}", if month <= 2 { year + 1 } else { year })
}

/// The device that `--device` names: "auto" (the first CUDA device, else the CPU), "cpu" or "cuda:N".
///
/// Errors: Usage for another word, Resource if there is no such device.
pub fn device(wanted: &str) -> Result<Device> {
    match wanted {
        "cpu" => Ok(Device::Cpu),
        "auto" => Ok(cuda(0).unwrap_or(Device::Cpu)),
        "cuda" => cuda(0),
        _ => match wanted.strip_prefix("cuda:").map(str::parse) {
            Some(Ok(n)) => cuda(n),
            _ => Err(Error::usage(format!("--device {wanted}: \"auto\", \"cpu\" or \"cuda:N\" is expected"))),
        },
    }
}

#[cfg(feature = "cuda")]
fn cuda(ordinal: usize) -> Result<Device> {
    // Without a driver the CUDA binding panics instead of returning an error.
    match std::panic::catch_unwind(|| crate::ops::cuda::open(ordinal)) {
        Ok(Ok(device)) => Ok(device),
        Ok(Err(e)) => {
            let text = e.to_string();
            let text = text.lines().next().unwrap_or("");
            let why = match text {
                // What the stand-ins of scripts/cuda-shim.c answer where a library is missing.
                _ if text.contains("CUDA_ERROR_NO_DEVICE") => {
                    "no CUDA driver or card was found on this machine; use --device cpu".to_string()
                }
                _ if text.contains("NOT_INITIALIZED") || text.contains("INITIALIZATION_FAILED") => {
                    "libcublas.so.13 or libcurand.so.10 was not found, or does not start; LD_LIBRARY_PATH must name their folders"
                        .to_string()
                }
                _ => format!("no such CUDA device: {text}"),
            };
            Err(Error::resource(format!("cuda:{ordinal}: {why}")))
        }
        Err(_) => Err(Error::resource(format!("cuda:{ordinal}: no CUDA driver was found on this machine; use --device cpu"))),
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda(ordinal: usize) -> Result<Device> {
    Err(Error::resource(format!(
        "cuda:{ordinal}: this mtv-bench was built without the cuda feature; use --device cpu or build it with --features cuda"
    )))
}

/// The arithmetic of convolutions and matrix products on CUDA that `--precision` names: "f32", or "tf32", which rounds factors to 10 bits of
/// mantissa and is faster. For the whole process, before the first operation.
///
/// Errors: Usage for another word, or for tf32 on the CPU, which has no such arithmetic.
pub fn set_precision(wanted: &str, device: &Device) -> Result<()> {
    match wanted {
        "f32" => set_exact(true),
        "tf32" if device.is_cuda() => set_exact(false),
        "tf32" => return Err(Error::usage("--precision tf32: only CUDA devices have it; the CPU computes in f32")),
        "bf16" => return Err(Error::usage("--precision bf16 is not offered: nothing has shown yet that it does the results no harm")),
        _ => return Err(Error::usage(format!("--precision {wanted}: \"f32\" or \"tf32\" is expected"))),
    }
    Ok(())
}

#[cfg(feature = "cuda")]
fn set_exact(exact: bool) {
    crate::ops::cuda::set_exact(exact);
}

#[cfg(not(feature = "cuda"))]
fn set_exact(_: bool) {}

/// "f32" or "tf32", as [`set_precision`] chose.
pub fn precision() -> &'static str {
    #[cfg(feature = "cuda")]
    if !crate::ops::cuda::exact() {
        return "tf32";
    }
    "f32"
}

/// "cpu", "cuda" or "cuda-tf32": what decides about rounding, and so belongs to the key of a stage.
pub fn backend(device: &Device) -> &'static str {
    match (device.is_cuda(), precision()) {
        (false, _) => "cpu",
        (true, "f32") => "cuda",
        (true, _) => "cuda-tf32",
    }
}

/// The device as a record names it: "cpu", or "cuda:0" with the card and the newest CUDA version that its driver serves.
pub fn describe(device: &Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cpu => "cpu".into(),
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}{}", card(device)),
        candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

#[cfg(feature = "cuda")]
fn card(device: &Device) -> String {
    match crate::ops::cuda::Card::of(device) {
        Ok(card) => format!(" ({}, {:.0} GB, CUDA {})", card.name, card.memory as f64 / 1e9, card.driver),
        Err(_) => String::new(),
    }
}

#[cfg(not(feature = "cuda"))]
fn card(_: &Device) -> String {
    String::new()
}

/// Starts a new measurement of [`peak_memory_of`].
pub fn reset_peak_memory_of(device: &Device) {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        let _ = crate::ops::cuda::Card::reset_peak(device);
        return;
    }
    let _ = device;
    reset_peak_memory();
}

/// The most memory, in bytes, since the last reset: of the process on the CPU, of its tensors on a card. 0 where it can't be told.
pub fn peak_memory_of(device: &Device) -> u64 {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        return crate::ops::cuda::Card::peak(device).unwrap_or(0);
    }
    let _ = device;
    peak_memory()
}

/// What this build can compute on: "CPU", "CPU and CUDA (cuDNN)" or "CPU and CUDA (without cuDNN)".
pub const fn built_for() -> &'static str {
    match (cfg!(feature = "cuda"), cfg!(feature = "cudnn")) {
        (false, _) => "CPU",
        (true, true) => "CPU and CUDA (cuDNN)",
        (true, false) => "CPU and CUDA (without cuDNN)",
    }
}
