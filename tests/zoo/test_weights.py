"""Weights from files: all of them or none, and nothing that a file names is run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cloven.errors import ClovenError
from cloven.zoo.mobilenet import MobileNetV1
from cloven.zoo.named import begun, make
from cloven.zoo.weights import load_weights

State = dict[str, Tensor]


def small(classes: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, classes))


def state(model: nn.Module) -> State:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(model: nn.Module, expected: State) -> bool:
    return all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def problems(model: nn.Module, path: Path) -> list[str]:
    """What is said of a file, each without its path; the model must be as it was."""
    before = state(model)
    with pytest.raises(ClovenError) as caught:
        load_weights(model, path)
    assert same(model, before)
    assert all(problem.startswith(f"{path}: ") for problem in caught.value.problems)
    return [problem.removeprefix(f"{path}: ") for problem in caught.value.problems]


class Trap:
    """An object whose pickle makes a file when it is loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.trace}'",)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.pt", "w.th", "w.PTH", "w.npz"])
def test_round_trip(here: Path, name: str) -> None:
    weights = state(small())
    if name.endswith("safetensors"):
        save_file(weights, name)
    elif name.endswith("npz"):
        np.savez(here / name, **{key: value.numpy() for key, value in weights.items()})  # type: ignore[arg-type]
    else:
        torch.save(weights, name)
    model = small()

    load_weights(model, here / name)

    assert same(model, weights)


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_a_checkpoint_is_unwrapped(here: Path, wrapper: str) -> None:
    """As training scripts save it: beside other things, with DataParallel's prefix, without counters."""
    weights = state(small())
    entries: dict[str, Any] = {
        f"module.{k}": v for k, v in weights.items() if not k.endswith("num_batches_tracked")
    }
    torch.save({"epoch": 3, "best_prec1": 0.5, wrapper: {**entries, "module.note": "text"}}, "w.th")
    model = small()

    load_weights(model, here / "w.th")

    assert same(model, weights)


def test_a_model_whose_own_names_begin_with_module(here: Path) -> None:
    model, weights = nn.ModuleDict({"module": small()}), state(nn.ModuleDict({"module": small()}))
    torch.save(weights, "w.pt")

    load_weights(model, here / "w.pt")

    assert same(model, weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_the_models(here: Path, dtype: torch.dtype) -> None:
    weights = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state(small()).items()}
    save_file(weights, "w.safetensors")
    model = small()

    load_weights(model, here / "w.safetensors")

    assert same(model, {k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_keras_names_and_layouts(here: Path) -> None:
    """Each weight of a MobileNet, laid out as Keras does, comes back where it was."""
    model, other = MobileNetV1(0.25, classes=7), MobileNetV1(0.25, classes=7)
    arrays = {}
    for name, value in state(other).items():
        layer, _, last = name.rpartition(".")
        if last == "num_batches_tracked":
            continue
        array = torch.rand_like(value).numpy()
        if layer.endswith("_bn"):
            last = {
                "weight": "gamma",
                "bias": "beta",
                "running_mean": "moving_mean",
                "running_var": "moving_variance",
            }[last]
        elif last == "weight":
            depthwise = "_dw_" in layer
            last = "depthwise_kernel" if depthwise else "kernel"
            array = array.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
        arrays[f"{layer}.{last}"] = array
    assert arrays["conv1.kernel"].shape == (3, 3, 3, 8)  # HWIO
    assert arrays["conv_dw_2.depthwise_kernel"].shape == (3, 3, 16, 1)  # HWC1
    np.savez(here / "w.npz", **arrays)  # type: ignore[arg-type]

    load_weights(model, here / "w.npz")

    kept = model.state_dict()
    assert kept["conv1.weight"][5, 2, 0, 1] == arrays["conv1.kernel"][0, 1, 2, 5]
    assert kept["conv_dw_2.weight"][9, 0, 2, 1] == arrays["conv_dw_2.depthwise_kernel"][2, 1, 9, 0]
    assert kept["conv_preds.weight"][6, 200, 0, 0] == arrays["conv_preds.kernel"][0, 0, 200, 6]
    assert kept["conv_pw_3_bn.running_var"].tolist() == arrays["conv_pw_3_bn.moving_variance"].tolist()
    assert kept["conv_pw_3_bn.weight"].tolist() == arrays["conv_pw_3_bn.gamma"].tolist()


def test_one_weight_under_two_names(here: Path) -> None:
    np.savez(here / "w.npz", **{"1.gamma": np.ones(2), "1.weight": np.zeros(2)})  # type: ignore[arg-type]

    assert problems(small(), here / "w.npz") == [
        "holds 1.weight twice, under PyTorch's and Keras' names; leave one out"
    ]


def test_all_that_is_wrong_is_told_at_once(here: Path) -> None:
    weights = state(small(5))
    del weights["0.bias"]
    weights |= {"head.weight": torch.ones(1), "1.weight": torch.ones(2, dtype=torch.int32)}
    save_file(weights, "w.safetensors")

    assert problems(small(), here / "w.safetensors") == [
        "1 entry missing: 0.bias",
        "1 entry unexpected: head.weight",
        "2 entries of another shape: 3.bias (5,) not (3,), 3.weight (5, 8) not (3, 8)",
        "is not of this model; give the file of this one, or the model and classes that it was made for",
        "1 entry of another type: 1.weight torch.int32 not torch.float32; store weights as float32",
    ]


def test_eight_names_of_each_kind(here: Path) -> None:
    save_file({f"x{i}": torch.ones(1) for i in range(10)}, "w.safetensors")

    missing, unexpected, _ = problems(MobileNetV1(0.25), here / "w.safetensors")

    assert missing.startswith("137 entries missing: conv1.weight, conv1_bn.weight, ")
    assert missing.endswith(", conv_dw_1_bn.bias ... and 129 more")
    assert unexpected == "10 entries unexpected: x0, x1, x2, x3, x4, x5, x6, x7 ... and 2 more"


def test_tensors_that_are_no_plain_arrays(here: Path) -> None:
    """They would fail only while they are copied, when other weights have changed already."""
    weights = state(small())
    torch.save(
        {**weights, "3.weight": weights["3.weight"].to_sparse(), "3.bias": torch.empty(3, device="meta")}, "w.pt"
    )

    assert problems(small(), here / "w.pt") == [
        "2 entries of another type: 3.weight torch.sparse_coo not torch.float32, 3.bias meta not torch.float32; "
        "store weights as float32"
    ]


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_checkpoint_is_not_run(here: Path, zipped: bool) -> None:
    torch.save({"w": Trap(here / "ran")}, "w.pth", _use_new_zipfile_serialization=zipped)

    (problem,) = problems(small(), here / "w.pth")

    assert problem == (
        f"is refused: it names {os.system.__module__}.system; nothing in it was run. If it should hold weights "
        "only, fetch it again, or have its weights converted to .safetensors where it was made"
    )
    assert not (here / "ran").exists()


def test_a_whole_pickled_model_is_refused(here: Path) -> None:
    torch.save(small(), "w.pt")

    (problem,) = problems(small(), here / "w.pt")

    assert problem.startswith("is refused: it names torch.nn.modules.container.Sequential; nothing in it was run")


@pytest.mark.parametrize("name", ["plain.pth", "plain.npz", "objects.npz"])
def test_other_pickles_are_not_run(here: Path, name: str) -> None:
    trap = Trap(here / "ran")
    if name == "objects.npz":
        np.savez(here / name, w=np.array([trap], dtype=object))
    else:
        (here / name).write_bytes(pickle.dumps(trap))

    (problem,) = problems(small(), here / name)

    assert problem.startswith("is refused: it holds ")
    assert "nothing in it was run" in problem
    assert ".safetensors" in problem
    assert not (here / "ran").exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.npz"])
def test_damaged_files(here: Path, name: str) -> None:
    test_round_trip(here, name)
    content = (here / name).read_bytes()
    for damaged in (b"", content[:100], content[: len(content) // 2]):
        (here / name).write_bytes(damaged)

        (problem,) = problems(small(), here / name)

        assert problem.startswith(f"cannot be read as {Path(name).suffix} (")
        assert problem.endswith("); fetch it again")
        assert len(problem) < 200


def test_files_that_hold_something_else(here: Path) -> None:
    np.save(here / "one.npy", np.zeros(3))
    (here / "one.npy").rename(here / "one.npz")
    np.savez(here / "words.npz", a=np.array(["word"]))
    torch.save([torch.zeros(3)], "list.pt")
    torch.save({"epoch": 3}, "none.pt")

    said = {name: problems(small(), here / name)[0] for name in ("one.npz", "words.npz", "list.pt", "none.pt")}

    assert said["one.npz"].startswith("holds one array without a name")
    assert said["words.npz"].startswith("cannot be read as .npz (can't convert np.ndarray of type numpy.str_")
    assert said["list.pt"] == "holds a list, expected weights by name, as state_dict() gives them"
    assert said["none.pt"] == "holds no named tensors, expected the weights of a model"


def test_files_that_are_not_there(here: Path) -> None:
    known = ".safetensors, .pth, .pt, .th, .npz"
    (here / "folder.pt").mkdir()

    assert problems(small(), here / "w.pt") == ["there is no such file"]
    assert problems(small(), here / "w.h5") == [f"weights end in {known}; got .h5"]
    assert problems(small(), here / "w") == [f"weights end in {known}; got no suffix"]
    assert problems(small(), here / "folder.pt") == [f"is no file, expected one that ends in {known}"]


class TestAllBut:
    """Weights for training to start from: what depends on the classes stays the model's own."""

    def test_of_another_number_of_classes(self, here: Path) -> None:
        given = state(small(classes=3))
        save_file(given, "w.safetensors")
        model = small(classes=5)
        own = state(model)

        load_weights(model, here / "w.safetensors", but=("3.weight", "3.bias"))

        assert same(model, {name: own[name] if name.startswith("3.") else value for name, value in given.items()})

    def test_without_them(self, here: Path) -> None:
        given = {name: value for name, value in state(small()).items() if not name.startswith("3.")}
        save_file(given, "w.safetensors")
        model = small()

        load_weights(model, here / "w.safetensors", but=("3.weight", "3.bias"))

        assert torch.equal(model.state_dict()["0.weight"], given["0.weight"])

    def test_what_else_does_not_fit_is_refused(self, here: Path) -> None:
        save_file(state(nn.Sequential(nn.Conv2d(2, 2, 3))), "w.safetensors")
        model = small()
        before = state(model)

        with pytest.raises(ClovenError, match=r"0.weight \(2, 2, 3, 3\) not \(2, 1, 3, 3\)"):
            load_weights(model, here / "w.safetensors", but=("3.weight", "3.bias"))
        assert same(model, before)

    @pytest.mark.parametrize(("name", "head"), [("mobilenet_v1_0.25", "conv_preds"), ("resnet20", "linear")])
    def test_a_model_begins_with_all_of_a_file_but_its_classifier(self, here: Path, name: str, head: str) -> None:
        given = state(make(name, shape=(3, 32, 32), classes=7))
        save_file(given, "w.safetensors")

        found = state(begun(name, shape=(3, 32, 32), classes=4, start=here / "w.safetensors"))

        other = {entry for entry, value in found.items() if not torch.equal(value, given[entry])}
        assert other == {entry for entry in given if entry.startswith(f"{head}.")}
        assert len(found[f"{head}.weight"]) == 4
