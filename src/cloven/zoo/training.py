"""Train a model on labelled images, reproducibly, and keep what was trained."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import update_bn

from cloven.errors import ClovenError, system_reason
from cloven.files import check_regular, replacing
from cloven.threads import one_thread
from cloven.zoo.images import Images
from cloven.zoo.named import begun

Made = TypeVar("Made")
OnEpoch = Callable[[int, float], None]
"""Called after each epoch with its number, from 1, and its mean loss."""
SCHEMA = 2
"""Goes up when training changes, so that what the cache holds is not taken for what would be trained now."""
BATCH, LR = 64, 1e-3
EPOCHS = 10
"""S1 trains its CNNs ten epochs (Sect. 5.1)."""


def seeded(make: Callable[[], Made], seed: int) -> Made:
    """Return ``make()`` with PyTorch's random numbers started at ``seed``; the caller's are not touched."""
    with _random_from(seed, torch.device("cpu")):
        return make()


def fit(
    model: nn.Module,
    images: Images,
    *,
    epochs: int = EPOCHS,
    batch: int = BATCH,
    lr: float = LR,
    seed: int = 0,
    on_epoch: OnEpoch | None = None,
) -> nn.Module:
    """Train a model (Adam, cross-entropy, inputs in [0, 1]); return it, in eval mode.

    Batch normalisation's statistics are those of all images under the last weights (Wu and Johnson, "Rethinking
    'Batch' in BatchNorm", 2021, Sect. 3): a running mean such as Keras' lags behind a short training.

    The order of the batches and what the model draws depend on ``seed`` only, so on one number of threads
    the weights that come out are the same each time. Those it starts from are the caller's: see ``seeded``.
    """
    labels = _labels(images, epochs=epochs, batch=batch)
    pixels = torch.tensor(images.pixels)
    device = next(model.parameters()).device
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    order = torch.Generator().manual_seed(seed)
    model.train()
    with _random_from(seed, device), torch.enable_grad():
        for epoch in range(1, epochs + 1):
            total = 0.0
            for chosen in _batches(torch.randperm(len(pixels), generator=order), batch):
                inputs = _inputs(pixels[chosen], device)
                loss = cross_entropy(model(inputs), labels[chosen].to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += float(loss.detach()) * len(chosen)
            if on_epoch is not None:
                on_epoch(epoch, total / len(pixels))
        update_bn((_inputs(some, device) for some in _batches(pixels, batch)), model)
    return model.eval()


def _batches(rows: Tensor, size: int) -> list[Tensor]:
    """Return the rows in batches of at least two: one vector has no spread for batch normalisation."""
    found = list(rows.split(size))
    if len(found) > 1 and len(found[-1]) == 1:
        found[-2:] = [torch.cat(found[-2:])]
    return found


def _inputs(pixels: Tensor, device: torch.device) -> Tensor:
    return pixels.to(device, torch.float32).div_(255)


def accuracy(predicted: Tensor | NDArray[np.int64], labels: Tensor | NDArray[np.int64]) -> float:
    """Return the share of labels ``(n,)`` that are predicted, by logits ``(n, classes)`` or by classes ``(n,)``."""
    guesses, truth = (
        values if isinstance(values, Tensor) else torch.tensor(values) for values in (predicted, labels)
    )
    if guesses.ndim == 2:
        guesses = guesses.argmax(1)
    if guesses.shape != truth.shape or not len(truth):
        raise ClovenError(f"accuracy: got {len(guesses)} predictions for {len(truth)} labels, expected one each")
    return float((guesses.cpu() == truth.cpu()).double().mean())


def trained(
    name: str,
    train: Images,
    *,
    epochs: int,
    seed: int,
    cache: Path,
    device: str = "cpu",
    start: Path | None = None,
    on_epoch: OnEpoch | None = None,
) -> nn.Module:
    """Return the model of this name (see `begun`), trained on these images, or the same from the cache.

    A file of the cache carries a checksum; where it is wrong, the model is trained again. ``on_epoch`` is not
    called for a kept model. It is trained on ``device``, and comes back on the CPU; from the weights of the file
    ``start``, if there is one.
    """
    _labels(train, epochs=epochs, batch=BATCH)
    shape: tuple[int, int, int] = train.pixels.shape[1:]
    model = seeded(lambda: begun(name, shape=shape, classes=len(train.classes), start=start), seed)
    recipe = {
        "schema": SCHEMA,
        "model": name,
        "shape": shape,
        "classes": len(train.classes),
        "images": train.fingerprint(),
        "epochs": epochs,
        "batch": BATCH,
        "lr": LR,
        "seed": seed,
        "torch": torch.__version__,
        **({} if device == "cpu" else {"device": device}),
        **({} if start is None else {"start": hashlib.sha256(check_regular(start).read_bytes()).hexdigest()}),
    }
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    file = cache / f"{key}.safetensors"
    if (weights := _kept(file)) is not None:
        model.load_state_dict(weights)
        return model.eval()
    _make(cache, model)
    with one_thread():  # so that the weights are the same however many cores there are
        fit(model.to(device), train, epochs=epochs, batch=BATCH, lr=LR, seed=seed, on_epoch=on_epoch)
    model.cpu()
    _keep(file, model)
    return model


def cache_dir() -> Path:
    """Return the folder of trained models: $CLOVEN_CACHE, else $XDG_CACHE_HOME/cloven, else ~/.cache/cloven."""
    if own := os.environ.get("CLOVEN_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cloven"


@contextmanager
def _random_from(seed: int, device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        yield


def _labels(images: Images, *, epochs: int, batch: int) -> Tensor:
    """Return the labels.

    Raises:
        ClovenError: without labels, images, epochs or batches.
    """
    problems = []
    if images.labels is None:
        problems.append(f"training: {images.name} has no labels, expected labelled images")
    if not len(images):
        problems.append(f"training: {images.name} has no images, expected at least one")
    if epochs < 1 or batch < 1:
        problems.append(f"training: got {epochs} epochs in batches of {batch}, expected at least 1 of each")
    if problems or images.labels is None:
        raise ClovenError(problems)
    return torch.tensor(images.labels)


def _kept(file: Path) -> dict[str, Tensor] | None:
    """Return the weights in a cache file; None where there is none, or it is not as it was written."""
    try:
        with safe_open(file, framework="pt") as opened:
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
            checksum = (opened.metadata() or {}).get("sha256")
    except (OSError, SafetensorError):
        return None
    return weights if checksum == _checksum(file, weights) else None


def _keep(file: Path, model: nn.Module) -> None:
    """Write the weights and their checksum, so that a reader sees all of the file or none."""
    weights = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    content = save(weights, metadata={"sha256": _checksum(file, weights)})
    with replacing(file) as part:
        part.write_bytes(content)


def _checksum(file: Path, weights: dict[str, Tensor]) -> str:
    """Return the digest of the weights and of the key in the file's name: a renamed file does not pass."""
    return hashlib.sha256(file.stem.encode() + save(weights)).hexdigest()


def _make(cache: Path, model: nn.Module) -> None:
    """Make the cache and check that the model's weights fit in it: training may take hours."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=cache) as file:
            file.write(save({name: value.cpu().contiguous() for name, value in model.state_dict().items()}))
    except OSError as error:
        raise ClovenError(
            f"{cache}: no cache can be kept there ({system_reason(error)}); set CLOVEN_CACHE to a folder"
        ) from error
