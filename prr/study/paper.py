"""What the paper reports, from data/paper/: never typed again elsewhere."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

KINDS = ("W", "B", "RM", "RV", "RW", "RB")  # what the paper swaps
# in a clone, and where the wheel puts the same files
FOLDERS = Path(__file__).parents[2] / "data" / "paper", Path(__file__).parent / "reported"


def not_reusable() -> pd.DataFrame:
    """The parameters of PSPNet that the paper lists as not reusable.

    Returns:
        DataFrame[kind, layer, name]: `layer` in the paper's count, `name` of the module in `prr.study.pspnet`.

    Source: Wang et al. 2020, arXiv:2008.03411, section 3.1.
    """
    return pd.read_csv(_file("pspnet_not_reusable"), comment="#")


def transfer() -> pd.DataFrame:
    """The paper's table of Dice after transfer to ACDC segmentation, as printed.

    Returns:
        DataFrame[patients, row, label, source, frozen, class-0, class-1, class-2, class-3, mean, remark, recomputed]:
        `mean` is printed, `recomputed` the mean of the four classes, background included.

    Source: Wang et al. 2020, arXiv:2008.03411, section 3.1.
    """
    table = pd.read_csv(_file("transfer"), comment="#", keep_default_na=False)
    return table.assign(recomputed=table.filter(like="class-").mean(axis=1))


def claims() -> pd.DataFrame:
    """What the paper states: DataFrame[id, where, claim, page, data, remark], text only.

    page: the chapter that shows the evidence; data: the data sets that its test rests on.
    """
    return pd.read_csv(_file("claims"), comment="#", dtype=str, keep_default_na=False)


def tolerances() -> dict[str, float]:
    """What the tests of the claims tolerate, by name, but for a drop of Dice: that is `Profile.tolerance`."""
    return pd.read_csv(_file("tolerances"), comment="#").set_index("name")["value"].to_dict()


def _file(name: str) -> Path:
    return next(filter(Path.exists, FOLDERS)) / f"{name}.csv"


def reused_share(table: pd.DataFrame) -> pd.DataFrame:
    """How much of PSPNet is reused if all but the paper's list is, counted in two ways.

    Args:
        table: `prr.parameter_table(prr.study.pspnet())`.

    Returns:
        DataFrame[counted, listed, total, share]: pairs of kind and layer (the paper's 92 %), and the numbers within
        the kernels of the encoder; `share` is the reused part.
    """
    listed = table.merge(not_reusable()[["kind", "name"]])
    kernels = table[table["name"].str.startswith("encoder.") & (table["kind"] == "W")]
    counts = {
        "pairs of kind and layer": (len(listed), len(table)),
        "weights in the encoder's kernels": (listed.loc[listed["kind"] == "W", "size"].sum(), kernels["size"].sum()),
    }
    rows = [(counted, part, total, round(1 - part / total, 3)) for counted, (part, total) in counts.items()]
    return pd.DataFrame(rows, columns=["counted", "listed", "total", "share"])
