"""An edition: the results that a book shows, without weights and images, so that any machine can render the book.

It gives results by what was asked, whatever machine and revision has answered. In its folder:

    edition.json    what was run, on what, when; revisions of what decided the results
    records.json    a line for each job: all that it depends on, what it cost, where and when it was made
    data.csv        what is known of the data sets
    history.csv.gz  losses of the networks' training
    figure.png      the answer of chapter 8
    <kind>.csv.gz   every other kind of result; `result` names the line in records.json that a row belongs to
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from prr.errors import DataError, MissingError
from prr.study.datasets import Data
from prr.study.jobs import Executor, Job, Need
from prr.study.store import UNREADABLE, Key

# Raise it when a change here, or in what a job's question holds, makes what is there unreadable.
SCHEMA = 3
FOLDER = Path(__file__).parents[2] / "data" / "editions"
HISTORY, DATA = "history", "data"  # tables of what is no table in a store
FIGURE = "figure.png"
# types of columns, read to the last digit
FROM_TEXT = {"float": lambda text: float(text or "nan"), "int": int, "bool": "True".__eq__, "text": str}
ZIPPED = {"method": "gzip", "mtime": 0}  # the same bytes for the same table


class Edition:
    """The results of one edition; nothing is made.

    Args:
        name: of a folder in data/editions, or a path, which has a slash.

    Raises:
        DataError: it is not there, not whole, or of another schema.
    """

    device, progress = "cpu", False  # where untrained networks lie

    def __init__(self, name: str | Path):
        folder = Path(name).absolute() if {"/", os.sep} & set(str(name)) else FOLDER / name
        self.folder, self.name = folder, folder.name
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
    def places(self) -> tuple[str, ...]:
        """The places of the study that held a data set, see `prr.study.datasets.places`."""
        return tuple(self.stamp["places"])

    @property
    def fits(self) -> bool:
        """Whether the spacing followed from the target's images, see `prr.study.run.Run.fits`."""
        return self.stamp["fits"]

    @property
    def machine(self) -> Key:
        """What of the machine the results depend on."""
        return self.stamp["machine"]

    @property
    def revisions(self) -> dict[str, int]:
        """Revisions of what decided the results."""
        return self.stamp["revisions"]

    @property
    def made(self) -> dict[str, str]:
        """Device, commit, versions and date."""
        return self.stamp["made"]

    @property
    def stand_in(self) -> bool:
        """Whether it was made to test the book, and not on CUDA."""
        return self.machine["device"] != "cuda"

    def older(self, revisions: Mapping[str, int]) -> list[str]:
        """Which files decided results in another revision than these."""
        return [name for name, revision in revisions.items() if self.revisions.get(name) != revision]

    @cached_property
    def records(self) -> dict[str, dict]:
        """{result: its record, the key among it}."""
        return self._read(lambda: json.loads((self.folder / "records.json").read_text(encoding="utf-8")))

    def holds(self, job: Job) -> bool:
        """Whether a result is in it."""
        return job.question in self.records

    def record(self, job: Job) -> dict | None:
        """What is known of a result beside itself; None where it is not there."""
        record = self.records.get(job.question)
        if record is None or job.form.folder != "networks":
            return record
        return record | {"history": self._table(HISTORY, job.question).to_dict("split", index=False)}

    def get(self, job: Job) -> tuple[pd.DataFrame, dict]:
        """A table and its record.

        Raises:
            MissingError: a network's weights, or a result that this edition has not got.
            DataError: a file of it can't be read.
        """
        if job.form.folder != "tables":
            raise MissingError(
                f"edition {self.name}: it keeps results, no weights and no images; compute without edition"
            )
        if not self.holds(job):
            raise MissingError(
                f"edition {self.name}: expected a table {job.name!r} of these parameters, found none; make it "
                "again if a chapter asks for more than it did then, or compute without edition"
            )
        return self._table(job.name, job.question), self.records[job.question]

    def data(self, name: str, scale: Key) -> Data:
        """What is known of a data set at one scale.

        Raises:
            MissingError: this edition has not got it.
        """
        asked = Data(name, scale, {}, None, {})
        found = self._table(DATA, asked.question)
        if found.empty:
            raise MissingError(f"edition {self.name}: expected data set {name} at {scale}; compute without edition")
        return Data(name, scale, {}, None, found.iloc[0].to_dict())

    def jobs(self) -> pd.DataFrame:
        """What was computed, and at what cost.

        Returns:
            DataFrame[result, jobs, seconds, peak]: result: its kind; seconds: of all jobs
            together, which may have run side by side; peak: megabytes of tensors on the device, the most that one job
            took.
        """
        rows = [
            {"result": record["name"], "seconds": record["seconds"], "peak": record.get("peak")}
            for record in self.records.values() if "seconds" in record
        ]  # fmt: skip
        table = pd.DataFrame(rows, columns=["result", "seconds", "peak"]).astype({"peak": float})
        costs = {"jobs": ("seconds", "size"), "seconds": ("seconds", "sum"), "peak": ("peak", "max")}
        return table.groupby("result", sort=False).agg(**costs).reset_index()

    def notice(self, revisions: Mapping[str, int]) -> str:
        """What a reader of a page has to know first, as MyST; `revisions` are those of the code that renders it."""
        made, lines = self.made, []
        if self.stand_in:
            lines.append(
                f":::{{warning}}\nA stand-in, computed on {made['device']} to test how editions are rendered. Its "
                "numbers are no results of the study.\n:::"
            )
        if older := self.older(revisions):
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
        told |= self.made | {"revisions": ", ".join(f"{name} {value}" for name, value in self.revisions.items())}
        lines = ["## The edition\n", "| what | value |", "| --- | --- |"]
        lines += [f"| {name} | {value} |" for name, value in told.items()]
        lines += ["\nWhat was computed; jobs ran side by side, so their seconds add up to more than the wall time.\n"]
        lines += ["| result | jobs | seconds | peak memory of one job, MB |", "| --- | ---: | ---: | ---: |"]
        for row in self.jobs().itertuples():
            most = "" if np.isnan(row.peak) else f"{row.peak:.0f}"
            lines.append(f"| {row.result} | {row.jobs} | {row.seconds:.0f} | {most} |")
        return "\n".join(lines) + "\n"

    def _table(self, table: str, result: str) -> pd.DataFrame:
        if table not in self._tables and table in self.stamp["columns"]:
            self._tables[table] = self._read(lambda: self._load(table))
        found = self._tables.get(table, {}).get(result)
        return pd.DataFrame(columns=list(self.stamp["columns"].get(table, ()))) if found is None else found.copy()

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
    return "data.csv" if table == DATA else f"{table}.csv.gz"


def write(folder: Path, jobs: Iterable[Need], executor: Executor, stamp: dict[str, Any], figure: Figure) -> Edition:
    """Write results as an edition, whole or not at all; an edition that is there is replaced.

    Args:
        folder: of the edition; its name is the edition's.
        jobs: what it holds, see `prr.study.jobs.closure`; all of it has been made.
        executor: finds it.
        stamp: profile, seed, overrides, machine, revisions, made and what else is to be told.
        figure: the one that is shown first.

    Raises:
        DataError: a table does not come back as it was.
    """
    records, tables = _collected(jobs, executor)
    folder = folder.absolute()
    draft, old = folder.with_name(f".{folder.name}"), folder.with_name(f".{folder.name}-old")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    columns = {table: _write_table(draft / file_of(table), parts) for table, parts in tables.items()}
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
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(draft, folder)
    shutil.rmtree(old, ignore_errors=True)
    return Edition(folder)


Tables = dict[str, dict[str, pd.DataFrame]]  # kind of result -> question -> table


def _collected(jobs: Iterable[Need], executor: Executor) -> tuple[dict[str, dict], Tables]:
    """The records of results by their question, and their tables."""
    records: dict[str, dict] = {}
    tables: Tables = {}
    for job in jobs:
        if isinstance(job, Data):
            tables.setdefault(DATA, {})[job.question] = pd.DataFrame([job.facts])
        elif isinstance(job, Job):  # what is derived too, for it is what others depend on
            record = (executor.record(job) if job.form else {"key": job.key}) | {"name": job.name, "digest": job.digest}
            if history := record.pop("history", None):
                tables.setdefault(HISTORY, {})[job.question] = pd.DataFrame(**history)
            elif job.form:
                tables.setdefault(job.name, {})[job.question] = executor.get(job)[0]
            records[job.question] = record
    return records, tables


def _write_table(path: Path, parts: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    """Write tables of one kind one below the other; returns the types of their columns."""
    whole = pd.concat([part.assign(result=result) for result, part in parts.items()], ignore_index=True)
    whole = whole[["result", *whole.columns.drop("result")]]
    whole.to_csv(path, index=False, **({"compression": ZIPPED} if path.suffix == ".gz" else {}))
    return {name: _dtype(whole[name]) for name in whole.columns.drop("result")}


def _dtype(column: pd.Series) -> str:
    return {"f": "float", "i": "int", "u": "int", "b": "bool"}.get(column.dtype.kind, "text")


def _check_whole(edition: Edition, tables: Tables) -> None:
    for table, parts in tables.items():
        for result, part in parts.items():
            try:
                pd.testing.assert_frame_equal(edition._table(table, result), part, check_dtype=False, check_exact=True)
            except AssertionError as error:
                raise DataError(f"edition {edition.name}: {table} does not come back as it was: {error}") from error
