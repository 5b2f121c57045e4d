"""Identities: the checks when reading them, and which parties can connect over gRPC and TLS."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import grpc.aio
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from cloven.errors import ClovenError
from cloven.runtime.link import authority, identity
from cloven.runtime.link.certificates import Authority, founded, new_private, private_pem, signed
from cloven.runtime.link.identity import Identity, peer_name
from tests.test_architecture import loaded

DEVICES = ["edge0", "edge_1", "Cam-2.lab", "x" * 63]
NOW = datetime.now(UTC)
PAST = NOW - timedelta(days=10)
FUTURE = NOW + timedelta(days=10)
METHOD = "/cloven.Test/Who"


@dataclass(frozen=True)
class World:
    """Valid and invalid identities of one authority, and identities of another one."""

    keys: Path
    edge0: Identity
    edge_1: Identity
    past: Identity
    future: Identity
    foreign: Identity


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("identities")
    authority.new([*DEVICES, "past", "future"], root / "keys", days=1, now=PAST)
    authority.renew(root / "keys", DEVICES)
    authority.renew(root / "keys", ["future"], now=FUTURE)
    authority.new(["edge_1"], root / "others")
    return World(
        root / "keys",
        edge0=identity.read(root / "keys" / "edge0"),
        edge_1=identity.read(root / "keys" / "edge_1"),
        past=identity.read(root / "keys" / "past", now=PAST),
        future=identity.read(root / "keys" / "future", now=FUTURE),
        foreign=identity.read(root / "others" / "edge_1"),
    )


@pytest.fixture
def folder(world: World, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world.keys / "edge0", tmp_path / "edge0"))


def refused(folder: Path, expected: str | None = None, now: datetime | None = None) -> tuple[str, ...]:
    with pytest.raises(ClovenError) as caught:
        identity.read(folder, expected, now)
    text = str(caught.value)
    for path in (folder / "private.pem", *folder.glob("links/*")):
        if path.is_file():
            lines = path.read_text("latin-1").split("\n")
            assert not any(line in text for line in lines if len(line) > 8)
    return caught.value.problems


def test_an_identity_knows_its_name_its_end_and_its_keys(world: World) -> None:
    for name in DEVICES:
        one = identity.read(world.keys / name, expected=name)
        assert (one.name, one.folder) == (name, world.keys / name)
        assert 364.9 < one.days_left() <= 365
        assert one.warning() is None
    assert world.edge0.link_key("edge_1") == world.edge_1.link_key("edge0")
    assert len(world.edge0.link_key("coordinator")) == 32


def test_no_key_is_shown(world: World) -> None:
    assert repr(world.edge0) == (
        f"Identity(name='edge0', folder={world.keys / 'edge0'!r}, expires={world.edge0.expires!r})"
    )


def test_it_warns_in_the_last_fourteen_days(world: World) -> None:
    end = world.edge0.expires
    assert world.edge0.warning(end - timedelta(days=14)) is None
    warning = world.edge0.warning(end - timedelta(days=13.5))
    assert warning == (
        f"{world.keys / 'edge0' / 'certificate.pem'} expires on {end:%Y-%m-%d %H:%M} UTC, in 13.5 days: run "
        "`cloven keys renew` where the authority is, copy the new certificate.pem here, and start again"
    )
    assert world.edge0.days_left(end - timedelta(days=2)) == 2


def test_missing_files_are_told_at_once(folder: Path, tmp_path: Path) -> None:
    for name in ("authority", "certificate", "private"):
        (folder / f"{name}.pem").unlink()
    assert refused(folder) == tuple(
        f"{folder / name}.pem is missing: copy the whole folder again from where it was created"
        for name in ("authority", "certificate", "private")
    )
    assert refused(tmp_path / "absent") == (
        f"{tmp_path / 'absent'} is not a folder: create keys with `cloven keys new`, and copy this party's folder "
        "here",
    )


def test_a_private_key_that_others_can_read_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "private.pem"
    path.chmod(0o644)
    assert refused(folder) == (
        f"{path} is accessible to other users (mode 0644, expected 0600); run: chmod 600 {path}",
    )
    path.chmod(0o400)
    assert identity.read(folder).name == "edge0"
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    assert f"{path} belongs to another user" in refused(folder)[0]


def test_files_that_hold_something_else(folder: Path) -> None:
    private = (folder / "private.pem").read_bytes()
    (folder / "private.pem").write_bytes(private[: len(private) // 2])
    (folder / "certificate.pem").write_bytes(private)
    (folder / "authority.pem").unlink()
    (folder / "authority.pem").mkdir()
    directory, certificate, key = refused(folder)
    assert f"cannot read {folder / 'authority.pem'}: it is a folder" in directory
    assert f"{folder / 'certificate.pem'} is not a certificate in PEM format" in certificate
    assert f"{folder / 'private.pem'} is not a private key in PEM format without a password" in key


def test_a_key_with_a_password_is_refused_and_not_asked_for(folder: Path) -> None:
    key = new_private().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (folder / "private.pem").write_bytes(key)
    assert "is not a private key in PEM format without a password" in refused(folder)[0]


def test_what_does_not_belong_together(folder: Path, world: World) -> None:
    shutil.copy(world.keys / "edge_1" / "private.pem", folder)
    assert f"{folder / 'private.pem'} is not the private key of {folder / 'certificate.pem'}" in refused(folder)[0]
    (folder / "private.pem").write_bytes(private_pem(Ed25519PrivateKey.generate()))
    shutil.copy(world.foreign.folder / "authority.pem", folder)
    signature, private = refused(folder)
    assert f"{folder / 'certificate.pem'} is not signed by {folder / 'authority.pem'}" in signature
    assert "is not the private key of" in private


def test_an_authority_of_the_same_name_with_another_key_does_not_count(folder: Path) -> None:
    mine, theirs = (founded(NOW) for _ in range(2))
    forged = signed(Authority(theirs.certificate, mine.key), "edge0", new_private().public_key(), NOW, 9)
    (folder / "certificate.pem").write_bytes(forged.public_bytes(Encoding.PEM))
    (folder / "authority.pem").write_bytes(theirs.certificate.public_bytes(Encoding.PEM))
    assert "is not signed by" in refused(folder)[0]


def test_another_name_than_expected_is_told_with_all_else(folder: Path) -> None:
    (folder / "private.pem").chmod(0o666)
    mode, name = refused(folder, expected="edge7")
    assert "is accessible to other users" in mode
    assert name == (
        f"{folder / 'certificate.pem'} is the certificate of edge0, expected edge7: use the folder of edge7"
    )


def test_a_certificate_without_one_name_is_refused(folder: Path) -> None:
    own = founded(NOW)
    (folder / "certificate.pem").write_bytes(own.certificate.public_bytes(Encoding.PEM))
    (folder / "authority.pem").write_bytes(own.certificate.public_bytes(Encoding.PEM))
    (folder / "private.pem").write_bytes(private_pem(own.key))
    assert "must name exactly one device: use a certificate that `cloven keys new` created" in refused(folder)[0]


def test_certificates_out_of_time_say_since_when_and_what_to_do(world: World) -> None:
    (expired,) = refused(world.keys / "past")
    end = PAST + timedelta(days=1)
    assert f"past/certificate.pem expired on {end:%Y-%m-%d %H:%M} UTC; this machine's clock shows" in expired
    assert expired.endswith(
        "run `cloven keys renew` where the authority is, copy the new certificate.pem here, and start again"
    )
    (early,) = refused(world.keys / "future")
    begin = FUTURE - timedelta(minutes=5)
    assert f"future/certificate.pem is not valid before {begin:%Y-%m-%d %H:%M} UTC, but this machine's" in early
    assert "set the clock, or run `cloven keys renew`" in early
    both = refused(world.keys / "edge0", now=NOW + timedelta(days=9000))
    assert "authority.pem expired on" in both[0]
    assert "create new keys for all devices with `cloven keys new`" in both[0]
    assert "certificate.pem expired on" in both[1]


def test_a_link_key_that_is_missing_or_no_key(folder: Path, tmp_path: Path) -> None:
    one = identity.read(folder)
    with pytest.raises(ClovenError) as caught:
        one.link_key("edge9")
    assert str(caught.value) == (
        f"edge0 has no key for its link with edge9: {folder / 'links' / 'edge9.key'} is missing; copy it from "
        "edge0/links/ where the authority is, after `cloven keys add` if edge9 is new"
    )
    (folder / "links" / "edge_1.key").chmod(0o604)
    with pytest.raises(ClovenError, match=r"edge_1.key is accessible to other users"):
        one.link_key("edge_1")
    (tmp_path / "other.key").write_text("00" * 32)
    for name in ("../../other", "", "a/b", str(tmp_path / "other")):
        with pytest.raises(ClovenError, match="is not a device name"):
            one.link_key(name)


# --- gRPC


def who(
    server: grpc.ServerCredentials | None,
    client: grpc.ChannelCredentials | None,
    expects: str,
    calls: list[str | None] | None = None,
) -> str:
    """Return the answer of a server that returns its client's name; the client expects a server of a name."""
    seen = [] if calls is None else calls

    async def handle(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        seen.append(peer_name(context))
        return repr(seen[-1]).encode()

    async def run() -> str:
        listener = grpc.aio.server()
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "Who": grpc.unary_unary_rpc_method_handler(handle)
        }
        listener.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("cloven.Test", handlers),))
        place = "127.0.0.1:0"
        port = listener.add_secure_port(place, server) if server else listener.add_insecure_port(place)
        await listener.start()
        target = f"127.0.0.1:{port}"
        options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
        named = [*options, ("grpc.ssl_target_name_override", expects)]
        try:
            async with (
                grpc.aio.secure_channel(target, client, named)
                if client
                else grpc.aio.insecure_channel(target, options)
            ) as channel:
                ask: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
                return (await ask(b"", timeout=5)).decode()
        finally:
            await listener.stop(None)

    return asyncio.run(run())


def not_answered(server: grpc.ServerCredentials | None, client: grpc.ChannelCredentials | None, name: str) -> str:
    calls: list[str | None] = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        who(server, client, name, calls)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert calls == []
    return str(caught.value.details())


@pytest.mark.parametrize("name", DEVICES)
def test_grpc_both_sides_prove_their_names(world: World, name: str) -> None:
    one, coordinator = identity.read(world.keys / name), world.edge0

    assert who(one.server_credentials(), coordinator.channel_credentials(), name) == "'edge0'"
    assert who(coordinator.server_credentials(), one.channel_credentials(), "edge0") == repr(name)


@pytest.mark.parametrize("bad", ["foreign", "past", "future"])
def test_grpc_refuses_clients_of_another_authority_or_time(world: World, bad: str) -> None:
    client: Identity = getattr(world, bad)
    # The client trusts the right authority, so that the server must refuse.
    credentials = grpc.ssl_channel_credentials(world.edge0.authority, client.private, client.certificate)

    not_answered(world.edge0.server_credentials(), credentials, "edge0")


@pytest.mark.parametrize(("bad", "name"), [("foreign", "edge_1"), ("past", "past"), ("future", "future")])
def test_grpc_refuses_servers_of_another_authority_or_time(world: World, bad: str, name: str) -> None:
    server: Identity = getattr(world, bad)
    credentials = grpc.ssl_server_credentials([(server.private, server.certificate)], world.edge0.authority, True)

    assert "CERTIFICATE_VERIFY_FAILED" in not_answered(credentials, world.edge0.channel_credentials(), name)


def test_grpc_refuses_clients_without_a_certificate(world: World) -> None:
    nameless = grpc.ssl_channel_credentials(world.edge0.authority)

    not_answered(world.edge0.server_credentials(), nameless, "edge0")
    not_answered(world.edge0.server_credentials(), None, "edge0")


def test_grpc_refuses_the_server_of_another_device(world: World) -> None:
    said = not_answered(world.edge_1.server_credentials(), world.edge0.channel_credentials(), "Cam-2.lab")

    assert "Hostname Verification Check failed" in said


def test_grpc_without_tls_has_no_names(world: World) -> None:
    assert who(None, None, "edge0") == "None"
    one_way = grpc.ssl_server_credentials([(world.edge0.private, world.edge0.certificate)])
    assert who(one_way, world.edge_1.channel_credentials(), "edge0") == "None"


def only(context: ssl.SSLContext, version: ssl.TLSVersion) -> ssl.SSLContext:
    """Return a context restricted to one TLS version, with HTTP/2."""
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = version
    context.minimum_version = version
    context.set_alpn_protocols(["h2"])
    return context


def test_a_grpc_server_speaks_tls_1_3_only(world: World) -> None:
    def spoken(port: int, version: ssl.TLSVersion) -> str | None:
        context = only(world.edge_1.client_context(), version)
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="edge0") as made,
        ):
            return made.version()

    async def run() -> str | None:
        server = grpc.aio.server()
        port = server.add_secure_port("127.0.0.1:0", world.edge0.server_credentials())
        await server.start()
        try:
            with pytest.raises(OSError, match=r"(?i)EOF|handshake failure|version"):
                await asyncio.to_thread(spoken, port, ssl.TLSVersion.TLSv1_2)
            return await asyncio.to_thread(spoken, port, ssl.TLSVersion.TLSv1_3)
        finally:
            await server.stop(None)

    assert asyncio.run(run()) == "TLSv1.3"


def test_a_grpc_client_speaks_tls_1_3_only(world: World) -> None:
    """The client refuses a server of its authority that supports only TLS 1.2."""

    def spoken(listener: socket.socket, version: ssl.TLSVersion) -> str:
        plain, _ = listener.accept()
        try:
            with only(world.edge0.server_context(), version).wrap_socket(plain, server_side=True) as made:
                return str(made.version())
        except OSError as error:
            return str(error)

    async def run(version: ssl.TLSVersion) -> tuple[str, str]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(10)
            accepting = asyncio.create_task(asyncio.to_thread(spoken, listener, version))
            named = [("grpc.ssl_target_name_override", "edge0"), ("grpc.use_local_subchannel_pool", 1)]
            target = f"127.0.0.1:{listener.getsockname()[1]}"
            async with grpc.aio.secure_channel(target, world.edge_1.channel_credentials(), named) as channel:
                ask: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await ask(b"", timeout=5)
            return await accepting, str(caught.value.details())

    server, client = asyncio.run(run(ssl.TLSVersion.TLSv1_2))
    assert "no shared cipher" in server
    assert "Tls handshake failed" in client
    server, _ = asyncio.run(run(ssl.TLSVersion.TLSv1_3))
    assert server == "TLSv1.3"


def test_grpc_that_was_imported_too_early_is_refused(world: World) -> None:
    """After its import, gRPC would also accept TLS 1.2, unless the user has set the environment variable."""
    code = (
        "import grpc\nfrom pathlib import Path\n"
        "from cloven.errors import ClovenError\nimport cloven.runtime.cluster\n"
        f"from cloven.runtime.link import identity\none = identity.read(Path({str(world.edge0.folder)!r}))\n"
        "for make in (one.server_credentials, one.channel_credentials):\n"
        "    try:\n        make()\n        print('made')\n    except ClovenError as error:\n        print(error)\n"
    )
    bare = {name: value for name, value in os.environ.items() if name != identity.OLD_SUITES}

    def printed(environment: dict[str, str]) -> list[str]:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.splitlines()

    assert all("grpc was imported before cloven" in line for line in printed(bare))
    assert printed(bare | {identity.OLD_SUITES: identity.NONE_USABLE}) == ["made", "made"]


def test_a_peer_with_several_names_has_none() -> None:
    class Context:
        def auth_context(self) -> Mapping[str, Iterable[bytes]]:
            return {"x509_subject_alternative_name": [b"edge0", b"edge1"]}

    assert peer_name(Context()) is None


# --- TLS of the standard library


def shake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> tuple[str, str | None]:
    """Return the client's certified name and the TLS version after a complete handshake in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(to_client, to_server, server_hostname=name)
    far = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (near, far, near, far):
        with suppress(ssl.SSLWantReadError):
            side.do_handshake()
    near.write(b"x")
    assert far.read(1) == b"x"
    shown = far.getpeercert()
    assert shown
    return str(shown["subjectAltName"]), far.version()


def trusting(one: Identity, protocol: int, trusted: Identity) -> ssl.SSLContext:
    """Return a context with the certificate of one identity that trusts the authority of another."""
    context = ssl.SSLContext(protocol)
    context.load_verify_locations(cadata=trusted.authority.decode())
    context.load_cert_chain(one.folder / "certificate.pem", one.folder / "private.pem")
    return context


@pytest.mark.parametrize("name", DEVICES)
def test_tls_both_sides_prove_their_names(world: World, name: str) -> None:
    one = identity.read(world.keys / name)

    assert shake(one.server_context(), world.edge_1.client_context(), name) == (
        "(('DNS', 'edge_1'),)",
        "TLSv1.3",
    )


def test_tls_refuses_what_grpc_refuses(world: World) -> None:
    server, client = world.edge0.server_context(), world.edge0.client_context()
    nameless = ssl.create_default_context(cadata=world.edge0.authority.decode())
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        shake(server, nameless, "edge0")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake(world.edge_1.server_context(), client, "Cam-2.lab")
    for bad, name, why in (
        (world.foreign, "edge_1", "unable to get local issuer|self-signed"),
        (world.past, "past", "has expired"),
        (world.future, "future", "not yet valid"),
    ):
        with pytest.raises(ssl.SSLCertVerificationError, match=why):
            shake(server, trusting(bad, ssl.PROTOCOL_TLS_CLIENT, world.edge0), "edge0")
        with pytest.raises(ssl.SSLCertVerificationError, match=why):
            shake(trusting(bad, ssl.PROTOCOL_TLS_SERVER, world.edge0), client, name)


def test_tls_is_of_version_1_3(world: World) -> None:
    old = world.edge_1.client_context()
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match=r"(?i)unsupported.protocol"):
        shake(world.edge0.server_context(), old, "edge0")


def test_files_that_change_after_reading_are_noticed(folder: Path, world: World) -> None:
    one = identity.read(folder)
    shutil.copy(world.keys / "edge_1" / "private.pem", folder)
    with pytest.raises(ClovenError, match="have changed since they were read"):
        one.server_context()
    (folder / "private.pem").unlink()
    with pytest.raises(ClovenError, match="No such file"):
        one.server_context()


def test_a_worker_starts_without_x509_and_grpc() -> None:
    heavy = {"cryptography", "grpc", "torch", "numpy", "pydantic"}

    assert not loaded("import cloven.runtime.link.identity") & heavy
    assert not loaded("import cloven.runtime.link.authority") & {"cryptography", "grpc", "torch", "numpy"}


@pytest.mark.parametrize("name", ["certificate.pem", "authority.pem", "private.pem"])
def test_a_pipe_in_place_of_a_file_is_refused_at_once(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name, 0o600)

    assert any("expected a regular file" in problem for problem in refused(folder))
