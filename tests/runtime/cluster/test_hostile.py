"""Messages of a hostile peer lead to a `ClovenError` that is safe to print."""

from __future__ import annotations

import asyncio
import copy
import json
import math
import random
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Any

import grpc
import grpc.aio
import pytest

from cloven.cost.cluster import Cluster, ClusterDevice
from cloven.errors import ClovenError
from cloven.runtime.cluster.breakdown import devices, links
from cloven.runtime.cluster.channels import CONTROL, DESCRIBE
from cloven.runtime.cluster.coordinator import Coordinator, PartyReport
from cloven.runtime.cluster.errors import PartyError
from cloven.runtime.cluster.in_flight import InFlight
from cloven.runtime.cluster.protocol import (
    VERSION,
    ActivateReply,
    ActivateRequest,
    EchoReply,
    EchoRequest,
    HandshakeReply,
    Hello,
    JoinRequest,
    MeasureReply,
    MeasureRequest,
    PeerMessage,
    StatusRequest,
    UpgradeOffer,
    UpgradeReply,
    WorkerDescription,
    WorkerMessage,
    read,
)
from cloven.runtime.cluster.send_options import SendOptions
from cloven.runtime.cluster.worker import load
from cloven.runtime.cluster.worker_client import WorkerClient
from cloven.runtime.link_profile import measured_link
from tests.runtime.cluster.machines import within
from tests.runtime.cluster.plans import bundled, plan_of

BUNDLE = bundled("lenet5", "pair")
PLAN = plan_of(BUNDLE)
LOOP = asyncio.new_event_loop()
"""Does not run; a report comes as a future."""

PARTIES = {"edge0": "127.0.0.1:1", "edge1": "127.0.0.1:2"}

Document = dict[str, Any]

DESCRIBED = {name: json.loads(load(BUNDLE / name, None).parts[name].description(None).encode()) for name in PARTIES}

REPORT: Document = {
    "steps": [2, 12],
    "images": [
        {"input": 3, "seconds": [0.1, 0.2], "sent": [["edge1", 0, 9.5]], "came": [["coordinator", 0, 9.0]]},
        {"input": 4, "seconds": [0.1, 0.2], "sent": [], "came": []},
    ],
    "refused": {"edge1": {"replayed": 1}},
    "bytes": {"edge1": 400},
    "clock": {"edge1": {"sealing": 0.1, "opening": 0.2}},
    "finished": 2,
    "processor": 1.5,
    "memory": 2**26,
}

TOLD: list[Document] = [
    {"joined": True, "down": {}},
    {"status": {"down": {}, "time": 1e9, "plan": "0f" * 32}, "ping": 1e9, "states": {}},
    {"joined": False, "down": {"edge1": "cannot be reached"}},
    {"status": {"down": {"edge1": "closed"}, "time": 1e9}, "ping": 1e9, "states": {}},
    {"status": {"down": {}, "time": 1e9}, "ping": 1e9, "states": {"3": {"doing": "waits", "parties": ["edge1"]}}},
    {"failed": {"input": 3, "from": "edge1", "reason": "message 1 came twice"}},
    {"failed": {"input": 3, "from": None, "reason": "InvalidArgument"}},
    {"report": REPORT},
    {"cloven": VERSION, "refused": "is busy", "again": False},
    {"stopping": True},
]

TRANSFER = {"bytes": 2**20, "seconds": 0.1, "quarter_seconds": 0.03}

MEASURED: Document = {
    "cloven": VERSION,
    "link": {
        "round_trip": 0.004,
        "processor": 0.001,
        "payload": 2**14,
        "loaded_trip": 0.005,
        "forth": TRANSFER,
        "back": TRANSFER,
    },
}

OTHERS: list[tuple[type[PeerMessage], Document]] = [
    (
        Hello,
        {
            "cloven": VERSION,
            "run": "x",
            "from": "edge0",
            "to": "edge1",
            "protection": "aes-128-gcm",
            "noise": "ab" * 48,
        },
    ),
    (HandshakeReply, {"cloven": VERSION, "noise": "ab" * 48}),
    (HandshakeReply, {"cloven": VERSION, "refused": "no", "again": True}),
    (
        JoinRequest,
        {
            "cloven": VERSION,
            "join": {"run": "x", "plan": "0f", "addresses": PARTIES, "window": 8, "deadline": 30.0},
        },
    ),
    (StatusRequest, {"ping": 1e9, "oldest": 3, "late": [3], "drop": [4], "lost": ["edge1"], "report": False}),
    (EchoRequest, {"cloven": VERSION, "from": "edge0", "to": "edge1", "up": 2**20, "down": 0}),
    (EchoReply, {"cloven": VERSION, "processor": 1.5}),
    (MeasureRequest, {"cloven": VERSION, "party": "edge1", "address": "127.0.0.1:2"}),
    (MeasureReply, MEASURED),
    (MeasureReply, {"cloven": VERSION, "refused": "edge0 is busy with run 1"}),
    (UpgradeOffer, {"cloven": VERSION, "plan": "0f" * 32, "bytes": 4000}),
    (UpgradeReply, {"cloven": VERSION, "folders": ["edge0"]}),
    (UpgradeReply, {"cloven": VERSION, "refused": "no space"}),
    (ActivateRequest, {"cloven": VERSION, "plan": "0f" * 32}),
    (ActivateReply, {"cloven": VERSION, "current": "0f" * 32, "previous": None}),
]

VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    2**31,
    2**63,
    10**400,
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    -float("inf"),
    "",
    "3",
    "\x1b[2J\x1b]0;owned\x07",
    "a\nb\r\0",
    "\ud800",
    "\u202eevil",
    "x" * 100_000,
    "9" * 5000,
    [],
    {},
    [[]],
    [None],
    ["x"] * 2000,
    [0] * 2000,
    {"": ""},
    {"a": {"b": [1, {"c": None}]}},
    "edge0",
    "edge9",
    "coordinator",
    "kind = 'vertical'",
    "[[[[",
    "a = " + "[" * 5000,
]

BYTES = [
    b"",
    b"\0",
    b"null",
    b"[]",
    b"{}",
    b"NaN",
    b'"x"',
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"cloven": ' + b"9" * 5000 + b"}",
    b'{"cloven": 2, "cloven": 2}',
    b'{"cloven": 1e999}',
    b'{"cloven": 99}',
    b'{"cloven": [[[]]]}',
    b"\xff\xfe{\0}\0",
    b"\xef\xbb\xbf{}",
    b'{"device": "\xed\xa0\x80"}',
    b'{"device": "\\ud800"}',
]


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths in a document."""
    yield path
    if isinstance(document, dict | list):
        for key, value in document.items() if isinstance(document, dict) else enumerate(document):
            yield from places(value, (*path, key))


def changed(document: Document, chance: random.Random) -> bytes:
    """Return a document as bytes with a part replaced, removed, added, repeated or damaged."""
    made = copy.deepcopy(document)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        if not made:
            break
        path = chance.choice([path for path in places(made) if path])
        value = copy.deepcopy(chance.choice(VALUES))
        at: Any = made
        for key in path[:-1]:
            at = at[key]
        kind = chance.randrange(4)
        if kind == 0 and isinstance(at, dict):
            del at[path[-1]]
        elif kind == 1 and isinstance(at, dict):
            at[chance.choice(("new", "\x1b[31m", "from", "9" * 30))] = value
        else:
            at[path[-1]] = value
    text = bytearray(json.dumps(made).encode())
    if chance.random() < 0.2:
        for _ in range(chance.randrange(1, 4)):
            text[chance.randrange(len(text))] = chance.randrange(256)
    if chance.random() < 0.05:
        del text[chance.randrange(len(text)) :]
    if chance.random() < 0.05:
        text[1:1] = b'"cloven": 2, '
    return bytes(text)


def shown(error: ClovenError) -> None:
    """Check that an error is safe to print: short lines without control characters."""
    for problem in error.problems:
        assert problem.isprintable(), problem
        assert len(problem) < 3000


def takes(read: Callable[[], object]) -> None:
    """Read hostile data; accept a valid result or a `ClovenError`."""
    try:
        read()
    except ClovenError as error:
        shown(error)


def member() -> WorkerClient:
    """Return the coordinator's client of edge0, which has joined and must send a report."""
    made = WorkerClient("edge0", PARTIES, None, InFlight(1, count()), lambda _: None)
    made.joined = True
    return made


def told(message: bytes) -> None:
    """Process a message of a worker as the coordinator does, and make the tables of its report."""
    one = member()
    asked = one.report = asyncio.Future(loop=LOOP)
    takes(lambda: one._take(message))
    if asked.done():
        reports = {"edge0": PartyReport(asked.result(), one.offset)}
        devices(reports)
        links(reports, {})
    for state in one.states.values():
        assert set(state.parties) <= {"edge0", "edge1", "coordinator"}


def described(first: bytes, second: bytes) -> None:
    """Check the descriptions of two workers as the coordinator does."""
    pool = coordinator(PARTIES).pool
    found = {}
    for name, said in (("edge0", first), ("edge1", second)):
        found[name] = read(WorkerDescription, said, name)
    if problems := list(pool._mismatches(found, ())):
        raise ClovenError(problems)
    assert pool.numbers == 0
    assert [said.source for said in found.values()].count(True) == 1


def coordinator(addresses: dict[str, str]) -> Coordinator:
    return Coordinator(
        PLAN,
        Cluster({name: ClusterDevice(address=address) for name, address in addresses.items()}),
        None,
        SendOptions(),
    )


def measured(message: bytes) -> None:
    """Make the profile of a link from a worker's reply as the coordinator does."""
    reply = read(MeasureReply, message, "edge0")
    if reply.link is not None:
        costs = measured_link(("edge0", "edge1"), reply.link, tls=False).profile.transmission
        assert costs.bandwidth > 0
        assert math.isfinite(costs.bandwidth)


def fuzz(times: int, seed: int) -> None:
    chance = random.Random(seed)
    right = [json.dumps(document).encode() for document in DESCRIBED.values()]
    for _ in range(times):
        kind = chance.randrange(5)
        if kind == 0:
            takes(lambda: described(changed(DESCRIBED["edge0"], chance), right[1]))
        elif kind == 1:
            takes(lambda: described(right[0], changed(DESCRIBED["edge1"], chance)))
        elif kind == 2:
            told(changed(chance.choice(TOLD), chance))
        elif kind == 3:
            takes(partial(measured, changed(MEASURED, chance)))
        else:
            model, document = chance.choice(OTHERS)
            takes(partial(read, model, changed(document, chance), "edge0"))


def test_what_is_right_is_taken() -> None:
    described(*(json.dumps(document).encode() for document in DESCRIBED.values()))
    for document in TOLD[:8]:
        one = member()
        one.report = asyncio.Future(loop=LOOP)
        if document.get("joined") is False:
            with pytest.raises(PartyError, match="no link with edge1: cannot be reached"):
                one._take(json.dumps(document).encode())
        else:
            one._take(json.dumps(document).encode())
            assert one.report.done() == ("report" in document)
    for model, document in OTHERS:
        read(model, json.dumps(document).encode(), "edge0")


@pytest.mark.parametrize(
    ("kind", "document"),
    [*OTHERS, *((WorkerMessage, document) for document in TOLD), (WorkerDescription, DESCRIBED["edge0"])],
)
def test_what_we_send_is_what_version_3_of_the_protocol_says(kind: type[PeerMessage], document: Document) -> None:
    """A message has only the fields that were set, with their wire names: earlier releases refuse others."""
    message = read(kind, json.dumps(document).encode(), "edge0")

    assert json.loads(message.encode()) == document
    assert read(kind, message.encode(), "edge0") == message


@pytest.mark.parametrize("message", BYTES, ids=lambda message: repr(message[:24]))
def test_bytes_that_are_no_message(message: bytes) -> None:
    models: list[type[PeerMessage]] = [WorkerDescription, WorkerMessage, *(model for model, _ in OTHERS)]
    for model in models:
        if model is WorkerMessage and message in (b"{}", b"\xff\xfe{\0}\0", b"\xef\xbb\xbf{}"):
            continue  # an empty object in UTF-8, UTF-16, and with a byte-order mark
        with pytest.raises(ClovenError) as caught:
            read(model, message, "edge0")
        shown(caught.value)


def test_changed_messages_give_errors_of_ours_alone() -> None:
    fuzz(2000, seed=0)


@pytest.mark.slow
def test_a_hundred_thousand_changed_messages_give_errors_of_ours_alone() -> None:
    fuzz(100_000, seed=1)


def test_text_of_a_peer_cannot_steer_a_terminal() -> None:
    one = member()
    with pytest.raises(PartyError) as caught:
        one._take(json.dumps({"refused": "\x1b[2J" + "x" * 10_000 + "\n"}).encode())

    assert str(caught.value).startswith("edge0: \\x1b[2Jxxx")
    assert len(str(caught.value)) < 600


# --- over gRPC --------------------------------------------------------------------------------------------------


class Hostile:
    """A worker with a given description, which answers a request to join with given messages."""

    def __init__(self, described: bytes, tells: list[bytes]) -> None:
        self.server = grpc.aio.server()

        async def describe(_: bytes, _context: Any) -> bytes:
            return described

        async def control(_: Any, context: Any) -> None:
            await context.read()
            for message in tells:
                await context.write(message)
            await context.read()

        methods: dict[str, Any] = {
            DESCRIBE: grpc.unary_unary_rpc_method_handler(describe),
            CONTROL: grpc.stream_stream_rpc_method_handler(control),
        }

        class Handlers(grpc.GenericRpcHandler):
            def service(self, call: grpc.HandlerCallDetails) -> Any:
                return methods.get(str(call.method))

        self.server.add_generic_rpc_handlers([Handlers()])
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"


def refused(first: bytes, tells: list[bytes]) -> list[str]:
    """Return the error of a run with a hostile worker and an honest one."""

    async def run() -> None:
        workers = [Hostile(first, tells), Hostile(json.dumps(DESCRIBED["edge1"]).encode(), tells)]
        for worker in workers:
            await worker.server.start()
        try:
            async with coordinator({"edge0": workers[0].address, "edge1": workers[1].address}):
                raise AssertionError("the run began")
        finally:
            for worker in workers:
                await worker.server.stop(0)

    with pytest.raises(ClovenError) as caught:
        within(30, run())
    shown(caught.value)
    return list(caught.value.problems)


LIES: dict[str, Document] = {
    "no source": {"source": False},
    "two sinks": {"sink": True, "parties": ["coordinator", "edge1"]},
    "a source without a coordinator": {"parties": ["edge1"]},
    "another output": {"output": [1000]},
    "a huge output": {"output": [2**31 - 2**17] * 8},
    "a message beyond all measure": {"largest": 2**40},
    "no output": {"output": []},
    "a number as text": {"largest": "9"},
    "NaN": {"process": float("nan")},
    "control characters": {"device": "\x1b[31medge0"},
    "a plan that is none": {"plan_text": "\x1b[2J[["},
    "a deep plan": {"plan_text": "x = " + "[" * 100_000},
    "a long number": {"plan_text": "version = " + "9" * 5000},
    "busy with a long name": {"run": "r" * 100_000},
    "a lone surrogate": {"model": "\ud800"},
    "more than asked": {"extra": 1},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_hostile_description_ends_the_run_with_a_sentence(lie: str) -> None:
    assert refused(json.dumps(DESCRIBED["edge0"] | LIES[lie]).encode(), [])


@pytest.mark.parametrize(
    "message",
    [
        b'{"joined": false, "down": {"nobody": "x"}}',
        b'{"status": {"down": {"edge9": "x"}, "time": 1}}',
        b'{"status": 3}',
        b'{"failed": {"input": [], "from": {}, "reason": 1}}',
        b"[" * 100_000,
        b'{"refused": "\\u001b[2J"}',
        b'{"x": "' + b"y" * (2**20) + b'"}',
    ],
    ids=lambda message: repr(message[:30]),
)
def test_a_hostile_answer_ends_the_run_with_a_sentence(message: bytes) -> None:
    assert refused(json.dumps(DESCRIBED["edge0"]).encode(), [message])


def test_what_grpc_is_told_cannot_steer_a_terminal() -> None:
    """A hostile server may end a call with any text."""

    async def run() -> None:
        server = grpc.aio.server()

        async def abort(_: bytes, context: Any) -> bytes:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "\x1b[2J" + "x" * 2000)
            return b""

        class Handlers(grpc.GenericRpcHandler):
            def service(self, call: grpc.HandlerCallDetails) -> Any:
                return grpc.unary_unary_rpc_method_handler(abort)

        server.add_generic_rpc_handlers([Handlers()])
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        try:
            async with coordinator({"edge0": address, "edge1": address}):
                raise AssertionError("the run began")
        finally:
            await server.stop(0)

    with pytest.raises(ClovenError, match=r"edge0: \\x1b\[2Jxx") as caught:
        within(30, run())
    shown(caught.value)
