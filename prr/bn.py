"""What replacing one of batch norm's four vectors does to the feature map: a shift, or a change of scale.

At inference y = RW (x - RM) / sqrt(RV + eps) + RB, channel by channel. With one vector replaced (marked '):

    RM -> RM'   y moves by      RW (RM - RM') / sqrt(RV + eps)
    RB -> RB'   y moves by      RB' - RB
    RV -> RV'   y - RB times    sqrt((RV + eps) / (RV' + eps))
    RW -> RW'   y - RB times    RW' / RW
    B  -> B'    y moves by      RW (B' - B) / sqrt(RV + eps), where a convolution with a bias comes before
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from torch import Tensor, nn

from prr.copies import copied, effective
from prr.errors import NetworkError, OptionError
from prr.layers import BATCH_NORM, CONVOLUTION, FrozenBatchNorm, check_kinds, comparable, forward, replaced, tensor

# A channel whose |RW| is below this share of the layer's largest is switched off in the target: RW'/RW says nothing
# about it, so it is left out of MRW and counted in `excluded`.
SWITCHED_OFF = 1e-3


def shift_scale(target: nn.Module, source: nn.Module) -> pd.DataFrame:
    """Shift and scale of the output of every batch norm if one of its vectors came from the source.

    Args:
        target: network whose batch norms are looked at; all of them with RM, RV, RW and RB.
        source: same layers and shapes.

    Returns:
        DataFrame, one row per batch norm:
        layer, name;
        MRM, MRB, MB: mean over channels of the absolute shift, in units of the layer's output;
        MRV, MRW: mean over channels of the factor (1 changes nothing);
        MRM_signed, MRB_signed, MB_signed: the signed means, the literal reading of the paper's words;
        MRV_log, MRW_log: mean of |log |factor||, where signs or reciprocals would cancel in the mean (for RW a
        |factor| below 1e-3 counts as 1e-3);
        rms_RM, rms_RV, rms_RW, rms_RB, rms_B: the one common scale: RMS change of the output for standardised input,
        divided by rms(RW); no division by a single RW;
        excluded: channels left out of MRW and MRW_log because RW is near 0 in the target.
        MB and its like are NaN where no convolution with a bias stands directly before the batch norm.

    Raises:
        NetworkError: networks that do not match, no batch norm, NaN or infinite values.

    Source: Wang et al. 2020, arXiv:2008.03411, "Analysis of the reuse of BN layer"; Ioffe and Szegedy 2015,
    arXiv:1502.03167. The paper's formulas are lost in its text; these follow from its definitions.

    Example:
        >>> import copy, prr
        >>> from torch import nn
        >>> target = nn.Sequential(nn.BatchNorm2d(4)).eval()
        >>> source = copy.deepcopy(target)
        >>> source[0].bias.data += 1
        >>> prr.shift_scale(target, source)[["layer", "name", "MRM", "MRV", "MRW", "MRB"]]
           layer name  MRM  MRV  MRW  MRB
        0      1    0  0.0  1.0  1.0  1.0
    """
    target, source = effective(target), effective(source)
    table = comparable(target, source)
    bias_before = biased_convolutions(target)
    batch_norms = table[table["kind"] == "RM"]
    if batch_norms.empty:
        raise NetworkError(f"{type(target).__name__}: expected batch norms with running statistics, found none")
    rows = []
    for layer, name in batch_norms[["layer", "name"]].itertuples(index=False):
        old, new = ({kind: array(model, kind, name) for kind in ("RM", "RV", "RW", "RB")} for model in (target, source))
        epsilon = getattr(target.get_submodule(name), "eps", 1e-5)  # a frozen one may have it in its code
        conv = bias_before.get(name)
        bias = array(source, "B", conv) - array(target, "B", conv) if conv else np.full_like(old["RW"], np.nan)
        rows.append({"layer": layer, "name": name, **changes(old, new, bias, epsilon)})
    return pd.DataFrame(rows)


def changes(old: dict[str, np.ndarray], new: dict[str, np.ndarray], bias: np.ndarray, epsilon: float) -> dict:
    """The numbers of one batch norm, see `shift_scale`; vectors are (channels,), `bias` is B' - B."""
    gain = old["RW"] / np.sqrt(old["RV"] + epsilon)
    shift = {"RM": gain * (old["RM"] - new["RM"]), "RB": new["RB"] - old["RB"], "B": gain * bias}
    contrast = np.sqrt((old["RV"] + epsilon) / (new["RV"] + epsilon))
    on = np.abs(old["RW"]) > SWITCHED_OFF * np.abs(old["RW"]).max()
    weight = new["RW"][on] / old["RW"][on] if on.any() else np.full(1, np.nan)
    # a standardised channel has RMS 1, so scaling it changes the output by |RW (factor - 1)|
    moved = shift | {"RV": old["RW"] * (contrast - 1), "RW": new["RW"] - old["RW"]}
    scale = np.sqrt(np.mean(old["RW"] ** 2)) or np.nan
    return {
        **{f"M{kind}": np.abs(shift[kind]).mean() for kind in ("RM", "RB", "B")},
        "MRV": contrast.mean(),
        "MRW": weight.mean(),
        **{f"M{kind}_signed": shift[kind].mean() for kind in ("RM", "RB", "B")},
        "MRV_log": np.abs(np.log(contrast)).mean(),
        "MRW_log": np.abs(np.log(np.maximum(np.abs(weight), SWITCHED_OFF))).mean(),
        **{f"rms_{kind}": np.sqrt(np.mean(moved[kind] ** 2)) / scale for kind in ("RM", "RV", "RW", "RB", "B")},
        "excluded": int((~on).sum()),
    }


def biased_convolutions(model: nn.Module) -> dict[str, str]:
    """Batch norm name -> name of the convolution registered directly before it, if that one has a bias."""
    layers = [(name, module) for name, module in model.named_modules() if not any(module.children())]
    return {
        name: before
        for (before, conv), (name, norm) in itertools.pairwise(layers)
        if isinstance(norm, BATCH_NORM) and isinstance(conv, CONVOLUTION)
        and conv.bias is not None and norm.running_mean is not None and conv.out_channels == len(norm.running_mean)
    }  # fmt: skip


def array(model: nn.Module, kind: str, name: str) -> np.ndarray:
    """One tensor as float64 NumPy array."""
    return tensor(model, kind, name).detach().cpu().double().numpy()


def responses(
    target: nn.Module,
    source: nn.Module,
    name: str,
    images: Tensor,
    kinds: Sequence[str] = ("RM", "RV", "RW", "RB", "B"),
) -> dict[str, np.ndarray]:
    """Output of one batch norm of the target on real images, before and after each replacement.

    Args:
        target: network that receives; not changed.
        source: network that gives.
        name: the batch norm's module name.
        images: one batch as the network takes it, on its device.
        kinds: what to replace; B is the bias of the convolution directly before, left out where there is none.

    Returns:
        {"target": (n, channels, h, w), kind: the same, ...}.

    Raises:
        OptionError: an unknown kind.
        NetworkError: no batch norm of that name, networks that do not match.

    Example:
        >>> import copy, torch
        >>> from prr.bn import responses
        >>> from torch import nn
        >>> target = nn.Sequential(nn.BatchNorm2d(4)).eval()
        >>> source = copy.deepcopy(target)
        >>> source[0].bias.data += 1
        >>> outputs = responses(target, source, "0", torch.zeros(2, 4, 8, 8))
        >>> {kind: float(output.mean()) for kind, output in outputs.items()}
        {'target': 0.0, 'RM': 0.0, 'RV': 0.0, 'RW': 0.0, 'RB': 1.0}
    """
    check_kinds(kinds)
    target, source = effective(target), effective(source)
    comparable(target, source)
    tensor(target, "RM", name)  # refuses a name that is no batch norm
    conv = biased_convolutions(target).get(name)
    owners = {kind: conv if kind == "B" else name for kind in kinds}
    variants = {"target": target} | {
        kind: replaced(target, source, kind, owner) for kind, owner in owners.items() if owner is not None
    }
    return {kind: output_of(model, name, images) for kind, model in variants.items()}


def histograms(target: nn.Module, source: nn.Module, name: str, images: Tensor) -> pd.DataFrame:
    """Distribution of one batch norm's output before and after each replacement; arguments and errors as `responses`.

    Returns:
        DataFrame[kind, low, high, density]: 80 bins for each kind, "target" (nothing replaced) first; low and high:
        the bin's edges, the same for all, between which 99.6 % of all values lie; density integrates to 1 over them.

    Example:
        >>> import copy, torch
        >>> from prr.bn import histograms
        >>> from torch import nn
        >>> target = nn.Sequential(nn.BatchNorm2d(4)).eval()
        >>> source = copy.deepcopy(target)
        >>> source[0].bias.data += 1
        >>> table = histograms(target, source, "0", torch.rand(2, 4, 8, 8))
        >>> table.groupby("kind", sort=False)["density"].count().to_dict()
        {'target': 80, 'RM': 80, 'RV': 80, 'RW': 80, 'RB': 80}
    """
    values = responses(target, source, name, images)
    everything = np.concatenate([each.ravel() for each in values.values()])
    edges = np.linspace(*np.percentile(everything, [0.2, 99.8]), 81)
    bounds = {"low": edges[:-1], "high": edges[1:]}
    parts = [
        pd.DataFrame({"kind": kind, **bounds, "density": np.histogram(each, edges, density=True)[0]})
        for kind, each in values.items()
    ]
    return pd.concat(parts, ignore_index=True)


def residuals(target: nn.Module, source: nn.Module, name: str, images: Tensor) -> pd.DataFrame:
    """How far each replacement is from a pure shift (RM, RB) or a pure change of scale about RB (RV, RW), measured.

    Args:
        target: network that receives; not changed.
        source: network that gives.
        name: the batch norm's module name.
        images: one batch as the network takes it, on its device.

    Returns:
        DataFrame[kind, changes, residual]: largest deviation, over channels and pixels, from the shift or the factor
        that fits each channel best, over the largest output.

    Raises:
        NetworkError: as `responses`.

    Example:
        >>> import copy, torch
        >>> from prr.bn import residuals
        >>> from torch import nn
        >>> target = nn.Sequential(nn.BatchNorm2d(4)).eval()
        >>> source = copy.deepcopy(target)
        >>> source[0].bias.data += 1
        >>> residuals(target, source, "0", torch.rand(2, 4, 8, 8)).round(3)
          kind changes  residual
        0   RM   shift       0.0
        1   RV   scale       0.0
        2   RW   scale       0.0
        3   RB   shift       0.0
    """
    outputs = responses(target, source, name, images, ("RM", "RV", "RW", "RB"))
    outputs = {kind: output.astype(np.float64) for kind, output in outputs.items()}
    before, bias = outputs.pop("target"), array(target, "RB", name)[None, :, None, None]
    axes, rows = (0, 2, 3), []
    for kind, after in outputs.items():
        if kind in ("RM", "RB"):
            fitted = before + (after - before).mean(axes, keepdims=True)
        else:
            centred = before - bias
            power = (centred**2).sum(axes, keepdims=True)
            fitted = bias + centred * ((after - bias) * centred).sum(axes, keepdims=True) / np.where(
                power > 0, power, 1
            )
        changes = "shift" if kind in ("RM", "RB") else "scale"
        rows.append((kind, changes, np.abs(after - fitted).max() / np.abs(after).max()))
    return pd.DataFrame(rows, columns=["kind", "changes", "residual"])


def output_of(model: nn.Module, name: str, images: Tensor) -> np.ndarray:
    """What the module called `name` gives when a copy of the network in eval mode sees the images."""
    probe = copied(model).eval()
    seen = []
    probe.get_submodule(name).register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))
    forward(probe, images)
    if not seen:
        raise NetworkError(f"{name}: a forward pass in eval mode never calls it; choose a live layer")
    return seen[0].float().cpu().numpy()


def recalibrate(model: nn.Module, images: Tensor, batch_size: int = 32) -> nn.Module:
    """Re-estimate the running statistics of all batch norms; no label is needed, and no gradient is taken.

    Args:
        model: any network; not changed.
        images: (n, ...) as the network takes them; every batch norm has to see more than one value per channel.
        batch_size: images per forward pass, about: passes are of equal size, none smaller if there are enough images.

    Returns:
        A copy in eval mode. RM and RV are means over passes of the batch's mean and (unbiased) variance. A batch norm
        that no pass calls, or that is frozen, keeps its own.

    Raises:
        OptionError: no image, or an empty batch.
        NetworkError: whatever the network says of the images, one value per channel among it.

    Example:
        >>> import torch
        >>> from prr.bn import recalibrate
        >>> from torch import nn
        >>> model = recalibrate(nn.BatchNorm1d(1), torch.tensor([[1.0], [3.0]]))
        >>> model.running_mean, model.running_var
        (tensor([2.]), tensor([2.]))
    """
    if batch_size < 1 or not len(images):
        raise OptionError(f"expected 1 or more images, and to a batch, found {len(images)} and batch_size={batch_size}")
    probe = copied(model).eval()
    every = [each for each in probe.modules() if isinstance(each, BATCH_NORM) and each.running_mean is not None]
    norms = [each for each in every if not isinstance(each, FrozenBatchNorm)]
    hooks = [each.register_forward_pre_hook(_estimator()) for each in every if isinstance(each, FrozenBatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:  # a cumulative mean: its first pass overwrites, so nothing need be reset
        norm.momentum = None
        norm.num_batches_tracked.zero_()
        norm.train()
    for batch in images.tensor_split(max(len(images) // batch_size, 1)) if every else ():
        forward(probe, batch.to(every[0].running_mean.device))
    for hook in hooks:
        hook.remove()
    for norm, (momentum, count) in zip(norms, before, strict=True):
        norm.momentum = momentum
        if not norm.num_batches_tracked:
            norm.num_batches_tracked.copy_(count)
    return probe.eval()


def _estimator() -> Callable[[nn.Module, tuple], None]:
    """A hook that estimates the statistics of a norm whose forward pass never does."""
    passes = itertools.count(1)

    def estimate(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        share, axes = 1 / next(passes), [0, *range(2, inputs[0].ndim)]
        for attribute, found in (("running_mean", inputs[0].mean(axes)), ("running_var", inputs[0].var(axes))):
            if attribute not in vars(norm).get("held", ()):
                norm._buffers[attribute].lerp_(found, share)

    return estimate
