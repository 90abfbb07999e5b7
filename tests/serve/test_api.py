from __future__ import annotations

import io
import json
import shutil
import subprocess
from base64 import b64decode, b64encode
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from huggingface_hub import InferenceClient
from PIL import Image

import panodetr
from panodetr.images.read import read_image
from panodetr.results.draw import colors_of
from panodetr.results.id_map import decode_ids
from panodetr.results.interchange import to_csv
from panodetr.results.masks import run_lengths
from panodetr.results.regions import measure
from panodetr.serve import api
from panodetr.serve.api import describe_api

from .conftest import Running, form, png

IMAGE = png(100, 90)  # several tiles


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> panodetr.Predictor:
    return panodetr.load(tiny_folder, device="cpu")


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("", {}),
        ("?model=tiny&task=instances&threshold=0.2", {"task": "instances", "threshold": 0.2}),
        ("?task=semantic", {"task": "semantic"}),
        ("?masks=runs", {}),
        ("?masks=rle", {}),
    ],
)
def test_segments_are_those_of_the_model(
    service: Running, model: panodetr.Predictor, query: str, options: dict[str, Any]
) -> None:
    expected = model.segment(IMAGE, **options)
    assert expected.segments
    reply = service.post(f"/v1/segment{query}", IMAGE)
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    answer = msgspec.json.decode(reply.body, type=api.SegmentAnswer)
    assert (answer.image.width, answer.image.height, answer.model) == (90, 100, "tiny")
    if answer.runs:
        ids = np.repeat(answer.runs.ids, answer.runs.lengths).reshape(100, 90)
        assert np.array_equal(ids, expected.segment_ids)
    elif answer.id_map:
        ids = decode_ids(read_image(b64decode(answer.id_map)))
        assert np.array_equal(ids, expected.segment_ids)
    colors = colors_of(expected.segments, expected.categories)
    assert [found.color for found in answer.segments] == colors
    for found, segment in zip(answer.segments, expected.segments, strict=True):
        assert found.score == pytest.approx(segment.score, abs=1e-5)
        for name in ("id", "label", "category_id", "is_thing", "box", "area"):
            assert getattr(found, name) == getattr(segment, name)
        rle = api.RunLengths(size=(100, 90), counts=run_lengths(segment.mask))
        assert found.segmentation == (rle if query == "?masks=rle" else msgspec.UNSET)


def test_detections_are_those_of_the_model(service: Running, model: panodetr.Predictor) -> None:
    expected = model.detect(IMAGE, threshold=0.1, masks=True)
    assert expected.detections
    for masks in ("false", "true"):
        reply = service.post(f"/v1/detect?threshold=0.1&masks={masks}", IMAGE)
        answer = msgspec.json.decode(reply.body, type=api.DetectAnswer)
        colors = colors_of(expected.detections, expected.categories)
        assert [found.color for found in answer.detections] == colors
        for found, detection in zip(answer.detections, expected.detections, strict=True):
            assert found.score == pytest.approx(detection.score, abs=1e-5)
            assert found.box == pytest.approx(detection.box, abs=1e-3)
            assert (found.label, found.category_id) == (detection.label, detection.category_id)
            assert detection.mask is not None
            rle = api.RunLengths(size=(100, 90), counts=run_lengths(detection.mask))
            assert found.segmentation == (rle if masks == "true" else msgspec.UNSET)


def test_answers_come_as_overlays_and_files(service: Running, model: panodetr.Predictor) -> None:
    result = model.segment(IMAGE)
    for path, expected in [
        ("/v1/segment", result),
        ("/v1/detect?threshold=0.1", model.detect(IMAGE, threshold=0.1)),
    ]:
        reply = service.post(path, IMAGE, Accept="text/html, image/png;q=0.9, */*;q=0.1")
        assert reply.headers["content-type"] == "image/png"
        assert np.array_equal(read_image(reply.body), expected.draw())
    geojson = service.post("/v1/segment", IMAGE, Accept="application/geo+json").json()
    assert len(geojson["features"]) == len(result.segments)
    table = service.post("/v1/segment", IMAGE, Accept="text/csv")
    assert table.body.decode() == to_csv(measure(result))
    tiff = service.post("/v1/segment", IMAGE, Accept="image/tiff")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(tiff.body))), result.segment_ids)
    boxes = service.post("/v1/detect", IMAGE, Accept="image/tiff")
    assert (boxes.status, boxes.headers["content-type"]) == (422, "application/problem+json")


def test_what_is_kept_of_an_answer_is_written_as_a_file(
    service: Running, model: panodetr.Predictor
) -> None:
    answer = service.post("/v1/segment?masks=runs", IMAGE).json()
    kept = answer["segments"][1:]
    shown = json.dumps({**answer, "segments": kept, "name": "a.png"}).encode()
    reply = service.post("/v1/write?file=csv", **form(image=IMAGE, shown=shown))
    assert reply.headers["content-type"].startswith("text/csv")
    rows = to_csv(measure(model.segment(IMAGE), name="a.png")).splitlines()
    assert reply.body.decode().splitlines() == [rows[0], *rows[2:]]
    boxes = service.post("/v1/detect?threshold=0.1", IMAGE).body
    coco = service.post("/v1/write?file=coco", **form(image=IMAGE, shown=boxes)).json()
    assert len(coco["annotations"]) == len(json.loads(boxes)["detections"])


def test_an_image_comes_in_a_form_too(service: Running) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("there is no curl here")
    raw = service.post("/v1/segment", IMAGE).body
    for options in (["--form", "image=@-"], ["--data-binary", "@-"]):
        command = [curl, "--silent", *options, f"{service.url}/v1/segment"]
        assert subprocess.run(command, input=IMAGE, capture_output=True, check=True).stdout == raw


def test_models_are_listed(service: Running, model: panodetr.Predictor) -> None:
    models = msgspec.json.decode(service.get("/v1/models").body, type=api.ModelList)
    assert models.default == "tiny"
    found = [(one.name, one.task) for one in models.models]
    assert found == [("tiny", "panoptic"), ("boxes", "detection")]
    assert models.models[0].categories == list(model.categories)


def test_the_hosted_client_gets_the_models_segments(
    service: Running, model: panodetr.Predictor, tmp_path: Path
) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(IMAGE)
    client: Any = InferenceClient(base_url=service.url, token="the user's own")
    subtask = {"task": "instances", "threshold": 0.2}
    cases: list[tuple[Any, dict[str, Any], dict[str, Any]]] = [
        (IMAGE, {}, {}),
        (str(path), {}, {}),
        (IMAGE, {"threshold": 0.2, "subtask": "instance"}, subtask),
        (str(path), {"subtask": "semantic", "threshold": 0.9}, {"task": "semantic"}),
    ]
    for given, parameters, options in cases:
        expected = model.segment(IMAGE, **options)
        answer = client.image_segmentation(given, **parameters)
        for found, segment in zip(answer, expected.segments, strict=True):
            assert (found.label, found["id"]) == (segment.label, segment.id)
            assert found.score == pytest.approx(segment.score, abs=1e-5)
            mask = np.asarray(found.mask)
            assert mask.dtype == np.uint8
            assert np.array_equal(mask == 255, segment.mask)
            assert set(np.unique(mask)) <= {0, 255}
    for own in ({"mask_threshold": 0.6}, {"mask_threshold": 0.3, "overlap_mask_area_threshold": 0}):
        expected = model.with_merge(
            mask_threshold=own["mask_threshold"],
            overlap=own.get("overlap_mask_area_threshold", 0.8),
        ).segment(IMAGE, threshold=0)
        answer = client.image_segmentation(IMAGE, threshold=0, **own)
        assert len(answer) == len(expected.segments)
        for found, segment in zip(answer, expected.segments, strict=True):
            assert np.array_equal(np.asarray(found.mask) == 255, segment.mask)
    parameters = {"threshold": 0.5, "mask_threshold": 0.3, "subtask": "instance"}
    body = json.dumps({"inputs": b64encode(IMAGE).decode(), "parameters": parameters})
    reply = service.post("/models/tiny", body.encode())
    assert (reply.status, reply.headers["x-ignored-parameters"]) == (200, "mask_threshold")
    assert "the user's own" not in service.log.read_text()


def test_the_hosted_client_gets_the_models_detections(
    service: Running, model: panodetr.Predictor, boxes_folder: Path
) -> None:
    boxes = panodetr.load(boxes_folder, device="cpu")
    for path, predictor in [
        ("/detect", model),
        ("/models/tiny/detect", model),
        ("/models/boxes", boxes),
    ]:
        client = InferenceClient(base_url=service.url + path)
        answer = client.object_detection(IMAGE, threshold=0.1)
        expected = predictor.detect(IMAGE, threshold=0.1).detections
        assert expected
        for found, detection in zip(answer, expected, strict=True):
            sides = [found.box.xmin, found.box.ymin, found.box.xmax, found.box.ymax]
            assert sides == pytest.approx(detection.box, abs=0.51)
            assert all(isinstance(side, int) for side in sides)
            assert found.label == detection.label


def test_the_page_and_its_samples_load_nothing_from_elsewhere(service: Running) -> None:
    page = service.get("/")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'")
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in page.headers
    samples = [one for one in files("panodetr.assets").joinpath("samples").iterdir()]
    for sample in (one for one in samples if one.name.endswith(".png")):
        assert page.body.decode().count(f'"samples/{sample.name}"') == 1
        assert service.get(f"/samples/{sample.name}").body == sample.read_bytes()


def test_the_document_describes_what_is_answered(service: Running) -> None:
    document = service.get("/openapi.json").json()
    assert document == msgspec.json.decode(msgspec.json.encode(describe_api()))
    for path in ("/v1/segment", "/v1/detect", "/v1/models"):
        (operation,) = document["paths"][path].values()
        content = operation["responses"]["200"]["content"]["application/json"]
        name = content["schema"]["$ref"].split("/")[-1]
        assert name in document["components"]["schemas"]
        msgspec.convert(content["example"], getattr(api, name))
        reply = service.post(path, IMAGE) if "requestBody" in operation else service.get(path)
        msgspec.json.decode(reply.body, type=getattr(api, name))


def test_health_and_figures(service: Running) -> None:
    for path in ("/health", "/healthz", "/readyz"):
        assert service.get(path).status == 200
    service.post("/v1/segment", IMAGE)
    assert service.figure('panodetr_requests_total{route="segment",status="200"}') >= 1
    assert service.figure("panodetr_queue_pixels") == 0
    assert service.figure("panodetr_batch_images_count") >= 1
    assert service.figure("panodetr_model_processes") == 1
