"""Numbers of each page of a built book, recomputed from the tables that the page offers, without the book's own code.

`make test` runs this on the book that it has just built: PRR_BOOK names the folder of a build, PRR_BOOK=build/quick for
one. Every chapter has a check; a check that finds nothing to compare fails, and so does one that would not notice
other tables.
"""

import base64
import io
import os
import re
from collections import Counter
from decimal import Decimal
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from scipy import stats

CHAPTERS = sorted((Path(os.environ["PRR_BOOK"]) / "chapters").glob("*.ipynb"))
NUMBER = r"(-?[\d.]+(?:e-?\d+)?(?<!\.))"
INTERVAL = rf"(?: \[{NUMBER}, {NUMBER}\] over [\w ]+?)?"
TITLES = {
    "unet": "UNet", "pspnet": "PSPNet", "densenet": "DenseNet", "plain": "no connections", "residual": "short",
    "long": "long", "both": "short and long",
}  # fmt: skip


class Page:
    """An executed chapter: the tables that it offers as CSV, the tables that it prints, and what it says."""

    def __init__(self, path):
        self.csv, self.printed, self.captioned, said = {}, [], {}, []
        for cell in nbformat.read(path, 4).cells:
            for output in cell.get("outputs", []):
                data = output.get("data", {})
                html = BeautifulSoup(data.get("text/html", ""), "html.parser")
                for link in html.find_all("a", download=re.compile(r"\.csv$")):
                    content = base64.b64decode(link["href"].partition("base64,")[2])
                    self.csv[link["download"]] = pd.read_csv(io.BytesIO(content), skiprows=1)  # after its note
                for table in html.find_all("table"):
                    self.printed.append([_cells(row) for row in table.find_all("tr")])
                    if table.caption:
                        self.captioned[table.caption.get_text()] = self.printed[-1]
                said.append(data.get("text/markdown") or html.get_text(" ") or output.get("text", ""))
        self.text = re.sub(r"[*`]|\s+", lambda found: " " if found[0].isspace() else "", " ".join(said))

    def said(self, pattern):
        """Every match's groups, as text."""
        return [found.groups() for found in re.finditer(pattern, self.text)]

    def table(self, *columns):
        """The first table that is printed with these columns, all of it as text."""
        for header, *rows in self.printed:
            if set(columns) <= set(header):
                return pd.DataFrame([row for row in rows if len(row) == len(header)], columns=header)
        raise AssertionError(f"expected a printed table of {columns}")


def _cells(row):
    return [cell.get_text(" ", strip=True) for cell in row.find_all(["th", "td"])]


def agree(printed, computed):
    """Whether a number is the one that is printed, at the precision of print; words have to be the same."""
    if isinstance(computed, str):
        return printed == computed
    unit = 10.0 ** Decimal(printed).as_tuple().exponent
    return abs(float(printed) - computed) <= 0.501 * unit


def with_interval(printed, values):
    """A mean and the ends of its t interval, each beside what is printed of it; no interval where none is printed."""
    values = np.asarray(values, float)
    values = values[~np.isnan(values)]
    yield printed[0], values.mean()
    if printed[1] is not None:
        half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
        yield from zip(printed[1:], (values.mean() - half, values.mean() + half), strict=True)


# --------------------------------------------------------------- a check for each chapter: (printed, computed), ...


def labels(page):
    table = page.csv["data.csv"]
    shares = table.iloc[0, table.columns.get_loc("spacing_mm") + 1 :]
    for (printed,) in page.said(rf"No label covers {NUMBER}% of the pixels"):
        yield printed, 100 * (1 - shares.astype(float).sum())


def largest_changes(page):
    tables = {"UNet": page.csv["fig05.csv"], "PSPNet": page.csv["fig09.csv"]}
    pattern = r"(\w+): replacing ([\w ]+) changes the output most, in (\d+) of (\d+)"
    for title, kinds, count, layers in page.said(pattern):
        changes = tables[title].filter(like="rms_").dropna(axis=1, how="all")
        counts = Counter(changes.columns[row.argmax()] for row in changes.to_numpy())
        yield count, max(counts.values())
        yield layers, len(changes)
        first = sorted(name[4:] for name in counts if counts[name] == max(counts.values()))
        yield kinds, " or ".join(first)


def reuse_in_unet(page):
    yield from own_dice(page, "unet")
    yield from costliest(page, "unet")
    kernels = page.csv["kernels_unet.csv"]
    level = kernels["name"].str.extract(r"^(down\.0|up\.3\.block|down\.4)")[0].replace("up.3.block", "down.0")
    drop = kernels.groupby([level, "patient"])["drop"].mean()
    for more, *printed in page.said(rf"bottom cost (less|more) than those at the top[^:]*: (?:by )?{NUMBER}{INTERVAL}"):
        less = (drop["down.0"] - drop["down.4"]) * (1 if more == "less" else -1)
        yield from with_interval(printed, less)
    biases = page.csv["biases_unet.csv"].query("batch_norm")
    for (printed,) in page.said(rf"before batch norm has [\w ]+: (?:at most|up to) {NUMBER} of its kernel"):
        yield printed, (biases["gradient"] / biases["kernel"]).max()
    pattern = rf"(\d+|none) of (\d+) went further from 0 than one full step of Adam, {NUMBER}\."
    for count, of, step in page.said(pattern):
        yield count.replace("none", "0"), (biases["bias"] > float(step)).sum()
        yield of, len(biases)


def reuse_in_pspnet(page):
    yield from own_dice(page, "pspnet")
    yield from costliest(page, "pspnet")
    stages = page.csv["stages_by_seed.csv"]
    last = stages[stages["steps"] == stages["steps"].max()].set_index(["network", "start"])["passing"]
    pattern = rf"(UNet|PSPNet) [^.]*\. Kernels that pass, of [\d.]+ asked: {NUMBER}{INTERVAL} from a shared start, "
    for title, *printed in page.said(rf"{pattern}{NUMBER}{INTERVAL} from independent starts"):
        for start, some in (("shared", printed[:3]), ("independent", printed[3:])):
            numbers = with_interval(some, last[title.lower(), start])
            yield from ((each, min(max(computed, 0), 1)) for each, computed in numbers)


def own_dice(page, network):
    dice = page.csv[f"dice_{network}.csv"].query("`class` > 0").pivot(index="patient", columns="class", values="dice")
    for (printed,) in page.said(rf"{TITLES[network]}[\w ]*:?[ \w]* reaches {NUMBER} of foreground Dice"):
        yield printed, np.nanmean(np.nanmean(dice.to_numpy(), axis=1))


def costliest(page, network):
    table = page.csv[f"kernels_{network}.csv"].pivot(index="patient", columns="layer", values=["before", "score"])
    drop = table["before"] - table["score"]
    pattern = rf"Kernel (\d+), [\w.]+, costs most: foreground Dice falls by {NUMBER}{INTERVAL}, to {NUMBER}\."
    for layer, *printed, left in page.said(pattern):
        yield layer, drop.mean().idxmax()
        yield from with_interval(printed, drop[int(layer)])
        yield left, table["score"][int(layer)].mean()


def distances(page):
    printed = page.table("network", "source", "relative", "low", "high", "best", "worst")
    for network, name in (("unet", "fig11.csv"), ("pspnet", "fig12.csv")):
        pairs = page.csv[name].query("kind == 'W'")
        target = pairs["first"].value_counts().index[0]  # it is the first of all its pairs
        of_seed = pairs[pairs["first"] == target].groupby(["second", "seed"])["relative"].mean()
        for row in printed[printed["network"] == network].itertuples():
            numbers = row.relative, *((None, None) if row.low in ("nan", "") else (row.low, row.high))
            yield from with_interval(numbers, of_seed[row.source])


def transfer(page):
    runs = page.csv["transfer_runs.csv"]
    classes = [name for name in runs if name.isdigit()]
    cell = runs.groupby(["network", "parameters", "patients", "row", "label", "seed"])[classes].mean().mean(axis=1)
    mean = cell.groupby(["network", "parameters", "patients", "row"]).mean()
    for each in page.table("network", "parameters", "size", "row", "label", "dice").itertuples():
        yield each.dice, mean[each.network, each.parameters, int(each.size.split()[0]), int(each.row)]


def verdicts(page):
    found = page.said(r"Of (\d+) claims (\d+) came out as the paper says, (\d+) did not, and (\d+) can't be told")[0]
    outcomes = page.csv["ledger.csv"]["verdict"]
    ends = "as the paper says", "not as the paper says", "can't tell"
    yield from zip(found, [len(outcomes), *((outcomes == each).sum() for each in ends)], strict=True)
    given = re.search(rf"tolerance {NUMBER}", page.text)
    tolerance = float(given[1]) if given else 0.05
    for network, title in (("unet", "UNet"), ("pspnet", "PSPNet")):
        drop = page.csv[f"by_source_{network}.csv"].groupby(["seed", "source", "layer"])["drop"].mean()
        shares = (drop <= tolerance).groupby(["source", "seed"]).mean()
        (_, *seeds), *rows = page.captioned[f"{title}: share of kernels that pass"]
        for source, *printed in (row for row in rows if row[0] in shares):
            yield from ((each, shares[source, int(seed[5:])]) for seed, each in zip(seeds, printed, strict=True))


def architecture(page):
    pairs = page.csv["architecture_pairs.csv"].query("donor == 'source' and source.isna()")
    means = pairs.groupby(["network", "start"])[["dice", "within", "drop", "relative"]].mean()
    for row in page.table("network", "start", "pairs", "dice", "within", "drop", "relative").itertuples():
        (network,) = [name for name, title in TITLES.items() if title == row.network]
        for column, computed in means.loc[network, row.start].items():
            yield getattr(row, column), computed


def redundancy(page):
    drop = page.csv["controls.csv"].groupby(["control", "network"])["drop"].agg(["mean", "median", "max"])
    (_, *over), (_, *networks), _, *rows = next(rows for rows in page.printed if {"median", "max"} <= {*rows[0]})
    columns = list(zip(networks, np.repeat(over, len(networks) // len(over)), strict=True))
    for control, *printed in rows:
        yield from ((each, drop.loc[(control, of[0]), of[1]]) for each, of in zip(printed, columns, strict=True))
    every = page.csv["reuse_index.csv"]
    told = r"((?:\w+ of the \d+ kernels|the one kernel|no kernel) .*?)"
    ends = r"The source beats the untrained start for certain at (\d+) of (\d+) kernels, and is beaten at (\d+)\."
    for title, found, beats, kernels, beaten in page.said(rf"(UNet|PSPNet): {told} {ends}"):
        part = every[every["network"] == title.lower()]
        yield beats, (part["adds_low"] > 0).sum()
        yield kernels, len(part)
        yield beaten, (part["adds_high"] < 0).sum()
        if some := re.search(rf"(\d+|none) of the (\d+) kernels that pass .* lose at most {NUMBER} on", found):
            passing = part[part["source"] <= float(some[3])]
            yield some[2], len(passing)
            yield some[1].replace("none", "0"), (passing["random"] <= float(some[3])).sum()


def your_network(page):
    layers = page.csv["layers.csv"]
    own = page.said(rf"Its own score is {NUMBER} \(accuracy")[0]
    yield own[0], (layers["score"] + layers["drop"]).iloc[0]
    kernels = layers[layers["kind"].isin(["W", "LW"])]
    pattern = r"Of its (\d+) live kernels: (\d+) reusable, (\d+) undecided, (\d+) not reusable, "
    pattern += rf"within a drop of {NUMBER}\. Its own score is [\d.]+ \(accuracy"  # of digits, if they are judged
    for count, passed, unsure, failed, tolerance in page.said(pattern):
        passes, fails = kernels["high"] <= float(tolerance), kernels["low"] > float(tolerance)
        yield from zip((count, passed, failed), (len(kernels), passes.sum(), fails.sum()), strict=True)
        yield unsure, len(kernels) - passes.sum() - fails.sum()


CHECKS = {
    "01_data": labels, "02_batch_norm": largest_changes, "03_unet": reuse_in_unet, "04_pspnet": reuse_in_pspnet,
    "05_rmse": distances, "06_transfer": transfer, "07_verdict": verdicts, "08_architecture": architecture,
    "09_redundancy": redundancy, "10_your_network": your_network,
}  # fmt: skip
each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def wrong(path, page):
    compared = list(CHECKS[path.stem](page))
    assert compared, "expected a number to compare, found none"
    return [(printed, computed) for printed, computed in compared if not agree(printed, computed)]


def test_there_is_a_book():
    assert CHAPTERS, f"no executed chapter below {os.environ['PRR_BOOK']}"


@each_chapter
def test_what_a_page_prints_follows_from_its_tables(path):
    assert wrong(path, Page(path)) == []


@each_chapter
def test_other_tables_are_noticed(path):
    page = Page(path)
    for table in page.csv.values():
        measured = table.select_dtypes("float").columns
        table[measured] = 1 - table[measured]
    assert wrong(path, page)


@pytest.mark.parametrize(
    ("printed", "computed", "same"),
    [("0.79", 0.7949, True), ("0.79", 0.7951, False), ("2e-05", 2.4e-5, True), ("2e-05", 2.6e-5, False), ("7", 7, True),
     ("7", 8, False), ("-0.00", 0.001, True), ("RM", "RM", True), ("RM", "RV", False)],
)  # fmt: skip
def test_numbers_agree_at_the_precision_of_print(printed, computed, same):
    assert agree(printed, computed) is same
