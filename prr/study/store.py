"""Networks, slices and result tables on disk: made once, found by the values that they depend on."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock, Timeout
from platformdirs import user_cache_path
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from prr.errors import DataError, MissingError

Key = dict[str, Any]
Content = pd.DataFrame | dict[str, Tensor]
UNREADABLE = (SafetensorError, ValueError, KeyError, TypeError, OSError)  # what a broken file raises
DRAFT = ".draft"
_RESULT = r"[0-9a-f]{16}\.(safetensors|json)(\.draft)?"
OWN = {
    "slices": _RESULT,
    "networks": _RESULT,
    "tables": _RESULT,
    "phantoms": r"\w+-\d+-[0-9a-f]{16}",
}


def location() -> Path:
    """`PRR_STORE`, else build/store in the repository, else the user's cache."""
    if folder := os.environ.get("PRR_STORE"):
        return Path(folder).expanduser().absolute()
    root = Path(__file__).parents[2]
    return root / "build" / "store" if (root / "_toc.yml").exists() else user_cache_path("pr-rmse")


def digest(key: Key) -> str:
    """16 hex digits that name a key; equal keys, equal digits."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def fingerprint(folder: Path) -> str:
    """Digest of a folder's files, or of one file, by name, size and time of change: reading all would take too long."""
    lines = [
        f"{path.relative_to(folder)} {path.stat().st_size} {path.stat().st_mtime_ns}"
        for path in ([folder] if folder.is_file() else files_below(folder))
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def files_below(folder: Path) -> list[Path]:
    """Every file below a folder, also through links to folders, each real folder once."""
    found, seen = [], set()
    for where, below, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:
            below.clear()
        else:
            found += [path for name in names if (path := Path(where, name)).is_file()]
        seen.add(real)
    return sorted(found)


def provenance(device: str) -> dict[str, str]:
    """Where and with what a result was made."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else f"{device} {platform.machine()}",
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
    }


@functools.cache
def commit() -> str:
    """The repository's commit, with a + if files differ from it; "unknown" outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--exclude=*", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


class Store:
    """A folder of results. Every file is written whole or not at all, and two processes never make the same one."""

    def __init__(self, folder: Path | str | None = None, make: bool = True):
        """`make`: False only reads; what is not there raises MissingError."""
        self.folder = Path(folder) if folder else location()
        self.make = make

    def path(self, folder: str, key: Key) -> Path:
        """Where the result of a key lies, made or not."""
        return self.folder / folder / f"{digest(key)}{'.json' if folder == 'tables' else '.safetensors'}"

    def get(self, folder: str, key: Key, make: Callable[[], tuple[Content, dict]]) -> tuple[Content, dict]:
        """What lies under a key with its record, from disk or from `make()`; every number comes back bit for bit.

        Args:
            folder: tables (a DataFrame), else tensors by name.
            key: all that the result depends on.
            make: gives content and record, which is kept with the key.

        Raises:
            DataError: the file in the store can't be read.
            MissingError: it is not there, and this store only reads.
        """

        def write(path: Path) -> None:
            content, record = make()
            (_write_table if folder == "tables" else _write_tensors)(path, content, {"key": key, **record})

        path = self.path(folder, key)
        if not path.exists():  # a store that is there may be read-only
            self.check_make(path)
            self._make(path, write)
        return self._checked(path, key, _read_table if folder == "tables" else _read_tensors)

    def holds(self, folder: str, key: Key) -> bool:
        """Whether a result is there."""
        return self.path(folder, key).exists()

    def record(self, folder: str, key: Key) -> dict | None:
        """What is kept beside a result, without the result; None where it is not there.

        Raises:
            DataError: the file in the store can't be read.
        """
        path = self.path(folder, key)
        return self._checked(path, key, _record) if path.exists() else None

    def lock(self, path: Path, timeout: float = -1) -> FileLock:
        """One process at a time makes `path`; the operating system frees the lock of a process that dies."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"{path.parent}: can't be made ({error.strerror}); set PRR_STORE to another folder"
            ) from error
        return FileLock(path.with_name(f"{path.name}.lock"), timeout)

    def _checked(self, path: Path, key: Key, read: Callable[[Path], Any]) -> Any:
        """What a file holds, if it is whole and the result of this key; `read` gives its record, alone or last."""
        try:
            found = read(path)
            if (found[-1] if isinstance(found, tuple) else found)["key"] != json.loads(json.dumps(key)):
                raise ValueError("the result of another key")
            return found
        except UNREADABLE as error:
            raise DataError(f"{path}: expected a whole result, found {error}; delete the file, it is remade") from error

    def check_make(self, path: Path) -> None:
        """Refuse to make what is not there, if this store only reads."""
        if not self.make:
            raise MissingError(f"{path}: not computed yet; build the chapter that makes it")

    def _make(self, path: Path, write: Callable[[Path], None]) -> None:
        """Write a result beside its place and move it there, unless another process has done so meanwhile."""
        draft = path.with_name(path.name + DRAFT)
        with self.lock(path):
            if path.exists():
                return
            try:
                write(draft)
                os.replace(draft, path)
            finally:
                draft.unlink(missing_ok=True)

    def list(self) -> pd.DataFrame:
        """DataFrame[folder, file, what, megabytes, made], newest first."""
        rows = []
        for path in self._own():
            if not path.name.endswith(DRAFT):
                files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
                size = round(sum(file.stat().st_size for file in files) / 1e6, 3)
                made = time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))
                rows.append((path.parent.name, path.name, _what(path), size, made))
        table = pd.DataFrame(rows, columns=["folder", "file", "what", "megabytes", "made"])
        return table.sort_values("made", ascending=False, kind="stable", ignore_index=True)

    def clean(self) -> int:
        """Delete this store's own results and phantoms, and nothing else; returns how many.

        What another process is making right now stays, and so do the locks, which are empty files.
        """
        deleted = 0
        for path in self._own():
            with contextlib.suppress(Timeout), self.lock(path.with_name(path.name.removesuffix(DRAFT)), timeout=0):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                deleted += 1
        return deleted

    def _own(self) -> list[Path]:
        """What this class has put into its folder, by name: a stranger's file stays."""
        return [
            path
            for folder, name in OWN.items()
            for path in sorted((self.folder / folder).glob("*"))
            if re.fullmatch(name, path.name)
        ]


def _write_tensors(path: Path, tensors: dict[str, Tensor], record: dict) -> None:
    tensors = {name: value.contiguous().cpu() for name, value in tensors.items()}
    save_file(tensors, path, {"record": json.dumps(record)})


def _write_table(path: Path, table: pd.DataFrame, record: dict) -> None:
    path.write_text(json.dumps({"record": record, "table": table.to_dict("split", index=False)}))


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    return load_file(path), _record(path)


def _record(path: Path) -> dict:
    """What is kept beside a result; reads no tensor."""
    if path.suffix == ".json":
        return _read_table(path)[1]
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["record"])


def _read_table(path: Path) -> tuple[pd.DataFrame, dict]:
    content = json.loads(path.read_text())
    return pd.DataFrame(**content["table"]), content["record"]


def _what(path: Path) -> str:
    """What a result is, for a listing."""
    if path.is_dir():
        return "phantom"
    try:
        record = _record(path)
    except UNREADABLE:
        return "unreadable"
    words = (value for value in record["key"].values() if isinstance(value, str) and len(value) < 16)
    return record.get("title") or " ".join(words)
