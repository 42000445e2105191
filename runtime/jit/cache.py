"""What was made before on this processor, mostly object files, in the user's cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm

LARGEST = 256 << 20
"""Bytes of object files; the oldest go first."""

RARELY = 64
"""Among so many new objects about one has all of them counted, which takes its time."""

DIGEST = 32


def folder() -> Path:
    """Where this user's programs keep what can be made again."""
    if os.name == "nt":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "infinisa"


def _sources() -> str:
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for file in sorted([*here.rglob("*.py"), *(here.parents[1] / "isa").rglob("*.py")]):
        digest.update(file.read_bytes())
    return digest.hexdigest()


SOURCES = _sources()
"""A digest of all that decides which code a program becomes. It is read as this is imported: files
may be others later, while what runs is still what they were."""


@cache
def surroundings() -> tuple[str, ...]:
    """This processor and what makes code for it."""
    processor = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    return *processor, llvmlite.__version__, str(llvm.llvm_version_info)


def remembered(source: str, how: str, make: Callable[[], bytes], keep: bool = True) -> bytes:
    """The object file of a source: as it was made before on such a processor, else made now. Or
    whatever else is bytes and can be made again.

    how   what it depends on besides
    keep  False: always made, never kept
    """
    if not keep:
        return make()
    parts = [source, how, *surroundings()]
    path = folder() / "code" / f"{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:40]}.o"
    if (image := _read(path)) is not None:
        return image
    image = make()
    with contextlib.suppress(OSError):
        _write(path, image)
        if int(path.stem, 16) % RARELY == 0:
            _prune(path.parent)
    return image


def _read(path: Path) -> bytes | None:
    """The file behind its digest; None if it is not there or not whole."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    digest, image = data[:DIGEST], data[DIGEST:]
    if hashlib.sha256(image).digest() != digest:
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return image


def _write(path: Path, image: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(f".{os.getpid()}")
    try:
        beside.write_bytes(hashlib.sha256(image).digest() + image)
        beside.replace(path)
    except OSError:  # such as a full disk: a part of a file is of no use
        beside.unlink(missing_ok=True)
        raise


def _prune(place: Path) -> None:
    files = [(file.stat(), file) for file in place.glob("*.o")]
    total = sum(stat.st_size for stat, _ in files)
    for stat, file in sorted(files, key=lambda pair: pair[0].st_mtime):
        if total <= LARGEST:
            return
        file.unlink(missing_ok=True)
        total -= stat.st_size
