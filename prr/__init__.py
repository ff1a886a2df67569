"""Which parameters of a trained network can be put into another one? PR-RMSE, for any torch network.

The method lives in this package's root files and knows no data set and no paper; `prr.data` reads cardiac MRI and
`prr.study` reruns the paper (Wang et al. 2020, arXiv:2008.03411). Both are imported by name.
"""

import importlib

__version__ = "0.1.0"
# name -> the module that has it, which is imported when the name is first asked for: torch takes seconds, and neither
# `prr --help` nor `import prr` needs it (PEP 562)
_HOMES = {
    "BookError": "errors",
    "DataError": "errors",
    "MissingError": "errors",
    "NetworkError": "errors",
    "OptionError": "errors",
    "PrrError": "errors",
    "Verdict": "verdict",
    "apply_plan": "reuse",
    "dice": "metrics",
    "incomparable": "layers",
    "judge": "verdict",
    "parameter_table": "layers",
    "rmse": "distance",
    "shift_scale": "bn",
    "sweep": "reuse",
    "transplant": "reuse",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    if name in _HOMES.values():  # prr.metrics.accuracy after `import prr` alone
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value  # asked once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
