#!/usr/bin/env bash
# Builds mtv-bench for CUDA on a machine that needs no GPU: fetches the compiler (cuda-toolkit.sh), builds with cuDNN, and checks that the
# program needs no CUDA library to start. The result runs on the CPU everywhere, and on cards from compute capability 8.0 on where
# libcuda, libcublas 13, libcurand 10 and libcudnn 9 are found. The first build takes a quarter of an hour of processor time.
# usage: scripts/build-cuda.sh -> target/cuda/mtv-bench
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/cuda-toolkit.sh target/cuda-toolkit
. target/cuda-toolkit/env.sh
cargo build --release --features cudnn --target-dir target/cuda --bin mtv-bench
program=target/cuda/mtv-bench
strip -o "$program.part" target/cuda/release/mtv-bench
mv "$program.part" "$program"

needed=$(readelf -d "$program" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
if grep -E '^lib(cu|nv)' <<<"$needed"; then
    echo "$program needs these libraries to start; delete target/cuda-toolkit and build again" >&2
    exit 1
fi
"$program" --version
"$program" run ablation_mtv --profile tiny --device cpu --quiet --out "$(mktemp -d)" >/dev/null
echo "runs on the CPU"
if ! nvidia-smi >/dev/null 2>&1; then
    code=0
    message=$("$program" run ablation_mtv --profile tiny --device cuda:0 --quiet 2>&1) || code=$?
    [ "$code" -eq 6 ] && [ "$(wc -l <<<"$message")" -eq 1 ] || { echo "exit $code: $message" >&2; exit 1; }
    echo "without a driver, --device cuda:0 ends with code 6 and: $message"
fi
ls -sh "$program"
