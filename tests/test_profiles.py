"""Profiles and overrides: what is taken, what is refused by name."""

import dataclasses
import itertools

import pytest

from prr.errors import OptionError
from prr.study.profiles import OVERRIDES, PROFILES, profile


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_comes_by_its_name(name):
    assert profile(name).name == name
    assert profile(name) == PROFILES[name]


def test_profiles_grow_from_smoke_to_paper():
    sizes = [
        [getattr(profile(name), field) for field in ("size", "steps", "unet_width", "pspnet_width", "acdc_patients")]
        for name in ("smoke", "quick", "paper")
    ]
    assert all(small <= large for pair in itertools.pairwise(sizes) for small, large in zip(*pair, strict=True))
    assert sizes[2][-1] == 100  # the paper's patients


def test_the_papers_starts_are_the_default():
    assert {(one.unet_start, one.pspnet_start) for one in PROFILES.values()} == {("independent", "shared")}


def test_an_overridden_value_replaces_the_profiles_and_none_keeps_it():
    found = profile("smoke", steps=3, size=None, normalisation="unit")
    assert found == dataclasses.replace(PROFILES["smoke"], steps=3, normalisation="unit")


@pytest.mark.parametrize("name", OVERRIDES)
def test_every_override_accepts_the_profiles_own_value(name):
    assert profile("quick", **{name: getattr(PROFILES["quick"], name)}) == PROFILES["quick"]


def test_a_number_takes_the_type_of_the_profiles_own():
    assert repr(profile("smoke", spacing_mm=2, steps=4.0).spacing_mm) == "2.0"  # one key in the store, not two
    assert repr(profile("smoke", steps=4.0).steps) == "4"


@pytest.mark.parametrize("name", ["Smoke", "", "quick ", "full"])
def test_an_unknown_profile_is_refused_by_name(name):
    with pytest.raises(OptionError, match=f"profile '{name}': expected one of smoke, quick, paper"):
        profile(name)


def test_an_unknown_override_is_refused_by_name_with_the_nearest():
    with pytest.raises(OptionError, match=r"override 'stepz': expected one of .*did you mean steps\?"):
        profile("smoke", stepz=3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0), ("steps", -1), ("steps", 1.5), ("steps", "8"), ("steps", True), ("steps", float("nan")),
        ("steps", float("inf")), ("learning_rate", 0), ("learning_rate", -1e-3), ("learning_rate", "fast"),
        ("learning_rate", float("nan")), ("spacing_mm", float("inf")), ("threads", 0), ("size", 56), ("size", 32),
        ("batch_size", 1), ("pspnet_width", 7), ("normalisation", "minmax"), ("unet_start", "imagenet"),
        ("pspnet_start", "random"),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_type_or_range_is_refused_with_its_name(name, value):
    with pytest.raises(OptionError, match=f"{name}="):
        profile("smoke", **{name: value})
