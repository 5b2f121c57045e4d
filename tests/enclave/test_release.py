"""Quotes and releases: the key reaches only the expected enclave, and only once; everything else is refused."""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from cloven.enclave import release as releasing
from cloven.enclave.endpoint import answer
from cloven.enclave.owner import data_key
from cloven.enclave.quote import Attested, Expected, Measurement, Quote, Verifier, binding, problems, read_quote
from cloven.enclave.release import Waiting, release, waiting
from cloven.errors import ClovenError

OWNER = bytes(range(32))
NONCE, OTHER_NONCE = b"n" * 32, b"o" * 32
MEASURED, OTHER = "simulated:" + "ab" * 32, "simulated:" + "cd" * 32
FOLDER = "folder-1"
SIMULATED = Expected(Measurement.parse(MEASURED), accept="simulated")


def enclave(measurement: str = MEASURED, folder_id: str = FOLDER) -> Waiting:
    return waiting(Measurement.parse(measurement), folder_id)


def claimed(public_key: bytes, report_data: bytes, measurement: str = MEASURED) -> Quote:
    return Quote(Measurement.parse(measurement), FOLDER, public_key, report_data)


def released(quote: Quote, nonce: bytes = NONCE) -> bytes:
    return release(quote, nonce, expect=SIMULATED, owner_key=OWNER, folder_id=FOLDER)


def opened_by_hand(
    private: X25519PrivateKey, sealed: bytes, info: bytes, associated: bytes = b"", key_bytes: int = 32
) -> bytes:
    """RFC 9180, base mode, one message: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-GCM."""

    def extract(suite: bytes, salt: bytes, label: bytes, secret: bytes) -> bytes:
        return hmac.digest(salt, b"HPKE-v1" + suite + label + secret, "sha256")

    def expand(suite: bytes, secret: bytes, label: bytes, about: bytes, size: int) -> bytes:
        labelled = size.to_bytes(2, "big") + b"HPKE-v1" + suite + label + about
        return hmac.digest(secret, labelled + b"\x01", "sha256")[:size]

    kem, suite = b"KEM\x00\x20", b"HPKE\x00\x20\x00\x01\x00" + bytes([{16: 1, 32: 2}[key_bytes]])
    encapsulated, ciphertext = sealed[:32], sealed[32:]
    agreed = private.exchange(X25519PublicKey.from_public_bytes(encapsulated))
    public = private.public_key().public_bytes_raw()
    shared = expand(kem, extract(kem, b"", b"eae_prk", agreed), b"shared_secret", encapsulated + public, 32)
    context = b"\0" + extract(suite, b"", b"psk_id_hash", b"") + extract(suite, b"", b"info_hash", info)
    secret = extract(suite, shared, b"secret", b"")
    key = expand(suite, secret, b"key", context, key_bytes)
    return AESGCM(key).decrypt(expand(suite, secret, b"base_nonce", context, 12), ciphertext, associated)


@pytest.mark.parametrize(
    ("private", "encapsulated", "ciphertext", "key_bytes"),
    [
        (
            "4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8",
            "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431",
            "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a",
            16,
        ),
        (
            "497b4502664cfea5d5af0b39934dac72242a74f8480451e1aee7d6a53320333d",
            "6c93e09869df3402d7bf231bf540fadd35cd56be14f97178f0954db94b7fc256",
            "e5d84cd531cfb583096e7cfa9641bd3079cf3a91cda813c52deb5f512be9931980a41de125a925cdad859d5b7a",
            32,
        ),
    ],
    ids=["RFC 9180 A.1.1", "the RFC's test-vectors.json, AES-256-GCM"],
)
def test_the_check_by_hand_opens_the_published_vectors(
    private: str, encapsulated: str, ciphertext: str, key_bytes: int
) -> None:
    found = opened_by_hand(
        X25519PrivateKey.from_private_bytes(bytes.fromhex(private)),
        bytes.fromhex(encapsulated + ciphertext),
        b"Ode on a Grecian Urn",
        b"Count-0",
        key_bytes,
    )

    assert found == b"Beauty is truth, truth beauty"


def test_a_release_is_hpke_of_the_rfc() -> None:
    private = X25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()
    quote = claimed(public, binding(public, NONCE, FOLDER))
    sealed = bytes.fromhex(json.loads(released(quote))["sealed"])
    info = b"cloven release" + MEASURED.encode() + NONCE + FOLDER.encode()

    assert opened_by_hand(private, sealed, info) == data_key(OWNER, FOLDER)


folders = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=200)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), folders)
def test_the_key_of_the_folder_arrives(owner: bytes, nonce: bytes, folder: str) -> None:
    trusted = enclave(folder_id=folder)
    quote = read_quote(trusted.quote(nonce).message())
    sent = release(quote, nonce, expect=SIMULATED, owner_key=owner, folder_id=folder)

    assert trusted.accept(sent) == data_key(owner, folder)
    assert data_key(owner, folder).hex().encode() not in sent
    assert len(sent) < 1000


def test_a_quote_describes_how_far_it_can_be_trusted() -> None:
    assert enclave().quote(NONCE).words == (
        "simulated: the process claims this measurement itself; nothing protects it"
    )
    assert "no hardware protects it" in enclave("gramine-direct:" + "ab" * 32).quote(NONCE).words
    assert "up to Intel's root" in claimed(bytes(32), bytes(64), "sgx:" + "ab" * 32).words


def test_only_one_release_is_accepted() -> None:
    trusted = enclave()
    sent = released(trusted.quote(NONCE))
    trusted.accept(sent)

    for again in (lambda: trusted.accept(sent), lambda: trusted.quote(NONCE)):
        with pytest.raises(ClovenError, match="already has its key and accepts only one release"):
            again()


def test_a_release_for_another_start_is_refused() -> None:
    """A release of an earlier start cannot be opened, even with the same program, folder and nonce."""
    first, second = enclave(), enclave()
    sent = released(first.quote(NONCE))
    second.quote(NONCE)

    with pytest.raises(ClovenError, match="the release is for another start of the enclave"):
        second.accept(sent)
    relabelled = json.dumps(json.loads(sent) | {"public_key": second.public_key.hex()}).encode()
    with pytest.raises(ClovenError, match="cannot decrypt the release: it was modified in transit"):
        second.accept(relabelled)
    assert second.accept(released(second.quote(NONCE))) == first.accept(sent)


def test_a_release_must_answer_the_latest_quote() -> None:
    trusted = enclave()
    early = released(claimed(trusted.public_key, bound(trusted, NONCE)))
    with pytest.raises(ClovenError, match="does not answer the latest quote"):
        trusted.accept(early)
    late = released(trusted.quote(NONCE))
    quote = trusted.quote(OTHER_NONCE)
    with pytest.raises(ClovenError, match="does not answer the latest quote"):
        trusted.accept(late)
    renamed = json.dumps(json.loads(late) | {"nonce": OTHER_NONCE.hex()}).encode()
    with pytest.raises(ClovenError, match="cannot decrypt the release"):
        trusted.accept(renamed)

    assert trusted.accept(released(quote, OTHER_NONCE))


def bound(trusted: Waiting, nonce: bytes) -> bytes:
    return binding(trusted.public_key, nonce, trusted.folder_id)


def test_a_release_holds_for_one_measurement_and_folder() -> None:
    trusted = enclave()
    sent = released(trusted.quote(NONCE))
    for field, value in (("measurement", Measurement.parse(OTHER)), ("folder_id", "folder-2")):
        own = getattr(trusted, field)
        setattr(trusted, field, value)
        with pytest.raises(ClovenError, match="is for another measurement or folder"):
            trusted.accept(sent)
        setattr(trusted, field, own)

    assert trusted.accept(sent)


def test_every_changed_digit_of_a_release_is_refused() -> None:
    trusted = enclave()
    sent = json.loads(released(trusted.quote(NONCE)))
    for field, digits in sent.items():
        for index, digit in enumerate(digits):
            changed = digits[:index] + f"{int(digit, 16) ^ 1:x}" + digits[index + 1 :]
            with pytest.raises(ClovenError, match="release"):
                trusted.accept(json.dumps(sent | {field: changed}).encode())

    assert trusted.accept(json.dumps(sent).encode())


def test_all_problems_of_a_quote_are_reported_at_once() -> None:
    quote = enclave(measurement=OTHER, folder_id="folder-2").quote(NONCE)
    found = problems(quote, OTHER_NONCE, SIMULATED, FOLDER)

    assert len(found) == 3
    assert f"measurement is {OTHER}, expected {MEASURED}" in found[0]
    assert found[1] == "the quote is for the sealed folder folder-2, expected folder-1"
    assert "the quote was replayed or modified" in found[2]
    with pytest.raises(ClovenError) as caught:
        release(quote, OTHER_NONCE, expect=SIMULATED, owner_key=OWNER, folder_id=FOLDER)
    assert caught.value.problems == tuple(found)
    assert not problems(quote, NONCE, Expected(Measurement.parse(OTHER), accept="simulated"), "folder-2")


def test_a_key_that_the_quote_does_not_bind_gets_nothing() -> None:
    quote = enclave().quote(NONCE)
    for changed in (
        replace(quote, public_key=enclave().public_key),
        replace(quote, folder_id="folder-2"),
        replace(quote, report_data=bytes(64)),
    ):
        with pytest.raises(ClovenError, match="does not answer this request"):
            released(changed)


def test_a_public_key_of_low_order_gets_nothing() -> None:
    """Anyone can decrypt a message to such a key."""
    for point in (bytes(32), b"\x01" + bytes(31), b"\xed" + b"\xff" * 30 + b"\x7f"):
        quote = claimed(point, binding(point, NONCE, FOLDER))
        with pytest.raises(ClovenError, match="low order; nothing was released"):
            released(quote)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ab" * 32,
        ":" + "ab" * 32,
        MEASURED.upper(),
        MEASURED[:-1],
        MEASURED + "\n",
        MEASURED + "0",
        "sgx:",
        "simulated:" + "g" * 64,
        "gramine-sgx:" + "ab" * 32,
        "sgx: " + "ab" * 32,
        "sgx:" + MEASURED,
        "tdx:" + "ab" * 48,
    ],
)
def test_a_measurement_names_its_kind_and_has_64_digits(text: str) -> None:
    with pytest.raises(ClovenError, match="expected one of simulated, gramine-direct, sgx, tdx, a colon and 64"):
        Measurement.parse(text)
    for kind in ("simulated", "gramine-direct", "sgx", "tdx"):
        assert str(Measurement.parse(f"{kind}:{'ab' * 32}")) == f"{kind}:{'ab' * 32}"


def genuine(evidence: bytes) -> Attested:
    """Accept the evidence of `processor`: a measurement and report data."""
    return Attested(Measurement.parse(evidence[:68].decode()), evidence[68:])


SGX_MEASURED = "sgx:" + "ab" * 32
HARDWARE = Expected(Measurement.parse(SGX_MEASURED), genuine)


def processor(report_data: bytes, measured: str = SGX_MEASURED) -> bytes:
    """Return evidence that `genuine` accepts."""
    return measured.encode() + report_data


def test_a_hardware_quote_is_accepted_where_it_is_verified() -> None:
    trusted = waiting(HARDWARE.measurement, FOLDER, prove=processor)
    quote = read_quote(trusted.quote(NONCE).message())
    sent = release(quote, NONCE, expect=HARDWARE, owner_key=OWNER, folder_id=FOLDER)

    assert trusted.accept(sent) == data_key(OWNER, FOLDER)
    assert quote.report_data == binding(trusted.public_key, NONCE, FOLDER)
    assert len(quote.report_data) == 64


def revoked(_: bytes) -> Attested:
    raise ClovenError(["the platform is revoked", "the microcode is old"])


WRONG: dict[str, tuple[Verifier, Callable[[bytes], bytes], str]] = {
    "refused": (revoked, processor, "the platform is revoked\nthe microcode is old"),
    "other enclave": (
        genuine,
        lambda data: processor(data, "sgx:" + "cd" * 32),
        f"the processor measured sgx:{'cd' * 32}, expected {SGX_MEASURED}",
    ),
    "other technology": (genuine, lambda data: processor(data, "tdx:" + "ab" * 32), "the processor measured tdx:"),
    "other request": (genuine, lambda _: processor(b"x" * 64), "belongs to another request"),
    "half of it": (genuine, lambda data: processor(data[:32] + b"x" * 32), "belongs to another request"),
    "more": (genuine, lambda data: processor(data + b"x"), "belongs to another request"),
}


@pytest.mark.parametrize(("verifier", "prove", "said"), WRONG.values(), ids=WRONG)
def test_wrong_hardware_quotes_are_refused(verifier: Verifier, prove: Callable[[bytes], bytes], said: str) -> None:
    quote = waiting(HARDWARE.measurement, FOLDER, prove=prove).quote(NONCE)

    found = problems(quote, NONCE, replace(HARDWARE, verifier=verifier), FOLDER)
    assert "\n".join(found).startswith(said) or said in found[0]


def test_a_simulated_quote_has_no_evidence() -> None:
    quote = replace(enclave().quote(NONCE), evidence=b"something")
    with pytest.raises(ClovenError, match="the quote has 9 bytes of evidence; expected none for simulated"):
        released(quote)


@pytest.mark.parametrize(
    ("kind", "verifier", "accept", "said"),
    [
        ("simulated", None, None, "which proves nothing: .*accept this one explicitly: --accept simulated"),
        ("gramine-direct", None, None, "accept this one explicitly: --accept gramine-direct"),
        ("simulated", None, "gramine-direct", "use --accept simulated"),
        ("simulated", None, "anything", "use --accept simulated"),
        ("simulated", genuine, "simulated", "omit the collateral"),
        ("simulated", genuine, None, "which proves nothing"),
        ("sgx", None, None, "an unverified hardware quote is never accepted; give Intel's collateral"),
        ("tdx", None, None, "an unverified hardware quote is never accepted"),
        ("sgx", None, "simulated", "--accept is simulated, but the expected measurement has the kind sgx"),
        ("sgx", genuine, "simulated", "omit --accept"),
        ("sgx", genuine, "sgx", "omit --accept"),
    ],
)
def test_what_proves_nothing_cannot_be_expected_by_mistake(
    kind: str, verifier: Verifier | None, accept: str | None, said: str
) -> None:
    with pytest.raises(ClovenError, match=said):
        Expected(Measurement(kind, "ab" * 32), verifier, accept)


def test_gramine_is_asked_for_the_hardwares_quote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releasing, "ATTESTATION", tmp_path)
    trusted = enclave(SGX_MEASURED)
    with pytest.raises(ClovenError, match=r"cannot read a hardware quote .*No such file.*run under gramine-sgx"):
        trusted.quote(NONCE)
    (tmp_path / "quote").write_bytes(b"the quote")

    quote = trusted.quote(NONCE)
    assert quote.evidence == b"the quote"
    assert (tmp_path / "user_report_data").read_bytes() == quote.report_data
    (tmp_path / "my_target_info").write_bytes(bytes.fromhex("ab" * 32) + bytes(480))
    assert str(releasing.hardware_measurement()) == SGX_MEASURED


def test_an_enclave_that_no_quote_could_name_does_not_start() -> None:
    with pytest.raises(ClovenError, match="the folder's id is 'two words'"):
        enclave(folder_id="two words")
    for nonce in (b"", bytes(31), bytes(33)):
        with pytest.raises(ClovenError, match=f"the nonce has {len(nonce)} bytes; expected 32"):
            enclave().quote(nonce)


def test_no_key_is_printed() -> None:
    trusted = enclave()
    assert trusted._private is not None
    private = trusted._private.private_bytes_raw()
    quote = trusted.quote(NONCE)
    sent = released(quote)
    with pytest.raises(ClovenError) as caught:
        enclave().accept(sent)
    key = trusted.accept(sent)

    for text in (repr(trusted), str(trusted), repr(quote), str(caught.value), sent.decode()):
        for secret in (private, key, OWNER):
            assert secret.hex()[:8] not in text
            assert repr(secret)[2:10] not in text
    assert trusted._private is None


def changed(sent: bytes) -> Iterable[bytes]:
    """Yield messages in which a field is missing, added, repeated, or of another type."""
    found = json.loads(sent)
    yield json.dumps(found | {"more": "1"}).encode()
    yield sent[:-1] + b"," + sent[1:]
    yield sent.decode().encode("utf-16")
    yield sent + b"{}"
    yield sent + b" " * 2**16
    for name, value in found.items():
        yield json.dumps({other: v for other, v in found.items() if other != name}).encode()
        for wrong in (None, 1, True, [value], {"a": value}, value + "g\n", " " + value, value + "\ud800", "é"):
            yield json.dumps(found | {name: wrong}).encode()


def test_messages_are_read_strictly() -> None:
    trusted = enclave()
    quote = trusted.quote(NONCE)
    sent = released(quote)
    for text in changed(quote.message()):
        with pytest.raises(ClovenError, match="a quote"):
            read_quote(text)
    for text in changed(sent):
        with pytest.raises(ClovenError, match="a release"):
            trusted.accept(text)

    assert read_quote(quote.message()) == quote
    assert trusted.accept(sent)


def test_the_problems_of_a_message_are_reported() -> None:
    text = json.loads(enclave().quote(NONCE).message())
    del text["measurement"]
    with pytest.raises(ClovenError) as caught:
        read_quote(json.dumps(text | {"nonce": "", "evidence": "?"}).encode())

    assert [problem.split(" '")[0] for problem in caught.value.problems] == [
        "a quote: measurement: Field required",
        "a quote: evidence: String should match pattern",
        "a quote: nonce: Extra inputs are not permitted",
    ]
    with pytest.raises(ClovenError, match="the evidence of the quote is not base64"):
        read_quote(json.dumps(text | {"measurement": MEASURED, "evidence": "A"}).encode())
    with pytest.raises(ClovenError, match="a quote has 65537 bytes; expected at most 65536"):
        read_quote(b" " * 65537)


values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("ab" * 32),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["nonce", "public_key", "sealed", "backend", "é"]), inner)
    ),
    max_leaves=8,
)
HOSTILE = [b"", b"[" * 2**16, b'{"a":' * 10**4, b"1" * 2**16, b"\xff\xfe", b"NaN", b'{"nonce":"' + b"a" * 64]


@given(st.binary(max_size=200) | values.map(lambda value: json.dumps(value).encode()) | st.sampled_from(HOSTILE))
def test_any_bytes_are_answered_in_our_words(text: bytes) -> None:
    trusted = enclave()
    for read in (read_quote, trusted.accept):
        with pytest.raises(ClovenError):
            read(text)
    reply, key = answer(trusted, text)

    assert key is None
    if text != b'{"nonce": "' + b"ab" * 32 + b'"}':
        assert json.loads(reply).keys() == {"refused"}
