"""A host without the expected enclave cannot obtain the key with any false quote; the expected enclave can."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from cloven.enclave import dcap
from cloven.enclave.endpoint import answer, deliver
from cloven.enclave.owner import data_key, new_owner_key, read_owner_key
from cloven.enclave.quote import DIRECT, SGX, SIMULATED, TDX, Expected, Measurement, Quote, binding, read_quote
from cloven.enclave.release import Waiting, release, waiting
from cloven.enclave.sealed_folder import Sealed, new_id, seal_model
from cloven.errors import ClovenError
from cloven.partition.plan import ModelSpec, Plan
from cloven.partition.vertical import Vertical
from tests.cli.conftest import Run
from tests.enclave.pccs import answers, serving
from tests.enclave.platforms import MEASURED, MRENCLAVE, NOW, TD_MEASURED, Platform, platform

PLAN = Plan(
    model=ModelSpec(name="lenet5", input=(1, 28, 28), classes=10),
    strategy=(Vertical(cuts=("conv2",)),),
    devices=("enclave", "accelerator"),
)
REAL = Path(__file__).parents[1] / "enclave" / "data"
OWN = platform()
"""The processor whose enclave the owner expects; the host may have the same kind, and run other enclaves on it."""
STRANGER = Platform()
"""A vendor that the host invented."""
OLD_NONCE = b"o" * 32


@dataclass(frozen=True)
class Asked:
    """The knowledge of a host that receives a request for a quote."""

    nonce: bytes
    folder: str
    public: bytes

    @property
    def bound(self) -> bytes:
        return binding(self.public, self.nonce, self.folder)

    def quote(self, kind: str, evidence: bytes = b"", digits: str = MRENCLAVE) -> Quote:
        return Quote(Measurement(kind, digits), self.folder, self.public, self.bound, evidence)


def replayed(asked: Asked) -> Quote:
    old = replace(asked, nonce=OLD_NONCE)
    return old.quote(SGX, OWN.quote(old.bound))


def elsewhere(asked: Asked) -> Quote:
    other = replace(asked, folder="folder-2")
    return other.quote(SGX, OWN.quote(other.bound))


LIES: dict[str, tuple[Callable[[Asked], Quote], str]] = {
    "simulated": (lambda asked: asked.quote(SIMULATED), "has the kind simulated, expected sgx"),
    "gramine-direct": (lambda asked: asked.quote(DIRECT), "has the kind gramine-direct, expected sgx"),
    "no evidence": (lambda asked: asked.quote(SGX), "not send a hardware quote; expected one of the kind sgx"),
    "garbage": (lambda asked: asked.quote(SGX, b"\x03\0\x02\0" + bytes(5000)), "Failed to decode quote"),
    "a real SGX quote": (lambda asked: asked.quote(SGX, (REAL / "sgx_quote").read_bytes()), "UnknownIssuer"),
    "a real TDX quote": (
        lambda asked: asked.quote(TDX, (REAL / "tdx_quote").read_bytes()),
        "kind tdx, expected sgx",
    ),
    "simulated, and a real one": (
        lambda asked: asked.quote(SIMULATED, (REAL / "sgx_quote").read_bytes()),
        "has the kind simulated, expected sgx",
    ),
    "another enclave": (
        lambda asked: asked.quote(SGX, OWN.quote(asked.bound, mrenclave="cd" * 32)),
        "the processor measured sgx:cdcd",
    ),
    "another, as simulated": (
        lambda asked: asked.quote(SIMULATED, OWN.quote(asked.bound, mrenclave="cd" * 32)),
        "has the kind simulated, expected sgx",
    ),
    "another, that says so": (
        lambda asked: asked.quote(SGX, OWN.quote(asked.bound, mrenclave="cd" * 32), "cd" * 32),
        "the enclave's measurement is sgx:cdcd",
    ),
    "replayed": (replayed, "the quote was replayed or modified"),
    "replayed evidence": (lambda asked: asked.quote(SGX, replayed(asked).evidence), "belongs to another request"),
    "another's key": (
        lambda asked: asked.quote(SGX, OWN.quote(replace(asked, public=b"k" * 32).bound)),
        "belongs to another request",
    ),
    "half a binding": (
        lambda asked: asked.quote(SGX, OWN.quote(asked.bound[:32] + b"x" * 32)),
        "belongs to another request",
    ),
    "half a binding, then zeros": (
        lambda asked: asked.quote(SGX, OWN.quote(asked.bound[:32])),
        "belongs to another request",
    ),
    "debug": (lambda asked: asked.quote(SGX, replace(OWN, flags=0x7).quote(asked.bound)), "Debug mode is enabled"),
    "without INIT": (lambda asked: asked.quote(SGX, replace(OWN, flags=0x4).quote(asked.bound)), "INIT is missing"),
    "bytes behind": (lambda asked: asked.quote(SGX, OWN.quote(asked.bound) + b"x"), "bytes after the end"),
    "a trust domain": (lambda asked: asked.quote(SGX, OWN.quote(asked.bound, TDX)), "Unsupported QE Identity"),
    "its own maker's": (
        lambda asked: asked.quote(SGX, STRANGER.quote(asked.bound)),
        "Failed to verify certificate",
    ),
    "another folder": (elsewhere, "for the sealed folder folder-2"),
}


@dataclass
class Host:
    """Answers every nonce with a quote, and records later messages."""

    lie: Callable[[Asked], Quote]
    folder: str
    got: list[bytes]

    def quote(self, message: bytes) -> bytes:
        nonce = bytes.fromhex(json.loads(message)["nonce"])
        public = X25519PrivateKey.generate().public_key().public_bytes_raw()
        return self.lie(Asked(nonce, self.folder, public)).message()


def frame(message: bytes) -> bytes:
    return struct.pack(">I", len(message)) + message


def heard(connection: socket.socket) -> bytes:
    with connection.makefile("rb") as stream:
        size = stream.read(4)
        return stream.read(struct.unpack(">I", size)[0]) if len(size) == 4 else b""


@contextmanager
def listening(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """Yield an address that handles each connection with `talk`."""

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    connection.settimeout(5)
                    talk(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


@contextmanager
def lying(host: Host) -> Iterator[str]:
    def talk(connection: socket.socket) -> None:
        connection.sendall(frame(host.quote(heard(connection))))
        if more := heard(connection):
            host.got.append(more)

    with listening(talk) as endpoint:
        yield endpoint


@dataclass(frozen=True)
class Owner:
    """A sealed folder, the owner's key, and Intel's collateral, in files."""

    folder: Sealed
    key: Path
    collateral: Path


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Owner:
    here = tmp_path_factory.mktemp("owner")
    new_owner_key(here / "owner.key")
    folder = Sealed(here / "sealed", new_id(), 2**30)
    seal_model(folder, PLAN, {}, key=data_key(read_owner_key(here / "owner.key"), folder.id))
    (here / "collateral.json").write_text(OWN.collateral_json())
    return Owner(folder, here / "owner.key", here / "collateral.json")


@pytest.fixture
def release_to(cloven: Run, owner: Owner, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """`cloven enclave release`, which trusts the root of `OWN` instead of Intel's, at its time."""
    monkeypatch.setattr(dcap, "verifier", partial(dcap.verifier, root=OWN.root_der, now=NOW))

    def run(endpoint: str, *options: str) -> tuple[int, str]:
        words = ("enclave", "release", owner.folder.path, "--owner-key", owner.key, "--to", endpoint, *options)
        done = cloven(*words)
        return done.code, done.err

    return run


@pytest.mark.parametrize(("lie", "reason"), LIES.values(), ids=LIES)
def test_no_lie_gets_the_key_where_hardware_is_expected(
    lie: Callable[[Asked], Quote], reason: str, owner: Owner, release_to: Callable[..., tuple[int, str]]
) -> None:
    host = Host(lie, owner.folder.id, [])
    with lying(host) as endpoint:
        code, said = release_to(endpoint, "--expect", str(MEASURED), "--collateral", str(owner.collateral))

    assert code == 2
    assert reason in " ".join(said.split())
    assert "Traceback" not in said
    assert "released" not in said
    assert not host.got

    asked = Asked(bytes(32), owner.folder.id, X25519PrivateKey.generate().public_key().public_bytes_raw())
    for expect in (MEASURED, Measurement(TDX, MRENCLAVE)):
        with pytest.raises(ClovenError):
            release(
                lie(asked),
                asked.nonce,
                expect=Expected(expect, OWN.verifier()),
                owner_key=bytes(32),
                folder_id=owner.folder.id,
            )


SAYS = f"simulated:{MRENCLAVE}"
OPTIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "nothing but its measurement": (("--expect", SAYS), "accept this one explicitly: --accept simulated"),
    "no kind": (("--expect", MRENCLAVE), "expected one of simulated, gramine-direct, sgx, tdx"),
    "the backend's name": (("--expect", f"gramine-sgx:{MRENCLAVE}"), "expected one of simulated, gramine-direct"),
    "no collateral": (("--expect", f"sgx:{MRENCLAVE}"), "an unverified hardware quote is never accepted"),
    "no collateral, TDX": (("--expect", f"tdx:{MRENCLAVE}"), "an unverified hardware quote is never accepted"),
    "hardware, and simulated": (("--expect", f"sgx:{MRENCLAVE}", "--accept", "simulated"), "omit --accept"),
    "another word": (("--expect", SAYS, "--accept", "gramine-direct"), "use --accept simulated"),
    "yes": (("--expect", SAYS, "--accept", "yes"), "use --accept simulated"),
    "another measurement": (
        ("--expect", "simulated:" + "0" * 64, "--accept", "simulated"),
        "expected simulated:000",
    ),
    "direct": (
        ("--expect", f"gramine-direct:{MRENCLAVE}", "--accept", "gramine-direct"),
        "has the kind simulated, expected gramine-direct",
    ),
    "a policy alone": (("--expect", f"sgx:{MRENCLAVE}", "--policy", "p.toml"), "--policy requires --collateral"),
    "fetched": (
        ("--expect", f"sgx:{MRENCLAVE}", "--fetch-collateral", "http://127.0.0.1:1"),
        "is not an SGX or TDX hardware quote",
    ),
}


@pytest.mark.parametrize(("options", "said"), OPTIONS.values(), ids=OPTIONS)
def test_a_simulated_host_gets_nothing_by_any_other_option(
    options: tuple[str, ...], said: str, owner: Owner, release_to: Callable[..., tuple[int, str]]
) -> None:
    host = Host(LIES["simulated"][0], owner.folder.id, [])
    with lying(host) as endpoint:
        code, found = release_to(endpoint, *options)

    assert code == 2
    assert said in " ".join(found.split())
    assert not host.got


def test_collateral_goes_with_no_simulated_measurement(
    owner: Owner, release_to: Callable[..., tuple[int, str]]
) -> None:
    host = Host(LIES["simulated"][0], owner.folder.id, [])
    options = ("--expect", f"simulated:{MRENCLAVE}", "--accept", "simulated", "--collateral", str(owner.collateral))
    with lying(host) as endpoint:
        code, said = release_to(endpoint, *options)

    assert (code, host.got) == (2, [])
    assert "omit the collateral" in " ".join(said.split())


# --- the expected enclave ---------------------------------------------------------------------------------------


@contextmanager
def honest(enclave: Waiting, keys: list[bytes]) -> Iterator[str]:
    def talk(connection: socket.socket) -> None:
        for _ in range(2):
            if message := heard(connection):
                reply, key = answer(enclave, message)
                keys.extend([key] if key else [])
                connection.sendall(frame(reply))

    with listening(talk) as endpoint:
        yield endpoint


@pytest.mark.parametrize("measured", [MEASURED, TD_MEASURED], ids=str)
def test_the_expected_enclave_gets_the_key(
    measured: Measurement, owner: Owner, release_to: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    keys: list[bytes] = []
    (tmp_path / "c.json").write_text(OWN.collateral_json(measured.kind))
    enclave = waiting(measured, owner.folder.id, prove=partial(OWN.quote, kind=measured.kind))
    with honest(enclave, keys) as endpoint:
        code, said = release_to(endpoint, "--expect", str(measured), "--collateral", str(tmp_path / "c.json"))

    assert code == 0, said
    assert "TCB status UpToDate, Intel's advisories: none" in said
    assert keys == [data_key(read_owner_key(owner.key), owner.folder.id)]


def test_a_policy_from_a_file_decides(
    owner: Owner, release_to: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    """The same platform with a TCB that needs hardening: refused, accepted, and refused for its advisory."""
    weaker = replace(OWN, status="SWHardeningNeeded", advisories=("INTEL-SA-00615",))
    collateral, policy = tmp_path / "collateral.json", tmp_path / "policy.toml"
    collateral.write_text(weaker.collateral_json())
    keys: list[bytes] = []
    options = ("--expect", str(MEASURED), "--collateral", str(collateral))
    with honest(waiting(MEASURED, owner.folder.id, prove=OWN.quote), keys) as endpoint:
        assert "TCB status is SWHardeningNeeded, expected UpToDate" in release_to(endpoint, *options)[1]
        policy.write_text('tcb_status = ["SWHardeningNeeded"]\nrejected_advisories = ["INTEL-SA-00615"]')
        assert "which the policy rejects" in " ".join(
            release_to(endpoint, *options, "--policy", str(policy))[1].split()
        )
        assert keys == []
        policy.write_text('tcb_status = ["SWHardeningNeeded"]')
        code, said = release_to(endpoint, *options, "--policy", str(policy))

    assert code == 0, said
    assert len(keys) == 1


def test_collateral_is_fetched_for_the_enclave_that_answers(
    owner: Owner, release_to: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    """Fetched collateral is saved, so that the next release does not need the network."""
    keys: list[bytes] = []
    file = tmp_path / "kept.json"
    options = ("--expect", str(MEASURED), "--collateral", str(file))
    with serving(answers(json.loads(OWN.collateral_json()))) as (url, paths):
        with honest(waiting(MEASURED, owner.folder.id, prove=OWN.quote), keys) as endpoint:
            code, said = release_to(endpoint, *options, "--fetch-collateral", url)
        asked = len(paths)
        assert code == 0, said
        with honest(waiting(MEASURED, owner.folder.id, prove=OWN.quote), keys) as endpoint:
            code, said = release_to(endpoint, *options)

    assert code == 0, said
    assert len(keys) == 2
    assert asked == len(paths) == 4


def test_the_insecure_word_lets_a_simulated_enclave_in(
    owner: Owner, release_to: Callable[..., tuple[int, str]]
) -> None:
    keys: list[bytes] = []
    claimed = Measurement(SIMULATED, MRENCLAVE)
    with honest(waiting(claimed, owner.folder.id), keys) as endpoint:
        code, said = release_to(endpoint, "--expect", str(claimed), "--accept", "simulated")

    assert code == 0, said
    assert "nothing protects it" in said
    assert len(keys) == 1


def test_a_delivery_says_what_it_accepted(owner: Owner) -> None:
    keys: list[bytes] = []
    with honest(waiting(MEASURED, owner.folder.id, prove=OWN.quote), keys) as endpoint:
        expect = Expected(MEASURED, OWN.verifier())
        quote = deliver(endpoint, expect=expect, owner_key=bytes(32), folder_id=owner.folder.id)

    assert quote == read_quote(quote.message())
    assert quote.words.startswith("sgx: the processor measured the enclave")
