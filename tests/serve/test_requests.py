"""What a service does with requests that are wrong, too large, too slow, or a stranger's."""

from __future__ import annotations

import json
import random
import socket
import time
from base64 import b64encode
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from tests.process import wait_until

from panodetr.serve.api import Problem

from .conftest import Reply, Running, Start, form, png

IMAGE = png()
BOUNDARY = "multipart/form-data; boundary=b"


def problem(reply: Reply, status: int) -> str:
    """Check that a reply is an error as it should be, and give its line."""
    assert reply.status == status, reply.body
    assert reply.headers["content-type"] == "application/problem+json"
    answer = msgspec.json.decode(reply.body, type=Problem)
    assert answer.status == status
    assert answer.error == answer.detail
    assert answer.detail
    assert "Traceback" not in answer.detail
    assert "\n" not in answer.detail
    return answer.detail


def hosted(inputs: str, **parameters: object) -> bytes:
    return json.dumps({"inputs": inputs, "parameters": parameters}).encode()


ENCODED = b64encode(IMAGE).decode()


@pytest.mark.parametrize(
    ("status", "path", "body", "headers", "words"),
    [
        (415, "/v1/segment", b"", {}, "empty"),
        (415, "/v1/segment", b"no image", {}, "not an image"),
        (415, "/v1/segment", IMAGE[:5000], {}, "cut short"),
        (415, "/", b"no image", {}, "not an image"),
        (413, "/v1/segment", bytes(1_000_001), {}, "1,000,000 bytes"),
        (413, "/v1/segment", b"P5 4000 4000 255\n", {}, "2,000,000"),
        (422, "/v1/segment?threshold=2", IMAGE, {}, "<= 1.0"),
        (422, "/v1/segment?threshold=nan", IMAGE, {}, "threshold"),
        (422, "/v1/segment?task=boxes", IMAGE, {}, "task"),
        (422, "/v1/segment?treshold=0.5", IMAGE, {}, "treshold"),
        (422, "/v1/segment?task=semantic&threshold=0.5", IMAGE, {}, "no threshold"),
        (422, "/v1/segment?model=boxes", IMAGE, {}, "no mask head"),
        (422, "/v1/detect?masks=some", IMAGE, {}, "masks"),
        (404, "/v1/segment?model=../tiny", IMAGE, {}, "expected one of tiny, boxes"),
        (404, "/models/other", IMAGE, {}, "expected one of tiny, boxes"),
        (406, "/v1/segment", IMAGE, {"Accept": "video/mp4"}, "image/png"),
        (400, "/v1/segment", b"--a\r\n", {"Content-Type": BOUNDARY}, "multipart"),
        (400, "/v1/segment", b"", {"Content-Type": "multipart/form-data"}, "multipart"),
        (415, "/v1/segment", b"--b--\r\n", {"Content-Type": BOUNDARY}, "expected one"),
        (422, "/", hosted("https://example.com/image.png"), {}, "URL"),
        (422, "/", hosted("file:///etc/passwd"), {}, "URL"),
        (415, "/", hosted("/etc/passwd"), {}, "base64"),
        (415, "/", hosted(b64encode(b"no image").decode()), {}, "not an image"),
        (422, "/", hosted(ENCODED, subtask="boxes"), {}, "subtask"),
        (422, "/", hosted(ENCODED, mask_threshold=-1), {}, "mask_threshold"),
        (422, "/", hosted(ENCODED, top_k=3), {}, "top_k"),
        (422, "/", b'{"inputs": ', {}, "not valid JSON"),
        (422, "/", b"{" * 5000, {}, "JSON"),
        (422, "/v1/write", IMAGE, {}, "file"),
        (400, "/v1/write?file=csv", IMAGE, {}, "multipart"),
    ],
)
def test_a_wrong_request_gets_one_line(
    service: Running, status: int, path: str, body: bytes, headers: dict[str, str], words: str
) -> None:
    assert words in problem(service.post(path, body, **headers), status)


SEGMENT: dict[str, object] = {
    **{"id": 1, "label": "", "category_id": 7, "is_thing": True, "score": 1, "area": 1},
    "box": [9, 9, 1, 1],
}
WHOLE = {"ids": [1], "lengths": [64 * 64]}


@pytest.mark.parametrize(
    ("status", "shown", "words"),
    [
        (415, None, "'shown'"),
        (422, [], "object"),
        (422, {"segments": [SEGMENT]}, "without runs"),
        (422, {"segments": [SEGMENT | {"category_id": 1}]}, "no category 1"),
        (422, {"segments": [SEGMENT], "runs": {"ids": [1], "lengths": [9]}}, "4,096 pixels"),
        (422, {"segments": [SEGMENT], "runs": {"ids": [1], "lengths": [1 << 70]}}, "4,096 pixels"),
        (422, {"segments": [SEGMENT], "runs": WHOLE}, "no pixel in its box"),
    ],
)
def test_what_cannot_be_written_gets_one_line(
    service: Running, status: int, shown: object, words: str
) -> None:
    fields = {} if shown is None else {"shown": json.dumps(shown).encode()}
    reply = service.post("/v1/write?file=geojson", **form(image=IMAGE, **fields))
    assert words in problem(reply, status)


@pytest.mark.parametrize("head", [b"nothing of HTTP", b"GET / HTTP/1.1\r\nX: " + bytes(20_000)])
def test_what_is_not_http_gets_one_line_too(service: Running, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        connection.sendall(head + b"\r\n\r\n")
        answer = b""
        while part := connection.recv(1 << 16):
            answer += part
    top, _, body = answer.partition(b"\r\n\r\n")
    assert top.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in top.lower()
    assert msgspec.json.decode(body, type=Problem).status == 400


def test_no_path_reaches_the_file_system(service: Running) -> None:
    samples = ("../SOURCE.md", "SOURCE.md", "%2e%2e%2fx", "/etc/passwd")
    others = ("/../pyproject.toml", "/%00", "//etc/passwd", "/__init__.py", "/page/index.html")
    for path in (*(f"/samples/{name}" for name in samples), *others):
        assert "nothing at this path" in problem(service.get(path), 404)
    assert "GET is not for this path; expected POST" in problem(service.get("/v1/segment"), 405)


def mutate(chance: random.Random) -> bytes:
    """A request that is damaged, in its head, its form, its JSON or its image."""
    shown = json.dumps({"segments": [SEGMENT], "runs": WHOLE}).encode()
    bodies = [IMAGE, hosted(ENCODED, threshold=0.5), form(shown=shown, image=IMAGE)["body"]]
    body = bytearray(chance.choice(bodies))
    length = len(body) if chance.random() < 0.9 else chance.choice([0, 10, len(body) - 1])
    if chance.random() < 0.5:
        del body[chance.randrange(len(body)) :]
    for _ in range(chance.choice([0, 1, 10, 100])):
        if body:
            body[chance.randrange(min(len(body), 400))] = chance.randrange(256)
    paths = ["/", "/detect", "/v1/segment", "/v1/detect?masks=true", "/v1/write?file=geojson"]
    path = chance.choice(paths)
    kind = chance.choice([BOUNDARY, "image/png", "application/json", "text/\xff"])
    head = bytearray(
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {length}\r\nConnection: close\r\n\r\n".encode("latin-1")
    )
    if chance.random() < 0.3:
        head[chance.randrange(len(head))] = chance.randrange(256)
    return bytes(head + body)


def test_a_thousand_malformed_requests_do_no_harm(service: Running) -> None:
    def send(seed: int) -> bytes:
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.sendall(mutate(random.Random(seed)))
            try:
                connection.settimeout(0.3)
                return connection.recv(1 << 16)
            except (TimeoutError, ConnectionResetError):  # it waits for more
                return b""

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(send, range(1000)))
    statuses = {answer.split(b" ", 2)[1] for answer in answers if answer}
    assert statuses >= {b"200", b"400", b"415", b"422"}
    assert not any(status.startswith(b"5") for status in statuses)
    assert not any(b"Traceback" in answer for answer in answers)
    log = service.log.read_text()
    assert "Traceback" not in log
    assert service.post("/v1/segment", IMAGE).status == 200


@pytest.fixture(scope="module")
def strict(start: Start, tiny_folder: str) -> Generator[Running, None, None]:
    """A service with a key, and little patience."""
    with start(
        *("--model", tiny_folder, "--upload-seconds", "1", "--queue-pixels", "500000"),
        *("--deadline", "5", "--log-json"),
        PANODETR_API_KEY="secret",
    ) as running:
        yield running


KEY = {"Authorization": "Bearer secret"}


def test_a_key_is_asked_for(strict: Running) -> None:
    for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
        for path in ("/", "/v1/segment", "/models/tiny/detect"):
            assert "API key" in problem(strict.post(path, IMAGE, **given), 401)
        for path in ("/v1/models", "/metrics"):
            assert "API key" in problem(strict.get(path, **given), 401)
    assert strict.post("/v1/segment", IMAGE, **KEY).status == 200
    for path in ("/", "/health", "/readyz", "/samples/fluorescence.png"):
        assert strict.get(path).status == 200


def test_the_log_has_a_line_a_request_and_no_headers(strict: Running) -> None:
    reply = strict.post("/v1/segment?threshold=0.7654321", IMAGE, **KEY, Cookie="private")
    wrong = strict.post("/v1/segment", b"", **KEY)
    by_id: dict[str, dict[str, object]] = {}
    until = time.monotonic() + 10
    while wrong.headers["x-request-id"] not in by_id and time.monotonic() < until:
        lines = [json.loads(line) for line in strict.log.read_text().splitlines()]
        by_id = {line["request_id"]: line for line in lines if "request_id" in line}
    line = by_id[reply.headers["x-request-id"]]
    assert (line["route"], line["status"], line["level"]) == ("segment", 200, "info")
    assert "empty" in str(by_id[wrong.headers["x-request-id"]]["error"])
    assert not any(word in strict.log.read_text() for word in ("secret", "private", "0.7654321"))


def test_slow_clients_hold_up_nobody_and_are_cut_off(strict: Running) -> None:
    head = b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n"
    sockets = [socket.create_connection(("127.0.0.1", strict.port), timeout=30) for _ in range(20)]
    for index, slow in enumerate(sockets):  # some send nothing, some half a head, some half a body
        slow.sendall([b"", head, head + b"Content-Length: 9\r\n\r\nabc"][index % 3])
    large = head + b"Content-Length: %d\r\n\r\n" % len(IMAGE) + IMAGE
    deaf = socket.create_connection(("127.0.0.1", strict.port))
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.sendall(large * 20)  # and never reads an answer
    began = time.perf_counter()
    for _ in range(3):
        assert strict.post("/v1/segment", IMAGE, **KEY).status == 200
    assert time.perf_counter() - began < 5
    answers = [slow.recv(1 << 16) for slow in sockets]
    assert [answer[9:12] for answer in answers[2::3]] == [b"408"] * len(answers[2::3])
    assert set(answers[::3] + answers[1::3]) == {b""}
    for slow in (*sockets, deaf):
        slow.close()


def test_too_much_at_once_is_refused_and_the_rest_answered(strict: Running) -> None:
    image = png(500, 500)  # two fit the queue

    def send(_: int) -> Reply:
        return strict.post("/v1/segment", image, **KEY)

    with ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(send, range(12)))
    statuses = {reply.status for reply in replies}
    assert 429 in statuses
    assert statuses <= {200, 429, 504}
    for reply in replies:
        if reply.status == 429:
            assert "pixels wait" in problem(reply, 429)
            assert 1 <= int(reply.headers["retry-after"]) <= 60


def test_an_answer_that_comes_too_late_is_an_error(strict: Running) -> None:
    wait_until(lambda: strict.figure("panodetr_accepted", **KEY) == 0)
    with strict.suspended():
        assert "within 5 s" in problem(strict.post("/v1/segment", IMAGE, **KEY), 504)
    wait_until(lambda: strict.post("/v1/segment", IMAGE, **KEY).status == 200)


def test_images_whose_clients_have_left_cost_nothing(service: Running) -> None:
    images, gone = "panodetr_batch_images_sum", 'panodetr_errors_total{kind="client gone"}'
    before = service.figure(images)
    request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(IMAGE) + IMAGE
    with ThreadPoolExecutor(1) as pool, service.suspended():
        long = pool.submit(service.post, "/v1/segment", IMAGE)
        wait_until(lambda: service.figure("panodetr_accepted") == 1)
        wait_until(lambda: service.figure("panodetr_queue_pixels") == 0)
        sockets = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(5)]
        for leaving in sockets:
            leaving.sendall(request)
        wait_until(lambda: service.figure("panodetr_accepted") == 6)
        for leaving in sockets:
            leaving.close()
        wait_until(lambda: service.figure("panodetr_accepted") == 1)
        assert service.figure("panodetr_queue_pixels") == 0
        assert not long.done()
    assert long.result().status == 200
    assert service.figure(images) == before + 1
    assert service.figure(gone) >= 5
