"""Training: reproducible, independent of the caller's random state, cached by everything that can change it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cloven.errors import ClovenError
from cloven.files import cache_dir
from cloven.zoo import training
from cloven.zoo.datasets import load
from cloven.zoo.images import Images, split
from cloven.zoo.models import build
from cloven.zoo.training import accuracy, fit, seeded, trained
from tests.models import logits_of


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Use one thread: results depend on their number, and small models on busy cores are slow with several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def digits() -> Images:
    return load("digits")


@pytest.fixture(scope="module")
def few(digits: Images) -> Images:
    return digits.take(range(70))


def lenet5(seed: int = 0) -> nn.Module:
    return seeded(lambda: build("lenet5", shape=(1, 28, 28), classes=10), seed)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([value.flatten() for value in model.state_dict().values()])


class Normalised(nn.Sequential):
    """Batch normalisation with a momentum so small that a few steps hardly change it."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(784, 10), nn.BatchNorm1d(10, momentum=1e-6))


class Noisy(nn.Module):
    """A model that draws random numbers in training, and counts in buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.BatchNorm1d(10), nn.Dropout(0.5))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits


class TestSeeded:
    def test_weights(self) -> None:
        """One seed makes one model, another seed another."""
        assert torch.equal(weights(lenet5(1)), weights(lenet5(1)))
        assert not torch.equal(weights(lenet5(1)), weights(lenet5(2)))

    def test_caller_is_not_disturbed(self) -> None:
        """The caller's random numbers continue as if the model had not been made."""
        torch.manual_seed(3)
        expected = torch.rand(4)
        torch.manual_seed(3)
        lenet5()

        assert torch.equal(torch.rand(4), expected)

    def test_caller_is_not_disturbed_by_an_error(self) -> None:
        """The random state is not changed either if making the model fails."""
        state = torch.get_rng_state()
        with pytest.raises(ClovenError):
            seeded(lambda: build("lenet6", shape=(1, 28, 28), classes=10), 0)

        assert torch.equal(torch.get_rng_state(), state)


class TestFit:
    def test_reproducible(self, few: Images) -> None:
        """The same seed gives the same weights bit by bit, whatever the caller drew before; another seed others."""
        once, again, other = (seeded(Noisy, 0) for _ in range(3))
        fit(once, few, epochs=2, seed=1)
        torch.rand(5)
        fit(again, few, epochs=2, seed=1)
        fit(other, few, epochs=2, seed=2)

        assert torch.equal(weights(once), weights(again))
        assert not torch.equal(weights(once), weights(other))

    def test_caller_is_not_disturbed(self, few: Images) -> None:
        """Dropout and batch order do not change the caller's random state."""
        state = torch.get_rng_state()
        fit(Noisy(), few.take(range(10)), epochs=1)
        torch.set_rng_state(state)
        model = Noisy()
        after = torch.get_rng_state()
        fit(model, few.take(range(10)), epochs=1)

        assert torch.equal(torch.get_rng_state(), after)

    def test_seed_orders_the_batches(self, few: Images) -> None:
        """A model without random draws differs with another seed, too."""
        one, other = (fit(lenet5(), few, epochs=1, seed=seed) for seed in (1, 2))

        assert not torch.equal(weights(one), weights(other))

    def test_a_balanced_class_of_few_images_counts_as_much(self, digits: Images) -> None:
        """Of 10 images of one digit and 120 of another, only a balanced training recognises the first."""
        assert digits.labels is not None
        rare, usual = (np.flatnonzero(digits.labels == label) for label in (3, 8))
        uneven = digits.take(np.concatenate([rare[:10], usual[:120]]))
        tests = digits.take(rare[10:])
        truth = torch.full((len(tests),), 3)
        recalls = [
            accuracy(logits_of(fit(lenet5(), uneven, epochs=2, balanced=on), tests.tensor()), truth)
            for on in (False, True)
        ]

        assert recalls[0] < 0.5 < recalls[1]

    def test_epochs_are_told(self, few: Images) -> None:
        """Each epoch is reported once, from 1 on, with its mean loss, which falls."""
        told: list[tuple[int, float]] = []
        fit(lenet5(), few, epochs=8, lr=3e-3, on_epoch=lambda epoch, loss: told.append((epoch, loss)))

        assert [epoch for epoch, _ in told] == list(range(1, 9))
        assert told[0][1] == pytest.approx(np.log(10), abs=0.1)
        assert told[-1][1] < 0.9 * told[0][1]

    def test_mean_loss(self, few: Images) -> None:
        """The mean is over images, so a short last batch weighs less: nothing learned, any batch size agrees."""
        means: list[float] = []
        for batch in (70, 64, 1):
            fit(lenet5(), few, epochs=1, batch=batch, lr=0.0, on_epoch=lambda _, loss: means.append(loss))

        assert means == pytest.approx([means[0]] * 3, rel=1e-5)

    def test_gradients_may_be_off(self, few: Images) -> None:
        """A caller that disabled gradients can train nevertheless; the model is returned in eval mode."""
        with torch.no_grad():
            model = fit(lenet5(), few, epochs=1)

        assert not model.training
        assert not torch.equal(weights(model), weights(lenet5()))

    def test_all_problems_at_once(self, few: Images) -> None:
        """All problems of a training set are reported at once."""
        unlabelled = Images("holiday", few.pixels[:0], None, (), ())
        with pytest.raises(ClovenError) as caught:
            fit(lenet5(), unlabelled, epochs=0)

        assert caught.value.problems == (
            "training: holiday has no labels, expected labelled images",
            "training: holiday has no images, expected at least one",
            "training: got 0 epochs in batches of 64, expected at least 1 of each",
        )

    def test_batch_normalisation_knows_the_images_after_a_short_training(self, few: Images) -> None:
        """The statistics are those of the images, averaged over their batches; the weights do not change."""
        model = seeded(Normalised, 0)
        fit(model, few.take(range(64)), epochs=1)
        _, linear, normalised = model
        expected = linear(few.take(range(64)).tensor().flatten(1)).detach()

        assert torch.allclose(normalised.get_buffer("running_mean"), expected.mean(0), atol=1e-5)
        assert torch.allclose(normalised.get_buffer("running_var"), expected.var(0), rtol=1e-4)
        assert normalised.momentum == 1e-6

    @pytest.mark.parametrize("count", [2, 3, 65, 66])
    def test_no_batch_is_of_one_image(self, digits: Images, count: int) -> None:
        """Batch normalisation refuses one vector; 65 images are one batch, and none is left out."""
        drawn = [len(some) for some in training._batches(torch.arange(count), 64)]

        assert sum(drawn) == count
        assert min(drawn) > 1
        assert not fit(seeded(Normalised, 0), digits.take(range(count)), epochs=1).training

    def test_digits(self, digits: Images) -> None:
        """Ten epochs on 80 % of the digits classify the others."""
        train, validation, test = split(digits, seed=0)
        model = fit(lenet5(), train, epochs=10, seed=0)

        for held_out in (validation, test):
            assert held_out.labels is not None
            assert accuracy(logits_of(model, held_out.tensor()), held_out.labels) >= 0.94


class TestAccuracy:
    @pytest.mark.parametrize("kind", [torch.tensor, np.array])
    def test_classes(self, kind: type[Tensor]) -> None:
        """The share of classes that agree, of tensors or arrays."""
        assert accuracy(kind([1, 2, 3, 4]), kind([1, 2, 3, 0])) == 0.75

    def test_logits(self) -> None:
        """The largest logit is the class."""
        assert accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1])) == 0.5

    def test_read_only_labels(self, few: Images) -> None:
        """The labels of a record are read-only, which does not cause a warning."""
        assert few.labels is not None
        assert accuracy(few.labels, few.labels) == 1

    @pytest.mark.parametrize(("count", "labels"), [(2, 3), (1, 3), (0, 0)])
    def test_one_each(self, count: int, labels: int) -> None:
        """Empty or unequal lists give an error instead of a number."""
        with pytest.raises(ClovenError, match=f"got {count} predictions for {labels} labels, expected one each"):
            accuracy(torch.zeros(count, dtype=torch.int64), torch.zeros(labels, dtype=torch.int64))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the list of the seeds of all trainings."""
    seeds: list[int] = []
    original = training.fit

    def counted(model: nn.Module, images: Images, *, seed: int, **options: Any) -> nn.Module:
        seeds.append(seed)
        return original(model, images, seed=seed, **options)

    monkeypatch.setattr(training, "fit", counted)
    return seeds


def test_class_weights() -> None:
    """The mean weight of an image is 1; a class that does not occur has a finite weight."""
    labels = torch.tensor([0, 0, 0, 1])

    found = training.class_weights(labels, 2)

    assert found.tolist() == pytest.approx([4 / 6, 2])
    assert float(found[labels].mean()) == pytest.approx(1)
    assert training.class_weights(labels, 3).tolist() == pytest.approx([4 / 9, 4 / 3, 4 / 3])


class TestTrained:
    def test_second_time_from_the_cache(self, few: Images, tmp_path: Path, runs: list[int]) -> None:
        """The same request is trained once, and gives the same bits again; the cache holds one file."""
        told: list[int] = []
        once, again = (
            trained(
                "lenet5", few, epochs=1, seed=4, cache=tmp_path / "a" / "b", on_epoch=lambda e, _: told.append(e)
            )
            for _ in range(2)
        )

        assert runs == [4]
        assert told == [1]
        assert torch.equal(weights(once), weights(again))
        assert not once.training
        assert not again.training
        assert [file.suffix for file in (tmp_path / "a" / "b").iterdir()] == [".safetensors"]

    def test_as_built_and_fitted(self, few: Images, tmp_path: Path) -> None:
        """The seed draws the first weights as well as the order of the batches."""
        model = trained("lenet5", few, epochs=1, seed=4, cache=tmp_path)

        assert torch.equal(weights(model), weights(fit(lenet5(4), few, epochs=1, seed=4)))

    def test_key(self, few: Images, tmp_path: Path, runs: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever can change the weights changes the key; names and sources do not."""
        assert few.labels is not None
        trained("lenet5", few, epochs=1, seed=0, cache=tmp_path)
        trained("lenet5", few, epochs=2, seed=0, cache=tmp_path)
        trained("lenet5", few, epochs=1, seed=1, cache=tmp_path)
        trained("lenet5", few.take(range(69)), epochs=1, seed=0, cache=tmp_path)
        trained("lenet5", replace(few, labels=9 - few.labels), epochs=1, seed=0, cache=tmp_path)
        trained("lenet5", replace(few, classes=(*few.classes, "ten")), epochs=1, seed=0, cache=tmp_path)
        trained("lenet5", few, epochs=1, seed=0, cache=tmp_path, balanced=True)
        for name, value in (("SCHEMA", training.SCHEMA + 1), ("BATCH", 32), ("LR", 2e-3)):
            monkeypatch.setattr(training, name, value)
            trained("lenet5", few, epochs=1, seed=0, cache=tmp_path)
        assert len(runs) == len(list(tmp_path.iterdir())) == 10

        moved = replace(few, name="moved", sources=few.sources[::-1])
        trained("lenet5", moved, epochs=1, seed=0, cache=tmp_path)
        assert len(runs) == 10

        monkeypatch.setattr(torch, "__version__", "9.9")
        trained("lenet5", few, epochs=1, seed=0, cache=tmp_path)
        assert len(runs) == len(list(tmp_path.iterdir())) == 11

    def test_from_weights_of_other_classes(self, few: Images, tmp_path: Path, runs: list[int]) -> None:
        """Training starts from a file, whose content is part of the key, but not its name."""
        begin = {
            name: value.clone()
            for name, value in build("lenet5", shape=(1, 28, 28), classes=7).state_dict().items()
        }
        file, same, other = (tmp_path / f"{name}.safetensors" for name in "abc")
        for path in (file, same):
            save_file(begin, path)
        save_file({name: 2 * value for name, value in begin.items()}, other)
        cache = tmp_path / "cache"
        plain, once, again, doubled = (
            weights(trained("lenet5", few, epochs=1, seed=0, cache=cache, start=start))
            for start in (None, file, same, other)
        )

        assert len(runs) == 3
        assert torch.equal(once, again)
        assert not torch.equal(once, plain)
        assert not torch.equal(once, doubled)

    def test_weights_of_another_model(self, few: Images, tmp_path: Path, runs: list[int]) -> None:
        save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "w.safetensors")
        with pytest.raises(ClovenError, match="belongs to another model"):
            trained("lenet5", few, epochs=1, seed=0, cache=tmp_path / "cache", start=tmp_path / "w.safetensors")
        assert not runs

    @pytest.mark.parametrize("damage", ["empty", "cut", "text", "bit", "renamed", "no checksum", "other weights"])
    def test_damaged_file_is_not_trusted(self, few: Images, tmp_path: Path, runs: list[int], damage: str) -> None:
        """A damaged file is replaced by a new training."""
        expected = weights(trained("lenet5", few, epochs=1, seed=0, cache=tmp_path))
        file = next(tmp_path.iterdir())
        intact = file.read_bytes()
        kept = load_file(file)
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata()
        match damage:
            case "empty":
                file.write_bytes(b"")
            case "cut":
                file.write_bytes(intact[:-1])
            case "text":
                file.write_text("<!DOCTYPE html>" * 10)
            case "bit":
                file.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
            case "renamed":
                trained("lenet5", few, epochs=1, seed=1, cache=tmp_path)
                next(other for other in tmp_path.iterdir() if other != file).replace(file)
                runs.pop()
            case "no checksum":
                save_file(kept, file)
            case "other weights":
                save_file({name: torch.zeros_like(value) for name, value in kept.items()}, file, metadata)

        again = trained("lenet5", few, epochs=1, seed=0, cache=tmp_path)

        assert runs == [0, 0]
        assert torch.equal(weights(again), expected)
        assert torch.equal(weights(trained("lenet5", few, epochs=1, seed=0, cache=tmp_path)), expected)
        assert runs == [0, 0]

    def test_nothing_is_left_where_writing_fails(
        self, few: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A full disk leaves no half file behind, under this name or another."""

        def full(self: Path, target: Path) -> Path:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "replace", full)
        with pytest.raises(ClovenError, match=r"cannot write .*: No space left"):
            trained("lenet5", few, epochs=1, seed=0, cache=tmp_path)

        assert list(tmp_path.iterdir()) == []

    def test_caller_is_not_disturbed(self, few: Images, tmp_path: Path) -> None:
        """Neither training nor loading changes the caller's random state."""
        state = torch.get_rng_state()
        for _ in range(2):
            trained("lenet5", few, epochs=1, seed=0, cache=tmp_path)

        assert torch.equal(torch.get_rng_state(), state)

    def test_cache_is_no_folder(self, few: Images, tmp_path: Path, runs: list[int]) -> None:
        """A cache folder that cannot be created is reported before any training."""
        (tmp_path / "file").write_text("")
        with pytest.raises(
            ClovenError, match=f"^{tmp_path}/file: cannot be used as the cache .*; set CLOVEN_CACHE to"
        ):
            trained("lenet5", few, epochs=1, seed=0, cache=tmp_path / "file")

        assert runs == []

    def test_unlabelled(self, tmp_path: Path) -> None:
        """Unlabelled images are refused."""
        with pytest.raises(ClovenError, match="training: photos has no labels, expected labelled images"):
            trained("lenet5", load("photos", shape=(1, 28, 28), limit=3), epochs=1, seed=0, cache=tmp_path)

    def test_unknown_model(self, few: Images, tmp_path: Path) -> None:
        """An unknown model is reported before anything is created."""
        with pytest.raises(ClovenError, match="unknown model 'lenet6'"):
            trained("lenet6", few, epochs=1, seed=0, cache=tmp_path / "a")

        assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("own", "xdg", "expected"),
    [
        ("/own", "/xdg", "/own"),
        ("", "/xdg", "/xdg/cloven"),
        (None, None, "/home/me/.cache/cloven"),
        ("~/c", "", "/home/me/c"),
    ],
)
def test_cache_dir(monkeypatch: pytest.MonkeyPatch, own: str | None, xdg: str | None, expected: str) -> None:
    """$CLOVEN_CACHE, else $XDG_CACHE_HOME, else the home folder; empty variables are ignored."""
    monkeypatch.setenv("HOME", "/home/me")
    for name, value in (("CLOVEN_CACHE", own), ("XDG_CACHE_HOME", xdg)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)

    assert cache_dir() == Path(expected)


@pytest.mark.slow
def test_mnist(tmp_path: Path, data: str) -> None:
    """Ten epochs on 56,000 images classify 98.5 % of the 7,000 held-out ones."""
    train, _, test = split(load(f"mnist:{data}"), seed=0)
    model = trained("lenet5", train, epochs=10, seed=0, cache=tmp_path)

    assert test.labels is not None
    assert accuracy(logits_of(model, test.tensor()), test.labels) >= 0.985
