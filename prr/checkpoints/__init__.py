"""Files of weights: read without running any code in them, and compared without the network's code."""

from importlib import import_module
from typing import Any

_HOME = {"load": "loading", "read": "loading", "skeleton": "skeletons", "source": "loading"}  # imported when asked for
__all__ = ["load", "read", "skeleton", "source"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
