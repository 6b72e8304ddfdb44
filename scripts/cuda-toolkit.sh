#!/usr/bin/env bash
# Makes `cargo build --release --features cudnn` work where there is no GPU, no driver and no CUDA: fetches NVIDIA's compiler and headers
# (about 160 MB of wheels from PyPI, under NVIDIA's licence) and puts stand-ins in place of the CUDA libraries (cuda-shim.c), so that the
# program starts, and runs on the CPU, where those libraries are missing.
# usage: scripts/cuda-toolkit.sh [DIR = target/cuda-toolkit]; then: . DIR/env.sh
set -euo pipefail
scripts=$(dirname "$(realpath "$0")")
dir=$(realpath -m "${1:-$scripts/../target/cuda-toolkit}")
python=${PYTHON:-python3}
home=$dir/nvidia/cu13
if [ -f "$dir/env.sh" ]; then
    echo "$dir is complete; delete it to make it anew"
    exit 0
fi
[ "$(uname -sm)" = "Linux x86_64" ] || { echo "the stand-ins are written for Linux on x86-64" >&2; exit 1; }
for tool in "$python" unzip gcc g++ cargo; do
    command -v "$tool" >/dev/null || { echo "$tool is needed" >&2; exit 1; }
done

mkdir -p "$dir/wheels"
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$dir/wheels" \
    nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-cccl==13.0.85 \
    nvidia-cuda-runtime==13.0.96 nvidia-curand==10.4.0.35
for wheel in "$dir"/wheels/*.whl; do unzip -qo "$wheel" -d "$dir"; done
chmod +x "$home"/bin/* "$home"/nvvm/bin/*
# A shared library beside a stand-in would be preferred by the linker, and be needed at the start again.
rm -f "$home"/lib/*.so "$home"/lib/*.so.*
ln -sfn lib "$home/lib64"
mv -f "$home/lib/libcudart_static.a" "$home/lib/libcudart.a"

# The functions that cudarc declares are the ones that may be called.
cargo fetch --quiet --manifest-path "$scripts/../Cargo.toml"
bindings=$(ls -d "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/cudarc-0.19.*/src | sort -V | tail -1)
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
stand_in() { # name, file that is opened at run time, what a call returns without it, module of cudarc, prefix of its functions
    grep -ohE "^ *pub unsafe fn $5[A-Za-z0-9_]*" "$bindings/$4/sys/mod.rs" | awk '{print $NF}' | sort -u |
        awk '{print "SYMBOL(" NR - 1 ", " $1 ")"}' >"$work/$1.symbols"
    [ -s "$work/$1.symbols" ] || { echo "no functions found for $1 in $bindings" >&2; exit 1; }
    gcc -O2 -fPIC -fno-lto -c "$scripts/cuda-shim.c" -o "$work/$1.o" \
        -DSONAME="\"$2\"" -DFAILURE="$3" -DSYMBOLS="\"$work/$1.symbols\""
    rm -f "$home/lib/lib$1.a"
    ar rcs "$home/lib/lib$1.a" "$work/$1.o"
}
stand_in cuda libcuda.so.1 100 driver cu
stand_in cublas libcublas.so.13 1 cublas cublas
stand_in cublasLt libcublasLt.so.13 1 cublaslt cublasLt
stand_in curand libcurand.so.10 203 curand curand
stand_in nvrtc libnvrtc.so.13 7 nvrtc nvrtc
stand_in cudnn libcudnn.so.9 1001 cudnn cudnn

# compute_80 code is compiled by the driver for every card from A100 and RTX 30 on.
# candle's matrix kernels for quantised language models take most of the build and are never called: they need no optimised assembly.
cat >"$dir/env.sh.part" <<EOT
export CUDA_HOME="$home" PATH="$home/bin:\$PATH" CUDA_COMPUTE_CAP="\${CUDA_COMPUTE_CAP:-80}"
export NVCC_APPEND_FLAGS="\${NVCC_APPEND_FLAGS:--Xptxas -O0}"
EOT
mv "$dir/env.sh.part" "$dir/env.sh"
"$home/bin/nvcc" --version | tail -2
