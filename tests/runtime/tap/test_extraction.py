"""From a capture file to a table and to the file that an attack trains on."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from cloven.errors import ClovenError
from cloven.runtime.message_shapes import MessageShapes
from cloven.runtime.tap import flows
from cloven.runtime.tap.extraction import CAPTURED, choose, extract, read, write
from cloven.runtime.tap.flows import Survey, survey
from cloven.runtime.wire_format import encode, received, size
from tests.runtime.tap.wire import (
    ACK,
    CLIENT,
    FIN,
    PREFACE,
    SERVER,
    SETTINGS,
    capture,
    data,
    ethernet,
    frame,
    ip,
    message,
    numbers,
    sent,
)

IMAGES = range(100, 112)
SIZES = {0: 1000, 1: 37, 2: 0}
OTHER = bytes(range(16, 32))


def of_image(number: int, tag: bytes = b"", session: bytes | None = None) -> list[bytes]:
    about = {"session": session} if session else {}
    return [frame(number, k, numbers(number + k, count), tag, **about) for k, count in SIZES.items()]


def link(frames: list[bytes]) -> bytes:
    return SETTINGS + data(message(b"hello")) + b"".join(data(message(one)) for one in frames)


def all_images(tag: bytes = b"") -> list[bytes]:
    return [one for number in IMAGES for one in of_image(number, tag)]


def listed(here: Path, packets: list[bytes], name: str = "a.pcapng") -> Survey:
    return survey(capture(here / name, packets))


def answered(content: bytes, begin: int | None = 99) -> list[bytes]:
    """Return the packets of the opposite direction."""
    return sent(content, begin=begin, ports=(7001, 40000), hosts=(SERVER, CLIENT), answer=True)


@pytest.mark.parametrize("size", [536, 1448, 65_160])
@pytest.mark.parametrize("name", ["a.pcap", "a.pcapng"])
def test_messages_come_out_bit_for_bit(here: Path, name: str, size: int) -> None:
    order = random.Random(0)
    packets = sent(PREFACE + link(all_images()), size, begin=2**32 - 9000)
    mixed = [packets[0], *sorted(packets[1:] + packets[3:9], key=lambda p: packets.index(p) + order.random() * 5)]

    found = listed(here, mixed, name)
    write(extract(found, choose(found)), here / "pairs")
    captured = read(here / "pairs")

    assert captured.inputs.tolist() == list(IMAGES)
    assert list(captured.messages) == list(SIZES)
    for k, block in captured.messages.items():
        assert block.dtype == np.float32
        assert block.shape == (len(IMAGES), SIZES[k])
        assert block.tobytes() == b"".join(numbers(number + k, SIZES[k]) for number in IMAGES)
    assert captured.bytes == len(IMAGES) * 4 * sum(SIZES.values()) == found.flows[0].payload
    assert captured.link == "10.0.0.1:40000 -> 10.0.0.2:7001"


def test_pixels_that_are_sent_as_bytes(here: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 50), np.uint8)
    frames = [frame(number, 0, row.tobytes()) for number, row in enumerate(pixels)]

    found = listed(here, sent(PREFACE + link(frames)))
    captured = extract(found, choose(found), numbers="uint8")

    assert np.array_equal(captured.messages[0], pixels.astype(np.float32) / 255)


@pytest.mark.parametrize("kind", ["float16", "int8"])
def test_transformed_shares_are_read_as_the_receiver_reads_them(
    here: Path, kind: Literal["float16", "int8"]
) -> None:
    """Message 0 has two shares, which int8 has to know, and message 1 one."""
    shares = [np.random.default_rng(i).normal(i, 9, (3, n)).astype(np.float32) for i, n in enumerate((24, 5, 7))]
    rows = [encode(kind, share) for share in shares]
    frames = [
        frame(number, ordinal, b"".join(rows[k][number].tobytes() for k in together))
        for number in range(3)
        for ordinal, together in enumerate(((0, 1), (2,)))
    ]
    found = listed(here, sent(PREFACE + link(frames)))
    known: MessageShapes = {0: [(4, 3, 2), (5,)], 1: [(7,)]}

    write(extract(found, choose(found), kind, known), here / "pairs")
    captured = read(here / "pairs")

    first, second, third = (received(kind, share) for share in shares)
    assert captured.messages[0].tobytes() == np.concatenate([first, second], 1).tobytes()
    assert captured.messages[1].tobytes() == third.tobytes()
    assert captured.image_bytes == sum(size(kind, n) for n in (24, 5, 7))
    without = extract(found, choose(found), kind)
    assert without.messages[1].tobytes() == third.tobytes()
    assert (without.messages[0].shape == (3, 29)) == (kind == "float16")
    with pytest.raises(ClovenError, match=f"payloads are not {kind} numbers of the shapes given: "):
        extract(found, choose(found), kind, {0: [(4, 3, 2), (6,)]})


@pytest.mark.parametrize("whole", [True, False], ids=["with its beginning", "from the middle"])
@pytest.mark.parametrize("order", ["shuffled", "reversed", "shuffled, with every packet twice"])
def test_the_order_of_the_file_and_its_times_change_nothing(here: Path, order: str, whole: bool) -> None:
    """`capture` sets timestamps by position, so here they show the wrong order."""
    packets = sent(PREFACE + link(all_images()) if whole else link(all_images()), 536, begin=99 if whole else None)
    back = answered(SETTINGS) if whole else []
    mixed = (packets + back)[::-1] if order == "reversed" else (packets + back) * (2 if "twice" in order else 1)
    if "shuffled" in order:
        random.Random(1).shuffle(mixed)

    found, right = listed(here, mixed).flows[0], listed(here, packets + back).flows[0]

    assert (found.lost, found.gaps, found.late, found.cut) == (0, 0, 0, 0)
    assert (found.bytes, found.frames, found.payload, found.name) == (
        right.bytes,
        right.frames,
        right.payload,
        right.name,
    )
    assert found.repeated == ("twice" in order) * found.bytes


def test_of_a_shuffled_capture_just_what_is_missing_is_missing(here: Path) -> None:
    packets = sent(PREFACE + link(all_images()), 536)
    mixed = packets[:20] + packets[21:40] + packets[43:]
    random.Random(2).shuffle(mixed)

    found = listed(here, mixed)

    assert (found.flows[0].lost, found.flows[0].gaps) == (4 * 536, 2)
    assert "2,144 bytes are missing in 2 gaps" in found.warnings[0]


def test_the_file_is_as_agreed(here: Path) -> None:
    found = listed(here, sent(link(all_images(tag=bytes(range(16))))))

    path = write(extract(found, choose(found)), here / "new" / "pairs")

    assert path == here / "new" / "pairs" / "captured.safetensors"
    with safe_open(path, "numpy") as file:
        assert set(file.keys()) == {"input", "0", "1", "2"}
        assert file.get_tensor("input").dtype == np.int64
        assert file.metadata() == {
            "format": "1",
            "link": "10.0.0.1:40000 -> 10.0.0.2:7001",
            "protected": "yes",
            "bytes": str(len(IMAGES) * 4 * sum(SIZES.values())),
            "session": bytes(range(16)).hex(),
            "image_bytes": str(sum(4 * n + 16 for n in SIZES.values())),
        }
        blocks = {k: file.get_tensor(str(k)) for k in SIZES}
    assert all(blocks[k].shape == (len(IMAGES), 4 * n + 16) for k, n in SIZES.items())
    assert all(block.dtype == np.uint8 for block in blocks.values())
    assert blocks[1][3].tobytes() == numbers(IMAGES[3] + 1, SIZES[1]) + bytes(range(16))
    assert list(path.parent.iterdir()) == [path]


def test_images_that_are_not_whole_are_left_out_and_counted(here: Path) -> None:
    frames = all_images()
    frames[4:5] = []  # image 101 has no ordinal 1
    frames[6] = frame(102, 1, numbers(0, 36))
    frames += [frame(99, 0, numbers(1, 1000)), frame(104, 0, numbers(2, 1000)), frame(98, 7, b"abcd")]
    found = listed(here, sent(link(frames)))

    captured = extract(found, choose(found))

    assert captured.inputs.tolist() == [n for n in IMAGES if n not in (101, 102)]
    assert (captured.left_out, captured.repeated) == (4, 1)
    assert captured.messages[0][1].tobytes() == numbers(103, 1000)
    assert captured.messages[0][2].tobytes() == numbers(104, 1000)


def test_of_two_equally_frequent_shapes_the_larger_is_taken(here: Path) -> None:
    found = listed(here, sent(link([*of_image(1)[:1], *of_image(2)])))

    assert extract(found, choose(found)).inputs.tolist() == [2]


def test_lost_packets_cost_their_images_and_are_reported(here: Path) -> None:
    packets = sent(link(all_images()))
    del packets[7]
    found = listed(here, packets)

    captured = extract(found, choose(found))

    assert (found.flows[0].gaps, found.flows[0].lost) == (1, 1448)
    assert "1,448 bytes are missing in 1 gaps, 1 frames incomplete" in found.warnings[0]
    assert (captured.left_out, len(captured.inputs)) == (2, 10)
    for i, number in enumerate(captured.inputs):
        assert captured.messages[0][i].tobytes() == numbers(int(number), 1000)


def test_what_was_recorded_in_part_is_lost(here: Path) -> None:
    path = here / "a.pcap"
    capture(path, sent(link(all_images())))
    content = path.read_bytes()
    at = content.index((1502).to_bytes(4, "little") * 2)
    cut = content[:at] + (902).to_bytes(4, "little") + content[at + 4 : at + 8 + 902] + content[at + 8 + 1502 :]
    path.write_bytes(cut)

    found = survey(path)

    assert (found.tally.truncated, found.flows[0].lost) == (1, 600)


def test_reconnected_links_are_one_flow(here: Path) -> None:
    first = sent(PREFACE + link([one for n in (1, 2) for one in of_image(n)]))
    second = sent(PREFACE + link(of_image(3, session=OTHER)), ports=(40001, 7001), begin=77)
    back = answered(link([frame(1, 0, b"1234")]))

    found = listed(here, first + back + second)

    there, answer = found.flows
    assert (there.name, there.connections, there.frames, there.inputs) == ("10.0.0.1:* -> 10.0.0.2:7001", 2, 9, 3)
    assert there.sessions == (bytes(range(16)).hex(), OTHER.hex())
    assert answer.name == "10.0.0.2:7001 -> 10.0.0.1:*"
    captured = extract(found, there)
    assert captured.inputs.tolist() == [1, 2, 3]
    assert captured.messages[0][2].tobytes() == numbers(3, 1000)
    write(captured, here)
    assert read(here).sessions == there.sessions


def test_what_was_lost_before_does_not_keep_a_link_from_being_joined(here: Path) -> None:
    first, second = sent(PREFACE + link(all_images())), sent(PREFACE + link(of_image(3)), ports=(40001, 7001))
    del first[-9]

    found = listed(here, first + second)

    assert (found.flows[0].connections, found.flows[0].gaps) == (2, 1)


def test_links_at_the_same_time_between_the_same_machines_are_not_joined(here: Path) -> None:
    one = sent(PREFACE + link(all_images()))
    other = sent(PREFACE + link(all_images(tag=bytes(16))), ports=(40001, 7001))
    nothing = sent(PREFACE + SETTINGS, ports=(40002, 7001))
    mixed = [packet for both in zip(one, other, strict=False) for packet in both]

    found = listed(here, mixed + one[len(other) :] + other[len(one) :] + nothing)

    assert {flow.source: flow.kind for flow in found.flows} == {
        "10.0.0.1:40000": flows.PLAIN,
        "10.0.0.1:40001": flows.PROTECTED,
        "10.0.0.1:40002": flows.HTTP2,
    }
    assert choose(found, source="10.0.0.1:40001").kind == flows.PROTECTED


def test_the_server_is_recognised_without_the_beginning(here: Path) -> None:
    by_port = listed(here, answered(link(of_image(1)), begin=None))
    by_words = listed(here, sent(PREFACE + link(of_image(1)), ports=(80, 7001)), "b.pcap")

    assert by_port.flows[0].name == "10.0.0.2:7001 -> 10.0.0.1:40000"
    assert by_words.flows[0].name == "10.0.0.1:80 -> 10.0.0.2:7001"


def test_ipv6_over_tagged_ethernet(here: Path) -> None:
    packets = sent(link(of_image(1)), hosts=("fe80::1", "fe80::2"))
    tagged = [packet[:12] + b"\x81\x00\x00\x05" + packet[12:] for packet in packets]

    found = listed(here, tagged)

    assert found.flows[0].name == "[fe80::1]:40000 -> [fe80::2]:7001"
    assert choose(found, "fe80::1", "[fe80::2]:7001") is found.flows[0]


def test_the_survey_is_for_people_and_programs(here: Path) -> None:
    there, back = sent(PREFACE + link(all_images())), answered(SETTINGS)
    found = listed(here, [*there, *back, there[3], ethernet(ip(b"", 10**6, ACK | FIN, (1, 2)))])

    written = json.loads(found.report().model_dump_json())

    row = written["flows"][0]
    assert row["sizes"][0] == {"ordinal": 0, "bytes": 4000, "frames": 12}
    assert (row["frames"], row["payload"], row["packets"]) == (36, 12 * 4148, len(there) + 1)
    assert (row["repeated"], row["lost"], row["other"]) == (1448, 0, len(message(b"hello")))
    assert row["bytes"] == len(PREFACE + link(all_images()))
    assert [flow["kind"] for flow in written["flows"]] == ["plain", "HTTP/2", "TCP"]
    people = found.flows[0].row()
    assert len(people) == len(flows.COLUMNS)
    assert people[-1] == "0: 4,000 x 12, 1: 148 x 12, 2: 0 x 12"


def test_mixed_protection_is_reported_and_most_images_count(here: Path) -> None:
    found = listed(here, sent(link([*of_image(1), *of_image(2), *of_image(3, tag=bytes(16))])))

    captured = extract(found, choose(found))

    assert found.flows[0].kind == flows.BOTH
    assert (captured.protected, captured.inputs.tolist(), captured.left_out) == (False, [1, 2], 1)


def test_flows_that_cannot_be_chosen_are_refused(here: Path) -> None:
    found = listed(here, sent(link(of_image(1))))
    with pytest.raises(
        ClovenError, match=r"not contain frames of 1\.2\.3\.4 -> any; expected one of 10\.0\.0\.1:40000"
    ):
        choose(found, source="1.2.3.4")

    other = listed(here, sent(b"GET / HTTP/1.1\r\n\r\n"), "b.pcap")
    with pytest.raises(ClovenError, match="does not contain frames of cloven, only 1 other flows"):
        choose(other)

    odd = listed(here, sent(link([frame(1, 0, b"abc")])), "c.pcap")
    with pytest.raises(ClovenError, match="payloads are not float32 numbers: 3 bytes in ordinal 0"):
        extract(odd, choose(odd))


def test_a_capture_that_changes_meanwhile_is_refused(here: Path) -> None:
    packets = sent(link(all_images()))
    found = listed(here, packets)
    capture(here / "a.pcapng", packets[:9])

    with pytest.raises(ClovenError, match="changed while it was read"):
        extract(found, choose(found))


def test_files_that_cannot_be_written_or_read_are_reported(here: Path) -> None:
    found = listed(here, sent(link(all_images())))
    captured = extract(found, choose(found))
    (here / "file").write_text("")
    with pytest.raises(ClovenError, match="cannot write"):
        write(captured, here / "file")
    with pytest.raises(ClovenError, match="cannot read"):
        read(here)
    (here / CAPTURED).write_bytes(b"garbage")
    with pytest.raises(ClovenError, match="cannot read"):
        read(here)


def test_all_problems_of_a_file_are_reported(here: Path) -> None:
    wrong = {"input": np.array([3, 2]), "0": np.zeros((3, 1), np.float32), "name": np.zeros((2, 1), np.float32)}
    save_file(wrong, here / CAPTURED, {"format": "1", "protected": "no", "bytes": "many", "session": ""})

    with pytest.raises(ClovenError) as raised:
        read(here)

    said = str(raised.value)
    assert len(raised.value.problems) == 5
    for words in (
        "'link' is missing",
        "bytes is 'many'; expected a number",
        "'input' must be",
        "'0' is float32 (3, 1)",
        "'name'",
    ):
        assert words in said
    save_file(wrong, here / CAPTURED)
    with pytest.raises(ClovenError, match="the format is None; expected '1'"):
        read(here)
