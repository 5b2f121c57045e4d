"""Attacks that a user writes: three examples, their knowledge, and their names."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

import cloven
from cloven.attacks import Knowledge, LabelReader, Reconstructor, in_memory, needed
from cloven.auditing.classifier import WholeModel
from cloven.auditing.finding import CellResult
from cloven.errors import ClovenError
from cloven.rows import all_rows
from cloven.zoo.models import build
from tests.attacks.problems import blobs, front, generator
from tests.auditing.small import small
from tests.cli.conftest import Run
from tests.cli.conftest import cloven as run

__all__ = ["run"]


@dataclass(frozen=True)
class NearestImage:
    """Answers with the auxiliary image whose capture is nearest."""

    def fit(self, knowledge: Knowledge, *, generator: torch.Generator, device: str) -> Reconstructor:
        pairs = needed(knowledge.pairs, "NearestImage", "pairs")
        captured, images = pairs.first()
        known = torch.cat([z.flatten(1) for z in captured], 1)

        def reconstruct(seen: Sequence[Tensor]) -> Tensor:
            return images[torch.cdist(torch.cat([z.flatten(1) for z in seen], 1), known).argmin(1)]

        return reconstruct


@dataclass(frozen=True)
class Inversion:
    """Optimises an image until the front of the model returns what was captured; it needs no auxiliary images."""

    white_box: ClassVar[bool] = True
    steps: int = 60
    rate: float = 0.05

    def fit(self, knowledge: Knowledge, *, generator: torch.Generator, device: str) -> Reconstructor:
        model = needed(knowledge.front, "Inversion", "the front of the model")

        def reconstruct(seen: Sequence[Tensor]) -> Tensor:
            x = torch.full((len(seen[0]), *knowledge.image), 0.6, requires_grad=True)
            optimiser = torch.optim.Adam([x], lr=self.rate)
            for _ in range(self.steps):
                optimiser.zero_grad()
                losses = [F.mse_loss(a, b, reduction="sum") for a, b in zip(model(x), seen, strict=True)]
                torch.stack(losses).sum().backward()
                optimiser.step()
            return x.detach().clamp(0, 1)

        return reconstruct


@dataclass(frozen=True)
class Brightness:
    """Reads an image as bright if its captured mean is high; auxiliary images give the share of bright ones."""

    name: ClassVar[str] = "brightness"

    def fit(self, knowledge: Knowledge, *, generator: torch.Generator, device: str) -> LabelReader:
        needed(knowledge.auxiliary, self.name, "auxiliary images")
        light = (needed(knowledge.classes, self.name, "classes") == 1).float().mean()
        observed = needed(knowledge.observed, self.name, "observations to adapt to")
        seen = observed.take(torch.arange(len(observed)))
        return Threshold(float(self.energy(seen).quantile(1 - light)))

    @staticmethod
    def energy(captured: Sequence[Tensor]) -> Tensor:
        """Return the mean of the captured tensors, ``(n,)``."""
        return torch.stack([z.flatten(1).mean(1) for z in captured]).mean(0)


@dataclass(frozen=True)
class Threshold:
    least: float
    parameters: int = 1

    def classify(self, captured: Sequence[Tensor]) -> Tensor:
        return (Brightness.energy(captured) > self.least).long()


def fitted(attack: cloven.attacks.Attack, knowledge: Knowledge) -> Reconstructor | LabelReader:
    return attack.fit(knowledge, generator=generator(), device="cpu")


class TestKnowledge:
    """Attackers with pairs, without data, without queries."""

    images, victims = blobs(400, 0), blobs(20, 1)

    def test_nearest_image_by_pairs(self) -> None:
        knowledge = Knowledge((1, 16, 16), self.images, in_memory(*front(self.images)))
        reconstruct = fitted(NearestImage(), knowledge)

        assert isinstance(reconstruct, Reconstructor)
        made = reconstruct(front(self.victims))
        assert F.mse_loss(made, self.victims) < 0.8 * F.mse_loss(self.images[:20], self.victims)
        assert torch.equal(reconstruct(front(self.images[:5])), self.images[:5])

    def test_model_inversion_without_data(self) -> None:
        reconstruct = fitted(Inversion(), Knowledge((1, 16, 16), front=front))

        assert isinstance(reconstruct, Reconstructor)
        made = reconstruct(front(self.victims))
        assert F.mse_loss(made, self.victims) < 0.5 * F.mse_loss(torch.full_like(made, 0.5), self.victims)

    def test_a_label_reader_with_auxiliary_images_alone(self) -> None:
        def images(seed: int) -> Tensor:
            return blobs(100, seed) * torch.where(torch.arange(100) % 4 > 0, 0.4, 1.0)[:, None, None, None]

        light = (torch.arange(100) % 4 == 0).long()
        kernel = torch.rand(5, 1, 3, 3, generator=generator())
        seen = [F.conv2d(images(1), kernel, padding=1)]
        knowledge = Knowledge((1, 16, 16), images(0), classes=light, observed=in_memory(*seen))
        reader = fitted(Brightness(), knowledge)

        assert isinstance(reader, LabelReader)
        assert (reader.classify(seen) == light).float().mean() > 0.9

    @pytest.mark.parametrize(
        ("attack", "words"),
        [
            (NearestImage(), "NearestImage needs pairs; this attacker has none"),
            (Inversion(), "Inversion needs the front of the model; this attacker has none"),
            (Brightness(), "brightness needs classes; this attacker has none"),
            (cloven.attacks.Residual(), "residual needs pairs of images and what was captured of them"),
            (cloven.attacks.Probe(), "probe needs pairs"),
            (cloven.attacks.Refine(), "refine-pixels needs pairs"),
            (cloven.attacks.Inpaint(), "inpaint needs pairs"),
        ],
        ids=lambda value: getattr(value, "name", type(value).__name__),
    )
    def test_what_is_missing_is_named(self, attack: cloven.attacks.Attack, words: str) -> None:
        with pytest.raises(ClovenError, match=words):
            fitted(attack, Knowledge((1, 16, 16), self.images))

    def test_contradictions_are_refused_all_at_once(self) -> None:
        with pytest.raises(ClovenError) as caught:
            Knowledge((3, 16, 16), self.images[:5], in_memory(torch.rand(6, 2)), torch.zeros(4))

        assert caught.value.problems == (
            "auxiliary images are (1, 16, 16); expected (3, 16, 16)",
            "6 images were captured; there are 5 auxiliary images",
            "4 classes were answered; there are 5 auxiliary images",
        )

    def test_pairs_may_be_fewer_than_auxiliary_images(self) -> None:
        knowledge = Knowledge((1, 16, 16), self.images, in_memory(*front(self.images[:7])))

        assert knowledge.pairs is not None
        assert len(knowledge.pairs) == 7
        assert torch.equal(knowledge.pairs.first()[1], self.images[:7])


def audited(attack: object, **options: object) -> CellResult:
    """Return the result of the only cell."""
    made = small()
    results = cloven.audit(
        made.seen(0),
        attack,  # type: ignore[arg-type]
        auxiliary=made.auxiliary,
        victims=made.victims,
        **options,  # type: ignore[arg-type]
    )
    (finding,) = results.findings
    return results.store.cell(finding.key)


def timeless(result: CellResult) -> CellResult:
    """Return a result without times."""
    return result.model_copy(update={"wall_seconds": 0.0, "training": None, "tensors": ""})


class TestAudit:
    @pytest.mark.parametrize(
        "attack", [NearestImage(), Inversion(steps=20), Brightness()], ids=lambda a: type(a).__name__
    )
    def test_an_attack_of_ones_own_is_audited_as_any(self, attack: cloven.attacks.Attack) -> None:
        finding, again = audited(attack), audited(attack)

        assert finding.attack == getattr(attack, "name", type(attack).__name__)
        assert (finding.ssim is None) == isinstance(attack, Brightness)
        assert finding.parameters == (1 if isinstance(attack, Brightness) else 0)
        assert timeless(again) == timeless(finding)

    def test_what_is_its_own_is_in_the_provenance(self) -> None:
        settings = audited(Inversion(steps=1)).provenance["settings"]
        assert isinstance(settings, dict)

        assert settings["class"] == f"{__name__}:Inversion"
        assert settings["fields"] == {"steps": 1, "rate": 0.05}
        assert len(str(settings["source"])) == 64

    def test_all_that_an_attacker_may_know(self) -> None:
        """Queries, captures and the front give the same numbers, from which the rear computes the output."""
        made, asked = small(), list[bool]()

        def check(knowledge: Knowledge) -> None:
            assert knowledge.pairs is not None
            assert knowledge.observed is not None
            assert knowledge.classes is not None
            assert knowledge.query is not None
            assert knowledge.front is not None
            assert knowledge.rear is not None
            captured, images = knowledge.pairs.first(9)
            answer = knowledge.query(images)
            for same in (answer.captured, knowledge.front(images)):
                torch.testing.assert_close(same, captured, atol=1e-5, rtol=0)
            assert torch.equal(answer.classes, knowledge.classes[:9])
            assert torch.equal(knowledge.rear(captured).argmax(1), knowledge.classes[:9])
            victims = knowledge.observed.take(torch.arange(3))
            again = knowledge.query(made.victims.tensor()[:3]).captured
            torch.testing.assert_close(again, victims, atol=1e-5, rtol=0)
            asked.append(True)

        class Curious:
            white_box = True

            def fit(self, knowledge: Knowledge, *, generator: torch.Generator, device: str) -> Reconstructor:
                check(knowledge)
                return lambda captured: torch.zeros(len(captured[0]), *knowledge.image)

        audited(Curious())
        assert asked

    def test_what_derives_from_an_attack_of_the_package_is_ones_own(self) -> None:
        class Blurred(cloven.attacks.Nearest):
            name = "nearest"

            def fit(
                self, knowledge: Knowledge, *, generator: torch.Generator, device: str = "cpu"
            ) -> Reconstructor:
                found = super().fit(knowledge, generator=generator, device=device)
                return lambda captured: F.avg_pool2d(found(captured), 3, 1, 1)

        theirs, ours = audited(Blurred()), audited(cloven.attacks.Nearest())
        assert theirs.attack == ours.attack
        assert theirs.key != ours.key
        assert theirs.psnr != ours.psnr

    def test_without_white_box_there_is_no_model(self) -> None:
        @dataclass(frozen=True)
        class BlackBox(Inversion):
            white_box = False

        with pytest.raises(ClovenError, match="Inversion needs the front of the model"):
            audited(BlackBox())

    def test_knowledge_is_computed_when_it_is_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from cloven.auditing import model_access
        from cloven.auditing.cell import Cell
        from cloven.auditing.features import Features
        from cloven.auditing.material import ImageSets, prepare

        def refuse(*given: object, **named: object) -> None:
            raise AssertionError("something was computed")

        made = small()
        material = prepare(
            WholeModel(made.graph), [made.seen(0)], ImageSets(made.auxiliary, made.victims), budget=0
        )
        monkeypatch.setattr(Features, "take", refuse)
        for name in ("forward", "evaluate", "prepared"):
            monkeypatch.setattr(model_access, name, refuse)
        knowledge = Cell(made.seen(0), Inversion()).given(material)

        assert knowledge.pairs is not None
        assert all_rows(knowledge.pairs.images).data_ptr() == all_rows(material.images["auxiliary"]).data_ptr()
        with pytest.raises(AssertionError):
            knowledge.pairs.first(1)


class TestMistakes:
    """Each mistake gives an error of one sentence."""

    @pytest.mark.parametrize(
        ("attack", "words"),
        [
            (cloven.attacks.Residual, r"^pass Residual\(\), not Residual: expected an attack, got its class$"),
            (NearestImage, r"^pass NearestImage\(\), not NearestImage"),
            (small, r"is not an attack: \w+ has no method fit\(knowledge, ...\)$"),
            ("residul", r"^no attack is named 'residul'; did you mean residual\?$"),
            ("nowhere:Mine", r"^nowhere:Mine: nowhere cannot be imported: No module named 'nowhere'$"),
        ],
    )
    def test_what_is_no_attack(self, attack: object, words: str) -> None:
        with pytest.raises(ClovenError, match=words):
            audited(attack)

    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            (
                None,
                r"Odd.fit returned NoneType; expected a function from captured tensors to images, or an object",
            ),
            (lambda z: z[0], r"Odd reconstructed torch.float32 of shape \(60, 6, .* images in \[0, 1\] of shape"),
            (lambda z: None, r"Odd reconstructed NoneType; expected floating-point images"),
            (lambda z: torch.full((60, 1, 28, 28), torch.nan), r"Odd reconstructed NaN or infinite pixels"),
            (
                lambda z: z[1],
                r"Odd: reconstruction failed with IndexError: list index out of range \(test_attacks",
            ),
            (Threshold(0.0).classify, r"Odd reconstructed torch.int64 of shape \(60,\); expected floating-point"),
        ],
        ids=["nothing", "shape", "none", "nan", "error", "labels"],
    )
    def test_what_an_attack_must_not_answer(self, answer: object, words: str) -> None:
        class Odd:
            def fit(self, knowledge: Knowledge, *, generator: torch.Generator, device: str) -> object:
                return answer

        with pytest.raises(ClovenError, match=words):
            audited(Odd())

    def test_an_error_in_fit_names_the_line(self) -> None:
        class Careless:
            def fit(self, knowledge: Knowledge, *, generator: torch.Generator, device: str) -> object:
                return knowledge.rear([])  # type: ignore[misc]

        with pytest.raises(
            ClovenError, match=r"Careless: fit failed with TypeError: .* \(test_attacks.py, line \d+\)$"
        ):
            audited(Careless())

    def test_a_field_that_names_nothing(self) -> None:
        @dataclass(frozen=True)
        class WithFunction(NearestImage):
            distance: object = torch.cdist

        with pytest.raises(ClovenError, match=r"WithFunction.distance is a function; expected numbers"):
            audited(WithFunction())


def test_random_numbers_come_from_the_seed_of_the_cell() -> None:
    class Random:
        def fit(self, knowledge: Knowledge, *, generator: torch.Generator, device: str) -> Reconstructor:
            network = nn.Linear(1, 1)
            return lambda z: torch.full((len(z[0]), *knowledge.image), float(network.weight.detach().abs()) / 2)

    first, second = audited(Random()), audited(Random(), seeds=[1])
    state = torch.get_rng_state()
    assert timeless(audited(Random())) == timeless(first)
    assert first.psnr != second.psnr
    assert torch.equal(torch.get_rng_state(), state)


MODULE = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Mine:
    share: float = 0.5

    def fit(self, knowledge, *, generator, device):
        _, images = knowledge.pairs.first()
        return lambda captured: (self.share * images.mean(0)).expand(len(captured[0]), *knowledge.image)

LIGHT = Mine(1.0)
NOTHING = 3

class Forgetful:
    pass

class Demanding(Mine):
    def __init__(self, needed): ...
"""


class TestByName:
    @pytest.fixture(autouse=True)
    def module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "my_attacks.py").write_text(MODULE)
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.delitem(sys.modules, "my_attacks", raising=False)

    def test_a_class_and_an_instance_of_a_module(self) -> None:
        mine, light = (cloven.attacks.load(f"my_attacks:{name}") for name in ("Mine", "LIGHT"))

        assert repr(mine) == "Mine(share=0.5)"
        assert repr(light) == "Mine(share=1.0)"
        assert cloven.attacks.load(light) is light

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("my_attacks:Mne", "my_attacks has no 'Mne'; it has Mine"),
            ("my_attacks:NOTHING", r"my_attacks:NOTHING is not an attack: int has no method fit\(knowledge, ...\)"),
            ("my_attacks:Forgetful", "is the class Forgetful, which has no method fit; expected an attack"),
            ("my_attacks:Demanding", r"Demanding\(\) without arguments failed: .*'needed'"),
            (":Mine", "a module without a name cannot be imported"),
        ],
    )
    def test_mistakes(self, name: str, words: str) -> None:
        with pytest.raises(ClovenError, match=words):
            cloven.attacks.load(name)

    def test_the_source_is_in_the_key(self, tmp_path: Path) -> None:
        before = audited("my_attacks:Mine")
        for name in ("my_attacks", "cloven_digests"):
            sys.modules.pop(name, None)
        from cloven.attacks import provenance

        (tmp_path / "my_attacks.py").write_text(f"{MODULE}# better\n")
        provenance._digest.cache_clear()
        assert audited("my_attacks:Mine").key != before.key
        settings = audited("my_attacks:LIGHT").provenance["settings"]
        assert isinstance(settings, dict)
        assert settings["fields"] == {"share": 1.0}

    def test_a_package_registers_an_attack(self, tmp_path: Path) -> None:
        """The version of the package is in the key instead of the source text."""
        folder = tmp_path / "theirs-1.2.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.2\n")
        (folder / "entry_points.txt").write_text("[cloven.attacks]\ntheirs = my_attacks:Mine\n")
        code = (
            "import cloven, json; from cloven.attacks.provenance import settings_of\n"
            "print(json.dumps(settings_of(cloven.attacks.load('theirs'), [], ())))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

        assert json.loads(done.stdout) == {
            "class": "my_attacks:Mine",
            "fields": {"share": 0.5},
            "version": "theirs 1.2",
        }

    def test_the_command_takes_it_resumes_and_repeats_it_in_processes(self, run: Run, tmp_path: Path) -> None:
        save_file(build("lenet5", shape=(1, 28, 28), classes=10).state_dict(), tmp_path / "w.safetensors")
        model = ("lenet5", "--weights", "w.safetensors", "--strategies", "vertical", "--layers", "conv1")
        few = ("--auxiliary", "same", "--queries", "40", "--victims", "20", "--judge", "none", "--seeds", "2")
        audit = ("audit", *model, *few, "--jobs", "2", "--attacks", "my_attacks:Mine", "--out", "run")
        done = run(*audit)
        assert done.code == 0, done.err
        cells = sorted((tmp_path / "run" / "cells").glob("*.json"))
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        rows = [row for row in summary["findings"] if row["attack"] == "Mine"]

        assert rows
        assert all(row["seeds"] == [0, 1] for row in rows)
        cells[0].unlink()
        kept = {path: path.stat().st_mtime_ns for path in cells[1:]}
        assert run(*audit).code == 0
        assert sorted((tmp_path / "run" / "cells").glob("*.json")) == cells
        assert {path: path.stat().st_mtime_ns for path in kept} == kept

    def test_the_command_refuses_what_is_no_attack(self, run: Run) -> None:
        done = run("audit", "lenet5", "--attacks", "my_attacks:Mne,psychic", "--out", "run")

        assert done.code == 2
        assert "my_attacks has no 'Mne'; it has Mine" in done.err
        assert "no attack is named 'psychic'" in done.err


def test_names_are_there_after_import_cloven_and_bring_no_torch() -> None:
    code = (
        "import sys, cloven; attacks = cloven.attacks; dir(attacks); print('torch' in sys.modules); "
        "print(attacks.Residual(), [getattr(attacks, name).__doc__ is not None for name in attacks.__all__])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()

    assert first == "False"
    assert second.startswith("Residual(epochs=None")
    assert "False" not in second.split("[")[1]
    with pytest.raises(AttributeError, match=r"module 'cloven.attacks' has no attribute 'Residul'"):
        _ = cloven.attacks.Residul
