"""The paper's experiment: profiles, networks, training, store."""

from prr.study.experiment import Experiment
from prr.study.models import pspnet, unet

__all__ = ["Experiment", "pspnet", "unet"]
