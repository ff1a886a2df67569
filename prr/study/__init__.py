"""The paper's experiment: profiles, networks, training, store."""

from importlib import import_module
from typing import Any

_HOME = {"Experiment": "experiment", "pspnet": "models", "unet": "models"}  # imported when they are asked for
__all__ = ["Experiment", "pspnet", "unet"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
