#!/usr/bin/env bash
# Installs what Regroup's build needs: Debian packages, and a Python environment in .venv.
# Asks nothing, may be run again, and then does only what is left to do.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat <<'END'
Usage: tools/setup.sh [--cuda] [--tests]

Installs the Debian packages that the build needs (as root, or with sudo) and makes .venv
from tools/requirements.txt and tools/requirements-corpus.txt.

  --cuda   take PyTorch's CUDA flavour with NCCL (5 GB); the default is the CPU flavour where it is available
  --tests  also install what the tests need
END
}

debian_packages=(
  g++ cmake ninja-build ccache git ca-certificates
  libhdf5-dev libboost-program-options-dev nlohmann-json3-dev libgloo-dev catch2
  python3 python3-venv
)
# launchers and networks that the tests use; the compiler of the fuzz targets
test_packages=(openmpi-bin iproute2 clang-14 libclang-rt-14-dev)
venv=.venv
flavour=cpu
requirements=(tools/requirements.txt tools/requirements-corpus.txt)

say() { printf 'setup: %s\n' "$*" >&2; }
fail() {
  printf 'setup: %s\n' "$@" >&2
  exit 1
}

missing_packages() {
  dpkg-query --show --showformat '${Status}\t${Package}\n' "${debian_packages[@]}" 2>/dev/null |
    sed -n 's/^install ok installed\t//p' | sort |
    comm -13 - <(printf '%s\n' "${debian_packages[@]}" | sort)
}

install_debian_packages() {
  command -v dpkg-query >/dev/null ||
    fail "this is not a Debian or Ubuntu machine (no dpkg-query)." \
      "Install what matches these packages by hand: ${debian_packages[*]}"
  local missing as_root=()
  mapfile -t missing < <(missing_packages)
  ((${#missing[@]})) || return 0
  if ((EUID != 0)); then
    sudo -n true 2>/dev/null ||
      fail "these Debian packages are missing, and sudo would ask for a password: ${missing[*]}" \
        "Run this, then tools/setup.sh again:  sudo apt-get install ${missing[*]}"
    as_root=(sudo -n)
  fi
  say "installing Debian packages: ${missing[*]}"
  local log
  log=$(mktemp)
  if ! { "${as_root[@]}" apt-get update -q &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
      apt-get install -q -y --no-install-recommends "${missing[@]}"; } \
    >"$log" 2>&1 </dev/null; then
    tail -n 20 "$log" >&2
    fail "apt-get could not install them; its last lines are above, all of them in $log" \
      "Fix what they name (network, sources, another apt running), then run tools/setup.sh again."
  fi
  rm -f "$log"
}

# The distribution's Python, whose venv module the packages above install.
find_python() {
  local python
  for python in /usr/bin/python3 python3; do
    if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$python"
      return
    fi
  done
  fail "no Python 3.11 or newer with venv was found ($(/usr/bin/python3 --version 2>&1))." \
    "Debian 12, Ubuntu 24.04 and newer have one: apt-get install python3 python3-venv"
}

pip_install() { "$venv/bin/python" -m pip install "${pip_options[@]}" "$@" </dev/null; }

has_torch() {  # VERSION
  [[ $("$venv/bin/python" -c 'import importlib.metadata as m; print(m.version("torch"))' 2>/dev/null) \
    == "$1"?(+*) ]]
}

has_cuda_headers() { compgen -G "$venv/lib/python3*/site-packages/nvidia/cu*/include/crt" >/dev/null; }

has_cuda_flavour() { compgen -G "$venv/lib/python3*/site-packages/torch/lib/libtorch_cuda.so" >/dev/null; }

# The CPU flavour if a source has it, else PyPI's, which is the CUDA flavour and also runs without a GPU.
install_torch() {
  local version
  version=$(sed -n 's/^torch==//p' tools/requirements.txt)
  local pins=--constraint=tools/requirements.txt
  if [[ $flavour == cuda ]]; then
    has_torch "$version" && has_cuda_flavour && has_cuda_headers && return
    say "installing torch $version, CUDA flavour (5 GB), and the CUDA headers that NCCL's want"
    pip_install "$pins" "torch===$version" 'nvidia-cuda-crt==13.0.*' 'nvidia-cuda-cccl==13.0.*' && return
  else
    has_torch "$version" && return
    say "installing torch $version, CPU flavour (1 GB)"
    pip_install "$pins" "torch==$version+cpu" 2>/dev/null && return
    say "not in pip's configured sources; trying PyTorch's CPU wheel index"
    pip_install --timeout 10 --retries 1 "$pins" "torch==$version+cpu" \
      --extra-index-url https://download.pytorch.org/whl/cpu 2>/dev/null && return
    say "not there either; taking PyPI's, which is the CUDA flavour (5 GB) and needs no GPU"
    pip_install "$pins" "torch==$version" && return
  fi
  fail "pip could not install torch $version (see above). Check the network, and the free disk: $(free_disk)."
}

free_disk() { df --output=avail --human-readable . | tail -n 1 | tr -d ' '; }

install_python_packages() {
  local python stamp
  python=$(find_python)
  stamp="$("$python" --version) $(cat "${requirements[@]}" | sha256sum)"
  if [[ -f $venv/setup.stamp && $(<"$venv/setup.stamp") == "$stamp" ]]; then
    if [[ $flavour != cuda ]] || { has_cuda_flavour && has_cuda_headers; }; then return; fi
  fi
  if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    say "making $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv" || fail "$python could not make $venv (see above)."
  fi
  rm -f "$venv/setup.stamp"
  install_torch
  say "installing the other Python packages"
  pip_install --requirement tools/requirements.txt &&
    pip_install --no-deps --requirement tools/requirements-corpus.txt ||
    fail "pip could not install tools/requirements*.txt (see above)." \
      "Check the network, and the free disk ($(free_disk)); then run tools/setup.sh again."
  printf '%s' "$stamp" >"$venv/setup.stamp"
}

# llama.cpp's converter, which is Python, and on PyPI only in a source distribution; nothing of it is built.
install_llama_cpp_converter() {
  local requirement=tools/requirements-llama-cpp.txt target=$venv/llama.cpp download inside='*/vendor/llama.cpp'
  cmp -s "$requirement" "$target/setup.stamp" && return
  say "installing llama.cpp's converter (a download of 77 MB)"
  rm -rf "$target"
  mkdir "$target"
  download=$(mktemp -d)
  "$venv/bin/python" -m pip download --quiet --disable-pip-version-check --no-input --no-deps \
    --no-binary=llama-cpp-python --dest "$download" --requirement "$requirement" </dev/null &&
    tar -xzf "$download"/llama_cpp_python-*.tar.gz -C "$target" --strip-components=3 --wildcards \
      "$inside/convert_hf_to_gguf.py" "$inside/conversion/*" "$inside/gguf-py/gguf/*" \
      "$inside/models/ggml-vocab-gpt-2.gguf" ||
    fail "pip could not fetch $requirement (see above). Check the network, and the free disk ($(free_disk))."
  rm -r "$download"
  cp "$requirement" "$target/setup.stamp"
}

with_tests=false
while (($#)); do
  case $1 in
    --cuda) flavour=cuda ;;
    --tests) with_tests=true debian_packages+=("${test_packages[@]}") ;;
    -h | --help) usage && exit ;;
    *) usage >&2 && exit 2 ;;
  esac
  shift
done

pip_options=(--only-binary=:all: --disable-pip-version-check --no-input)
[[ -t 1 ]] || pip_options+=(--quiet --quiet)
install_debian_packages
install_python_packages
! $with_tests || install_llama_cpp_converter
say "ready"
