"""Weights from files: all of them or none are loaded, and code in files is not run."""

from __future__ import annotations

import argparse
import gzip
import os
import pickle
import zipfile
from collections.abc import Callable
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

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
    """Return the problems of a file without its path, and check that the model has not changed."""
    before = state(model)
    with pytest.raises(ClovenError) as caught:
        load_weights(model, path)
    assert same(model, before)
    assert all(problem.startswith(f"{path}: ") for problem in caught.value.problems)
    return [problem.removeprefix(f"{path}: ") for problem in caught.value.problems]


class Trap:
    """An object whose pickle creates a file when it is loaded."""

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
    """Weights as training scripts save them: with other objects and DataParallel's prefix, and without counters."""
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
    """Each weight of a MobileNet, in the layout of Keras, is read into its place."""
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
        "belongs to another model; give this model's file, or the model and classes that it was made for",
        "1 entry of another type: 1.weight torch.int32 not torch.float32; store weights as float32",
    ]


def test_eight_names_of_each_kind(here: Path) -> None:
    save_file({f"x{i}": torch.ones(1) for i in range(10)}, "w.safetensors")

    missing, unexpected, _ = problems(MobileNetV1(0.25), here / "w.safetensors")

    assert missing.startswith("137 entries missing: conv1.weight, conv1_bn.weight, ")
    assert missing.endswith(", conv_dw_1_bn.bias ... and 129 more")
    assert unexpected == "10 entries unexpected: x0, x1, x2, x3, x4, x5, x6, x7 ... and 2 more"


def test_tensors_that_are_no_plain_arrays(here: Path) -> None:
    """Such weights would fail only while they are copied, after other weights have changed."""
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

    assert problem.startswith(f"is refused: it names {os.system.__module__}.system; nothing in it was run. ")
    assert problem.endswith(
        "save its weights alone where it was made: torch.save(model.state_dict(), 'weights.pth')"
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

    assert problem.startswith("is refused: it contains ")
    assert "nothing in it was run" in problem
    assert not (here / "ran").exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.npz"])
def test_files_that_break_off(here: Path, name: str) -> None:
    test_round_trip(here, name)
    content = (here / name).read_bytes()
    for cut in (0, 100, len(content) // 2, len(content) - 1):
        (here / name).write_bytes(content[:cut])

        (problem,) = problems(small(), here / name)

        assert problem.endswith("; fetch it again")
        assert len(problem) < 200


def test_files_that_hold_something_else(here: Path) -> None:
    np.save(here / "one.npy", np.zeros(3))
    (here / "one.npy").rename(here / "one.npz")
    np.savez(here / "words.npz", a=np.array(["word"]))
    torch.save([torch.zeros(3)], "list.pt")
    torch.save({"epoch": 3}, "none.pt")

    said = {name: problems(small(), here / name)[0] for name in ("one.npz", "words.npz", "list.pt", "none.pt")}

    assert said == {
        "one.npz": "holds one array without a name; expected several, as numpy.savez writes them",
        "words.npz": "a.npy is of type <U4; expected numbers",
        "list.pt": "holds a list; expected weights by name, as state_dict() gives them",
        "none.pt": "holds no named tensors; expected the weights of a model",
    }


def test_files_that_are_not_there(here: Path) -> None:
    (here / "folder.pt").mkdir()
    os.mkfifo(here / "pipe.pt")

    assert problems(small(), here / "w.pt") == ["there is no such file"]
    assert problems(small(), here / "folder.pt") == ["it is a folder; expected a regular file"]
    assert problems(small(), here / "pipe.pt") == ["it is a pipe or a device; expected a regular file"]


def zipped(*names: str) -> bytes:
    with zipfile.ZipFile(out := BytesIO(), "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    return out.getvalue()


def scripted() -> bytes:
    torch.jit.save(torch.jit.trace(small().eval(), torch.zeros(1, 1, 4, 4)), out := BytesIO())
    return out.getvalue()


def exported() -> bytes:
    torch.export.save(torch.export.export(small().eval(), (torch.zeros(1, 1, 4, 4),)), out := BytesIO())
    return out.getvalue()


@pytest.mark.filterwarnings("ignore")  # of TorchScript, which is deprecated
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "is a Git LFS pointer"),
        (scripted, "is a TorchScript program; save its weights alone"),
        (exported, "is an exported program of torch.export (.pt2); save its weights alone"),
        (lambda: zipped("m/archive_format", "m/models/model.json"), "is an exported program of torch.export"),
        (lambda: zipped("metadata.json", "config.json", "model.weights.h5"), "is a model of Keras"),
        (lambda: zipped("readme.txt", "net.pth"), "is a zip archive of readme.txt, net.pth; unpack it"),
        (lambda: b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file, as Keras and MATLAB 7.3 write them"),
        (lambda: b"\n<!DOCTYPE html><title>404</title>", "is a web page or an XML document"),
        (lambda: b"\x08\x08\x12\x07pytorch:\x00", "is an ONNX model"),
        (
            lambda: b'{"metadata": {}, "weight_map": {"a": "b"}}',
            "is an index of weights in several files",
        ),
        (lambda: b'{"error": "not found"}', "is a JSON document"),
        (lambda: gzip.compress(b"weights"), "is compressed with gzip; unpack it"),
        (lambda: bytes(range(256)), "is damaged, or does not hold weights"),
    ],
)
def test_files_of_other_kinds_are_told_apart(here: Path, content: Callable[[], bytes], said: str) -> None:
    """Whatever its name, the error says what the file is and what to do."""
    (here / "w.pth").write_bytes(content())

    (problem,) = problems(small(), here / "w.pth")

    assert problem.startswith(said)


def prefixed(prefix: str, weights: State) -> State:
    return {prefix + name: value for name, value in weights.items()}


class TestCheckpoints:
    """Checkpoints as training scripts and libraries write them."""

    @pytest.mark.parametrize("name", ["w.ckpt", "w.pth.tar", "w.bin", "weights", "w.model", "w.safetensors"])
    def test_a_file_is_known_by_its_content(self, here: Path, name: str) -> None:
        torch.save(state(small()), "w")
        (here / "w").rename(here / name)

        assert loaded(here / name)

    @pytest.mark.parametrize(
        ("keys", "prefix", "said"),
        [
            ((), "", None),
            (("state_dict",), "", "state_dict"),
            (("model_state_dict",), "", "model_state_dict"),
            (("net",), "module.", "net, without the prefix module."),
            (("params",), "", "params"),
            (("model", "state_dict"), "", "model.state_dict"),
            (("state_dict",), "model.", "state_dict, without the prefix model."),
            (("state_dict",), "backbone.", "state_dict, without the prefix backbone."),
            ((), "module.model.", "the top level, without the prefix module.model."),
        ],
    )
    def test_weights_are_found_where_they_lie(
        self, here: Path, caplog: pytest.LogCaptureFixture, keys: tuple[str, ...], prefix: str, said: str | None
    ) -> None:
        content: Any = prefixed(prefix, given := state(small()))
        for key in reversed(keys):
            content = {"epoch": 3, key: content, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}
        torch.save(content, "w.pt")

        assert loaded(here / "w.pt", given)
        assert caplog.messages == ([f"{here}/w.pt: the weights were taken from {said}"] if said else [])

    @pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
    def test_compiled_models(self, here: Path, caplog: pytest.LogCaptureFixture, prefix: str) -> None:
        torch.save(prefixed(prefix, given := state(small())), "w.pt")

        assert loaded(here / "w.pt", given)
        assert caplog.messages[0].endswith("left out of names: _orig_mod.")

    def test_a_compiled_layer(self, here: Path, caplog: pytest.LogCaptureFixture) -> None:
        given = state(small())
        torch.save({name.replace("3.", "3._orig_mod."): value for name, value in given.items()}, "w.pt")

        assert loaded(here / "w.pt", given)
        assert caplog.messages == [f"{here}/w.pt: left out of names: _orig_mod."]

    def test_averaged_models(self, here: Path, caplog: pytest.LogCaptureFixture) -> None:
        model = AveragedModel(small())
        torch.save(model.state_dict(), "w.pt")

        assert loaded(here / "w.pt", state(model.module))
        assert caplog.messages == [
            f"{here}/w.pt: the weights were taken from the top level, without the prefix module.; "
            "left out: n_averaged"
        ]

    @pytest.mark.parametrize(
        ("raw", "average"),
        [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("params", "params_ema"), ("model", "ema")],
    )
    @pytest.mark.parametrize("order", [1, -1])
    def test_raw_weights_are_taken_beside_an_average(
        self, here: Path, caplog: pytest.LogCaptureFixture, raw: str, average: str, order: int
    ) -> None:
        given, other = state(small()), prefixed("module.", state(small()))
        torch.save(dict([(raw, given), (average, other)][::order]), "w.pt")

        assert loaded(here / "w.pt", given)
        assert caplog.messages == [
            f"{here}/w.pt: the weights were taken from {raw}; not taken: the weights of this model in "
            f"{average}, without the prefix module."
        ]

    def test_an_optimizers_values_by_the_same_names_are_not_weights(self, here: Path) -> None:
        torch.save({"optimizer": {"exp_avg": state(small())}, "model": (given := state(small()))}, "w.pt")

        assert loaded(here / "w.pt", given)

    def test_an_average_alone_is_taken(self, here: Path) -> None:
        torch.save({"model_ema": (given := state(small()))}, "w.pt")

        assert loaded(here / "w.pt", given)

    def test_other_parts_of_a_training_are_left_out(self, here: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Lightning stores the weights of the loss with those of the model."""
        given = state(small())
        torch.save({"state_dict": {**prefixed("model.", given), "loss.weight": torch.ones(3)}}, "w.ckpt")

        assert loaded(here / "w.ckpt", given)
        assert caplog.messages[0].endswith("without the prefix model.; left out: loss.weight")

    def test_two_models_of_one_kind_are_not_guessed_between(self, here: Path) -> None:
        torch.save({**prefixed("left.", state(small())), **prefixed("right.", state(small()))}, "w.pt")

        assert problems(small(), here / "w.pt") == [
            "holds several sets of weights of this model: the top level, without the prefix left. and the top "
            "level, without the prefix right.; save one alone"
        ]

    def test_weights_of_another_model_are_told_from_where_most_fits(self, here: Path) -> None:
        given = prefixed("module.", state(small(5)))
        del given["module.0.bias"]
        torch.save({"state_dict": given}, "w.pt")

        assert problems(small(), here / "w.pt")[:2] == [
            "1 entry missing: 0.bias",
            "2 entries of another shape: 3.weight (5, 8) not (3, 8), 3.bias (5,) not (3,)",
        ]

    def test_plain_values_beside_the_weights(self, here: Path) -> None:
        """Objects that scripts of torchvision, timm and Lightning store with weights are not created."""
        beside = {
            "args": argparse.Namespace(lr=0.1, out=Path("runs")),
            "best": np.float64(0.93),
            "history": np.arange(3.0),
            "hyper_parameters": {"lr": 0.1, "layers": [1, 2]},
        }
        torch.save({"state_dict": (given := state(small())), **beside}, "w.ckpt")

        assert loaded(here / "w.ckpt", given)

    def test_objects_beside_the_weights_are_refused(self, here: Path) -> None:
        torch.save({"state_dict": state(small()), "hyper_parameters": {"net": Fraction(1, 2)}}, "w.ckpt")

        assert problems(small(), here / "w.ckpt") == [
            "is refused: it names fractions.Fraction; nothing in it was run. If it should hold weights only, fetch "
            "it again; if it is a checkpoint that holds more, save its weights alone where it was made: "
            "torch.save(model.state_dict(), 'weights.pth')"
        ]


def loaded(path: Path, expected: State | None = None) -> bool:
    """Return whether a new model accepts these weights, or any."""
    load_weights(model := small(), path)
    return expected is None or same(model, expected)


class TestNumbers:
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("suffix", ["safetensors", "pt", "npz"])
    def test_what_is_not_finite_is_refused_by_name(self, here: Path, value: float, suffix: str) -> None:
        weights = state(small())
        weights["0.weight"][0, 0, 1, 2] = value
        weights["1.running_var"][:] = value
        if suffix == "safetensors":
            save_file(weights, "w.safetensors")
        elif suffix == "pt":
            torch.save(weights, "w.pt")
        else:
            np.savez(here / "w.npz", **{name: value.numpy() for name, value in weights.items()})  # type: ignore[arg-type]

        (problem,) = problems(small(), here / f"w.{suffix}")

        assert problem.startswith("2 entries with NaN or infinity: ")
        assert "0.weight (1 of 18 values)" in problem
        assert "1.running_var (2 of 2 values)" in problem

    def test_what_overflows_in_the_models_precision(self, here: Path) -> None:
        weights = {
            name: value.double() if value.is_floating_point() else value for name, value in state(small()).items()
        }
        weights["3.bias"][1] = 1e300
        save_file(weights, "w.safetensors")

        (problem,) = problems(small(), here / "w.safetensors")

        assert problem.startswith("1 entry with NaN or infinity: 3.bias (1 of 3 values)")

    def test_a_mask_of_the_models_own_may_be_infinite(self, here: Path) -> None:
        def masked() -> nn.Module:
            model = small()
            model.register_buffer("mask", torch.full((2,), -torch.inf))
            return model

        torch.save(given := state(masked()), "w.pt")
        load_weights(model := masked(), here / "w.pt")

        assert same(model, given)


class TestHostileFiles:
    """Files that would crash the process or exhaust the memory are refused before they are unpacked."""

    def test_an_archive_that_unpacks_to_gigabytes(self, here: Path) -> None:
        with (
            zipfile.ZipFile(here / "w.npz", "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("w.npy", "w") as out,
        ):
            np.lib.format.write_array_header_1_0(
                out, {"shape": (80, 2**20), "fortran_order": False, "descr": "|u1"}
            )
            for _ in range(80):
                out.write(bytes(2**20))

        (problem,) = problems(small(), here / "w.npz")

        assert problem.startswith("unpacks to 83,886,208 bytes; expected at most 67,1")

    def test_a_header_that_announces_more_than_there_is(self, here: Path) -> None:
        with zipfile.ZipFile(here / "w.npz", "w") as archive, archive.open("w.npy", "w") as out:
            np.lib.format.write_array_header_1_0(out, {"shape": (2**40,), "fortran_order": False, "descr": "<f4"})

        assert problems(small(), here / "w.npz") == [
            "is damaged: w.npy announces more numbers than it holds; fetch it again"
        ]

    @pytest.mark.parametrize(
        ("pickled", "said"),
        [
            (b"\x80\x02}" + b")" + b"\x85" * 10**6 + b"K\1s.", "holds values nested deeper than 100"),
            (b"\x80\x02}r\xff\xff\xff\x1f.", "has a memo index larger than its number of steps"),
            (b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.", "names builtins.bytearray"),
        ],
    )
    @pytest.mark.parametrize("packed", [True, False])
    def test_pickles(self, here: Path, pickled: bytes, said: str, packed: bool) -> None:
        (here / "w.pt").write_bytes(pickled)
        if packed:
            with zipfile.ZipFile(here / "w.pt", "w") as archive:
                archive.writestr("w/data.pkl", pickled)

        (problem,) = problems(small(), here / "w.pt")

        assert problem.startswith(said)

    def test_a_tensor_that_is_larger_than_its_bytes(self, here: Path) -> None:
        torch.save({"w": torch.arange(4.0)}, "w.pt")
        with zipfile.ZipFile(here / "w.pt") as archive:
            members = {member.filename: archive.read(member) for member in archive.infolist()}
        with zipfile.ZipFile(here / "w.pt", "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content.replace(b"K\x04\x85", b"K\x64\x85"))

        (problem,) = problems(nn.Linear(1, 1), here / "w.pt")

        assert problem.startswith("cannot be read as a zip archive (")


class TestAllBut:
    """Initial weights for training: layers that depend on the number of classes keep the model's weights."""

    def test_of_another_number_of_classes(self, here: Path) -> None:
        given = state(small(classes=3))
        save_file(given, "w.safetensors")
        model = small(classes=5)
        own = state(model)

        load_weights(model, here / "w.safetensors", but=("3.weight", "3.bias"))

        assert same(model, {name: own[name] if name.startswith("3.") else value for name, value in given.items()})

    @pytest.mark.parametrize("order", [1, -1])
    def test_raw_weights_are_taken_beside_an_average(self, here: Path, order: int) -> None:
        given = state(small(classes=3))
        torch.save(dict([("model", given), ("model_ema", state(small(classes=3)))][::order]), "w.pt")

        load_weights(model := small(classes=5), here / "w.pt", but=("3.weight", "3.bias"))

        assert torch.equal(state(model)["0.weight"], given["0.weight"])

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
