"""What libraries do to the process: threads they take, and what they leave of its signals."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import onnxruntime
import openvino
import pytest
from tests.process import python

import panodetr

SCRIPT = """
import faulthandler, gc, signal, sys
import panodetr

faulthandler.enable()  # as pytest does
first, second = (panodetr.load(sys.argv[1], runtime=sys.argv[2]) for _ in range(2))
del first
gc.collect()
del second
gc.collect()
heard = []
signal.signal(signal.SIGINT, lambda *_: heard.append(1))
signal.raise_signal(signal.SIGINT)
print(heard)
"""


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_a_signal_is_heard_after_models_are_gone(tiny_folder: Path, runtime: str) -> None:
    done = python("-c", SCRIPT, tiny_folder, runtime)
    assert (done.returncode, done.stdout) == (0, "[1]\n"), done.stderr


@pytest.mark.parametrize("runtime", ["", "openvino"], ids=["exported", "converted"])
def test_openvino_does_not_report_its_use(
    tiny_folder: Path, tiny_openvino: Path, tmp_path: Path, runtime: str
) -> None:
    code = "import panodetr, sys; panodetr.load(sys.argv[1], runtime=sys.argv[2] or None)"
    at_home = {"HOME": str(tmp_path), "CI": "", "TF_BUILD": "", "JENKINS_URL": ""}
    done = python("-c", code, tiny_folder if runtime else tiny_openvino, runtime, more=at_home)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "intel").exists()


SEGMENTED = """
import asyncio, multiprocessing, os, sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import panodetr
from panodetr.errors import PanodetrError

image = np.random.default_rng(0).integers(0, 256, (100, 150, 3), dtype=np.uint8)
model = None

def segment():
    return model.segment(image).to_dict()

def fork(tell, again):
    global model
    try:
        if again:
            model = panodetr.load(sys.argv[1], device="cpu")
        tell.send(segment())
    except PanodetrError as error:
        tell.send(str(error))

def spawned(path, tell):
    global model
    model = panodetr.load(path, device="cpu")
    tell.send(segment())

def ask(context, target, *arguments):
    hear, tell = context.Pipe(duplex=False)
    given = (*arguments, tell) if context is spawn else (tell, *arguments)
    process = context.Process(target=target, args=given, daemon=True)
    process.start()
    assert hear.poll(40), "it hangs"
    answer = hear.recv()
    process.join(60)
    assert process.exitcode == 0
    return answer

class Segmented(list):
    def __getitem__(self, place):
        global model
        if model is None:  # spawned
            model = panodetr.load(sys.argv[1], device="cpu")
        return segment()

async def in_a_loop():
    return await asyncio.gather(asyncio.to_thread(segment), asyncio.to_thread(segment))

spawn, forked = map(multiprocessing.get_context, ("spawn", "fork"))
if __name__ == "__main__":
    model = panodetr.load(sys.argv[1], device="cpu")
    expected = segment()
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda _: segment(), range(32))) == [expected] * 32
    assert asyncio.run(in_a_loop()) == [expected] * 2
    assert ask(spawn, spawned, sys.argv[1]) == expected
    if sys.argv[2] == "torch":
        from torch.utils.data import DataLoader

        for way in ("fork", "spawn"):
            loader = DataLoader(Segmented([0]), None, num_workers=1, multiprocessing_context=way)
            assert list(loader) == [expected]
    for again in (False, True):
        answer = ask(forked, fork, again)
        print("same" if answer == expected else answer)
    assert segment() == expected
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a fork of threads")
@pytest.mark.parametrize("runtime", ["torch", "openvino", "onnx"])
def test_threads_and_processes_segment_alike_or_say_how(
    request: pytest.FixtureRequest, tmp_path: Path, runtime: str
) -> None:
    model = request.getfixturevalue("tiny_folder" if runtime == "torch" else f"tiny_{runtime}")
    (tmp_path / "script.py").write_text(SEGMENTED)
    order = ("-W", "ignore", "script.py", model, runtime)
    done = python(*order, cwd=tmp_path, more={"OMP_NUM_THREADS": "2"})
    assert done.returncode == 0, done.stderr
    with_parents, with_its_own = done.stdout.splitlines()
    if runtime == "torch":
        assert with_parents == with_its_own == "same"
    else:
        library = {"openvino": "OpenVINO", "onnx": "ONNX Runtime"}[runtime]
        assert with_parents.startswith(f"{library} was loaded before this process was forked")
        assert with_its_own == with_parents


CALLS = """
import os, resource, sys
from pathlib import Path
import numpy as np
import panodetr

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
model = panodetr.load(sys.argv[1], device="cpu")
sizes = []
step = min(200, 2 * int(os.environ.get("PANODETR_SOAK", "10")))
for call in range(11 * step + 1):
    model.segment(image)
    if call % step == 0:
        sizes.append(resident())
print(*sizes[1:])
"""


@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="proc(5)")
@pytest.mark.parametrize("model", ["tiny_folder", "tiny_openvino", "tiny_onnx"])
def test_two_thousand_calls_take_no_more_memory(request: pytest.FixtureRequest, model: str) -> None:
    done = python("-c", CALLS, request.getfixturevalue(model))
    print(done.stdout, done.stderr)
    first, *later = map(int, done.stdout.split())
    assert max(later) - first < 4 << 20


ENLARGED = """
import resource, sys
from dataclasses import replace
import numpy as np
import panodetr

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

model = panodetr.load(sys.argv[1], device="cpu")
rule = replace(model.spec.preprocessing, enlarge=43.0, tile=None)
before = peak()
model.with_rule(rule).segment(np.zeros((40, 56, 3), np.uint8))
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="getrusage(2) counts kB")
@pytest.mark.parametrize("model", ["tiny_folder", "tiny_openvino", "tiny_onnx"])
def test_four_megapixels_take_less_than_a_gigabyte(
    request: pytest.FixtureRequest, model: str
) -> None:
    assert int(python("-c", ENLARGED, request.getfixturevalue(model)).stdout) < 1 << 20


@pytest.mark.parametrize(
    ("format", "owner", "name", "number"),
    [
        ("openvino", openvino.Core, "compile_model", 1),  # it takes no more than there are cores
        ("onnx", onnxruntime, "InferenceSession", 1),
        ("onnx", onnxruntime, "InferenceSession", 3),
    ],
)
def test_a_runtime_takes_the_threads_of_the_environment(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    format: str,
    owner: Any,
    name: str,
    number: int,
) -> None:
    made: list[Any] = []
    make = getattr(owner, name)

    def spied(*arguments: Any, **options: Any) -> Any:
        made.append(make(*arguments, **options))
        return made[-1]

    file = request.getfixturevalue(f"tiny_{format}")
    monkeypatch.setattr(owner, name, spied)
    monkeypatch.setenv("OMP_NUM_THREADS", str(number))
    panodetr.load(file)
    counts = [
        one.get_property("INFERENCE_NUM_THREADS")
        if format == "openvino"
        else one.get_session_options().intra_op_num_threads
        for one in made
    ]
    assert counts == [number] * 2
