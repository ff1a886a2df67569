"""Which parameters of a trained network can be put into another one? PR-RMSE, for any torch network.

The method lives in this package's root files and knows no data set and no paper; `prr.data` reads cardiac MRI and
`prr.study` reruns the paper (Wang et al. 2020, arXiv:2008.03411). Both are imported by name.
"""

from prr.bn import shift_scale
from prr.distance import rmse
from prr.errors import BookError, DataError, MissingError, NetworkError, OptionError, PrrError
from prr.layers import incomparable, parameter_table
from prr.metrics import dice
from prr.reuse import apply_plan, sweep, transplant
from prr.verdict import Verdict, judge

__version__ = "0.1.0"
__all__ = [
    "BookError",
    "DataError",
    "MissingError",
    "NetworkError",
    "OptionError",
    "PrrError",
    "Verdict",
    "apply_plan",
    "dice",
    "incomparable",
    "judge",
    "parameter_table",
    "rmse",
    "shift_scale",
    "sweep",
    "transplant",
]
