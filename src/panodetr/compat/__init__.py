"""The class names of transformers over our model, so that code written for them runs here.

`DetrForSegmentation`, `DetrForObjectDetection` and `EomtForUniversalSegmentation` give the outputs
of transformers' classes of these names, and the processors prepare images and read outputs as
theirs do. What differs, and why, stands in `docs/how-to/from-transformers.md`.
"""

from panodetr.compat.config import DetrConfig
from panodetr.compat.eomt import (
    EomtForUniversalSegmentation,
    EomtForUniversalSegmentationOutput,
    EomtImageProcessor,
)
from panodetr.compat.inputs import BatchFeature
from panodetr.compat.models import DetrForObjectDetection, DetrForSegmentation, DetrModel
from panodetr.compat.outputs import (
    DetrModelOutput,
    DetrObjectDetectionOutput,
    DetrSegmentationOutput,
)
from panodetr.compat.predictor import from_transformers
from panodetr.compat.processor import DetrFeatureExtractor, DetrImageProcessor, rgb_to_id

__all__ = [
    "BatchFeature",
    "DetrConfig",
    "DetrFeatureExtractor",
    "DetrForObjectDetection",
    "DetrForSegmentation",
    "DetrImageProcessor",
    "DetrModel",
    "DetrModelOutput",
    "DetrObjectDetectionOutput",
    "DetrSegmentationOutput",
    "EomtForUniversalSegmentation",
    "EomtForUniversalSegmentationOutput",
    "EomtImageProcessor",
    "from_transformers",
    "rgb_to_id",
]
