"""Scores of transferability against dense formulas, scikit-learn and SciPy; features of networks that show places."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import torchvision.models as tv
from scipy import optimize, stats
from sklearn.covariance import ledoit_wolf
from torch import nn

import prr
from prr.errors import DataError, NetworkError, OptionError
from prr.predictors import activations, cka, h_score, jackknife, layer_similarity, logme, pixels, rank_agreement
from prr.samples import Samples


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def features(rows, channels, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    return scale * (
        rng.normal(size=(rows, channels)) @ rng.normal(size=(channels, channels)) + rng.normal(size=channels)
    )


def labels(rows, classes=3, seed=0):
    return np.concatenate([np.arange(classes), np.random.default_rng(seed).integers(classes, size=rows - classes)])


def rotation(size, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


# ---------------------------------------------------------------- CKA


def alignment(x, y):
    """CKA from its definition with kernels, Kornblith et al., eqs 3 and 4."""
    middle = np.eye(len(x)) - 1 / len(x)
    hsic = [np.trace(a @ middle @ b @ middle) for a, b in ((x @ x.T, y @ y.T), (x @ x.T, x @ x.T), (y @ y.T, y @ y.T))]
    return hsic[0] / np.sqrt(hsic[1] * hsic[2])


@pytest.mark.parametrize("shape", [(50, 4, 7), (10, 30, 3), (8, 20, 40), (2, 3, 3)])
def test_cka_is_what_the_kernels_give(shape):
    rows, first, second = shape
    x, y = features(rows, first, 1), features(rows, second, 2)
    assert cka(x, y) == pytest.approx(alignment(x, y), rel=1e-9)
    assert cka(y, x) == pytest.approx(cka(x, y), rel=1e-12)


def test_cka_by_hand():
    x = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])  # X'X = 2 I
    assert cka(x, x[:, :1]) == pytest.approx(4 / (2 * 2**0.5 * 2))  # Y'X = (2, 0), Y'Y = 2
    assert cka(x[:, :1], x[:, 1:]) == 0
    assert cka(x, x) == 1


def test_cka_knows_no_rotation_scale_or_shift():
    x, y = features(40, 6, 1), features(40, 5, 2)
    for other in (x @ rotation(6), x * 1e90, x * 1e-90, x + 7, -x, x[:, ::-1]):
        assert cka(other, y) == pytest.approx(cka(x, y), rel=1e-9)
        assert cka(other, x) == pytest.approx(1, rel=1e-12)
    assert cka(x * np.arange(1, 7), y) != pytest.approx(cka(x, y), rel=1e-3)  # one scale for all, not one for each


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e9])
def test_a_constant_has_no_similarity_and_a_constant_column_changes_none(constant):
    x, y = features(40, 3, 1), features(40, 2, 2)
    assert np.isnan(cka(np.full((40, 3), constant), y))
    assert cka(np.hstack([x, np.full((40, 2), constant)]), y) == pytest.approx(cka(x, y), rel=1e-12)


def test_many_independent_rows_are_not_similar_and_few_always_are():
    assert cka(features(5000, 4, 1), features(5000, 4, 2)) < 0.01
    assert cka(features(5, 4000, 1), features(5, 4000, 2)) > 0.4


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.ones(4), np.ones((4, 1)), r"x: expected features \(n, channels\).*found \(4,\)"),
        (np.ones((4, 1)), np.ones((5, 1)), "as many rows in both, found 4 and 5"),
        (np.ones((1, 1)), np.ones((1, 1)), "n at least 2"),
        (np.ones((4, 0)), np.ones((4, 1)), r"found \(4, 0\)"),
        (np.ones((4, 1)), np.full((4, 1), np.nan), "y: expected finite"),
    ],
)
def test_what_cka_can_make_nothing_of_is_refused(x, y, message):
    with pytest.raises(DataError, match=message):
        cka(x, y)


# ---------------------------------------------------------------- features of a network


class Places(nn.Module):
    """Its layers give what they see: all pixels, and every second one; the image's number; a window's worth."""

    def __init__(self):
        super().__init__()
        self.fine = nn.Conv2d(3, 3, 1, bias=False)
        self.coarse = nn.Conv2d(3, 3, 1, stride=2, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.tokens = nn.Linear(3, 3, bias=False)
        self.pooled = nn.Linear(3, 3, bias=False)
        self.dead = nn.Conv2d(3, 3, 1)
        for layer in (self.fine, self.coarse, self.tokens, self.pooled):
            layer.weight.data = torch.eye(3).reshape(layer.weight.shape)

    def forward(self, images):
        inner = self.relu(self.fine(images))
        windows = self.coarse(inner).unflatten(2, (2, -1)).permute(0, 2, 3, 4, 1).flatten(0, 1)  # (2 b, h/2, w, 3)
        self.relu(self.relu(windows))
        return self.pooled(self.tokens(windows).unflatten(0, (-1, 2)).mean((1, 2, 3)))


def numbered(images=5, height=8, width=12):
    """Images whose channels are minus the row, the column, and the image's number."""
    grid = torch.meshgrid(torch.arange(images), torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([-grid[1], grid[2], grid[0]], 1).float()


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_rows_are_the_same_places_in_every_layer(batch_size):
    found = activations(
        Places(), ["fine", "coarse", "tokens", "pooled"], numbered(), positions=30, batch_size=batch_size
    )
    fine, coarse = found["fine"], found["coarse"]
    assert fine.shape == coarse.shape == found["tokens"].shape == (150, 3)
    assert fine.dtype == np.float64
    assert (fine[:, 0] <= 0).all()  # before the ReLU that writes into it
    assert fine[:, 0].min() == -7
    assert fine[:, 1].max() == 11
    assert (fine[:, 2] == np.repeat(np.arange(5), 30)).all()
    assert (coarse[:, 1] == fine[:, 1] // 2 * 2).all()
    assert (found["tokens"][:, 2] == fine[:, 2]).all()
    assert found["pooled"].shape == (5, 3)
    assert (found["pooled"][:, 2] == np.arange(5)).all()


def test_of_a_module_that_is_called_several_times_the_first_call_counts():
    found = activations(Places(), ["relu", "fine"], numbered(), positions=30)
    assert (found["relu"] == np.maximum(found["fine"], 0)).all()


def test_places_come_from_the_seed_and_differ_between_images():
    seeds = [activations(Places(), ["fine"], numbered(), positions=30, seed=seed)["fine"] for seed in (0, 0, 1)]
    assert (seeds[0] == seeds[1]).all()
    assert (seeds[0] != seeds[2]).any()
    assert (seeds[0][:30, :2] != seeds[0][30:60, :2]).any()


def test_activations_leave_the_network_and_the_generator_alone():
    model, images = tv.resnet18(num_classes=3).train(), torch.randn(4, 3, 32, 32)
    before, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    found = activations(model, ["conv1", "layer4.1.bn2", "fc"], images, positions=5)
    assert {name: rows.shape for name, rows in found.items()} == {
        "conv1": (20, 64), "layer4.1.bn2": (4, 512), "fc": (4, 3),
    }  # fmt: skip
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training and not module._forward_hooks for module in model.modules())
    assert torch.equal(random_state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"names": "fine"}, OptionError, "expected a list of names"),
        ({"names": ["fin"]}, NetworkError, "fin: no such module in Places"),
        ({"names": ["dead"]}, NetworkError, "dead: a forward pass in eval mode never calls it"),
        ({"positions": 0}, OptionError, "positions=0"),
        ({"batch_size": 0}, OptionError, "batch_size=0"),
        ({"images": numbered()[:0]}, OptionError, "0 images"),
        ({"images": numbered() * np.inf}, NetworkError, "fine: its output is NaN or infinite"),
        ({"images": numbered()[:, :2]}, NetworkError, "a forward pass on the example"),
    ],
)
def test_what_gives_no_activations_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        activations(Places(), **{"names": ["fine"], "images": numbered(), **options})


def test_a_module_that_gives_no_tensor_is_refused():
    model = nn.Sequential(nn.LSTM(3, 3))
    with pytest.raises(NetworkError, match=r"0: expected an output \(2, channels, ...\), found tuple"):
        activations(model, ["0"], torch.randn(2, 4, 3))


# ---------------------------------------------------------------- similarity of layers


def mlp():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()


@pytest.mark.parametrize(("make", "images"), [(mlp, torch.randn(100, 6)), (tv.resnet18, torch.randn(8, 3, 32, 32))])
def test_a_network_is_similar_to_itself_in_every_layer_that_runs(make, images):
    model, data = make().eval(), (images, torch.zeros(len(images)))
    found = layer_similarity(model, copy.deepcopy(model), data)
    table = prr.parameter_table(model, images[:1]).query("live and kind in ('W', 'LW')")
    assert found[["kind", "layer", "name"]].equals(table[["kind", "layer", "name"]].reset_index(drop=True))
    assert found["cka"].to_numpy() == pytest.approx(np.ones(len(table)))


def test_the_similarity_of_a_layer_is_the_cka_of_its_outputs():
    pair, images = (mlp(), mlp()), torch.randn(100, 6)
    found = layer_similarity(*pair, (images, torch.zeros(100))).set_index("name")["cka"]
    with torch.no_grad():
        outputs = [(model[0](images).numpy(), model(images).numpy()) for model in pair]
    assert found["0"] == pytest.approx(alignment(outputs[0][0], outputs[1][0]), rel=1e-4)
    assert found["3"] == pytest.approx(alignment(outputs[0][1], outputs[1][1]), rel=1e-4)
    assert (found < 0.99).all()


def test_channels_in_another_order_are_as_similar():
    target = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 3)).eval()
    source, order = copy.deepcopy(target), torch.randperm(8)
    for value in (source[0].weight, source[0].bias):
        value.data = value.data[order]
    source[3].weight.data = source[3].weight.data[:, order]
    found = layer_similarity(target, source, (torch.randn(20, 1, 8, 8), torch.zeros(20)))
    assert found["cka"].to_numpy() == pytest.approx(np.ones(2), abs=1e-6)
    assert prr.rmse(target, source)["rmse"].iloc[0] > 0.05


def test_a_layer_that_only_one_network_runs_has_no_similarity_and_dead_ones_no_row():
    class Shorter(Places):
        def forward(self, images):
            return self.pooled(self.tokens(self.fine(images).movedim(1, -1)).mean((1, 2)))

    found = layer_similarity(Places(), Shorter(), (numbered(), torch.zeros(5))).set_index("name")["cka"]
    assert set(found.index) == {"fine", "coarse", "tokens", "pooled"}
    assert found.isna().to_dict() == {"fine": False, "coarse": True, "tokens": False, "pooled": False}


def test_layers_that_are_not_shared_are_left_out_with_a_warning():
    source = mlp()
    source[3] = nn.Linear(8, 5)
    with pytest.warns(UserWarning, match="2 parameters are not comparable"):
        found = layer_similarity(mlp(), source, (torch.randn(50, 6), torch.zeros(50)))
    assert found["name"].tolist() == ["0"]


def test_windows_and_tokens_are_compared_too():
    pair = [tv.vit_b_16(image_size=32, num_classes=3).eval() for _ in range(2)]
    for model in pair:  # two of twelve blocks say enough
        model.encoder.layers = model.encoder.layers[:2]
        nn.init.normal_(model.heads.head.weight)
    found = layer_similarity(*pair, (torch.randn(6, 3, 32, 32), torch.zeros(6)), positions=3)
    called = ~found["name"].str.endswith("out_proj")  # which attention reads without calling it
    assert found.loc[called, "cka"].between(0, 1).all()
    assert found.loc[~called, "cka"].isna().all()
    assert set(found["kind"]) == {"W", "LW"}


# ---------------------------------------------------------------- features with labels


def scene(images=6, size=16):
    """Images whose only channel is their label: a background, a square, and one pixel."""
    masks = torch.zeros(images, size, size, dtype=torch.uint8)
    masks[:, 4:8, 4:8] = 1
    masks[0, 12, 12] = 2
    return Samples(masks[:, None].float(), masks, torch.arange(images))


def identity(**options):
    layer = nn.Conv2d(1, 1, 1, bias=False, **options)
    nn.init.ones_(layer.weight)
    return nn.Sequential(layer)


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_a_pixel_has_its_own_label_and_classes_have_equal_shares(batch_size):
    values, found = pixels(identity(), "0", scene(), count=90, batch_size=batch_size)
    assert values.shape == (61, 1)
    assert (values[:, 0] == found).all()
    assert np.bincount(found).tolist() == [30, 30, 1]  # all that the third has


def test_a_cell_has_the_label_under_its_middle():
    masks = torch.randint(4, (5, 12, 18))
    nearest = F.interpolate(masks[:, None].float(), (5, 6), mode="nearest-exact")
    model = nn.Sequential(nn.Upsample((5, 6), mode="nearest-exact"), *identity())
    values, found = pixels(model, "1", Samples(masks[:, None].float(), masks, torch.arange(5)), count=10**6)
    assert sorted(found) == sorted(nearest.flatten().tolist())
    assert (values[:, 0] == found).all()


def test_pixels_are_drawn_by_the_seed_without_repetition():
    data = scene()
    ids = torch.arange(data.masks.numel()).reshape(data.images.shape).float()
    drawn = [pixels(identity(), "0", data._replace(images=ids), count=40, seed=seed) for seed in (0, 0, 1)]
    assert len(np.unique(drawn[0][0])) == len(drawn[0][0])
    assert (drawn[0][0] == drawn[1][0]).all()
    assert set(drawn[0][0].ravel()) != set(drawn[2][0].ravel())
    assert (data.masks.flatten()[drawn[0][0].ravel().astype(int)].numpy() == drawn[0][1]).all()


def test_one_label_for_an_image_has_the_mean_over_the_grid():
    images = torch.randn(40, 1, 6, 6)
    values, found = pixels(identity(stride=2), "0", (images, torch.tensor([0, 1, 1, 1] * 10)), count=20)
    own = images[:, 0, ::2, ::2].mean((1, 2)).numpy()
    assert np.bincount(found).tolist() == [10, 10]
    places = [np.abs(own - value).argmin() for value in values[:, 0]]
    np.testing.assert_allclose(own[places], values[:, 0], rtol=1e-5)
    assert ((np.array(places) % 4 > 0) == found).all()
    assert pixels(mlp(), "0", (torch.randn(9, 6), torch.arange(9) % 2))[0].shape == (9, 8)


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        (scene(), {"count": 0}, OptionError, "count=0"),
        (scene(), {"name": "1"}, NetworkError, "1: no such module"),
        (
            scene()._replace(masks=torch.rand(6, 16, 16)),
            {},
            DataError,
            "masks: expected whole numbers, found torch.float",
        ),
        (scene()._replace(masks=torch.zeros(6, 2, 16, 16).long()), {}, DataError, r"0: expected a grid like the masks"),
    ],
)
def test_pixels_without_labels_are_refused(data, options, error, message):
    with pytest.raises(error, match=message):
        pixels(identity(), **{"name": "0", "data": data, **options})


# ---------------------------------------------------------------- LogME


def brute_evidence(f, y):
    """The log evidence from the marginal y ~ N(0, I/b + F F'/a), by brute force over a and b; per row."""

    def lost(logarithms):
        a, b = np.exp(np.clip(logarithms, -60, 60))
        return -stats.multivariate_normal.logpdf(y, cov=np.eye(len(y)) / b + f @ f.T / a, allow_singular=False)

    starts = [(a, b) for a in (-6, 0, 6) for b in (0, 3)]
    return -min(optimize.minimize(lost, start, method="Nelder-Mead").fun for start in starts) / len(y)


def told(f, index, classes=3, strength=1.0):
    """Features that tell something of the labels."""
    return f + strength * np.eye(classes)[index] @ np.random.default_rng(9).normal(size=(classes, f.shape[1]))


CASES = {
    "informative": lambda: (told(features(40, 5), labels(40)), labels(40)),
    "uninformative": lambda: (features(40, 5), labels(40)),
    "more channels than rows": lambda: (told(features(12, 20), labels(12)), labels(12)),
    "twice the same channel": lambda: (told(features(40, 5), labels(40))[:, [0, 1, 2, 3, 4, 0, 0]], labels(40)),
    "constant channels": lambda: (np.hstack([told(features(40, 5), labels(40)), np.full((40, 2), 0.1)]), labels(40)),
    "two classes": lambda: (told(features(40, 2), labels(40)), labels(40) > 0),
}


@pytest.mark.parametrize("case", CASES)
def test_logme_is_the_largest_evidence(case):
    f, y = CASES[case]()
    expected = np.mean([brute_evidence(f, (y == label).astype(float)) for label in np.unique(y)])
    assert logme(f, y) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_logme_by_hand():
    # one feature of ones, y = (1, 0, 0, 0): |y|^2 = 1, of which 1/4 along the feature; t = a/b against s^2 = 4
    f, y = np.ones((4, 1)), np.array([1, 0, 0, 0])
    ratio = np.logspace(-8, 8, 100001)

    def best(along, rest):
        loss = rest + along * ratio / (ratio + 4)
        return (2 * np.log(4 / (2 * np.pi * loss)) - 2 + np.log(ratio / (ratio + 4)) / 2).max() / 4

    assert logme(f, y) == pytest.approx((best(1 / 4, 3 / 4) + best(9 / 4, 3 / 4)) / 2, rel=1e-6)


def test_logme_is_higher_for_features_that_tell_more():
    y = labels(300)
    found = [logme(told(features(300, 6), y, strength=strength), y) for strength in (0, 1, 3, 10)]
    assert found == sorted(found)
    assert found[0] < found[-1] - 0.5


def test_logme_knows_no_rotation_or_scale_of_features_and_no_names_of_labels():
    f, y = CASES["informative"]()
    for other in (f @ rotation(5), f * 1e6, f * 1e-200, f[:, ::-1]):
        assert logme(other, y) == pytest.approx(logme(f, y), rel=1e-6)
    assert logme(f, np.array([7, -2, 100])[y]) == pytest.approx(logme(f, y), rel=1e-12)
    assert logme(f.astype(np.float32), y.astype(np.uint8)) == pytest.approx(logme(f, y), rel=1e-5)


@pytest.mark.parametrize("f", [np.zeros((30, 4)), np.ones((30, 1)), np.eye(3)[labels(30)], np.eye(30)])
@pytest.mark.parametrize("score", [logme, h_score])
def test_features_that_tell_nothing_or_all_give_finite_scores(score, f):
    assert np.isfinite(score(f, labels(30)))


# ---------------------------------------------------------------- H-score


def trace(f, y, covariance, share):
    """H-score from its definition, with the covariance that is given."""
    means = np.stack([f[y == label].mean(0) for label in y])
    return np.trace(
        np.linalg.pinv(covariance, rcond=1e-10) @ (share * np.cov(means.T, bias=True).reshape(covariance.shape))
    )


@pytest.mark.parametrize("case", CASES)
def test_the_h_score_is_the_trace_of_its_definition(case):
    f, y = CASES[case]()
    covariance, shrinkage = ledoit_wolf(f)
    assert h_score(f, y) == pytest.approx(trace(f, y, covariance, 1 - shrinkage), rel=1e-6)


def test_the_h_score_by_hand():
    f, y = np.array([[0.0], [2], [4], [6]]), [0, 0, 1, 1]  # variance 5, of the means 4
    assert h_score(f, y) == pytest.approx(0.8)
    square = np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])  # cov = I; the first tells all, the second nothing
    assert h_score(square, y) == pytest.approx(1)


def test_the_h_score_lies_between_0_and_classes_less_1():
    y = labels(300)
    assert h_score(np.eye(3)[y], y) == pytest.approx(2, abs=0.02)
    assert h_score(features(300, 4), y) < 0.1
    assert h_score(np.full((300, 4), 0.1), y) == 0


def test_with_more_channels_than_rows_noise_does_not_tell_everything():
    assert h_score(features(20, 50), labels(20)) < 1.5  # by the pseudo-inverse, without shrinkage, it is 2


def test_the_h_score_knows_no_rotation_shift_or_scale():
    f, y = CASES["informative"]()
    for other in (f @ rotation(5) + 3, f * 1e90, f * 1e-90):
        assert h_score(other, y) == pytest.approx(h_score(f, y), rel=1e-6)


@pytest.mark.parametrize("score", [logme, h_score])
@pytest.mark.parametrize(
    ("f", "y", "message"),
    [
        (features(5, 2), np.zeros(5, int), r"two classes or more, found \[0\] alone"),
        (features(5, 2), np.arange(4), r"labels: expected whole numbers \(5,\)"),
        (features(5, 2), np.arange(5) / 2, "expected whole numbers"),
        (features(5, 2) * np.nan, np.arange(5), "features: expected finite"),
        (np.ones(5), np.arange(5), "features: expected features"),
    ],
)
def test_what_tells_nothing_of_labels_is_refused(score, f, y, message):
    with pytest.raises(DataError, match=message):
        score(f, y)


# ---------------------------------------------------------------- agreement


def test_rank_agreement_is_scipys_with_ties():
    rng = np.random.default_rng(0)
    score, truth = rng.integers(5, size=30), rng.normal(size=30)
    rho, low, high = rank_agreement(score, score + truth)
    assert rho == pytest.approx(stats.spearmanr(score, score + truth).statistic)
    assert low < rho < high < 1


def test_an_order_that_agrees_is_1_and_its_reverse_minus_1():
    score = pd.Series(np.arange(10.0), index=range(5, 15))
    assert rank_agreement(score, score**3) == pytest.approx((1, 1, 1))
    assert rank_agreement(score, -score) == pytest.approx((-1, -1, -1))


def test_the_interval_of_normal_pairs_is_about_fishers():
    first, second = np.random.default_rng(0).normal(size=(2, 400))
    rho, low, high = rank_agreement(first, first + second)
    expected = np.tanh(np.arctanh(rho) + np.array([-1.96, 1.96]) * np.sqrt((1 + rho**2 / 2) / 397))  # Bonett and Wright
    assert (low, high) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(
    ("score", "truth", "groups", "expected"),
    [
        ([1, 2, 3], [1, 2, 3], None, 1.0),
        ([1, 2, 3, np.nan], [1, 2, 3, 4], None, 1.0),
        ([1, 1, 1, 1, 1], [1, 2, 3, 4, 5], None, 0.0),
        ([0.1] * 5, [0.2] * 5, None, 0.0),
        ([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6], list("aabbcc"), 1.0),
        ([1, np.nan], [1, 2], None, np.nan),
        ([], [], None, np.nan),
    ],
)
def test_few_or_constant_values_have_no_interval(score, truth, groups, expected):
    rho, low, high = rank_agreement(score, truth, groups)
    assert rho == pytest.approx(expected, nan_ok=True)
    assert np.isnan([low, high]).all()


def test_missing_pairs_are_left_out_and_infinity_ranks_last():
    score, truth = [1, 2, np.nan, 3, 4, np.inf], [1, 2, 0, np.nan, 4, 5]
    assert rank_agreement(score, truth) == pytest.approx((1, 1, 1))


def test_what_comes_in_groups_counts_as_one():
    rng = np.random.default_rng(0)
    first = rng.normal(size=12)
    second = first + rng.normal(size=12)
    alone, copied = rank_agreement(first, second), [np.repeat(each, 20) for each in (first, second)]
    naive, grouped = rank_agreement(*copied), rank_agreement(*copied, groups=np.repeat(list("abcdefghijkl"), 20))
    assert alone[0] == naive[0] == pytest.approx(grouped[0])
    assert naive[2] - naive[1] < (alone[2] - alone[1]) / 2
    assert grouped == pytest.approx(alone, abs=0.05)


def test_the_limits_are_those_of_a_jackknife_by_hand():
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(6), [4, 4, 3, 3, 3, 3])
    score = rng.normal(size=20)
    truth = score + rng.normal(size=20)
    rho, low, high = rank_agreement(score, truth, groups)
    pseudo = [6 * rho - 5 * stats.spearmanr(score[groups != g], truth[groups != g]).statistic for g in range(6)]
    half = stats.t.ppf(0.975, 5) * stats.sem(pseudo) / (1 - rho**2)
    assert np.arctanh([low, high]) == pytest.approx(np.arctanh(rho) + np.array([-half, half]))


@pytest.mark.parametrize(("rho", "shared"), [(0.0, 0.5), (0.85, 0.9)])
def test_the_interval_over_six_groups_covers_what_it_says(rho, shared):
    rng, groups = np.random.default_rng(0), np.repeat(np.arange(6), [4, 4, 3, 3, 3, 3])
    truth, covered = 6 / np.pi * np.arcsin(rho / 2), 0  # Spearman's of normal pairs
    for _ in range(200):
        of_groups, own = rng.normal(size=(2, 6)), rng.normal(size=(2, 20))
        both = shared**0.5 * of_groups[:, groups] + (1 - shared) ** 0.5 * own
        x, y = both[0], rho * both[0] + np.sqrt(1 - rho**2) * both[1]
        _, low, high = rank_agreement(x, y, groups)
        covered += low <= truth <= high
    assert 0.92 <= covered / 200 <= 0.99  # 88 to 95 % with a percentile bootstrap over groups


def test_of_a_mean_the_jackknife_is_students_interval():
    values = np.random.default_rng(0).normal(size=7)
    half = jackknife(lambda rows: values[rows].mean(), range(7))
    assert half == pytest.approx(stats.t.ppf(0.975, 6) * stats.sem(values))
    copied = np.repeat(values, 3)  # a group counts as one
    assert jackknife(lambda rows: copied[rows].mean(), np.repeat(range(7), 3)) == pytest.approx(half)
    assert np.isnan(jackknife(lambda rows: values[rows].mean(), [0, 0, 1, 1, 1, 2, 2]))


def test_lengths_that_differ_are_refused():
    with pytest.raises(DataError, match=r"found \(3,\), \(4,\)"):
        rank_agreement([1, 2, 3], [1, 2, 3, 4])
    with pytest.raises(DataError, match=r"groups \(2,\)"):
        rank_agreement([1, 2, 3], [1, 2, 3], groups=[1, 2])


def test_a_layer_that_is_seen_at_one_place_alone_has_no_similarity():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 2, 1))
    data = torch.randn(1, 1, 8, 8), torch.zeros(1, 1, 1)
    assert layer_similarity(model, model, data)["cka"].isna().tolist() == [False, True]
    twice = torch.randn(2, 1, 8, 8), torch.zeros(2, 1, 1)
    assert layer_similarity(model, model, twice)["cka"].notna().all()


def test_cells_that_are_not_counted_are_never_drawn():
    masks = torch.randint(3, (4, 8, 8))
    masks[:, :4] = 255
    data, model = (torch.randn(4, 1, 8, 8), masks), nn.Conv2d(1, 3, 1)
    assert set(pixels(model, "", data)[1]) == {0, 1, 2, 255}
    features, labels = pixels(model, "", data, ignore_index=255)
    assert set(labels) == {0, 1, 2}
    assert len(features) == len(labels) == (masks < 3).sum()
