"""What the comparisons with transformers, pycocotools and their like share."""

from tests.compat.conftest import official

__all__ = ["official"]
