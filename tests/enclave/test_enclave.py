"""A simulated enclave in real processes: it returns the model's results, and refuses every attempt to abuse it."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cloven.enclave.backends import named
from cloven.enclave.handover import WAYS, Way
from cloven.enclave.owner import data_key
from cloven.enclave.pipe import HandedBack, RestDone, tell
from cloven.enclave.quote import Expected, Measurement, read_quote
from cloven.enclave.release import release
from cloven.enclave.run_report import trace
from cloven.enclave.runner import Enclave, EnclaveOptions, running
from cloven.enclave.sealed_folder import (
    INPUT,
    PLAN,
    RESULT,
    WEIGHTS,
    Sealed,
    captured,
    measured,
    new_id,
    seal_model,
    unsealed,
)
from cloven.enclave.sealed_results import open_results
from cloven.enclave.sealing import sealed_bytes, unsealed_bytes
from cloven.enclave.timing import release_at_once
from cloven.errors import ClovenError
from cloven.graph.graph import Graph
from cloven.partition.plan import ModelSpec, Plan
from cloven.partition.vertical import Vertical
from cloven.runtime.torch_engine import evaluate
from cloven.zoo.folders import decode_picture
from cloven.zoo.named import make

OWNER = bytes(range(32))
GIB = 2**30


@dataclass(frozen=True)
class Own:
    """The owner's data: a sealed folder, its key, and the whole model's answers."""

    folder: Sealed
    key: bytes
    plan: Plan
    state: dict[str, Tensor]

    @cached_property
    def graph(self) -> Graph:
        """Return the whole model."""
        return captured(self.plan, self.state)

    def picture(self, seed: int) -> bytes:
        _, height, width = self.plan.named_model.input
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(found := io.BytesIO(), "PNG")
        return found.getvalue()

    def sealed(self, seed: int) -> bytes:
        return sealed_bytes(self.picture(seed), self.key, self.folder.name(INPUT))

    def expected(self, *seeds: int) -> Tensor:
        images = [torch.tensor(decode_picture(self.picture(s), self.plan.named_model.input)) for s in seeds]
        output = self.graph.output
        return evaluate(self.graph, torch.stack(images).float() / 255, [output])[output]


def own(out: Path, name: str, shape: tuple[int, int, int], cut: str, until: str | None = None) -> Own:
    strategy = Vertical(cuts=(cut,), until=until)
    model = ModelSpec(name=name, input=shape, classes=10)
    plan = Plan(model=model, strategy=(strategy,), devices=("enclave", "accelerator"))
    torch.manual_seed(1)
    state = make(name, shape=shape, classes=10).state_dict()
    folder = Sealed(out, new_id(), 2 * GIB)
    key = data_key(OWNER, folder.id)
    seal_model(folder, plan, state, key=key)
    return Own(folder, key, plan, state)


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> Own:
    return own(tmp_path_factory.mktemp("lenet") / "sealed", "lenet5", (1, 28, 28), "conv2")


@contextmanager
def released(of: Own, way: Way = "memory") -> Iterator[tuple[Enclave, str]]:
    """Yield a running enclave that has its key, and its run."""
    with running(
        EnclaveOptions(of.folder.path, named("simulated"), way=way, memory=2 * GIB, timeout=60)
    ) as enclave:
        run = release_at_once(enclave, of.folder, OWNER).run
        enclave.split()
        yield enclave, run


@contextmanager
def at_work(of: Own, way: Way = "memory") -> Iterator[Enclave]:
    with released(of, way) as (enclave, _):
        yield enclave


@pytest.mark.parametrize("way", ["memory", *(pytest.param(way, marks=pytest.mark.slow) for way in WAYS[1:])])
def test_the_two_halves_give_the_models_own_answers(lenet: Own, way: Way) -> None:
    with at_work(lenet, way) as enclave:
        answers = [enclave.infer([lenet.sealed(1)]), enclave.infer([lenet.sealed(2), lenet.sealed(3)])]

    assert [answer.images for answer in answers] == [1, 2]
    assert answers[0].handed_bytes == 4 * 16 * 10 * 10
    assert all(answer.logits is not None for answer in answers)
    assert torch.equal(torch.tensor(answers[0].logits), lenet.expected(1))
    assert torch.equal(torch.tensor(answers[1].logits), lenet.expected(2, 3))
    rows = trace(enclave, answers)
    assert [row.step for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all(row.seconds > 0 for row in rows)
    assert all(half is not None and half.returncode is not None for half in (enclave.trusted, enclave.accelerator))
    assert "no network" in enclave.limits or enclave.limits[0].startswith("still on the machine's network")


def test_what_is_not_sealed_for_it_is_refused_and_a_half_that_is_killed_is_named(lenet: Own) -> None:
    good = lenet.sealed(5)
    changed = bytearray(good)
    changed[-1] ^= 1
    other_name = sealed_bytes(lenet.picture(5), lenet.key, lenet.folder.name(RESULT))
    no_picture = sealed_bytes(b"no picture", lenet.key, lenet.folder.name(INPUT))
    with at_work(lenet) as enclave:
        for bad in (bytes(changed), other_name, lenet.picture(5), b""):
            with pytest.raises(ClovenError, match=r"cannot open|not a sealed file"):
                enclave.infer([bad])
        with pytest.raises(ClovenError, match="picture"):
            enclave.infer([no_picture])
        answer = enclave.infer([good])
        for half, name in ((enclave.accelerator, "accelerator"), (enclave.trusted, "trusted half")):
            assert half is not None
            half.send_signal(signal.SIGKILL)
            half.wait()
            with pytest.raises(ClovenError, match=rf"the {name} has ended \(exit code -9\)"):
                enclave.infer([lenet.sealed(5)])

    assert torch.equal(torch.tensor(answer.logits), lenet.expected(5))


@pytest.mark.parametrize("file", [PLAN, WEIGHTS])
def test_a_changed_byte_in_a_sealed_file_is_refused(tmp_path: Path, file: str) -> None:
    mine = own(tmp_path / "sealed", "lenet5", (1, 28, 28), "conv2")
    plan, state = unsealed(mine.folder, mine.key)
    assert plan == mine.plan
    assert all(torch.equal(state[name], value) for name, value in mine.state.items())
    content = bytearray((mine.folder.path / file).read_bytes())
    content[len(content) // 2] ^= 0x40
    (mine.folder.path / file).write_bytes(content)

    with pytest.raises(ClovenError, match=f"cannot open .*{file}: it was changed"):
        unsealed(mine.folder, mine.key)


def test_no_key_goes_to_another_measurement_and_another_owners_opens_nothing(lenet: Own) -> None:
    asked = EnclaveOptions(lenet.folder.path, named("simulated"), memory=2 * GIB, timeout=60)
    nonce = bytes(32)
    expect, other = (
        Expected(Measurement("simulated", digits), accept="simulated")
        for digits in (measured(lenet.folder), "0" * 64)
    )
    with running(asked) as enclave:
        quote = read_quote(enclave.ask(json.dumps({"nonce": nonce.hex()}).encode()))
        with pytest.raises(ClovenError, match=f"is {expect.measurement}, expected {other.measurement}"):
            release(quote, nonce, expect=other, owner_key=OWNER, folder_id=lenet.folder.id)
        old = release(quote, nonce, expect=expect, owner_key=OWNER, folder_id=lenet.folder.id)
        enclave.ask(json.dumps({"nonce": (b"x" * 32).hex()}).encode())
        assert "does not answer the latest quote" in json.loads(enclave.ask(old))["refused"]  # replayed
        release_at_once(enclave, lenet.folder, bytes(32))
        with pytest.raises(ClovenError, match=r"cannot open .*plan.sealed: it was changed"):
            enclave.split()


def test_the_runner_of_an_sgx_enclave_cannot_bypass_its_quote(lenet: Own) -> None:
    enclave = Enclave(EnclaveOptions(lenet.folder.path, named("gramine-sgx"), way="pipe"), (-1, -1))

    with pytest.raises(
        ClovenError, match="receives its key only after its hardware quote is verified; omit --owner-key"
    ):
        release_at_once(enclave, lenet.folder, OWNER)


def test_a_measurement_is_of_the_code_and_of_the_folder(lenet: Own, tmp_path: Path) -> None:
    other = Sealed(tmp_path, new_id(), GIB)

    assert measured(lenet.folder) == measured(Sealed(tmp_path, lenet.folder.id, 0))
    assert measured(lenet.folder) != measured(other)


def test_a_result_that_is_made_inside_leaves_sealed_and_nothing_is_on_the_disk_in_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("HOME", str(tmp_path))
    mine = own(tmp_path / "sealed", "lenet5", (1, 28, 28), "conv2", until="dense1")
    with at_work(mine, "file") as enclave:
        answer = enclave.infer([mine.sealed(6)])
        again = enclave.infer([mine.sealed(6)])
        assert enclave.trusted is not None
        ends = [str(end.readlink()) for end in Path(f"/proc/{enclave.trusted.pid}/fd").iterdir()]
    assert answer.logits is None
    assert answer.sealed is not None
    assert answer.sealed != again.sealed
    (tmp_path / "answer").write_bytes(answer.sealed)
    assert (
        mine.expected(6).tolist()
        == json.loads(unsealed_bytes(answer.sealed, mine.key, mine.folder.name(RESULT)))["logits"]
    )

    secrets = [w.numpy().tobytes()[:64] for w in mine.state.values() if w.numel() >= 16]
    secrets += [mine.picture(6)[-64:], b"lenet5", mine.expected(6).numpy().tobytes()]
    written = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.name for path in written} == {"sealed.json", PLAN, WEIGHTS, "answer"}
    assert not [(path, secret) for path, content in written.items() for secret in secrets if secret in content]
    # Its open files are messages, the log, and the hand-over, which is unnamed.
    assert not [end for end in ends if end.startswith("/") and not end.endswith("(deleted)") and end[:5] != "/dev/"]


def test_a_hostile_host_cannot_pass_off_a_result_as_another_inputs_or_another_runs(tmp_path: Path) -> None:
    mine = own(tmp_path / "sealed", "lenet5", (1, 28, 28), "conv2", until="dense1")
    for seed in (1, 2):
        (tmp_path / f"{seed}.png").write_bytes(mine.picture(seed))

    def opens(result: bytes, seed: int, run: str) -> Tensor:
        (tmp_path / "r").write_bytes(result)
        (found,), _ = open_results(mine.folder, mine.key, [(tmp_path / "r", tmp_path / f"{seed}.png")], run=run)
        return torch.tensor(found.logits)

    one, two = mine.sealed(1), mine.sealed(2)
    with released(mine, "pipe") as (enclave, yesterday):
        earlier = enclave.infer([one]).sealed
    with released(mine, "pipe") as (enclave, today):
        first, second = enclave.infer([one]).sealed, enclave.infer([two]).sealed
        with pytest.raises(ClovenError, match="a sealed input was sent twice; a run opens each only once"):
            enclave.infer([one])
        pair = mine.sealed(1)
        with pytest.raises(ClovenError, match="sent twice"):
            enclave.infer([pair, pair])
        assert enclave.trusted is not None
        assert enclave.trusted.stdin is not None
        tell(enclave.trusted.stdin.fileno(), HandedBack(images=1), bytes(10))
        with pytest.raises(ClovenError, match="1 images were handed back; expected 0"):
            enclave.heard(enclave.trusted, RestDone)
    assert earlier is not None
    assert first is not None
    assert second is not None

    assert torch.equal(opens(first, 1, today), mine.expected(1))
    assert torch.equal(opens(earlier, 1, yesterday), mine.expected(1))
    assert torch.equal(opens(second, 2, today), mine.expected(2))
    with pytest.raises(ClovenError, match=r"/r is not the result of .*/1.png: the host renamed it"):
        opens(second, 1, today)
    with pytest.raises(ClovenError, match=rf"/r is a result of another run \({yesterday}, expected {today}\)"):
        opens(earlier, 1, today)


def test_all_wrong_options_are_reported_at_once(lenet: Own, tmp_path: Path) -> None:
    asked = EnclaveOptions(lenet.folder.path, named("gramine-sgx"), way="memory", memory=10, threads=0)
    with pytest.raises(ClovenError) as caught, running(asked):
        pass

    way, memory, threads = caught.value.problems
    assert way == "gramine-sgx does not support a hand-over by memory; choose from pipe"
    assert memory.startswith("the memory of 10 bytes is too small")
    assert threads == "the number of threads is 0; expected 1 or more"
    missing = EnclaveOptions(lenet.folder.path, named("gramine-sgx"), way="pipe", manifest=tmp_path / "m.manifest")
    with (
        pytest.raises(ClovenError, match=r"gramine-sgx is not on the PATH.*\n.*m.manifest.sgx is missing"),
        running(missing),
    ):
        pass
    with pytest.raises(
        ClovenError, match="the backend is 'sgx'; choose from simulated, gramine-direct, gramine-sgx"
    ):
        named("sgx")


def test_a_missing_gpu_is_reported() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    words = [sys.executable, "-m", "cloven.enclave.accelerator", "--device", "cuda", "--way", "pipe", "--out", "-1"]
    done = subprocess.run(words, capture_output=True, stdin=subprocess.DEVNULL)

    assert done.returncode == 2
    assert b"the accelerator is cuda, but PyTorch finds no CUDA device; use cpu" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, 6))
def test_resnet50_gives_its_own_answers_at_every_cut_of_s2(tmp_path: Path, number: int) -> None:
    from cloven.papers.points import resolve

    cut = resolve("torchvision:resnet50", f"s2:{number}")
    mine = own(tmp_path / "sealed", "torchvision:resnet50", (3, 224, 224), cut)
    with at_work(mine) as enclave:
        answer = enclave.infer([mine.sealed(8)])

    assert torch.equal(torch.tensor(answer.logits), mine.expected(8))
