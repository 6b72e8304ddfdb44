#!/usr/bin/env bash
# Installs what a bare Debian or Ubuntu lacks to build mtv-bench: a C compiler (mimalloc and the TLS library have C parts), git,
# curl, and Rust through rustup. Nothing else is needed: no BLAS, no fonts, no cmake; Python only by the test of external methods. CUDA is
# a build feature of its own.
set -euo pipefail

need=()
command -v cc >/dev/null || need+=(gcc libc6-dev)
command -v git >/dev/null || need+=(git)
command -v python3 >/dev/null || need+=(python3)
command -v curl >/dev/null || need+=(curl ca-certificates)
if [ ${#need[@]} -gt 0 ]; then
    sudo=""
    [ "$(id -u)" -eq 0 ] || sudo=sudo
    $sudo apt-get update
    $sudo apt-get install -y --no-install-recommends "${need[@]}"
fi

if ! command -v cargo >/dev/null; then
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal --default-toolchain none
    echo "open a new shell, or: source \"\$HOME/.cargo/env\""
fi
# rust-toolchain.toml names the version; rustup fetches it with the first cargo command.
