from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from tests.shapes import detr_shape

from panodetr.checkpoints.hub import fetch, list_models
from panodetr.checkpoints.load import load_backbone, load_checkpoint, load_spec
from panodetr.checkpoints.names import FACEBOOK
from panodetr.checkpoints.save import save_pretrained
from panodetr.checkpoints.spec import SAFETENSORS, ModelSpec, spec_to_json
from panodetr.cli.main import main
from panodetr.errors import CheckpointError
from panodetr.model.config import COCO_CLASSES, RESNET18, DetrConfig
from panodetr.model.detr import Detr

if TYPE_CHECKING:
    from conftest import Hub

ID = "owner/detr"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = bytes(range(256)) * 400
FILES = {
    "config.json": b"{}",
    "preprocessor_config.json": b'{"size": 800}',
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"the same again",
    "README.md": b"words",
}


@pytest.fixture(autouse=True)
def model_on_the_hub(hub: Hub) -> None:
    hub.files[ID] = dict(FILES)


@pytest.mark.parametrize("revision", [None, "main", "v1", COMMIT])
def test_only_the_needed_files_are_fetched_and_only_once(hub: Hub, revision: str | None) -> None:
    folder = fetch(ID, revision)
    assert folder.name == COMMIT
    assert hub.fetched() == ["config.json", "preprocessor_config.json", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    hub.requests.clear()
    assert fetch(ID, revision) == folder
    assert hub.fetched() == []


def test_the_clients_own_arguments_reach_it(hub: Hub, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere"
    folder = fetch(ID, client={"cache_dir": place, "token": "hf_some"})
    assert folder.is_relative_to(place)
    hub.requests.clear()
    assert fetch(ID, client={"cache_dir": place, "local_files_only": True}) == folder
    assert not hub.requests
    with pytest.raises(CheckpointError, match="not in the cache, and local_files_only is true"):
        fetch(ID, client={"cache_dir": tmp_path / "empty", "local_files_only": True})


def test_large_models_lie_in_several_files(hub: Hub) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    hub.files[ID] = {
        "config.json": b"{}",
        "model.safetensors.index.json": json.dumps(index).encode(),
        "model-1.safetensors": b"1",
        "model-2.safetensors": b"2",
    }
    assert (fetch(ID) / "model-2.safetensors").read_bytes() == b"2"


def test_a_broken_transfer_goes_on_where_it_stopped_or_leaves_nothing_half(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)  # 10 MB
    hub.drops["model.safetensors"] = [0] * 50
    with pytest.raises(CheckpointError, match=r"fetching model\.safetensors .* broke off"):
        fetch(ID)
    assert not list((tmp_path / "cache").rglob("*.incomplete"))
    hub.requests.clear()
    hub.drops["model.safetensors"] = [1000, 50_000]
    assert (fetch(ID) / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [part for _, name, part, _ in hub.requests if name == "model.safetensors"]
    assert ranges == [None, None, "bytes=1000-", "bytes=51000-"]  # the first asks for its size


def test_a_token_opens_a_gated_model(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.gated[ID] = "hf_secret"
    with pytest.raises(CheckpointError, match=r"owner/detr is gated; .* HF_TOKEN"):
        fetch(ID)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert fetch(ID).is_dir()


@pytest.mark.parametrize(
    ("source", "revision", "message"),
    [
        ("owner/dter", None, "'owner/dter' is neither a file or folder here nor"),
        (ID, "v9", "owner/detr on the hub has no revision 'v9'"),
        ("owner/de..tr", None, r"'owner/de\.\.tr' is not a name that the hub"),
        ("owner/words", None, r"owner/words on the hub has no config\.json"),
        ("owner/empty", None, "owner/empty on the hub has no weights"),
        ("owner/half", None, r"owner/half on the hub lacks b\.safetensors, which its index names"),
        (f"{ID}/gone.pth", None, r"owner/detr on the hub has no file gone\.pth; see"),
        ("owner/dter/r50.pth", None, "'owner/dter' is neither a file or folder here nor"),
        ("runs/best/gone.safetensors", None, "is neither a bundled model nor a folder"),
        ("../owner/detr/a.pth", None, "is neither a bundled model nor a folder"),
        ("owner/detr/a.txt", None, "is neither a bundled model nor a folder"),
        ("owner/tiny", None, r"model\.safetensors is truncated or damaged .* get it again"),
        ("owner/out-of-order", None, r"config\.json of owner/out-of-order.*500"),
    ],
)
def test_what_cannot_be_fetched_is_named_in_one_line(
    hub: Hub,
    tmp_path: Path,
    tiny_spec: ModelSpec,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    revision: str | None,
    message: str,
) -> None:
    index = json.dumps({"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}).encode()
    config = json.dumps(spec_to_json(tiny_spec)).encode()
    hub.files |= {
        "owner/words": {"README.md": b""},
        "owner/empty": {"config.json": b"{}"},
        "owner/half": {"config.json": b"{}", f"{SAFETENSORS}.index.json": index,
                       "a.safetensors": b""},
        "owner/tiny": {"config.json": config, SAFETENSORS: WEIGHTS},
    }  # fmt: skip
    hub.status = 500 if "out-of-order" in source else 0
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/best").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(source, revision=revision)
    assert "\n" not in str(caught.value)


def test_without_a_network_the_cache_is_used_and_else_a_line_says_so(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from huggingface_hub import constants

    folder = fetch(ID)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert fetch(ID) == folder
    caplog.clear()
    with pytest.raises(CheckpointError, match=r"cannot reach the hub .* of owner/two"):
        fetch("owner/two")
    assert not caplog.records


@pytest.mark.parametrize("variable", ["endpoint", "http_proxy"])
def test_a_hub_or_proxy_that_never_answers_is_given_up(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    from huggingface_hub import constants

    folder = fetch(ID)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        if variable == "endpoint":
            monkeypatch.setattr(constants, "ENDPOINT", address)
        else:
            monkeypatch.setenv(variable, address)
            monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")
        start = time.perf_counter()
        assert fetch(ID) == folder  # from the cache
        with pytest.raises(CheckpointError, match="no answer within") as caught:
            fetch("owner/two")
        assert "\n" not in str(caught.value)
        assert time.perf_counter() - start < 2 * 3


def test_a_specification_is_fetched_without_weights_and_models_in_the_cache_are_listed(
    hub: Hub, tiny_spec: ModelSpec
) -> None:
    config = json.dumps(spec_to_json(tiny_spec)).encode()
    theirs = json.dumps({"model_type": "detr", "architectures": ["DetrForObjectDetection"]})
    for name, contents in {
        "owner/tiny": config,
        "owner/other": b'{"model_type": "bert"}',
        "owner/broken": b"{",
        "facebook/detr-resnet-50": theirs.encode(),
    }.items():
        hub.files[name] = {"config.json": contents, "model.safetensors": bytes(1000)}
        if name == "owner/tiny":
            assert load_spec(name) == tiny_spec
            assert "model.safetensors" not in hub.fetched()
            assert load_spec("owner/tiny/model.safetensors") == tiny_spec
        fetch(name)
    listed = [model for model in list_models() if model.where == "cached"]
    assert [model.name for model in listed] == ["owner/tiny", "facebook/detr-resnet-50"]
    assert [model.task for model in listed] == ["panoptic", "detection"]
    assert listed[0].size == 1000 + len(config)
    assert listed[1].figures == {"ap": 42.0}


def test_offline_mode_asks_nobody(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    hub.files["owner/old"] = {"config.json": b"{}", "pytorch_model.bin": b"weights"}
    folder = fetch("owner/old")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert fetch("owner/old") == folder  # what is not there is remembered, too
    assert hub.requests == []
    with pytest.raises(CheckpointError, match="offline mode is on; unset HF_HUB_OFFLINE"):
        fetch(ID)


def test_a_model_is_loaded_by_its_id(hub: Hub, tmp_path: Path, tiny_spec: ModelSpec) -> None:
    torch.manual_seed(0)
    model = Detr(tiny_spec.architecture)
    folder = save_pretrained(tmp_path / "tiny", tiny_spec, model)
    hub.files["owner/tiny"] = {file.name: file.read_bytes() for file in folder.iterdir()}
    spec, loaded = load_checkpoint("owner/tiny", revision="v1")
    assert spec == tiny_spec
    assert torch.equal(loaded.class_head.weight, model.class_head.weight)
    # The model's usual file stands for the model.
    assert load_checkpoint("owner/tiny/model.safetensors")[0] == tiny_spec
    weights = load_backbone(
        "owner/tiny/model.safetensors", detr_shape(tiny_spec.architecture).backbone
    )
    assert torch.equal(weights["stem_conv.weight"], model.backbone.stem_conv.weight)
    assert main(["convert", "owner/tiny", str(tmp_path / "copy")]) == 0
    assert load_spec(tmp_path / "copy") == tiny_spec


def test_a_single_file_is_loaded_by_its_name(hub: Hub, tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = DetrConfig(
        backbone=RESNET18, num_classes=COCO_CLASSES, encoder_layers=1, decoder_layers=1, ffn_dim=32
    )
    model = Detr(shape)
    torch.save({"model": FACEBOOK.from_ours(model.state_dict())}, tmp_path / "boxes.pth")
    contents = (tmp_path / "boxes.pth").read_bytes()
    hub.files[ID] |= {"boxes.pth": contents, "old/boxes.pth": contents}
    for source in (f"{ID}/boxes.pth", f"{ID}/old/boxes.pth"):
        hub.requests.clear()
        spec, loaded = load_checkpoint(source, revision="v1")
        assert spec.name == "boxes"
        assert detr_shape(spec.architecture).backbone == RESNET18
        assert torch.equal(loaded.class_head.weight, model.class_head.weight)
        # The second is known by its digest, and isn't sent again.
        assert {name for _, name, _, _ in hub.requests} == {source.removeprefix(f"{ID}/")}
    weights = load_backbone(f"{ID}/boxes.pth", RESNET18)
    assert torch.equal(weights["stem_conv.weight"], model.backbone.stem_conv.weight)
