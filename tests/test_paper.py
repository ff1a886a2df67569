"""What is stored of the paper is what the paper prints."""

import re

import prr
from prr.study import paper, pspnet


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
