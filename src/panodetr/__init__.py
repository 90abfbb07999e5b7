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
    "Category": "panodetr.results.types",
    "Detection": "panodetr.results.types",
    "DetectionResult": "panodetr.results.result",
    "DetrFeatureExtractor": "panodetr.compat",
    "DetrForObjectDetection": "panodetr.compat",
    "DetrForSegmentation": "panodetr.compat",
    "DetrImageProcessor": "panodetr.compat",
    "EomtForUniversalSegmentation": "panodetr.compat",
    "EomtImageProcessor": "panodetr.compat",
    "PanodetrError": "panodetr.errors",
    "PanopticResult": "panodetr.results.result",
    "Predictor": "panodetr.predict",
    "Segment": "panodetr.results.types",
    "from_transformers": "panodetr.compat",
    "load": "panodetr.loading",
}


def __getattr__(name: str) -> object:
    """Import a public name from its home on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'panodetr' has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return __all__
