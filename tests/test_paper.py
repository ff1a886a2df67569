"""What is stored of the paper is what the paper prints."""

import re

import pytest

import prr
from prr.study import paper, profiles, pspnet
from prr.study.transfer import ROWS


def test_the_list_is_the_papers_sentence():
    # section 3.1: "RM: 1, 17; W: 1, 6, 11, 12, 16, 17, 19, 20; B: 1"
    listed = paper.not_reusable().groupby("kind")["layer"].agg(list).to_dict()
    assert listed == {"RM": [1, 17], "W": [1, 6, 11, 12, 16, 17, 19, 20], "B": [1]}


def test_names_and_layers_of_the_list_agree_with_the_network():
    table = prr.parameter_table(pspnet(width=2))
    for row in paper.not_reusable().itertuples():
        names = table.loc[table["kind"] == row.kind, "name"].tolist()
        assert names.index(row.name) + 1 == row.layer


def test_the_reused_share_is_92_percent_by_pairs_and_less_than_a_fifth_by_weights():
    share = paper.reused_share(prr.parameter_table(pspnet())).set_index("counted")
    assert share.loc["pairs of kind and layer", ["listed", "total", "share"]].tolist() == [11, 134, 0.918]
    # by hand: 3x3 kernels of 64..512 channels; the encoder is ResNet-18 without its classifier
    conv = {1: 3 * 49 * 64, 6: 64 * 128 * 9, 11: 128 * 256 * 9, 12: 256 * 256 * 9, 16: 256 * 512 * 9}
    listed = sum(conv.values()) + 3 * 512 * 512 * 9
    batch_norms, classifier = 9600, 512 * 1000 + 1000
    encoder = 11_689_512 - batch_norms - classifier  # torchvision's own count of resnet18's parameters
    weights = share.loc["weights in the encoder's kernels"]
    assert (weights["listed"], weights["total"]) == (listed, encoder)
    assert re.fullmatch(r"0\.17\d", str(weights["share"]))


def test_the_table_has_all_14_rows_and_its_mean_is_that_of_four_classes_but_for_one_cell():
    table = paper.transfer()
    assert table[["patients", "row"]].to_numpy().tolist() == [[n, row] for n in (10, 50) for row in range(1, 8)]
    # by hand: 10 samples, row 5: (1.00 + 0.75 + 0.75 + 0.88) / 4
    assert table.loc[4, ["mean", "recomputed"]].tolist() == [0.85, pytest.approx(0.845)]
    off = table[(table["mean"] - table["recomputed"]).abs() > 0.0051]
    assert off[["patients", "row", "mean"]].to_numpy().tolist() == [[50, 6, 0.72]]
    assert off["recomputed"].item() == pytest.approx(0.8125)
    assert table.loc[table["remark"] != "", "row"].tolist() == [6]


def test_the_tables_numbers_are_those_of_the_text():
    """Sums over columns, added up from the printed page."""
    sums = paper.transfer().groupby("patients")[["class-0", "class-1", "class-2", "class-3", "mean"]].sum()
    assert sums.loc[10].tolist() == pytest.approx([6.95, 4.13, 4.24, 5.26, 5.15])
    assert sums.loc[50].tolist() == pytest.approx([6.96, 5.24, 5.45, 6.09, 5.84])


def test_the_tables_rows_are_the_experiments():
    for row in paper.transfer().itertuples():
        ours = ROWS[row.row]
        assert (row.source, row.frozen) == (ours.source, ours.frozen)
        dataset, _, task = row.source.partition(" ")
        name = {"segmentation": "seg", "auto-encoding": "auto", "": ""}[task]
        assert row.label.startswith(f"{dataset.upper()}_{name} " if dataset else "Don't load")
        assert ("Do not freeze" not in row.label) == (row.frozen or not dataset)


def test_the_tolerance_of_a_drop_stands_in_the_profile_alone():
    assert set(paper.tolerances()) == {"cell", "order", "most", "nearness", "algebra", "conform", "predicts"}
    assert "tolerance" in profiles.OVERRIDES
