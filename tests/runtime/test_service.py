"""The HTTP service: answers, refusals, limits, and its end."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from io import BytesIO
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from cloven.errors import ClovenError
from cloven.runtime.cluster.errors import FrameFailed, ImageRefused
from cloven.runtime.cluster.health import ClusterHealth, DeviceHealth
from cloven.runtime.link import authority, identity
from cloven.runtime.service import ClientLimits, app, connections, serve
from cloven.runtime.service.connections import network
from cloven.zoo.folders import decode_picture, picture_size, read_picture

Got = TypeVar("Got")

SHAPE = (3, 8, 8)
KINDS = [
    ("PNG", "RGB"),
    ("PNG", "L"),
    ("PNG", "RGBA"),
    ("JPEG", "RGB"),
    ("GIF", "P"),
    ("BMP", "RGB"),
    ("WEBP", "RGB"),
]
CLASSES = 10
NAMES = [f"kind {i}" for i in range(CLASSES)]
WEIGHTS = np.random.default_rng(1).normal(size=(CLASSES, 192)).astype(np.float32)
FLOATS = "application/octet-stream"


@dataclass(frozen=True)
class ModelOutput:
    output: NDArray[np.float32]
    seconds: float = 0.125
    number: int = 7


@dataclass
class Model:
    """A model whose output depends on every bit of its input; it can be slow, or fail."""

    shape: tuple[int, int, int] = SHAPE
    delay: float = 0
    failing: Exception | None = None
    output: NDArray[np.float32] | None = None
    ready: bool = True
    seen: list[NDArray[np.float32]] = field(default_factory=list)

    async def submit(self, image: NDArray[np.float32]) -> ModelOutput:
        self.seen.append(image)
        await asyncio.sleep(self.delay)
        if self.failing:
            raise self.failing
        return ModelOutput(WEIGHTS @ image.reshape(-1) if self.output is None else self.output)

    def health(self) -> ClusterHealth:
        up = DeviceHealth(device="edge0", state="up", reason="", links={})
        down = DeviceHealth(device="edge1", state="down", reason="<gone>", links={"edge0": "lost"})
        devices = (up,) if self.ready else (up, down)
        return ClusterHealth(ready=self.ready, devices=devices, in_flight=0, plan="0f", upgrade="", plans=())


def vector(numbers: list[float]) -> NDArray[np.float32]:
    return np.array(numbers, np.float32)


def picture(kind: str = "PNG", size: tuple[int, int] = (20, 11), mode: str = "RGB") -> bytes:
    pixels = np.random.default_rng(2).integers(0, 256, (size[1], size[0], 3), np.uint8)
    out = BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, kind)
    return out.getvalue()


def made(model: Model | None = None, **options: Any) -> FastAPI:
    usual: dict[str, Any] = {"read": decode_picture, "size": picture_size, "names": NAMES}
    return app(model or Model(), **usual | options)


def talk(service: FastAPI, work: Callable[[httpx.AsyncClient], Awaitable[Got]]) -> Got:
    """Return the result of work with a client of the service, without a network."""

    async def main() -> Got:
        transport = httpx.ASGITransport(service)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await work(client)

    return asyncio.run(main())


SERVICE = made()
"""Shared by many small requests."""


def ask(service: FastAPI, method: str, url: str, **content: Any) -> httpx.Response:
    return talk(service, lambda client: client.request(method, url, **content))


def classify(service: FastAPI, content: Any = None, kind: str | None = "image/png", **more: Any) -> httpx.Response:
    headers = {"Content-Type": kind} if kind else {}
    return ask(service, "POST", "/classify", content=content, headers=headers, **more)


def refusal(response: httpx.Response, status: int) -> str:
    """Return the message of an error; check that it has no path of this machine."""
    assert response.status_code == status, response.text
    said = response.json()["error"]
    assert isinstance(said, str)
    assert said
    for secret in ("Traceback", 'File "', str(Path.cwd()), "site-packages", "object at 0x"):
        assert secret not in response.text
    return said


def sample(service: FastAPI, name: str, **labels: str) -> float | None:
    families = text_string_to_metric_families(ask(service, "GET", "/metrics").text)
    found = [s.value for family in families for s in family.samples if (s.name, s.labels) == (name, labels)]
    return found[0] if found else None


class TestAnswers:
    def test_a_picture_by_http_is_what_it_is_by_the_command_line(self, tmp_path: Path) -> None:
        """For every format and mode, the pixels and therefore the bits of the output are equal."""
        for i, (kind, mode) in enumerate(KINDS):
            content = picture(kind, mode=mode)
            (tmp_path / f"{i}.png").write_bytes(content)
            image = read_picture(tmp_path / f"{i}.png", SHAPE).tensor()[0].numpy()
            model = Model()

            answer = classify(made(model), content, "image/whatever", params={"scores": "all"})

            assert answer.status_code == 200
            assert np.array_equal(model.seen[0], image)
            assert np.array_equal(np.float32(answer.json()["logits"]), WEIGHTS @ image.reshape(-1))

    def test_all_pixel_values_become_the_same_numbers_as_a_tensor(self, tmp_path: Path) -> None:
        model, out = Model((1, 16, 16)), BytesIO()
        model.output = np.zeros(CLASSES, np.float32)
        Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(out, "PNG")
        (tmp_path / "all.png").write_bytes(out.getvalue())

        classify(made(model), out.getvalue())

        assert np.array_equal(model.seen[0], read_picture(tmp_path / "all.png", (1, 16, 16)).tensor()[0].numpy())

    def test_what_an_answer_tells(self) -> None:
        output = vector([0, 3, 1, 3, -2, 5, 0, 0, 0, 0])
        answer = classify(made(Model(output=output)), picture()).json()
        weights = np.exp(output.astype(float))

        assert (answer["class"], answer["name"], answer["seconds"], answer["input"]) == (
            5,
            "kind 5",
            0.125,
            [3, 8, 8],
        )
        assert [guess["class"] for guess in answer["best"]] == [5, 1, 3, 2, 0]
        assert [guess["name"] for guess in answer["best"]] == [f"kind {i}" for i in (5, 1, 3, 2, 0)]
        expected = (weights / weights.sum())[[5, 1, 3, 2, 0]]
        assert [guess["probability"] for guess in answer["best"]] == pytest.approx(expected, rel=1e-12)
        assert answer["probability"] == answer["best"][0]["probability"]
        assert answer["logits"] is None

    def test_huge_outputs_have_probabilities(self) -> None:
        answer = classify(made(Model(output=vector([3e38, -3e38, 0]))), picture()).json()

        assert [guess["probability"] for guess in answer["best"]] == [1, 0, 0]

    def test_classes_without_names(self) -> None:
        assert classify(made(names=None), picture()).json()["name"] is None

    def test_a_form(self) -> None:
        large = picture("BMP", (800, 600))  # more than forms usually keep in memory
        for content in (picture(), large):
            model = Model()
            for kind in ("image/png", "application/octet-stream", ""):
                sent = {"file": ("a.png", content, kind)}
                answer = ask(made(model), "POST", "/classify", files=sent, data={"other": "field"})
                assert answer.status_code == 200, answer.text
            assert all(np.array_equal(seen, model.seen[0]) for seen in model.seen)

    def test_numbers_arrive_bit_by_bit(self) -> None:
        image = np.random.default_rng(3).random(SHAPE, np.float32)
        image[0, 0, :2] = 0, 1
        model = Model()

        assert classify(made(model), image.astype("<f4").tobytes(), FLOATS).status_code == 200
        assert np.array_equal(model.seen[0], image)
        assert model.seen[0].dtype == np.float32

    def test_nothing_of_it_is_kept_by_caches(self) -> None:
        assert classify(made(), picture()).headers["Cache-Control"] == "no-store"


def bomb(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes with this size in its header."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def part(name: str) -> bytes:
    """Return one field of a form."""
    return f"--b\r\nContent-Disposition: form-data; name={name}\r\n\r\nx\r\n".encode()


def comments(count: int) -> bytes:
    """Return a JPEG that consists mostly of empty comments."""
    content = picture("JPEG")
    return content[:2] + count * b"\xff\xfe\0\2" + content[2:]


def scans(more: int, side: int = 64) -> bytes:
    """Return a progressive JPEG whose last scan is repeated."""
    out = BytesIO()
    Image.new("L", (side, side)).save(out, "JPEG", progressive=True)
    content = out.getvalue()
    last = content[content.rfind(b"\xff\xda") : -2]
    return content[:-2] + more * last + content[-2:]


class TestRefusals:
    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"", "is not a picture"),
            (b"GIF89a", "is not a picture|cannot be decoded"),
            (b"<svg onload=alert(1)>", "is not a picture"),
            (picture("TIFF"), "is not a picture.*JPEG, PNG, BMP, GIF, WEBP"),
            (picture("JPEG")[:400], "cannot be decoded"),
            (bomb(6000, 6000), "too large to be opened safely: 6000 x 6000 pixels, expected at most 16,777,216"),
            (bomb(60000, 60000), "too large to be opened safely"),
            (bomb(1, 1), "1 x 1 pixels, expected at least 2 x 2"),
            (scans(300), "has 306 scans, expected at most 200 at its size: .*; save it again"),
            (scans(30, side=4096), "has 36 scans, expected at most 16 at its size"),
            (comments(50_000), "too many small blocks"),
        ],
    )
    def test_no_picture(self, content: bytes, said: str) -> None:
        model = Model()
        response = classify(made(model), content)

        assert httpx.codes.is_error(response.status_code)
        with pytest.raises(ClovenError, match=said):
            raise ClovenError(refusal(response, 415))
        assert not model.seen

    def test_a_jpeg_of_many_scans_may_be_honest(self) -> None:
        assert classify(made(), scans(20)).status_code == 200

    @pytest.mark.parametrize(
        "kind", ["text/plain", "application/x-www-form-urlencoded", "application/json", "a" * 5000]
    )
    def test_another_type(self, kind: str) -> None:
        said = refusal(classify(made(), picture(), kind), 415)

        assert kind[:80] in said
        assert "image/jpeg" in said
        assert len(said) < 400

    def test_a_picture_without_a_type_is_looked_at(self) -> None:
        assert classify(made(), picture(), None).status_code == 200

    @pytest.mark.parametrize(
        ("numbers", "said"),
        [
            (np.zeros(191), "got 764 bytes; expected 768"),
            (np.zeros(193), "got 772 bytes; expected 768"),
            (np.zeros(0), "got 0 bytes"),
            (np.full(192, np.nan), "not finite"),
            (np.full(192, np.inf), "not finite"),
            (np.full(192, 255), "from 255 to 255; expected float32 numbers from 0 to 1"),
            (np.full(192, -0.5), "from -0.5"),
        ],
    )
    def test_numbers_that_are_no_image(self, numbers: NDArray[np.float64], said: str) -> None:
        response = classify(made(), numbers.astype("<f4").tobytes(), FLOATS)

        assert said in refusal(response, 422)

    @pytest.mark.parametrize(
        ("kind", "content"),
        [
            ("", part("file")),
            ("; boundary=", part("file")),
            ("; boundary=b", b"nothing of a form"),
            ("; boundary=b", b""),
            ("; boundary=b", part('"file"') + b"--b--"),
            ("; boundary=b", part('"photo"; filename="x"') + b"--b--"),
            ("; boundary=b", 2 * part('"file"; filename="x"')),
            ("; boundary=b", 20 * part('"field"')),
            ("; boundary=b; charset=hex", part('"é"') + b"--b--"),
            ("; boundary=b; charset=undefined", part('"file"') + b"--b--"),
        ],
    )
    def test_forms_without_a_picture(self, kind: str, content: bytes) -> None:
        assert "the form" in refusal(classify(made(), content, f"multipart/form-data{kind}"), 422)

    def test_too_many_bytes_whatever_is_announced(self) -> None:
        read = []

        async def endless() -> AsyncIterator[bytes]:
            yield part('"file"; filename="x"')[:-2]
            for _ in range(1000):
                read.append(1)
                yield bytes(1000)

        for kind in ("image/png", "application/octet-stream", "multipart/form-data; boundary=b"):
            assert "at most 5,000 bytes" in refusal(classify(made(limit=5000), bytes(5001), kind), 413)
            read.clear()
            assert "at most 5,000 bytes" in refusal(classify(made(limit=5000), endless(), kind), 413)
            assert len(read) == 5
        assert "too large" in refusal(ask(made(limit=5000), "POST", "/classify", files={"file": bytes(5001)}), 413)
        assert classify(made(limit=768), bytes(768), FLOATS).status_code == 200

    def test_a_length_that_is_announced_is_believed_if_it_is_too_much(self) -> None:
        async def unread() -> AsyncIterator[bytes]:
            raise AssertionError("it was read")
            yield b""

        headers = {"Content-Length": "9" * 19}
        refusal(ask(made(), "POST", "/classify", content=unread(), headers=headers), 413)

    def test_an_unknown_parameter(self) -> None:
        assert "scores" in refusal(classify(made(), picture(), params={"scores": "some"}), 422)

    def test_an_address_or_method_that_is_not_there(self) -> None:
        assert "/openapi.json" in refusal(ask(made(), "GET", "/docs"), 404)
        refusal(ask(made(), "GET", "/redoc"), 404)
        refused = ask(made(), "GET", "/classify")
        refusal(refused, 405)
        assert refused.headers["Allow"] == "POST"


class TestTrouble:
    @pytest.mark.parametrize(
        ("failure", "where"),
        [
            (FrameFailed("no answer for 5 s", device="edge1"), ("edge1", None)),
            (FrameFailed("no answer for 5 s", link=("edge0", "edge1")), (None, ["edge0", "edge1"])),
            (FrameFailed("no answer for 5 s"), (None, None)),
        ],
    )
    def test_what_failed_is_named(self, failure: FrameFailed, where: tuple[Any, Any]) -> None:
        response = classify(made(Model(failing=failure)), picture())

        assert str(failure) in refusal(response, 503)
        told = response.json()
        assert (told["device"], told["link"], told["reason"]) == (*where, "no answer for 5 s")

    def test_an_image_that_the_plan_cannot_take(self) -> None:
        model = Model(failing=ImageRefused("the image cannot be sent as uint8"))

        assert "cannot be sent as uint8" in refusal(classify(made(model), picture()), 422)

    def test_what_nobody_thought_of_is_told_to_the_log_alone(self, caplog: pytest.LogCaptureFixture) -> None:
        model = Model(failing=RuntimeError("/secret/place"))

        assert "secret" not in refusal(classify(made(model), picture()), 500)
        assert "/secret/place" in caplog.text

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_an_output_that_is_not_finite(self, bad: float) -> None:
        assert "not finite" in refusal(classify(made(Model(output=vector([0, bad]))), picture()), 502)

    def test_a_model_that_is_late(self) -> None:
        assert "deadline" in refusal(classify(made(Model(delay=5), deadline=0.1), picture()), 504)

    def test_a_picture_that_is_late(self) -> None:
        async def slow() -> AsyncIterator[bytes]:
            yield picture()
            await asyncio.sleep(5)

        assert "deadline" in refusal(classify(made(deadline=0.1), slow()), 408)

    def test_a_full_house_says_so_at_once_and_opens_again(self) -> None:
        service = made(Model(delay=0.2), waiting=3)

        async def crowd(client: httpx.AsyncClient) -> list[httpx.Response]:
            sent = [
                client.post("/classify", content=bytes(768), headers={"Content-Type": FLOATS}) for _ in range(8)
            ]
            return [
                *await asyncio.gather(*sent),
                await client.post("/classify", content=bytes(768), headers={"Content-Type": FLOATS}),
            ]

        responses = talk(service, crowd)

        assert sorted(response.status_code for response in responses[:8]) == [200] * 3 + [429] * 5
        assert responses[-1].status_code == 200
        for refused in (response for response in responses if response.status_code == 429):
            assert "try again" in refusal(refused, 429)
            assert refused.headers["Retry-After"] == "1"

    def test_failures_give_their_room_back(self) -> None:
        service = made(Model(failing=FrameFailed("gone", device="edge1"), delay=0.01), waiting=1)

        for content, status in ((picture(), 503), (b"x", 415), (picture(), 503), (bytes(9 * 2**20), 413)):
            refusal(classify(service, content), status)
        assert sample(service, "cloven_requests_in_flight") == 0

    def test_pictures_are_decoded_one_at_a_time(self) -> None:
        busy: list[int] = []
        most = []

        def read(content: bytes, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
            busy.append(1)
            most.append(len(busy))
            threading.Event().wait(0.02)
            busy.pop()
            return np.zeros(shape, np.uint8)

        async def crowd(client: httpx.AsyncClient) -> list[httpx.Response]:
            return await asyncio.gather(*(client.post("/classify", content=b"x") for _ in range(5)))

        assert {r.status_code for r in talk(app(Model(), read=read), crowd)} == {200}
        assert most == [1] * 5

    def test_large_pictures_do_not_delay_small_ones(self) -> None:
        """The first picture is being decoded when the others arrive."""
        order = []

        def read(content: bytes, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
            order.append(len(content))
            threading.Event().wait(1 if len(content) == 900 else 0)
            return np.zeros(shape, np.uint8)

        async def crowd(client: httpx.AsyncClient) -> None:
            sizes = (900, 800, 800, 800, 5)
            await asyncio.gather(*(client.post("/classify", content=bytes(size)) for size in sizes))

        talk(app(Model(), read=read), crowd)

        assert order == [900, 5, 800, 800, 800]


class TestAround:
    def test_health(self) -> None:
        response = ask(made(), "GET", "/health")
        assert (response.status_code, response.json()["ready"]) == (200, True)

        response = ask(made(Model(ready=False)), "GET", "/health")
        assert response.status_code == 503
        assert response.json() == json.loads(Model(ready=False).health().model_dump_json())

    def test_metrics(self) -> None:
        service = made(Model())
        for content in (picture(), picture(), b"x"):
            classify(service, content)
        ask(service, "GET", "/health")

        assert sample(service, "cloven_requests_total", status="200") == 2
        assert sample(service, "cloven_requests_total", status="415") == 1
        assert sample(service, "cloven_request_seconds_count") == 3
        assert sample(service, "cloven_requests_in_flight") == 0
        assert sample(made(), "cloven_request_seconds_count") == 0  # each service has separate counters

    def test_requests_in_flight_are_counted(self) -> None:
        async def both(client: httpx.AsyncClient) -> str:
            running = asyncio.ensure_future(
                client.post("/classify", content=bytes(768), headers={"Content-Type": FLOATS})
            )
            await asyncio.sleep(0.1)
            during = (await client.get("/metrics")).text
            await running
            return during

        assert "cloven_requests_in_flight 1.0" in talk(made(Model(delay=0.3)), both)

    def test_the_page_asks_nobody_and_escapes_everything(self) -> None:
        nasty = '<script>alert("1")</script>'
        response = ask(made(Model(ready=False), names=[nasty, "$nonce"], title=f"{nasty} &"), "GET", "/")
        policy, text = response.headers["Content-Security-Policy"], response.text

        assert response.status_code == 200
        assert nasty not in text
        assert text.count("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;") == 3
        assert "<li>$nonce</li>" in text
        assert "&lt;gone&gt;" in text
        assert "edge0" in text
        assert "https:" not in text.replace(nasty, "")
        assert "src=" not in text
        nonce = policy.split("'nonce-")[1].split("'")[0]
        assert text.count(f'nonce="{nonce}"') == 2
        assert "default-src 'none'" in policy
        assert nonce not in ask(made(), "GET", "/").text

    def test_the_page_without_names(self) -> None:
        assert "have no names" in ask(made(names=None), "GET", "/").text

    def test_the_interface_is_described(self) -> None:
        described = ask(made(), "GET", "/openapi.json").json()
        post = described["paths"]["/classify"]["post"]

        assert set(described["paths"]) == {"/classify", "/model", "/health", "/metrics"}
        assert set(post["requestBody"]["content"]) == {"image/*", "multipart/form-data", "application/octet-stream"}
        assert {"200", "401", "408", "413", "415", "422", "423", "429", "502", "503", "504"} == set(
            post["responses"]
        )
        found = described["components"]["schemas"]["Classified"]["properties"]
        assert set(found) == set(classify(made(), picture()).json())
        assert "HTTPValidationError" not in json.dumps(post)

    @settings(max_examples=300)
    @given(
        st.one_of(
            st.binary(max_size=900),
            st.binary(max_size=60).map(lambda tail: picture("PNG")[:-40] + tail),
            st.tuples(st.integers(0, 399), st.binary(max_size=8)).map(
                lambda at: picture("JPEG")[: at[0]] + at[1] + picture("JPEG")[at[0] + len(at[1]) :]
            ),
            st.binary(max_size=300).map(lambda part: b"--b\r\nContent-Disposition: form-data; name=file" + part),
            st.binary(min_size=768, max_size=768),
        ),
        st.sampled_from(
            [
                "image/png",
                "",
                "application/octet-stream",
                "multipart/form-data; boundary=b",
                "multipart/form-data",
                "multipart/form-data; boundary=b; charset=utf-7",
                "text/html",
                "image/",
                ";;",
                "é",
            ]
        ),
    )
    def test_no_body_breaks_it(self, content: bytes, kind: str) -> None:
        response = ask(SERVICE, "POST", "/classify", content=content, headers=[(b"Content-Type", kind.encode())])

        assert response.status_code in (200, 415, 422)
        assert ("error" in response.json()) == (response.status_code != 200)


@pytest.fixture
def listening() -> Iterator[Callable[..., str]]:
    """Return a function that starts a service in a thread and returns its URL."""
    ended = []

    def start(service: FastAPI, **options: Any) -> str:
        url: Future[str] = Future()

        async def main() -> None:
            task = asyncio.ensure_future(serve(service, "127.0.0.1", 0, started=url.set_result, **options))
            ended.append((asyncio.get_running_loop(), task, thread))
            await asyncio.wait([task])

        thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
        thread.start()
        return url.result(5)

    yield start
    for loop, task, thread in ended:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "prometheus_client", "python_multipart"])
def test_the_extra_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("cloven.runtime.service")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(ClovenError, match=rf"^{package} is not installed; .*pip install 'cloven\[serve\]'"):
        import_module("cloven.runtime.service")


def test_it_needs_no_torch() -> None:
    code = "import sys, cloven.runtime.service, cloven.zoo.folders; print('torch' in sys.modules)"

    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


class TestListening:
    def test_over_tcp(self, listening: Callable[..., str]) -> None:
        url = listening(made())
        assert url.startswith("http://127.0.0.1:")
        with httpx.Client(base_url=url) as client:
            assert client.get("/health").status_code == 200
            response = client.post("/classify", files={"file": picture()})
            assert response.json()["best"]
            assert "server" not in response.headers

    def test_too_much_is_refused_in_so_many_words_and_the_next_request_is_answered(
        self, listening: Callable[..., str]
    ) -> None:
        url = listening(made(limit=10_000))
        with httpx.Client(base_url=url) as client:
            for body in (bytes(5_000_000), (bytes(50_000) for _ in range(100))):
                refusal(client.post("/classify", content=body, headers={"Content-Type": "image/png"}), 413)
            assert client.post("/classify", content=picture()).status_code == 200

    def test_a_client_that_goes_away_breaks_nothing(
        self, listening: Callable[..., str], caplog: pytest.LogCaptureFixture
    ) -> None:
        url = listening(made(waiting=1))
        with socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0)) as raw:
            raw.sendall(b"POST /classify HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nhalf")
        with httpx.Client(base_url=url) as client:
            for _ in range(100):
                if 'cloven_requests_total{status="499"} 1.0' in client.get("/metrics").text:
                    break
            else:
                pytest.fail("the room was not given back")
            assert client.post("/classify", content=picture()).status_code == 200
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_ends_it_after_what_has_begun(self, number: signal.Signals) -> None:
        """The current request is answered, no other one begins, and the caller of `serve` continues."""
        before = signal.getsignal(number)

        async def main() -> list[int | str]:
            url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            server = asyncio.ensure_future(serve(made(Model(delay=0.5)), "127.0.0.1", 0, started=url.set_result))
            async with httpx.AsyncClient(base_url=await url) as client:
                running = asyncio.ensure_future(client.post("/classify", content=picture()))
                await asyncio.sleep(0.2)
                os.kill(os.getpid(), number)
                await asyncio.sleep(0.2)
                with pytest.raises(httpx.ConnectError):
                    await httpx.AsyncClient(base_url=await url).get("/health")
                status = (await running).status_code
            await server
            return [status, "went on"]

        assert asyncio.run(main()) == [200, "went on"]
        assert signal.getsignal(number) == before

    def test_where_it_cannot_listen(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(ClovenError, match=rf"cannot listen on 127\.0\.0\.1, port {port}: .*another port"):
                asyncio.run(serve(made(), "127.0.0.1", port))
        with pytest.raises(ClovenError, match=r"cannot listen on 192\.0\.2\.1, port 0"):
            asyncio.run(serve(made(), "192.0.2.1", 0))

    def test_mtls_answers_only_those_with_a_certificate(
        self, listening: Callable[..., str], tmp_path: Path
    ) -> None:
        authority.new(["edge0"], tmp_path / "keys")
        authority.new(["edge0"], tmp_path / "others")
        ours, friend = (identity.read(tmp_path / "keys" / name) for name in ("coordinator", "edge0"))
        stranger = identity.read(tmp_path / "others" / "edge0")
        port = httpx.URL(url := listening(made(), identity=ours)).port
        assert url == f"https://127.0.0.1:{port}"
        anonymous = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        anonymous.load_verify_locations(cadata=ours.authority.decode())
        named: Any = {"extensions": {"sni_hostname": "coordinator"}}

        with httpx.Client(verify=friend.client_context()) as client:
            assert client.post(f"{url}/classify", content=picture(), **named).status_code == 200
        for context in (anonymous, stranger.client_context()):
            with httpx.Client(verify=context) as client, pytest.raises(httpx.TransportError):
                client.get(f"{url}/health", **named)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{port}/health")


class Clients:
    """Connections that send given bytes, and read only on request."""

    def __init__(self, url: str) -> None:
        self.port = httpx.URL(url).port or 0
        self.open: list[socket.socket] = []

    def send(self, content: bytes, count: int = 1, address: str = "127.0.0.1") -> socket.socket:
        for _ in range(count):
            self.open.append(socket.create_connection(("127.0.0.1", self.port), 5, (address, 0)))
            with suppress(ConnectionError):
                self.open[-1].sendall(content)
        return self.open[-1]

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self.open:
            connection.close()


def rest(connection: socket.socket) -> bytes:
    """Return the bytes that a connection receives until the service closes it."""
    found = bytearray()
    with suppress(ConnectionError):
        while content := connection.recv(65536):
            found += content
    return bytes(found)


@contextmanager
def open_files(count: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < count:
        pytest.skip(f"this user may open only {before[1]} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], count), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


WHOLE = b"GET /health HTTP/1.1\r\nHost: h\r\n"
HALF_HEAD = b"POST /classify HTTP/1.1\r\nHost: h\r\nX: "
HALF_BODY = b"POST /classify HTTP/1.1\r\nHost: h\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\nhalf"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
class TestHostileClients:
    """Despite hostile clients, an honest one is answered, from the same address or another one."""

    @pytest.mark.parametrize("addresses", [["127.0.0.1"], [f"127.0.0.{i}" for i in range(2, 127)]], ids=len)
    @pytest.mark.parametrize("content", [b"", HALF_HEAD, HALF_BODY], ids=["silent", "head", "body"])
    def test_a_thousand_half_sent_requests(
        self,
        listening: Callable[..., str],
        caplog: pytest.LogCaptureFixture,
        content: bytes,
        addresses: Sequence[str],
    ) -> None:
        url, slowest = listening(made()), 0.0
        with open_files(1300), Clients(url) as hostile:
            for i in range(1000):
                hostile.send(content, address=addresses[i % len(addresses)])
                if i % 100 == 99:
                    start = perf_counter()
                    assert httpx.post(f"{url}/classify", content=picture()).status_code == 200
                    slowest = max(slowest, perf_counter() - start)
        assert slowest < 2
        assert len(caplog.text) < 10_000

    @pytest.mark.parametrize(
        "content",
        [b"", HALF_HEAD, WHOLE + b"\r\n", WHOLE + b"Content-Length: 9\r\n\r\nx"],
        ids=["silent", "half a head", "idle", "body that nobody wants"],
    )
    def test_clients_that_take_too_long_are_left(self, listening: Callable[..., str], content: bytes) -> None:
        with Clients(listening(made(), limits=ClientLimits(head=0.3))) as clients:
            start = perf_counter()
            said = rest(clients.send(content))
            assert 0.2 < perf_counter() - start < 3
        assert (b"HTTP/1.1 408 Request Timeout" in said) == (content == HALF_HEAD)

    def test_bodies_without_end_end(self, listening: Callable[..., str]) -> None:
        """The timeout also covers a slow body, and the rest of a refused one."""
        head = b"POST /classify HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        url = listening(made(limit=1000, deadline=0.5), limits=ClientLimits(head=0.5))
        for chunk, status in ((b"1\r\nx\r\n", b"408"), (b"200\r\n" + bytes(512) + b"\r\n", b"413")):
            with Clients(url) as clients:
                connection, start = clients.send(head), perf_counter()
                with suppress(ConnectionError):
                    while perf_counter() - start < 5:
                        connection.sendall(chunk)
                        threading.Event().wait(0.02)
                assert perf_counter() - start < 3
                assert rest(connection)[9:12] in (status, b"")  # a reset may overtake the answer

    def test_answers_that_nobody_reads(self, listening: Callable[..., str]) -> None:
        url = listening(made(), limits=ClientLimits(head=0.5, request=0.5))
        with Clients(url) as clients:
            connection = clients.send(b"")
            connection.settimeout(0.5)
            with suppress(TimeoutError, ConnectionError):
                for _ in range(100_000):
                    connection.sendall(100 * b"GET /openapi.json HTTP/1.1\r\nHost: h\r\n\r\n")
            threading.Event().wait(1)
            with pytest.raises(ConnectionError):
                connection.sendall(bytes(10**7))
        assert httpx.get(f"{url}/health").status_code == 200

    def test_requests_sent_before_the_answer_to_the_last_one_are_not_answered(
        self, listening: Callable[..., str]
    ) -> None:
        """Answering thousands of requests of one connection in a row would delay other clients."""
        health = b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n"
        with Clients(listening(made())) as clients:
            assert rest(clients.send(100 * health)).count(b"HTTP/1.1 200") <= 1  # a reset may overtake the answer

    def test_half_sent_bodies_are_not_waited_for_at_the_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Complete requests are answered."""
        monkeypatch.setattr(connections, "PARTING", 0.2)
        whole = f"POST /classify HTTP/1.1\r\nContent-Type: {FLOATS}\r\nHost: h\r\nContent-Length: 768\r\n\r\n"

        async def main() -> tuple[bytes, float]:
            url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            server = asyncio.ensure_future(serve(made(Model(delay=0.6)), "127.0.0.1", 0, started=url.set_result))
            with Clients(await url) as clients:
                clients.send(HALF_BODY, count=5)
                asked = clients.send(whole.encode() + bytes(768))
                await asyncio.sleep(0.2)
                os.kill(os.getpid(), signal.SIGTERM)
                start = perf_counter()
                await server
                return rest(asked), perf_counter() - start

        said, seconds = asyncio.run(main())
        assert said.startswith(b"HTTP/1.1 200 OK")
        assert seconds < 3

    def test_half_made_tls_counts(self, listening: Callable[..., str], tmp_path: Path) -> None:
        authority.new(["edge0"], tmp_path / "keys")
        ours, friend = (identity.read(tmp_path / "keys" / name) for name in ("coordinator", "edge0"))
        url = listening(made(), identity=ours, limits=ClientLimits(connections=5, head=0.5))
        with Clients(url) as clients:
            first = clients.send(b"\x16\x03\x01", count=1)
            clients.send(b"\x16\x03\x01", count=20)
            named: Any = {"extensions": {"sni_hostname": "coordinator"}}
            with httpx.Client(verify=friend.client_context()) as client:
                assert client.post(f"{url}/classify", content=picture(), **named).status_code == 200
            assert rest(first) == b""
            assert rest(clients.open[-1]) == b""

    def test_what_is_being_answered_is_never_dropped(self, listening: Callable[..., str]) -> None:
        url = listening(made(Model(delay=3)), limits=ClientLimits(connections=3, per_address=2))
        numbers = f"POST /classify HTTP/1.1\r\nContent-Type: {FLOATS}\r\nHost: h\r\n".encode()
        request = numbers + b"Connection: close\r\nContent-Length: 768\r\n\r\n" + bytes(768)
        with Clients(url) as clients:
            asked = [clients.send(request, address=f"127.0.0.{i}") for i in (1, 1)]
            threading.Event().wait(0.2)
            refused = rest(clients.send(b""))
            asked.append(clients.send(request, address="127.0.0.2"))
            threading.Event().wait(0.2)
            refused_too = rest(clients.send(b"", address="127.0.0.3"))
            assert [rest(connection)[:15] for connection in asked] == [b"HTTP/1.1 200 OK"] * 3
        for said in (refused, refused_too):
            assert said.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
            assert b"Retry-After: 1\r\n" in said
            assert "busy" in json.loads(said.partition(b"\r\n\r\n")[2])["error"]

    def test_a_client_that_goes_away_takes_its_work_along(self, listening: Callable[..., str]) -> None:
        read = []

        def slow(content: bytes, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
            read.append(content)
            threading.Event().wait(0.5)
            return np.zeros(shape, np.uint8)

        url = listening(made(read=slow, size=len))
        with Clients(url) as clients:
            clients.send(b"POST /classify HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx", count=20)
            threading.Event().wait(0.2)
        assert httpx.post(f"{url}/classify", content=b"honest").status_code == 200
        assert read == [b"x", b"honest"]

    def test_lines_of_one_kind_are_logged_once_in_a_while(
        self, listening: Callable[..., str], caplog: pytest.LogCaptureFixture
    ) -> None:
        upgrade = b"GET /health HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        url = listening(made(Model(failing=RuntimeError("broken"))))
        with Clients(url) as clients:
            clients.send(b"\0\r\n\r\n", count=50)
            clients.send(10 * upgrade, count=10)
        for _ in range(20):
            refusal(httpx.post(f"{url}/classify", content=picture()), 500)
        said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert len(said) == len(set(said)) <= 4

    def test_too_few_files_for_all_connections(self) -> None:
        """A limit above the available files is refused; if others use up the files, the service waits."""
        with pytest.raises(ClovenError, match=r"connections must be at most \d+, half of the files"):
            asyncio.run(serve(made(), "127.0.0.1", 0, limits=ClientLimits(connections=99_999_999)))
        code = (
            "import asyncio, os, resource; from fastapi import FastAPI; from cloven.runtime.service import *\n"
            "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
            "ready = lambda url: ([os.dup(1) for _ in range(45)], print(url, flush=True))\n"
            "asyncio.run(serve(FastAPI(), '127.0.0.1', 0, started=ready, limits=ClientLimits(connections=32)))"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            url = process.stdout.readline().strip()
            with Clients(url) as clients:
                clients.send(HALF_HEAD, count=60, address="127.0.0.2")
                assert httpx.get(url).status_code == 404
            process.terminate()
            log = process.stderr.read()
        assert log.count("cannot accept a connection: Too many open files") == 1
        assert len(log) < 1000

    def test_an_ipv6_client_is_a_network(self) -> None:
        assert network("2001:db8:1:2:3::4") == network("2001:db8:1:2:ffff::1") != network("2001:db8:1:3::4")
        assert network("::ffff:127.0.0.1") == network("127.0.0.1") != network("127.0.0.2")
        assert network("fe80::1%eth0") == network("fe80::2")
