"""DETR and EoMT panoptic segmentation in plain PyTorch.

The public names are imported when they are first used, so that `import panodetr` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from panodetr.compat import (
        DetrFeatureExtractor,
        DetrForObjectDetection,
        DetrForSegmentation,
        DetrImageProcessor,
        EomtForUniversalSegmentation,
        EomtImageProcessor,
        from_transformers,
    )
    from panodetr.errors import PanodetrError
    from panodetr.loading import load
    from panodetr.predict import Predictor
    from panodetr.results.result import DetectionResult, PanopticResult
    from panodetr.results.types import Category, Detection, Segment

__version__ = "0.1.0"
__all__ = [
    "Category",
    "Detection",
    "DetectionResult",
    "DetrFeatureExtractor",
    "DetrForObjectDetection",
    "DetrForSegmentation",
    "DetrImageProcessor",
    "EomtForUniversalSegmentation",
    "EomtImageProcessor",
    "PanodetrError",
    "PanopticResult",
    "Predictor",
    "Segment",
    "__version__",
    "from_transformers",
    "load",
]

_HOMES = {
    "Category": "results.types",
    "Detection": "results.types",
    "DetectionResult": "results.result",
    "PanodetrError": "errors",
    "PanopticResult": "results.result",
    "Predictor": "predict",
    "Segment": "results.types",
    "load": "loading",
}
"""Where names are; all others are in `panodetr.compat`."""


def __getattr__(name: str) -> object:
    """Import a public name from its home on first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'panodetr' has no attribute {name!r}")
    value: object = getattr(import_module(f"panodetr.{_HOMES.get(name, 'compat')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return __all__
