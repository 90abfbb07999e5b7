"""A Label Studio ML backend: predictions of a panodetr model as brush labels.

    pip install panodetr git+https://github.com/HumanSignal/label-studio-ml-backend
    label-studio-ml start deploy/label_studio

The labelling interface needs an image and brush labels of the names that this module asks for:

    <View>
      <Image name="image" value="$image"/>
      <BrushLabels name="brush" toName="image"> <Label value="nucleus"/> </BrushLabels>
    </View>
"""

from __future__ import annotations

import os
from typing import Any

from label_studio_ml.model import LabelStudioMLBase

import panodetr
from panodetr.results.interchange import to_label_studio

NAME = os.environ.get("PANODETR_MODEL", "nuclei")


class Backend(LabelStudioMLBase):
    """Segments the image of each task."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.model = panodetr.load(NAME)

    def predict(self, tasks: list[dict[str, Any]], **_: Any) -> list[dict[str, Any]]:
        """Give a prediction for each task."""
        paths = [self.get_local_path(t["data"]["image"], task_id=t.get("id")) for t in tasks]
        results = self.model.segment_each(paths, task="instances")
        return [to_label_studio(result, model=NAME)["predictions"][0] for result in results]  # type: ignore[index]
