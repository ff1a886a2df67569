"""What the ledger reads: this run's tables by name. It reads the store and makes nothing."""

from __future__ import annotations

import functools

import pandas as pd

from prr.layers import parameter_table
from prr.study import architecture, measures, sources
from prr.study.experiment import Experiment
from prr.study.jobs import Call, together
from prr.study.models import TITLES, pspnet
from prr.verdict import Verdict

DOSES = (0.1, 0.3, "noise")


class Results:
    """Tables of one experiment, each from the store; what is not there raises MissingError.

    Args:
        run: the experiment; its networks are those of chapters 3 to 6.
    """

    def __init__(self, run: Experiment):
        self.run = run.stored()
        self.pairs = functools.cache(functools.partial(sources.over_seeds, self.run))
        self.few = functools.cache(functools.partial(sources.few, self.run))
        self.transfer = functools.cache(self.run.transfer)
        self.architecture = functools.cache(functools.partial(architecture.table, self.run))
        for read in (self.sweep, self.first_layer, self.by_source, self.dose, self.distance, self.shift, self.joint):
            setattr(self, read.__name__, functools.cache(read))  # many claims rest on the same table

    def phantom(self, dataset: str) -> bool:
        """Whether a data set is a phantom in this run."""
        return self.run.facts(dataset)["origin"] == "phantom"

    def table(self) -> pd.DataFrame:
        """The parameter table of the paper's PSPNet."""
        return parameter_table(pspnet())

    def sweep(self, network: str) -> pd.DataFrame:
        """All kinds, ACDC segmentation by ACDC auto-encoding."""
        return self.run.sweep(network)

    def first_layer(self, network: str, normalisation: str) -> pd.DataFrame:
        """Layer 1 alone, under one normalisation of the input."""
        return self.run.variant(normalisation=normalisation).sweep(network, layers=[1])

    def by_source(self, network: str, source: str) -> pd.DataFrame:
        """Kernels of ACDC segmentation by those of another source, "T1 seg" for one."""
        return self.run.sweep(network, ["W"], source=sources.SIX[source])

    def dose(self, network: str, dose: float | str) -> pd.DataFrame:
        """Kernels moved part of the way to ACDC auto-encoding, or by noise of the same RMSE."""
        return self.run.sweep(network, ["W"], dose=dose)

    def distance(self, network: str) -> pd.DataFrame:
        """`prr.rmse` of ACDC segmentation and ACDC auto-encoding."""
        return self.run.rmse(network)

    def shift(self, network: str) -> pd.DataFrame:
        """`prr.shift_scale` of ACDC segmentation by ACDC auto-encoding."""
        return self.run.shift_scale(network)

    def joint(self, network: str) -> pd.DataFrame:
        """All pairs that pass alone in `sweep`, taken at once."""
        return self.run.joint(network)

    def verdict(self, network: str) -> Verdict:
        """`prr.judge`."""
        return self.run.judge(network)

    def branches(self) -> pd.DataFrame:
        """Branch and identity of PSPNet's residual units on validation images."""
        return self.run.branches("pspnet")

    def algebra(self) -> pd.DataFrame:
        """How purely each replacement shifts or scales UNet's third batch norm."""
        return self.run.algebra("unet")


def measure(run: Experiment) -> None:
    """Make what the ledger reads and the networks of earlier chapters allow."""
    for wave in measurements(run):
        together(wave)


def measurements(run: Experiment) -> tuple[list[Call], list[Call]]:
    """Sweeps by each source and by dose, and measures; then the verdicts, one of which rests on them."""
    options = [{"source": each} for each in list(sources.SIX.values())[1:]] + [{"dose": dose} for dose in DOSES]
    sweeps = [{"network": network, "kinds": ["W"], **each} for network in TITLES for each in options]
    verdicts = [{}, {"patients": run.profile.few_patients}]
    judged = [(run, "judge", {"network": network, **each}) for network in TITLES for each in verdicts]
    joint = [(run, "joint", {"network": network}) for network in TITLES]
    others = [*measures.calls(run), *sources.calls(run)]
    return [(run, "sweep", each) for each in sweeps] + others, judged + joint
