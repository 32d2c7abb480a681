#!/usr/bin/env bash
# Makes this checkout ready to build: checks the tools, and links .libtorch to a libtorch.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: ./scripts/setup.sh [--cpu | --cuda] [--verify] [--build release | --build dev]

Checks for a C++ compiler, Rust and Python, installs libtorch 2.11.0 into the user's cache
($ETUDE_CACHE, else $XDG_CACHE_HOME/etude, else ~/.cache/etude), and makes .libtorch in this
checkout a link to it, after which plain `cargo build` works. Running it again takes a moment.

  --cpu     libtorch for the CPU (a download of 0.55 GB, 0.5 GB on disk)
  --cuda    libtorch with CUDA 13 (a download of 2.5 GB, 3.7 GB on disk)
  --verify  compare the hash of every installed file, and mend what differs
  --build   see first whether a first build has room: 2 GB for a release, 4 GB for all tests

Without --cpu and --cuda it keeps the libtorch that is linked already, else takes the CPU's.

  LIBTORCH=<folder>        link this libtorch 2.11.0 instead
  LIBTORCH_USE_PYTORCH=1   link the PyTorch 2.11 that python3 imports
TEXT
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
version=2.11.0
wanted=
verify=
build=
while [ $# -gt 0 ]; do
  case $1 in
    --cpu | --cuda) wanted=${1#--} ;;
    --verify) verify=--verify ;;
    --build)
      build=${2:-nothing}
      shift
      ;;
    -h | --help) usage; exit 0 ;;
    *) printf 'setup: unknown argument %s\n\n' "$1" >&2; usage >&2; exit 2 ;;
  esac
  [ $# -eq 0 ] || shift
done

fail() {
  printf '\nsetup: %s\n' "$1" >&2
  exit 1
}

# How this system installs a package: the Debian, Fedora and Arch names.
install_hint() {
  if command -v apt-get >/dev/null; then echo "apt-get install $1"
  elif command -v dnf >/dev/null; then echo "dnf install $2"
  elif command -v pacman >/dev/null; then echo "pacman -S $3"
  else echo "install $1 with your system's package manager"; fi
}

# Whether version $1 is at least $2, of the form 1.2.3.
at_least() {
  local -a have want
  IFS=. read -ra have <<<"$1"
  IFS=. read -ra want <<<"$2"
  local i
  for i in 0 1 2; do
    ((10#${have[i]:-0} == 10#${want[i]:-0})) || return $((10#${have[i]:-0} < 10#${want[i]:-0}))
  done
}

# Prints one line for each missing tool, with the remedy.
missing_tools() {
  local compiler=${CXX:-c++} found minimum
  if [ "$(uname)" = Darwin ]; then
    xcode-select -p >/dev/null 2>&1 || echo "  no C++ compiler: run \`xcode-select --install\`"
  elif ! command -v "${compiler%% *}" >/dev/null || ! command -v "${CC:-cc}" >/dev/null; then
    echo "  no C++ compiler ($compiler): $(install_hint build-essential gcc-c++ base-devel)"
  elif [[ $($compiler --version) == *"Free Software Foundation"* ]]; then
    found=$($compiler -dumpfullversion)
    at_least "$found" 9.3.0 || echo "  the C++ compiler is GCC $found, libtorch needs 9.3 or newer: install a newer one and set CXX to it"
  fi
  minimum=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
  if ! command -v cargo >/dev/null || ! found=$(rustc --version 2>/dev/null); then
    if [ -x "$HOME/.cargo/bin/cargo" ]; then
      echo "  Rust is installed but not in PATH: run \`. ~/.cargo/env\` or open a new terminal"
    else
      echo "  no Rust: install it as https://rustup.rs says, version $minimum or newer"
    fi
  else
    found=${found#rustc }
    found=${found%%[ -]*}
    at_least "$found" "$minimum" || echo "  Rust is $found, this project needs $minimum or newer: run \`rustup update\`"
  fi
  command -v python3 >/dev/null || echo "  no Python 3: $(install_hint 'python3 python3-pip' 'python3 python3-pip' 'python python-pip')"
}

# The version of the libtorch in folder $1, or nothing when it does not say.
version_of() {
  local header=$1/include/torch/headeronly/version.h
  if [ -f "$1/build-version" ]; then
    sed -n '1s/[+ ].*//;1p' "$1/build-version"
  elif [ -f "$header" ]; then
    awk '/define TORCH_VERSION_(MAJOR|MINOR|PATCH)/ { text = text dot $3; dot = "." } END { print text }' "$header"
  fi
}

# Why folder $1 cannot be used as LIBTORCH, or nothing.
libtorch_fault() {
  local found
  if [ ! -d "$1" ]; then echo "it is not a folder"
  elif [ ! -d "$1/include/torch" ]; then echo "it has no include/torch"
  elif [ ! -e "$1/lib/libtorch_cpu.so" ] && [ ! -e "$1/lib/libtorch_cpu.dylib" ]; then echo "it has no lib/libtorch_cpu"
  else
    found=$(version_of "$1")
    [ -z "$found" ] || [ "$found" = "$version" ] || echo "it is version $found, and this project is built for $version"
  fi
}

# The user's own libtorch: prints its folder.
own_libtorch() {
  local folder found python=python3
  # torch-sys looks at LIBTORCH_USE_PYTORCH first, whatever its value, and at `python` in an environment.
  if [ -n "${LIBTORCH_USE_PYTORCH+set}" ]; then
    [ -z "${VIRTUAL_ENV:-}" ] || python=python
    folder=$("$python" -c 'import importlib.util as u; s = u.find_spec("torch"); print(s.submodule_search_locations[0] if s else "")') || folder=
    [ -n "$folder" ] || fail "LIBTORCH_USE_PYTORCH is set, but $python has no PyTorch.
Run \`$python -m pip install torch==$version\`, or unset it to have libtorch installed for you."
    found=$(libtorch_fault "$folder")
    [ -z "$found" ] || fail "LIBTORCH_USE_PYTORCH is set, but the PyTorch in $folder does not serve: $found.
Run \`$python -m pip install torch==$version\`, or unset it to have libtorch installed for you."
  else
    folder=$LIBTORCH
    found=$(libtorch_fault "$folder")
    [ -z "$found" ] || fail "LIBTORCH=$folder does not serve: $found.
Set it to a folder with include/ and lib/ of libtorch $version, or unset it to have libtorch installed for you."
  fi
  (cd "$folder" && pwd -P)
}

# The libtorch to use without the user's own: the one linked already while it is whole, else the cache's.
cached_libtorch() {
  local linked=
  [ ! -L .libtorch ] || linked=$(readlink .libtorch)
  if [ -z "$wanted" ] && [ -n "$linked" ]; then
    case $linked in
      */libtorch-"$version"-cu130) wanted=cuda ;;
      */libtorch-"$version"-cpu) wanted=cpu ;;
      *) if [ -z "$(libtorch_fault "$linked")" ]; then
           echo "$linked"
           return
         fi ;;
    esac
    # The cache may have been another one when the link was made; then it still is that one.
    if [ -n "$wanted" ] && [ -z "${ETUDE_CACHE:-}" ]; then
      ETUDE_CACHE=$(dirname "$linked")
      export ETUDE_CACHE
    fi
  fi
  local cuda=
  [ "$wanted" != cuda ] || cuda=--cuda
  python3 scripts/fetch_libtorch.py ${cuda:+"$cuda"} ${verify:+"$verify"}
}

has_cuda() { [ -e "$1/lib/libtorch_cuda.so" ]; }

# Makes .libtorch a link to $1, by a rename, so that a build beside it never finds it missing.
link_libtorch() {
  local before=
  [ ! -e .libtorch ] || [ -L .libtorch ] || fail ".libtorch is not a link, so it was not made by this script: move it away and run this again."
  [ ! -L .libtorch ] || before=$(readlink .libtorch)
  [ "$before" != "$1" ] || return 0
  ln -s "$1" ".libtorch.$$"
  mv -fT ".libtorch.$$" .libtorch 2>/dev/null || mv -fh ".libtorch.$$" .libtorch
  echo "setup: .libtorch -> $1" >&2
  # torch-sys decides at its own build whether to link CUDA's libraries, and Cargo sees no change: the path is the same.
  if [ -n "$before" ] && { [ ! -d "$before" ] || { has_cuda "$before" && ! has_cuda "$1"; } || { has_cuda "$1" && ! has_cuda "$before"; }; }; then
    echo "setup: another kind of libtorch than before; torch-sys will be built again" >&2
    cargo clean --quiet -p torch-sys
  fi
}

# Refuses a first build that would end in the middle for want of room.
check_room() {
  local folder=${CARGO_TARGET_DIR:-${CARGO_BUILD_TARGET_DIR:-target}} profile needed free
  case $1 in
    release) profile=release needed=2 ;;
    dev) profile=debug needed=4 ;;
    *) printf 'setup: --build %s: it is release or dev\n' "$1" >&2; exit 2 ;;
  esac
  [ ! -e "$folder/$profile/etude" ] || return 0
  while [ ! -d "$folder" ]; do folder=$(dirname "$folder"); done
  free=$(df -Pk "$folder" | awk 'END { print int($(NF - 2) / 1000000) }')
  [ "$free" -ge "$needed" ] || fail "a first build takes about $needed GB, and $(cd "$folder" && pwd) has $free GB free.
Free some, or set CARGO_TARGET_DIR to a folder on a larger disk."
}

[ -z "$build" ] || check_room "$build"
missing=$(missing_tools)
[ -z "$missing" ] || fail "something is missing:
$missing"

if [ -n "${LIBTORCH_USE_PYTORCH+set}" ] || [ -n "${LIBTORCH+set}" ]; then
  [ -z "$wanted" ] || echo "setup: LIBTORCH or LIBTORCH_USE_PYTORCH is set and wins over --$wanted" >&2
  folder=$(own_libtorch)
else
  folder=$(cached_libtorch)
fi
link_libtorch "$folder"
