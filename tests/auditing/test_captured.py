"""Audits of captures: how files are joined, attacks like those on a simulation, and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from cloven.attacks.decoder import Decoder
from cloven.attacks.layers import Chain, text
from cloven.auditing.captured import CAPTURED, IMAGES, check_answers, read
from cloven.auditing.cell import Cell, attack
from cloven.auditing.classifier import WholeModel
from cloven.auditing.features import Shares
from cloven.auditing.finding import Finding
from cloven.auditing.given import audit
from cloven.auditing.material import ImageSets, prepare
from cloven.auditing.pipeline import vector_chain
from cloven.errors import ClovenError
from cloven.files import cache_dir
from cloven.graph.graph import Graph
from cloven.papers.s1.setup import decoder
from cloven.partition.compiler import divide
from cloven.partition.observe import Observation, seen_on
from cloven.partition.vertical import Vertical
from cloven.rows import all_rows
from cloven.runtime.capture import capture
from cloven.runtime.message_shapes import message_shapes
from cloven.runtime.torch_engine import evaluate
from cloven.zoo.datasets import load
from cloven.zoo.images import Images, split
from cloven.zoo.training import EPOCHS, trained
from tests.cli.conftest import Run, cloven

__all__ = ["cloven"]

LINK = "10.0.0.1:40112 -> 10.0.0.2:7001"
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Simulated:
    """LeNet-5 on digits, cut after its first pool, and the images that were sent through it."""

    graph: Graph
    seen: Observation
    training: Images
    auxiliary: Images
    victims: Images

    def captured(self) -> Tensors:
        """Return what a tap records: 100 images of the attacker, then 60 victims, numbered from 7 on."""
        (share,) = self.seen.seen
        values = evaluate(self.graph, self.both(), [share.value])[share.value]
        return {"input": torch.arange(160) + 7, "0": values.flatten(1)}

    def sent(self) -> Tensors:
        """Return the file that the operator of the system writes."""
        logits = evaluate(self.graph, self.both(), [self.graph.output])[self.graph.output]
        pixels = (self.both() * 255).round().to(torch.uint8)
        return {"input": torch.arange(160) + 7, "image": pixels, "auxiliary": torch.arange(160) < 100,
                "logits": logits}  # fmt: skip

    def both(self) -> Tensor:
        return torch.cat([self.auxiliary.tensor(), self.victims.tensor()])


ONE = ("--attacks", "decoder", "--judge", "none")
"""Only the decoder of Mehrafrooz et al. (2025)."""


def everything(captured: Shares) -> list[Tensor]:
    """Return all captured rows."""
    return captured.take(torch.arange(len(captured)))


@pytest.fixture(scope="module")
def simulated() -> Simulated:
    training, _, test = split(load("digits"), seed=0)
    model = trained("lenet5", training, epochs=EPOCHS, seed=0, cache=cache_dir())
    graph = capture(model, torch.zeros(1, 1, 28, 28))
    seen = seen_on(divide(graph, Vertical(("pool1",)), 2), ("edge0", "edge1"))
    photos = load("photos", shape=(1, 28, 28), limit=100)
    return Simulated(graph, seen, training, photos, test.take(range(60)))


def put(folder: Path, captured: Tensors, sent: Tensors, **metadata: str) -> Path:
    """Write a folder of pairs."""
    folder.mkdir(exist_ok=True)
    numbers = sum(t.numel() * t.element_size() for name, t in captured.items() if name != "input")
    about = {
        "format": "1",
        "link": LINK,
        "protected": "no",
        "bytes": str(numbers),
        "session": "ab" * 16,
        **metadata,
    }
    save_file({k: t.clone() for k, t in captured.items()}, folder / CAPTURED, about)
    save_file({k: t.clone() for k, t in sent.items()}, folder / IMAGES, {"format": metadata.get("format", "1")})
    return folder


@pytest.fixture
def pairs(simulated: Simulated, tmp_path: Path) -> Path:
    """Return a folder with the capture of a plain link."""
    return put(tmp_path / "pairs", simulated.captured(), simulated.sent())


def summary_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def baselines(finding: Finding) -> dict[str, Any]:
    """Return the baselines that depend only on the images."""
    return {name: one for name, one in finding.baselines.items() if name != "shuffled pairs"}


def test_what_was_captured_is_what_a_simulation_hears(simulated: Simulated, pairs: Path) -> None:
    recorded = read(pairs, {0: [(6, 14, 14)]})
    images: dict[str, Any] = {"auxiliary": recorded.auxiliary, "victims": recorded.victims}
    material = prepare(WholeModel(simulated.graph), [simulated.seen, recorded], ImageSets(**images))

    for of in images:
        (computed,) = everything(material.captured(simulated.seen, of))
        (found,) = everything(material.captured(recorded, of))
        assert torch.equal(computed, found)
    assert recorded.bytes == simulated.seen.bytes == 4704
    check_answers(material.classes["victims"], recorded.logits)


def test_an_audit_of_a_plain_link_finds_what_the_simulated_one_finds(
    simulated: Simulated, pairs: Path, cloven: Run, here: Path
) -> None:
    command = ("audit", *ONE, "lenet5", "--data", "digits", "--pairs", pairs, "--shape", "0=6x14x14",
               "--epochs", "4",               "--out", "run")  # fmt: skip
    done = cloven(*command, "--json")
    summary = summary_of(here / "run")
    (found,) = summary["findings"]
    (same,) = audit(
        simulated.seen,
        Decoder(4),
        auxiliary=simulated.auxiliary,
        victims=simulated.victims,
        domain=simulated.training,
    ).findings

    assert done.code == 0, done.err
    assert json.loads(done.out) == {name: value for name, value in summary.items() if name != "digest"}
    assert same.ssim is not None
    assert same.psnr is not None
    assert found["ssim"]["mean"] == pytest.approx(same.ssim.mean, abs=0.05)
    assert found["psnr"]["mean"] == pytest.approx(same.psnr.mean, abs=1)
    assert found["agreement"]["mean"] == pytest.approx(same.agreement.mean, abs=0.1)
    assert found["leakage"]["ssim"] > 0.5
    assert baselines(Finding.model_validate_json(json.dumps(found))) == baselines(same)
    for name in ("parameters", "observation_bytes", "pairs", "victims"):
        assert found[name] == getattr(same, name)
    assert found["link"] == ["10.0.0.1:40112", "10.0.0.2:7001"]
    assert (found["pairs"], found["victims"]) == (100, 60)
    assert summary["model_accuracy"] >= 0.9
    said = summary["capture"]
    assert (said["protected"], said["bytes_an_image"], said["payload_bytes"]) == (False, 4704, 160 * 4704)
    assert said["messages"] == [{"message": "0", "type": "float32", "shape": [6, 14, 14]}]
    assert summary["attacker"]["knows"][0] == "the numbers that the link carried, and their shapes"

    cells = {p: p.stat().st_mtime_ns for p in (here / "run" / "cells").iterdir()}
    again = cloven(*command)
    assert again.code == 0, again.err
    assert {p: p.stat().st_mtime_ns for p in (here / "run" / "cells").iterdir()} == cells, "it was attacked again"
    page = (here / "run" / "report.html").read_text()
    for words in ("from what was recorded on a link", "What was captured on the link", "<b>in clear</b>",
                  "10.0.0.1:40112", "752,640", "ab" * 16, said["fingerprint"]):  # fmt: skip
        assert words in page
    assert "No plan was compiled" not in page
    assert "Anyone listening between 10.0.0.1:40112 and 10.0.0.2:7001" in page
    printed = cloven("report", "run", "--terminal")
    assert "│  10.0.0.1:40112 → 10.0.0.2:7001, 1 message, 4.7 kB" in printed.out
    assert "Anyone listening between 10.0.0.1:40112 and 10.0.0.2:7001" in " ".join(printed.out.split())


def test_a_recording_is_audited_from_python_with_its_own_images(simulated: Simulated, pairs: Path) -> None:
    import cloven

    program = divide(simulated.graph, Vertical(("pool1",)), 2)
    observations = cloven.read_capture(pairs, program, shapes={0: [(6, 14, 14)]})
    results = cloven.audit(observations, [cloven.attacks.Nearest(), "probe"])

    assert {(f.attack, f.pairs, f.victims) for f in results.findings} == {("nearest", 90, 60), ("probe", 90, 60)}
    assert results.summary.capture is not None
    with pytest.raises(ClovenError, match="a capture has its own images; leave out auxiliary and victims"):
        cloven.audit(observations, "nearest", victims=simulated.victims)
    with pytest.raises(ClovenError, match=r"program is 'plan\.toml'; expected"):
        cloven.read_capture(pairs, "plan.toml")  # type: ignore[arg-type]


def test_a_protected_link_is_not_above_its_baseline(simulated: Simulated, cloven: Run, here: Path) -> None:
    noise = torch.randint(0, 256, (160, 4720), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    put(here / "pairs", {**simulated.captured(), "0": noise}, simulated.sent(), protected="yes")

    done = cloven("audit", *ONE, "--pairs", "pairs", "--epochs", "1")
    summary = summary_of(here / "runs" / "lenet5-digits-captured")
    (found,) = summary["findings"]
    above = {name: max(f[name] for f in found["baselines"].values() if f[name] is not None) for name in
             ("agreement", "ssim")}  # fmt: skip

    assert done.code == 0, done.err
    assert found["agreement"]["low"] <= above["agreement"]
    assert found["ssim"]["low"] <= above["ssim"]
    assert found["label"] == "Protected link"
    assert found["observation_bytes"] == 4720
    assert "captured (protected link, 10.0.0.1:40112 to 10.0.0.2:7001)" in summary["verdict"]["sentence"]
    assert "which is better" in summary["verdict"]["sentence"]  # compared with a picture of noise
    assert "the keys of the link" in summary["attacker"]["does_not_know"]
    assert (
        "<b>protected</b>: the listener got ciphertext"
        in (here / "runs" / "lenet5-digits-captured" / "report.html").read_text()
    )


def test_a_layer_that_s1_has_a_decoder_for_is_attacked_with_it(
    simulated: Simulated, cloven: Run, here: Path
) -> None:
    deeper = replace(simulated, seen=seen_on(divide(simulated.graph, Vertical(("conv2",)), 2), ("edge0", "edge1")))
    put(here / "pairs", deeper.captured(), deeper.sent())

    done = cloven("audit", *ONE, "--pairs", "pairs", "--shape", "0=16x10x10", "--epochs", "1", "--out", "run")
    (cell,) = (json.loads(p.read_text()) for p in (here / "run" / "cells").glob("*.json"))
    assert done.code == 0, done.err
    assert cell["provenance"]["settings"]["layers"] == text(chain_of("conv2"))
    assert cell["provenance"]["knows"] == "shapes"


def chain_of(layer: str) -> Chain:
    chain = decoder("lenet5")(layer, (16, 10, 10), (1, 28, 28))
    assert chain is not None
    return chain


def test_ciphertext_becomes_numbers_from_0_to_1(simulated: Simulated, tmp_path: Path) -> None:
    ciphertext = torch.arange(160, dtype=torch.uint8)[:, None].repeat(1, 32) + 96
    folder = put(tmp_path / "pairs", {**simulated.captured(), "0": ciphertext}, simulated.sent(), protected="yes")
    found = read(folder)

    assert found.bytes == 32
    assert torch.equal(all_rows(found.tensors["victims"][0]), ciphertext[100:] / 255)
    assert [s.dtype for s in found.seen] == ["uint8"]


def test_without_shapes_a_decoder_reads_all_numbers_and_the_key_says_so(simulated: Simulated, pairs: Path) -> None:
    flat, shaped = read(pairs), read(pairs, {0: [(6, 14, 14)]})
    images: dict[str, Any] = {"auxiliary": flat.auxiliary, "victims": flat.victims}
    material = prepare(WholeModel(simulated.graph), [flat, shaped], ImageSets(**images))
    chain = vector_chain(1176, (1, 28, 28))
    cells = [
        Cell(flat, Decoder(10, layers=chain), knows="numbers"),
        Cell(flat, Decoder(10, layers=chain)),
        Cell(shaped, Decoder(2)),
    ]
    finding = attack(cells[0], material).result

    assert len({cell.key(material) for cell in cells}) == 3
    assert finding.provenance["knows"] == "numbers"
    assert finding.provenance["observation"] == flat.fingerprint
    assert finding.ssim is not None
    shuffled = finding.baselines["shuffled pairs"].ssim
    assert shuffled is not None
    assert finding.ssim.mean > shuffled


def test_the_decoder_of_a_vector_grows_with_its_length_alone() -> None:
    for numbers, side in ((84, 28), (4720, 28), (4720, 32), (800_000, 224)):
        chain = vector_chain(numbers, (3, side, side))
        first = chain[0]
        size = first.inputs * first.outputs * first.kernel**2  # type: ignore[union-attr]
        assert size <= max(5_000_000, numbers * 64)


def test_the_fingerprint_is_that_of_what_was_captured_not_of_where(
    simulated: Simulated, pairs: Path, tmp_path: Path
) -> None:
    captured = simulated.captured()
    there = put(tmp_path / "there", captured, simulated.sent(), link="[::1]:5 -> [::1]:6", session="cd")
    captured["0"][150, 3] += 1e-6
    other = put(tmp_path / "other", captured, simulated.sent())
    first = read(pairs).fingerprint

    assert read(there).fingerprint == first
    assert read(other).fingerprint != first
    assert read(pairs, queries=99).fingerprint != first
    assert read(pairs, {0: [(6, 14, 14)]}).fingerprint != first


def test_rows_are_joined_by_input_and_what_has_no_partner_is_counted(
    simulated: Simulated, cloven: Run, here: Path
) -> None:
    captured, sent = simulated.captured(), simulated.sent()
    order = torch.randperm(160, generator=torch.Generator().manual_seed(1))
    put(here / "pairs", {k: t[2:] for k, t in captured.items()}, {k: t[order][:155] for k, t in sent.items()})
    recorded, whole = read(here / "pairs"), read(put(here / "whole", captured, sent))

    lost = {int(i) for i in order[155:]}
    kept = [i for i in range(2, 160) if i not in lost]
    expected = torch.stack([captured["0"][i] for i in kept if i >= 100])
    assert torch.equal(all_rows(recorded.tensors["victims"][0]), expected)
    assert recorded.victims.sources == tuple(f"input {i + 7}" for i in kept if i >= 100)
    assert torch.equal(recorded.logits, sent["logits"][[i for i in kept if i >= 100]])
    assert recorded.unmatched == {CAPTURED: len(lost - {0, 1}), IMAGES: len({0, 1} - lost)}
    assert whole.unmatched == {CAPTURED: 0, IMAGES: 0}

    done = cloven("audit", *ONE, "--pairs", "pairs", "--shape", "0=6x14x14", "--epochs", "1", "--queries", "50",
                  "--victims", "20", "--out", "run")  # fmt: skip
    assert done.code == 0, done.err
    assert f"Images that were sent but not captured, left out: {recorded.unmatched[IMAGES]}." in done.err
    assert f"captured but have no recorded answer, left out: {recorded.unmatched[CAPTURED]}." in done.err
    summary = summary_of(here / "run")
    assert (summary["findings"][0]["pairs"], summary["findings"][0]["victims"]) == (50, 20)
    assert summary["capture"]["unmatched"] == dict(recorded.unmatched)


def test_a_message_of_several_shares_is_taken_apart(simulated: Simulated, tmp_path: Path) -> None:
    captured = simulated.captured()
    folder = put(tmp_path / "pairs", {**captured, "10": captured["0"][:, :8], "2": captured["0"]}, simulated.sent())
    found = read(folder, {0: [(6, 14, 14)], 2: [(2, 14, 14), (784,)], 10: [(8,)]})

    assert [str(s) for s in found.seen] == [
        "0[0:6, 0:14, 0:14]", "2.0[0:2, 0:14, 0:14]", "2.1[0:784]", "10[0:8]",
    ]  # fmt: skip
    assert torch.equal(all_rows(found.tensors["auxiliary"][1]), captured["0"][:100, :392].reshape(100, 2, 14, 14))
    assert torch.equal(all_rows(found.tensors["auxiliary"][2]), captured["0"][:100, 392:])


def test_what_the_tap_writes_is_read(simulated: Simulated, pairs: Path) -> None:
    pytest.importorskip("hyperframe")
    from cloven.runtime.tap.extraction import CapturedMessages, write

    captured = simulated.captured()
    before = read(pairs)
    messages = {0: captured["0"].numpy()}
    write(CapturedMessages(captured["input"].numpy(), messages, LINK, False, 9, ("ab", "cd")), pairs)
    found = read(pairs)

    assert found.fingerprint == before.fingerprint
    assert (found.link, found.session, found.payload) == (("10.0.0.1:40112", "10.0.0.2:7001"), "ab,cd", 9)


Change = Callable[[Tensors, Tensors], dict[str, str] | None]


def changed(**tensors: Callable[[Tensors, Tensors], Tensor]) -> Change:
    """Replace tensors: ``wire_NAME`` in the captured file, ``sent_NAME`` in the file of sent images."""

    def change(captured: Tensors, sent: Tensors) -> None:
        for name, make in tensors.items():
            file, _, key = name.partition("_")
            (captured if file == "wire" else sent)[key] = make(captured, sent)

    return change


def without(name: str) -> Change:
    def change(captured: Tensors, sent: Tensors) -> None:
        (captured if name in captured and name != "input" else sent).pop(name)

    return change


def says(**metadata: str) -> Change:
    return lambda captured, sent: metadata


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (without("0"), ("holds no messages (tensors named 0, 1, ...); nothing was captured on this link",)),
        (without("logits"), ("images.safetensors holds no tensor 'logits'; it holds auxiliary, image, input",)),
        (says(format="2"), ("captured.safetensors has format '2'; expected '1'", "images.safetensors has format")),
        (says(protected="maybe"), ("protected is 'maybe'; expected yes or no",)),
        (says(protected="yes"), ("'0' is float32 of shape (160, 1176); expected uint8 with 2 axes",)),
        (says(link="a to b"), ("link is 'a to b'; expected 'IP:PORT -> IP:PORT'",)),
        (says(bytes="many"), ("bytes is 'many'; expected the number of captured bytes",)),
        (changed(wire_x=lambda c, _: c["0"]), ("holds x; expected input and messages named 0, 1, ...",)),
        (changed(wire_1=lambda c, _: c["0"][:, :0]), ("messages 1 hold no numbers",)),
        (changed(wire_0=lambda c, _: c["0"][:9]), ("'0' has 9 rows; 'input' has 160",)),
        (changed(sent_input=lambda _, s: s["input"] // 2), ("input numbers occur more than once",)),
        (changed(sent_image=lambda _, s: s["image"] / 255),
         ("'image' is float32 of shape (160, 1, 28, 28); expected uint8 with 4 axes",)),
        (changed(sent_input=lambda _, s: s["input"] + 145),
         ("0 victim images were both sent and captured; expected 20 or more (160 inputs were captured, 160 sent, "
          "15 are in both)",)),
        (changed(wire_0=lambda c, _: c["0"].where(c["input"][:, None] != 9, torch.nan)),
         ("message 0 holds NaN or infinite numbers in 1 rows",)),
    ],
)  # fmt: skip
def test_files_that_cannot_be_used_are_refused(
    simulated: Simulated, tmp_path: Path, change: Change, messages: tuple[str, ...]
) -> None:
    captured, sent = simulated.captured(), simulated.sent()
    metadata = change(captured, sent) or {}
    folder = put(tmp_path / "pairs", captured, sent, **metadata)

    with pytest.raises(ClovenError) as refused:
        read(folder)
    for message in messages:
        assert message in str(refused.value)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({0: [(16, 10, 10)]}, "message 0 holds 1,176 numbers; the shape 16x10x10 has 1,600"),
        ({0: [(6, 14, 14)], 3: [(84,)]}, "messages 0, 3, but messages 0 were captured: give the shapes of all"),
    ],
)  # fmt: skip
def test_shapes_that_do_not_fit_are_refused(pairs: Path, shapes: dict[int, Any], message: str) -> None:
    with pytest.raises(ClovenError, match=message):
        read(pairs, shapes)


def test_ciphertext_has_no_shape(simulated: Simulated, tmp_path: Path) -> None:
    noise = torch.zeros(160, 4720, dtype=torch.uint8)
    folder = put(tmp_path / "pairs", {**simulated.captured(), "0": noise}, simulated.sent(), protected="yes")

    with pytest.raises(ClovenError, match="message 0 holds 4,720 bytes of ciphertext, which have no shape"):
        read(folder, {0: [(16, 10, 10)]})


def refused(cloven: Run, here: Path, *options: object) -> str:
    """Return the message of an audit that is refused, and check that it wrote nothing."""
    before = sorted(here.rglob("*"))
    done = cloven("audit", *options)
    assert done.code == 2, done
    assert "Traceback" not in done.err
    assert sorted(here.rglob("*")) == before
    return done.err


def test_all_that_is_wrong_is_named_together(cloven: Run, here: Path) -> None:
    said = refused(
        cloven, here, "--pairs", "nowhere", "--data", "mnist:neither", "--queries", "1", "--victims", "3"
    )

    assert "queries is 1; expected 2 or more" in said
    assert "victims is 3; expected 20 or more" in said
    assert "nowhere/captured.safetensors" in said
    assert "`cloven tap --read` writes it" in said
    assert "nowhere/images.safetensors" in said
    assert "neither" in said


def test_a_file_that_is_none_is_refused(pairs: Path, cloven: Run, here: Path) -> None:
    (pairs / CAPTURED).write_bytes(b"\x80\x04 not tensors")

    assert "cannot read" in refused(cloven, here, "--pairs", pairs)


def test_options_that_say_nothing_are_refused(pairs: Path, cloven: Run, here: Path) -> None:
    said = refused(cloven, here, "--pairs", pairs, "--view", "full", "--auxiliary", "photos")
    assert "--view cannot be used with --pairs" in said
    assert "--auxiliary cannot be used with --pairs" in said
    assert "--shape is '0=84'; choose from given, places, inferred (others are for --pairs)" in refused(
        cloven, here, "--shape", "0=84"
    )
    said = refused(cloven, here, "--pairs", pairs, "--shape", "6x14x14")
    assert "--shape is '6x14x14'; expected MESSAGE=SHAPE such as 0=6x14x14 or 1=84" in said


def test_shapes_of_messages_that_contradict_each_other_are_refused() -> None:
    assert message_shapes(("0=6x14x14", "1=16x5x5+84")) == {0: [(6, 14, 14)], 1: [(16, 5, 5), (84,)]}
    with pytest.raises(ClovenError) as refused:
        message_shapes(("0=6x14x14", "0=84", "inferred"))
    assert refused.value.problems == (
        "--shape is 'inferred'; expected MESSAGE=SHAPE such as 0=6x14x14 or 1=84, or only inferred",
        "--shape names message 0 2 times; give all its shapes at once, such as 0=6x14x14+84",
    )


def test_another_model_than_the_one_that_ran_is_refused(simulated: Simulated, cloven: Run, here: Path) -> None:
    sent = simulated.sent()
    sent["logits"][100:103] = -sent["logits"][100:103]
    put(here / "pairs", simulated.captured(), sent)
    said = refused(cloven, here, "--pairs", "pairs")
    assert "for 3 of 60 victim images, the class of the model differs from the answer that was recorded" in said
    assert "(rounding explains 0): it is not the model that ran" in said

    put(here / "pairs", simulated.captured(), {**sent, "logits": sent["logits"][:, :7].contiguous()})
    said = refused(cloven, here, "--pairs", "pairs")
    assert "digits has 10 classes; pairs/images.safetensors holds answers of 7" in said


def test_weights_from_a_file_are_the_model_that_ran(
    simulated: Simulated, pairs: Path, cloven: Run, here: Path
) -> None:
    model = trained("lenet5", simulated.training, epochs=EPOCHS, seed=0, cache=cache_dir())
    save_file(model.state_dict(), here / "w.safetensors")

    done = cloven("audit", *ONE, "--pairs", pairs, "--weights", "w.safetensors", "--seed", "3",
                  "--shape", "0=6x14x14",                  "--epochs", "1", "--out", "run")  # fmt: skip
    assert done.code == 0, done.err
    assert summary_of(here / "run")["settings"]["weights"] == "w.safetensors"


def test_rounding_may_decide_one_victim_in_a_hundred() -> None:
    logits = torch.eye(10).repeat(30, 1)
    classes = logits.argmax(1)
    check_answers(torch.where(torch.arange(300) < 3, (classes + 1) % 10, classes), logits)

    with pytest.raises(ClovenError, match="for 4 of 300 victim images, the class of the model differs"):
        check_answers(torch.where(torch.arange(300) < 4, (classes + 1) % 10, classes), logits)


def test_an_image_that_trains_the_attack_scores_nothing(simulated: Simulated, cloven: Run, here: Path) -> None:
    sent = simulated.sent()
    sent["image"][3] = sent["image"][130]
    put(here / "pairs", simulated.captured(), sent)

    said = refused(cloven, here, "--pairs", "pairs")
    assert "1 auxiliary images are also victim images (input 10 = input 137)" in said


def test_victims_that_the_cnn_was_trained_on_are_said_and_leave_the_domain(
    simulated: Simulated, cloven: Run, here: Path
) -> None:
    known = replace(simulated, victims=simulated.training.take(range(60)))
    put(here / "pairs", known.captured(), known.sent())

    done = cloven("audit", *ONE, "--pairs", "pairs", "--shape", "0=6x14x14", "--epochs", "1", "--out", "run")
    assert done.code == 0, done.err
    assert "Victim images that the CNN was trained on: 60." in done.err
    assert "Victim images that the CNN was trained on: 60." in (here / "run" / "report.html").read_text()


def test_a_dry_run_lists_the_capture_and_writes_nothing(pairs: Path, cloven: Run, here: Path) -> None:
    done = cloven("audit", *ONE, "--pairs", pairs, "--dry-run", "--json")
    (row,) = json.loads(done.out)["cells"]

    assert done.code == 0, done.err
    assert (row["strategy"], row["label"], row["observation_bytes"]) == ("captured", "Plain link", 4704)
    assert (row["seen"], row["share"], row["raw_image"]) == (["0"], ["0:1176"], None)
    assert [p for p in here.iterdir() if p != pairs] == []
    assert "Plain link" in cloven("audit", "--pairs", pairs, "--dry-run").out
