"""An edition: the results that a book shows, without weights and images, so that any machine can render the book.

It is a store that only reads. In its folder:

    edition.json    what was run, on what, when; revisions of what decided the results
    records.json    a line for each result: all that it depends on, what it cost, where and when it was made
    data.csv        what is known of the data sets
    history.csv.gz  losses of the networks' training
    figure.png      the answer of chapter 8
    <table>.csv.gz  every other table; `result` names the line in records.json that a row belongs to
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from prr.errors import DataError, MissingError
from prr.study.store import UNREADABLE, Key, Store, digest

# Raise it when a change here, or in a key of the store, makes what is there unreadable.
SCHEMA = 1
FOLDER = Path(__file__).parents[2] / "data" / "editions"
NETWORKS, DATA = "history", "data"  # tables of what is no table in a store
FIGURE = "figure.png"
# types of columns, read to the last digit
FROM_TEXT = {"float": lambda text: float(text or "nan"), "int": int, "bool": "True".__eq__, "text": str}
LIVE = ("files", "readers")  # of a key of the data: where the data lay
ZIPPED = {"method": "gzip", "mtime": 0}  # the same bytes for the same table


class Edition(Store):
    """The results of one edition.

    Args:
        name: of a folder in data/editions, or a path, which has a slash.

    Raises:
        DataError: it is not there, not whole, or of another schema.
    """

    def __init__(self, name: str | Path):
        folder = Path(name).absolute() if {"/", os.sep} & set(str(name)) else FOLDER / name
        super().__init__(folder, make=False)
        self.name = folder.name
        if not (folder / "edition.json").is_file():
            there = ", ".join(sorted(path.parent.name for path in FOLDER.glob("[!.]*/edition.json")))
            raise DataError(
                f"edition {name}: expected one of {there or 'none, for none is kept here yet'}, or the path of a "
                "folder with edition.json, found neither"
            )
        self.stamp = self._read(lambda: json.loads((folder / "edition.json").read_text(encoding="utf-8")))
        if self.stamp.get("schema") != SCHEMA:
            raise DataError(
                f"edition {self.name}: expected schema {SCHEMA}, found {self.stamp.get('schema')}; render it with the "
                f"version that made it (commit {self.stamp.get('made', {}).get('commit')}), or make it again"
            )

    @property
    def parameters(self) -> dict[str, Any]:
        """Profile, seed and overrides, as `Experiment` takes them."""
        return {"profile": self.stamp["profile"], "seed": self.stamp["seed"], **self.stamp["overrides"]}

    @property
    def machine(self) -> Key:
        """What of the machine the results depend on."""
        return self.stamp["machine"]

    @property
    def recipes(self) -> dict[str, int]:
        """Revisions of what decided the results."""
        return self.stamp["recipes"]

    @property
    def made(self) -> dict[str, str]:
        """Device, commit, versions and date."""
        return self.stamp["made"]

    @property
    def stand_in(self) -> bool:
        """Whether it was made to test the book, and not on CUDA."""
        return self.machine["device"] != "cuda"

    def older(self, recipes: Mapping[str, int]) -> list[str]:
        """Which of the results were decided by an older revision than these."""
        return [name for name, recipe in recipes.items() if self.recipes.get(name) != recipe]

    @cached_property
    def records(self) -> dict[str, dict]:
        """{result: its record, the key among it}."""
        return self._read(lambda: json.loads((self.folder / "records.json").read_text(encoding="utf-8")))

    def holds(self, folder: str, key: Key) -> bool:
        return self.named(key) in self.records

    def record(self, folder: str, key: Key) -> dict | None:
        if (found := self.records.get(self.named(key))) is None or folder != "networks":
            return found
        return found | {"history": self._table(NETWORKS, self.named(key)).to_dict("split", index=False)}

    def table(self, key: Key, make: Callable | None = None) -> tuple[pd.DataFrame, dict]:
        """A table and its record; `make` is never called.

        Raises:
            MissingError: this edition has not got it.
            DataError: a file of it can't be read.
        """
        self._check(key)
        return self._table(key["table"], self.named(key)), self.records[self.named(key)]

    def tensors(self, folder: str, key: Key, make: Callable | None = None) -> tuple[dict[str, Tensor], dict]:
        raise MissingError(f"edition {self.name}: it keeps results, no weights and no images; compute without edition")

    def check_make(self, path: object) -> None:
        raise MissingError(f"edition {self.name}: expected {path} in it, found none; compute without edition")

    @staticmethod
    def named(key: Key) -> str:
        """The name of a result: that of its key, wherever the data lay."""
        return digest({name: value for name, value in key.items() if name not in LIVE})

    def jobs(self) -> pd.DataFrame:
        """What was computed, and at what cost.

        Returns:
            DataFrame[result, jobs, seconds, peak]: result: a network or the name of a table; seconds: of all jobs
            together, which may have run side by side; peak: megabytes of tensors on the device, the most that one job
            took.
        """
        rows = [
            {"result": record["key"].get("table", "network"), "seconds": record["seconds"],
             "peak": record.get("peak")}
            for record in self.records.values() if "seconds" in record
        ]  # fmt: skip
        table = pd.DataFrame(rows, columns=["result", "seconds", "peak"]).astype({"peak": float})
        costs = {"jobs": ("seconds", "size"), "seconds": ("seconds", "sum"), "peak": ("peak", "max")}
        return table.groupby("result", sort=False).agg(**costs).reset_index()

    def notice(self, recipes: Mapping[str, int]) -> str:
        """What a reader of a page has to know first, as MyST; `recipes` are those of the code that renders it."""
        made, lines = self.made, []
        if self.stand_in:
            lines.append(
                f":::{{warning}}\nA stand-in, computed on {made['device']} to test how editions are rendered. Its "
                "numbers are no results of the study.\n:::"
            )
        if older := self.older(recipes):
            lines.append(
                f":::{{warning}}\nThis edition is of another revision than the text and the code ({', '.join(older)}): "
                "numbers may differ from what the code gives today.\n:::"
            )
        lines.append(
            f":::{{note}}\nEdition **{self.name}**: everything here was computed at profile `{self.stamp['profile']}` "
            f"on {made['device']}, {made['date'][:10]}, commit {made['commit']}. Rendered from its stored results: no "
            "network is trained for this page, and no image of a patient is kept.\n:::"
        )
        return "\n\n".join(lines)

    def to_markdown(self) -> str:
        """The stamp and the costs, for the page of run times."""
        scale = {"profile": self.stamp["profile"], "seed": self.stamp["seed"], **self.stamp["overrides"]}
        told = {"scale": ", ".join(f"{name} {value}" for name, value in scale.items())}
        told |= self.made | {"revisions": ", ".join(f"{name} {value}" for name, value in self.recipes.items())}
        lines = ["## The edition\n", "| what | value |", "| --- | --- |"]
        lines += [f"| {name} | {value} |" for name, value in told.items()]
        lines += ["\nWhat was computed; jobs ran side by side, so their seconds add up to more than the wall time.\n"]
        lines += ["| result | jobs | seconds | peak memory of one job, MB |", "| --- | ---: | ---: | ---: |"]
        for row in self.jobs().itertuples():
            most = "" if np.isnan(row.peak) else f"{row.peak:.0f}"
            lines.append(f"| {row.result} | {row.jobs} | {row.seconds:.0f} | {most} |")
        return "\n".join(lines) + "\n"

    def _check(self, key: Key) -> None:
        if self.named(key) not in self.records:
            raise MissingError(
                f"edition {self.name}: expected a table {key['table']!r} of these parameters, found none; make it "
                "again if a chapter asks for more than it did then, or compute without edition"
            )

    def _table(self, table: str, result: str) -> pd.DataFrame:
        if table not in self._tables:
            self._tables[table] = self._read(lambda: self._load(table))
        found = self._tables[table].get(result)
        return pd.DataFrame(columns=self.stamp["columns"][table]) if found is None else found.copy()

    @cached_property
    def _tables(self) -> dict[str, dict[str, pd.DataFrame]]:
        return {}

    def _load(self, table: str) -> dict[str, pd.DataFrame]:
        whole = pd.read_csv(self.folder / file_of(table), dtype=str, keep_default_na=False)
        for name, dtype in self.stamp["columns"][table].items():
            whole[name] = [FROM_TEXT[dtype](text) for text in whole[name]]
        return {
            result: part.drop(columns="result").reset_index(drop=True)
            for result, part in whole.groupby("result", sort=False)
        }

    def _read(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except (*UNREADABLE, EOFError) as error:
            raise DataError(f"edition {self.name}: expected whole files in {self.folder}, found {error}") from error


def file_of(table: str) -> str:
    """The file of a table."""
    return "data.csv" if table == DATA else f"{table.replace(' ', '_')}.csv.gz"


def write(folder: Path, results: Mapping[Path, Key], stamp: dict[str, Any], figure: Figure) -> Edition:
    """Write what was read from a store as an edition, whole or not at all; an edition that is there is replaced.

    Args:
        folder: of the edition; its name is the edition's.
        results: {file in the store: key}, from `prr.study.store.reading`.
        stamp: profile, seed, overrides, machine, recipes, made and what else is to be told.
        figure: the one that is shown first.

    Raises:
        DataError: a table does not come back as it was.
    """
    store = Store(next(iter(results)).parents[1], make=False)
    records, tables = {}, {}
    for path, key in sorted(results.items()):
        result = Edition.named(key)
        if path.parent.name == "networks":
            record = store.record("networks", key)
            if "history" in record:
                tables.setdefault(NETWORKS, {})[result] = pd.DataFrame(**record.pop("history"))
        elif path.parent.name == "tables":
            table, record = store.table(key, None)
            tables.setdefault(key["table"], {})[result] = table
        else:
            continue
        records[result] = record | {"key": {name: value for name, value in key.items() if name not in LIVE}}
    folder = folder.absolute()
    draft = folder.with_name(f".{folder.name}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    columns = {}
    for table, parts in tables.items():
        whole = pd.concat([part.assign(result=result) for result, part in parts.items()], ignore_index=True)
        whole = whole[["result", *whole.columns.drop("result")]]
        columns[table] = {name: _dtype(whole[name]) for name in whole.columns.drop("result")}
        options = {"compression": ZIPPED} if file_of(table).endswith(".gz") else {}
        whole.to_csv(draft / file_of(table), index=False, **options)
    lines = ",\n".join(f"{json.dumps(result)}: {json.dumps(record)}" for result, record in records.items())
    (draft / "records.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    stamp = {"schema": SCHEMA, **stamp, "columns": columns}
    (draft / "edition.json").write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")
    figure.savefig(draft / FIGURE, dpi=120, bbox_inches="tight", metadata={"Software": None})
    try:
        _check_whole(Edition(draft), tables)
    except DataError:
        shutil.rmtree(draft)
        raise
    old = folder.with_name(f".{folder.name}-old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(draft, folder)
    shutil.rmtree(old, ignore_errors=True)
    return Edition(folder)


def _dtype(column: pd.Series) -> str:
    return {"f": "float", "i": "int", "u": "int", "b": "bool"}.get(column.dtype.kind, "text")


def _check_whole(edition: Edition, tables: Mapping[str, Mapping[str, pd.DataFrame]]) -> None:
    for table, parts in tables.items():
        for result, part in parts.items():
            try:
                pd.testing.assert_frame_equal(
                    edition._table(table, result), part, check_dtype=False, check_exact=True
                )
            except AssertionError as error:
                raise DataError(f"edition {edition.name}: {table} does not come back as it was: {error}") from error
