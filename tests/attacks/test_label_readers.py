"""Attacks that read classes: they learn where there is something, and nothing where there is nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cloven.attacks.attack import BatchedAttack
from cloven.attacks.conv_probe import ConvProbe
from cloven.attacks.knn import KNN
from cloven.attacks.knowledge import Knowledge, in_memory
from cloven.attacks.mlp_probe import MLPProbe
from cloven.attacks.probe import Probe
from cloven.attacks.rear import ModelRear
from cloven.attacks.trainer import CPU, train
from cloven.errors import ClovenError
from cloven.score.intervals import wilson
from tests.attacks.problems import blobs, classes, front, generator, paired, problem

READERS: list[BatchedAttack] = [
    KNN(),
    Probe(),
    MLPProbe(epochs=4, hidden=32),
    ConvProbe(epochs=4, width=16),
]
NAMES = [attack.name for attack in READERS]
FEW = 150


def right(attack: BatchedAttack, known: Knowledge, captured: list[Tensor], truth: Tensor) -> int:
    """Return the number of classes that the attack reads right."""
    read = attack.fit(known, generator=generator(3)).classify(captured)
    return int((read == truth).sum())


def stripes(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Maps of stripes at a random phase, and whether they stand upright: no mean tells."""
    source = generator(seed)
    phase, upright = torch.randint(4, (n,), generator=source), torch.randint(2, (n,), generator=source)
    wave = (torch.arange(16)[None] + phase[:, None]) // 2 % 2
    across = wave[:, None, None, :].expand(n, 1, 16, 16)
    lying = wave[:, None, :, None].expand(n, 1, 16, 16)
    maps = torch.where(upright.bool()[:, None, None, None], across, lying).float()
    return maps + 0.3 * torch.randn(maps.shape, generator=source), upright


@pytest.mark.parametrize("attack", READERS, ids=NAMES)
def test_it_reads_what_is_there(attack: BatchedAttack) -> None:
    images = blobs(200, 9)
    found = right(attack, problem(), front(images), truth := classes(images))

    most = int(torch.bincount(truth).max())
    assert wilson(found / 200, 200).low > most / 200


def worthless(kind: str, n: int, seed: int) -> Tensor:
    """Maps and bytes that say nothing of any image."""
    match kind:
        case "constant":
            return torch.full((n, 6, 8, 8), 0.7)
        case "noise":
            return torch.randn(n, 6, 8, 8, generator=generator(seed))
        case "bytes":
            return torch.randint(256, (n, 384), generator=generator(seed)).float()
    return front(blobs(n, seed))[0]


@pytest.mark.parametrize("kind", ["constant", "noise", "bytes", "other images"])
@pytest.mark.parametrize("attack", READERS, ids=NAMES)
def test_it_reads_nothing_where_there_is_nothing(attack: BatchedAttack, kind: str) -> None:
    images, victims = blobs(FEW, 0), blobs(200, 9)
    known = paired(in_memory(worthless(kind, FEW, 21)), images, classes=classes(images))
    truth = classes(victims)

    found = right(attack, known, [worthless(kind, 200, 22)], truth)

    assert wilson(found / 200, 200).low <= int(torch.bincount(truth).max()) / 200


def test_pairs_that_were_shuffled_teach_nothing() -> None:
    pairs = problem(FEW)
    assert pairs.classes is not None
    shuffled = replace(pairs, classes=pairs.classes[torch.randperm(FEW, generator=generator(4))])
    victims = blobs(200, 9)
    truth = classes(victims)

    for attack in READERS:
        found = right(attack, shuffled, front(victims), truth)
        assert wilson(found / 200, 200).low <= int(torch.bincount(truth).max()) / 200, attack.name


def test_convolutions_read_what_no_mean_tells() -> None:
    maps, upright = stripes(300, 0)
    others, truth = stripes(200, 1)
    known = paired(in_memory(maps), blobs(300, 0), classes=upright)

    linear, convolutional = (right(attack, known, [others], truth) for attack in (Probe(), READERS[3]))

    assert wilson(convolutional / 200, 200).low > wilson(linear / 200, 200).high


@pytest.mark.parametrize("attack", READERS, ids=NAMES)
def test_it_learns_the_same_twice_and_beside_others(attack: BatchedAttack) -> None:
    pairs, captured = problem(FEW), front(blobs(50, 9))
    alone = attack.fit(pairs, generator=generator(7)).classify(captured)
    torch.rand(3)
    beside = train([one.begin(pairs, generator(7), CPU) for one in READERS])[READERS.index(attack)]

    assert torch.equal(alone, beside.classify(captured))  # type: ignore[union-attr]


SHAPES = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 40)),
        st.tuples(st.integers(1, 5), st.integers(1, 40), st.integers(1, 9)),
        st.lists(st.integers(1, 4), min_size=2, max_size=4).map(tuple),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=15)
@given(SHAPES, st.integers(2, 130), st.integers(1, 5))
def test_it_reads_tensors_of_any_shapes(shapes: list[tuple[int, ...]], n: int, count: int) -> None:
    tensors = [torch.randn(n, *shape, generator=generator(i)) for i, shape in enumerate(shapes)]
    answers = torch.randint(count, (n,), generator=generator(n)) + 7
    known = paired(in_memory(*tensors), blobs(n, 0), classes=answers)

    for attack in (KNN(), MLPProbe(epochs=1, hidden=3), ConvProbe(epochs=1, width=2)):
        read = attack.fit(known, generator=generator()).classify([z[:2] for z in tensors])
        assert read.shape == (2,)
        assert set(read.tolist()) <= set(answers.tolist())


@pytest.mark.parametrize("attack", READERS, ids=NAMES)
def test_a_service_that_always_answers_the_same_is_read_so(attack: BatchedAttack) -> None:
    same = replace(problem(60), classes=torch.full((60,), 4))
    assert attack.fit(same, generator=generator()).classify(front(blobs(3, 9))).tolist() == [4, 4, 4]


@pytest.mark.parametrize("attack", [KNN(), Probe(), MLPProbe(members=1), ConvProbe(epochs=5, members=1)], ids=NAMES)
def test_a_thousand_classes_are_told_apart(attack: BatchedAttack) -> None:
    answers = torch.arange(1000).repeat(2)
    centres = torch.randn(1000, 30, generator=generator()) * 3
    z = centres[answers] + torch.randn(2000, 30, generator=generator(1))
    known = paired(in_memory(z), torch.rand(2000, 1, 4, 4), classes=answers)

    found = right(attack, known, [centres], torch.arange(1000))

    assert wilson(found / 1000, 1000).low > 1 / 1000


def test_large_maps_are_averaged_before_they_are_read() -> None:
    known = paired(in_memory(torch.rand(4, 64, 112, 112)), torch.rand(4, 3, 224, 224), classes=torch.arange(4) % 2)
    small = ConvProbe(epochs=1).fit(known, generator=generator())
    same = paired(in_memory(torch.rand(4, 64, 28, 28)), torch.rand(4, 3, 224, 224), classes=torch.arange(4) % 2)

    assert small.parameters == ConvProbe(epochs=1).fit(same, generator=generator()).parameters


@pytest.mark.parametrize("attack", [KNN(), MLPProbe(), ConvProbe()], ids=["knn", "mlp-probe", "conv-probe"])
def test_without_the_answers_of_the_service_there_is_nothing_to_learn(attack: BatchedAttack) -> None:
    with pytest.raises(ClovenError, match=f"{attack.name} needs the classes that the service answered"):
        attack.fit(replace(problem(), classes=None), generator=generator())


def test_the_rear_needs_the_weights_and_no_images() -> None:
    with pytest.raises(ClovenError, match="rear needs the model's weights"):
        ModelRear().fit(problem(), generator=generator())
    known = Knowledge((1, 16, 16), rear=lambda z: z[0].mean((2, 3)))

    read = ModelRear().fit(known, generator=generator()).classify(z := front(blobs(9, 0)))

    assert torch.equal(read, z[0].mean((2, 3)).argmax(1))


def test_hyper_parameters_that_make_no_sense_are_named() -> None:
    with pytest.raises(ClovenError) as caught:
        ConvProbe(epochs=0, dropout=1.0)
    with pytest.raises(ClovenError) as others:
        KNN(neighbours=(0,))

    assert caught.value.problems == (
        "epochs is 0; expected a whole number, 1 or more",
        "dropout is 1.0; expected a number from 0 to below 1",
    )
    assert "neighbours is (0,)" in others.value.problems[0]
