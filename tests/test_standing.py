"""Whether a target is worth damaging: below its floor a box and no verdict, above it a sentence; on any data."""

from types import SimpleNamespace

import pandas as pd
import pytest

from prr.study import standing
from prr.study.profiles import profile

RUN = SimpleNamespace(profile=profile("quick"))  # floors .78 and .70


def test_foreground_dice_is_averaged_within_patients_first():
    table = pd.DataFrame({"patient": [1, 1, 1, 2, 2], "class": [0, 1, 2, 0, 1], "dice": [1, 0.2, 0.4, 1, 0.9]})
    assert standing.foreground(table) == pytest.approx((0.3 + 0.9) / 2)


@pytest.mark.parametrize(
    ("reached", "weak"),
    [
        ({"unet": 0.78, "pspnet": 0.70}, []),
        ({"unet": 0.77, "pspnet": 0.70}, ["UNet reaches 0.77"]),
        # as sizes, floors are the paper's networks'
        ({"residual": 0.77, "densenet": 0.71}, ["The network with short connections reaches 0.77"]),
        ({"unet": float("nan")}, ["UNet reaches"]),
    ],
)
def test_a_target_below_its_floor_is_told_in_the_box(reached, weak):
    told = standing.shortfalls(RUN, reached)
    assert len(standing.weak(RUN, reached)) == len(told)
    assert [each.startswith(start) for each, start in zip(told, weak, strict=True)] == [True] * len(weak)
    box = standing.box(RUN, reached)
    assert bool(box) is bool(weak)
    if weak:
        assert all(each in box for each in told)
        assert box.startswith("The target is too weak")
        assert "admonition" in box._repr_html_()
    else:
        assert box._repr_html_() == ""


def test_a_good_target_is_told_in_a_sentence_with_its_floor(sentences):
    first, second = sentences(standing.in_words(RUN, {"unet": 0.847, "pspnet": 0.7}))
    assert first == "UNet is good enough to be damaged: it reaches 0.85 of foreground Dice and needs 0.78."
    assert second.startswith("PSPNet is good enough")
    assert "0.70 of foreground Dice and needs 0.70" in second
