"""Cells: equal results alone, with other cells, in processes and after a resume; empty observations."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import JsonValue
from torch import Tensor

import cloven
from cloven.attacks.attack import BatchedAttack
from cloven.attacks.decoder import Decoder
from cloven.attacks.knowledge import finite, in_memory
from cloven.attacks.matching import PixelDescent
from cloven.attacks.nearest import Nearest
from cloven.attacks.probe import Probe
from cloven.attacks.rear import ModelRear
from cloven.attacks.refine import Refine
from cloven.attacks.residual import Residual
from cloven.attacks.screen import Screen
from cloven.auditing.cell import Cell, Outcome, attack, attacks
from cloven.auditing.classifier import WholeModel
from cloven.auditing.executor import AuditCells, LocalExecutor
from cloven.auditing.finding import CellResult, Measured, Metric
from cloven.auditing.material import ImageSets, Material, prepare
from cloven.auditing.store import FinishedCell, Store, opened, write_document
from cloven.auditing.suite import AttackSuite
from cloven.errors import ClovenError
from cloven.graph.box import whole
from cloven.partition.compiler import divide
from cloven.partition.data import Data
from cloven.partition.horizontal import Horizontal
from cloven.partition.observe import Observation, Seen, seen_on
from cloven.partition.strategy import Strategy
from cloven.partition.vertical import Vertical
from cloven.rows import all_rows
from cloven.runtime.capture import capture
from cloven.zoo.models import build
from tests.attacks.problems import paired
from tests.auditing.small import small

SHORT: tuple[BatchedAttack, ...] = (
    Decoder(epochs=2), Screen(epochs=2), Residual(epochs=2, widths=(4,)), Probe(), Nearest(),
    Refine(Decoder(epochs=2), "labels", (PixelDescent(5, 0.01, 0.1),)),
)  # fmt: skip


def material(**options: Any) -> Material:
    made = small()
    images = ImageSets(made.auxiliary, made.victims, made.training)
    return prepare(WholeModel(made.graph), [made.seen(0), made.seen(1)], images, **options)


def timeless(result: CellResult) -> CellResult:
    """Return a result without times, and without the hash of its tensors."""
    return result.model_copy(update={"wall_seconds": 0.0, "training": None, "tensors": ""})


def run_cells(cells: list[Cell], shared: Material, store: Store, jobs: int = 1) -> None:
    """Run cells on this machine, and save their results."""
    executor = LocalExecutor(jobs)
    group = AuditCells({cell.key(shared): cell for cell in cells}, shared, store).group(executor)
    with executor.sharing(group) as submit:
        for future in [submit(index) for index in range(len(group.units))]:
            for cell in future.result().values():
                assert isinstance(cell, FinishedCell)
                store.save(cell)


def result(outcome: Outcome) -> CellResult:
    return timeless(outcome.result)


def audited(seen: Observation, attacker: BatchedAttack, **options: Any) -> Measured:
    """Return the result of one attack on one observation."""
    made = small()
    images = {"auxiliary": made.auxiliary, "victims": made.victims} | options
    (finding,) = cloven.audit(seen, attacker, **images).findings
    return finding


def baseline(found: Measured, metric: Metric) -> float:
    best = found.baseline(metric)
    assert best is not None
    return best[1]


def test_findings_do_not_depend_on_what_runs_beside_nor_on_how_features_come(tmp_path: Path) -> None:
    made = small()
    cells = [Cell(made.seen(0), a) for a in SHORT]
    cells += [Cell(made.seen(0), SHORT[1], 1), Cell(made.seen(1), SHORT[1]), Cell(made.seen(1), SHORT[0])]
    kept, anew = material(), material(budget=0)
    alone = {cell.key(kept): result(attack(cell, kept)) for cell in cells}
    together = {one.result.key: result(one) for one in attacks(cells, anew)}
    scores = attack(cells[0], kept).scores["agreement"]
    with opened(tmp_path / "run", {"x": 1}) as store, store.shelf() as shelf:
        spread = material(budget=0, shelf=shelf)
        run_cells(cells, spread, store, jobs=2)

    assert alone == together
    assert store.keys() == set(alone)
    for key, finding in alone.items():
        assert timeless(store.cell(key)) == finding
    assert torch.equal(store.tensors(cells[0].key(kept))["score/agreement"], scores)


def test_a_cell_that_was_half_trained_goes_on_to_the_same_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cloven.attacks import trainer

    made, shared = small(), material()
    cell = Cell(made.seen(0), Residual(epochs=3, widths=(4,)))
    whole_run = result(attack(cell, shared))
    end = trainer._Run.end

    def stopped(run: Any, epoch: int) -> None:
        end(run, epoch)
        if epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer._Run, "end", stopped)
    with pytest.raises(KeyboardInterrupt), opened(tmp_path / "run", {}) as store:
        run_cells([cell], shared, store)
    monkeypatch.undo()
    (half,) = (tmp_path / "run" / "cells").iterdir()
    assert half.name == f"{cell.key(shared)}.checkpoint"
    with opened(tmp_path / "run", {}) as store:
        run_cells([cell], shared, store)

    assert timeless(store.cell(cell.key(shared))) == whole_run
    assert not half.exists()


def edited(path: Path, **values: Any) -> None:
    """Change a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


class TestDigests:
    """An edited score is detected when it is read; the layout of the file may change."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        made, shared = small(), material()
        with opened(tmp_path / "run", {}) as store:
            run_cells([Cell(made.seen(i), Nearest()) for i in (0, 1)], shared, store)
        return store

    def files(self, store: Store) -> tuple[Path, Path]:
        """Return the files of two cells."""
        one, other = sorted((store.folder / "cells").glob("*.json"))
        return one, other

    def test_an_edited_score(self, store: Store) -> None:
        path, _ = self.files(store)
        kept = store.cell(path.stem)
        edited(path)
        assert store.cell(path.stem) == kept

        edited(path, agreement=kept.agreement.model_dump() | {"mean": 0.125})
        for read in (store.cell, store.tensors):
            with pytest.raises(ClovenError, match=rf"{path.name} was edited or damaged: .* run the audit again"):
                read(path.stem)

    def test_another_cells_result(self, store: Store) -> None:
        path, other = self.files(store)
        path.write_bytes(other.read_bytes())
        with pytest.raises(ClovenError, match="holds another cell's result"):
            store.cell(path.stem)

    def test_edited_or_exchanged_tensors(self, store: Store) -> None:
        path, other = (path.with_suffix(".safetensors") for path in self.files(store))
        changed = bytearray(path.read_bytes())
        changed[-1] ^= 1
        for content in (bytes(changed), other.read_bytes(), b""):
            path.write_bytes(content)
            with pytest.raises(ClovenError, match=rf"{path.name} was edited or damaged: .*; delete the cell"):
                store.tensors(path.stem)

    def test_a_cell_of_an_earlier_version(self, store: Store) -> None:
        path, _ = self.files(store)
        found = json.loads(path.read_text())
        path.write_text(json.dumps({name: value for name, value in found.items() if name != "digest"}))
        with pytest.raises(ClovenError, match="has no digest: an earlier version of cloven wrote it"):
            store.cell(path.stem)


def test_a_folder_of_another_version_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with opened(tmp_path / "run", {"schema": 3, "queries": 60}):
        pass
    with pytest.raises(ClovenError) as refused, opened(tmp_path / "run", {"schema": 4}):
        pytest.fail("it was opened by another version")
    assert refused.value.problems == (
        f"{tmp_path / 'run'} holds an audit of another version of cloven (schema 3, here 4); "
        "give another folder (--out)",
    )


@pytest.mark.parametrize("entries", [{"schema": 3, "floors": {}}, {"schema_version": 9, "rankings": {}}])
def test_a_summary_of_another_version_is_refused_in_one_sentence(
    tmp_path: Path, entries: dict[str, JsonValue]
) -> None:
    write_document(tmp_path / "summary.json", entries)
    with pytest.raises(ClovenError, match=r"written by another version of cloven \(schema") as refused:
        Store(tmp_path).summary()
    assert len(refused.value.problems) == 1


def test_a_folder_is_opened_once_at_a_time(tmp_path: Path) -> None:
    with opened(tmp_path / "run", {"x": 1}) as store:
        (store.folder / "cells" / ".other.part").touch()
        with pytest.raises(ClovenError, match=r"another audit is running in .*run; wait"), opened(store.folder, {}):
            pytest.fail("it was opened twice")
        assert (store.folder / "cells" / ".other.part").exists()
    with opened(tmp_path / "run", {"x": 1}):
        assert not (store.folder / "cells" / ".other.part").exists()
    with pytest.raises(ClovenError, match="x: 1 in the folder, 2 now"), opened(tmp_path / "run", {"x": 2}):
        pytest.fail("it was opened with another configuration")


def test_a_setting_that_differs_is_named_and_hashes_are_short(tmp_path: Path) -> None:
    one: dict[str, JsonValue] = {"plan": {"devices": ["a"], "cuts": 1}, "images": hashlib.sha256(b"1").hexdigest()}
    other: dict[str, JsonValue] = {
        "plan": {"devices": ["a"], "cuts": 2},
        "images": hashlib.sha256(b"2").hexdigest(),
    }
    with opened(tmp_path / "run", one):
        pass
    with pytest.raises(ClovenError) as refused, opened(tmp_path / "run", other):
        pass
    assert list(refused.value.problems[1:]) == [
        '  images: "6b86b273..." in the folder, "d4735e3a..." now',
        "  plan.cuts: 1 in the folder, 2 now",
    ]


def test_all_that_can_change_a_number_is_in_the_key() -> None:
    from cloven.attacks.trainer import Machine

    made, shared = small(), material()
    cells = [
        Cell(made.seen(0), Decoder()),
        Cell(made.seen(1), Decoder()),
        Cell(made.seen(0), Decoder(epochs=9)),
        Cell(made.seen(0), Decoder(), 1),
        Cell(made.seen(0), Decoder(), pairs=50),
        Cell(made.seen(0), Decoder(), knows="places"),
        Cell(made.seen(0), Decoder(), machine=Machine(precision="bfloat16")),
        Cell(made.seen(0), Decoder(), recorded="a run"),
        Cell(made.seen(0), Screen()),
        Cell(made.seen(0), Refine(Decoder())),
        Cell(made.seen(0), Refine(Decoder(epochs=9))),
    ]
    keys = {cell.key(shared) for cell in cells} | {cells[0].key(material(precision="float16"))}

    assert len(keys) == len(cells) + 1


def beats_baselines(found: Measured) -> bool:
    assert found.ssim is not None
    above = found.ssim.low > baseline(found, "ssim")
    return above and found.agreement.low > baseline(found, "agreement")


@pytest.mark.parametrize(
    "attacker",
    [
        Decoder(epochs=8),
        Residual(epochs=6, widths=(8,)),
        Refine(Decoder(epochs=8), "labels", (PixelDescent(40, 0.01, 0.1),)),
    ],
    ids=lambda a: a.name,
)
def test_the_strong_attacks_beat_every_baseline_on_the_whole_input(attacker: BatchedAttack) -> None:
    made = small()
    image = made.graph.input
    seen = Observation((Seen(image.name, whole(image.shape)),), "paper", True, (), made.graph)
    finding = audited(seen, attacker, domain=made.training)

    assert beats_baselines(finding)
    assert finding.ssim is not None
    assert finding.ssim.mean > 0.9


def replaced(change: Callable[[Tensor], Tensor]) -> Material:
    """Return the material with another tensor instead of the one that crosses the first link."""
    made, shared = small(), material()
    name = made.graph.fingerprints[made.seen(0).seen[0].value]
    mine = {k: change(all_rows(v)) for k, v in shared.features.kept.items() if k.startswith(name)}
    kept = {**shared.features.kept, **{k: finite(v) for k, v in mine.items()}}
    broken = {k: 1.0 for k, v in mine.items() if not v.isfinite().all()}
    return replace(shared, features=replace(shared.features, kept=kept, broken=broken))


def noise(z: Tensor) -> Tensor:
    return torch.randn(z.shape, generator=torch.Generator().manual_seed(len(z)))


def ciphertext(z: Tensor) -> Tensor:
    return torch.randint(0, 256, z.shape, generator=torch.Generator().manual_seed(len(z))).float() / 255


def shuffled(z: Tensor) -> Tensor:
    return z[torch.randperm(len(z), generator=torch.Generator().manual_seed(1))]


@pytest.mark.parametrize("attacker", SHORT[:5], ids=lambda a: a.name)
@pytest.mark.parametrize(
    "change",
    [noise, ciphertext, shuffled, lambda z: torch.ones_like(z), lambda z: z * torch.nan],
    ids=["noise", "ciphertext", "shuffled", "constant", "nan"],
)
def test_what_tells_nothing_is_not_above_its_baseline(
    attacker: BatchedAttack, change: Callable[[Tensor], Tensor]
) -> None:
    finding = attack(Cell(small().seen(0), attacker), replaced(change)).result

    assert finding.agreement.low <= baseline(finding, "agreement")
    if finding.ssim is not None:
        assert finding.ssim.low <= baseline(finding, "ssim")
    nan = bool(change(torch.ones(1, 1)).isnan().any())
    assert any("are NaN or infinite, and are read as 0" in note for note in finding.notes) == nan


def test_a_link_that_is_never_used_is_at_its_baseline_and_says_so() -> None:
    made = small()
    unused = seen_on(made.program, ("edge2", "edge0"))
    for attacker in (Decoder(epochs=1), Residual(epochs=1, widths=(4,)), Nearest(), Probe()):
        finding = attack(Cell(unused, attacker), material()).result

        assert finding.notes == ("this link carries nothing, so the attack answers without any observation",)
        assert finding.observation_bytes == 0
        assert finding.agreement.low <= baseline(finding, "agreement")


def test_one_value_is_an_observation() -> None:
    made = small()
    value = made.graph.output
    seen = Observation((Seen(value, ((3, 4),)),), "paper", True, (), made.graph)
    finding = audited(seen, Residual(epochs=1, widths=(4,)))

    assert finding.observation_bytes == 4
    assert finding.ssim is not None


def test_the_probe_reads_labels_and_has_no_images() -> None:
    made = small()
    deep = seen_on(cloven.divide(made.graph, cloven.Vertical(("dense1",)), 2), ("edge0", "edge1"))
    finding = audited(deep, Probe(), auxiliary=made.training, domain=made.training)

    assert finding.ssim is None
    assert finding.leakage.ssim is None
    assert finding.agreement.low > baseline(finding, "agreement")
    assert finding.psnr is None
    assert finding.baseline("ssim") is None


def test_auxiliary_images_that_are_victims_are_refused_by_name() -> None:
    made = small()
    both = made.training.take([*range(30)])
    victims = made.training.take([5, 6, *range(700, 720)])

    with pytest.raises(ClovenError) as refused:
        audited(made.seen(0), Decoder(), auxiliary=both, victims=victims)
    assert "2 auxiliary images are also victim images" in str(refused.value)
    assert both.sources[5] in str(refused.value)


def test_observations_of_two_models_are_refused() -> None:
    """Two models differ only in their weights, so that the wrong one would classify without an error."""
    made = small()
    other = capture(build("lenet5", shape=(1, 28, 28), classes=10).eval(), torch.zeros(1, 1, 28, 28))
    (theirs,) = cloven.observe(divide(other, Vertical(("conv1",)), 2))
    plans: list[Strategy] = [
        Vertical(("conv1",)),
        Horizontal("in_channels"),
        Horizontal("rows"),
        Data((1, 2), until="conv2"),
    ]
    for strategy in plans:
        for mine in cloven.observe(divide(made.graph, strategy, 2)):
            with pytest.raises(ClovenError, match="the observations are of 2 models"):
                cloven.audit([mine, theirs], Decoder(), auxiliary=made.auxiliary, victims=made.victims)


def test_a_second_judge_agrees_with_itself_on_the_originals() -> None:
    made = small()
    image = made.graph.input
    seen = Observation((Seen(image.name, whole(image.shape)),), "paper", True, (), made.graph)
    finding = audited(seen, Decoder(epochs=4), domain=made.training, judge=made.graph)

    assert finding.judge is not None
    assert (finding.judge.mean, finding.judge.low) == (finding.agreement.mean, finding.agreement.low)
    assert finding.judge.baseline == baseline(finding, "agreement")


def test_the_rear_of_the_model_reads_every_class_wherever_all_of_a_layer_is_seen() -> None:
    made = small()
    value = made.seen(1).seen[0].value
    share = Observation(
        (Seen(value, ((3, 4), *whole(made.graph.by_name[value].shape)[1:])),), "full", True, (), made.graph
    )

    for seen in (made.seen(0), made.seen(1)):
        finding = audited(seen, ModelRear())
        assert finding.agreement.mean == 1.0
        assert finding.ssim is None
    suite = AttackSuite(("nearest", "rear"))
    assert list(suite.on(made.seen(1), None)) == ["nearest", "rear"]
    assert list(suite.on(share, None)) == ["nearest"]


def test_the_rear_goes_on_from_shares_that_together_are_all_of_a_layer() -> None:
    made = small()
    value = made.seen(1).seen[0].value
    channels, height, width = made.graph.by_name[value].shape
    shares = (((0, 4), (0, height), (0, width)), ((3, channels), (0, height), (0, width)))
    seen = Observation(tuple(Seen(value, share) for share in shares), "full", True, (), made.graph)

    assert audited(seen, ModelRear()).agreement.mean == 1.0


def test_refine_needs_the_weights() -> None:
    seen = small().seen(0)

    finding, start = audited(seen, Refine(Decoder(epochs=2))), audited(seen, Decoder(epochs=2))
    assert finding.psnr is not None
    assert start.psnr is not None
    assert finding.psnr.mean > start.psnr.mean
    z = torch.rand(9, 2, 4, 4)
    with pytest.raises(ClovenError, match="refine-pixels needs the model's weights"):
        Refine().fit(paired(in_memory(z), torch.rand(9, 1, 8, 8)), generator=torch.Generator())


def test_a_pipe_in_place_of_the_lock_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".lock")

    with pytest.raises(ClovenError, match="cannot write to"), opened(tmp_path, {}):
        pass
