"""Train a model on labelled images, reproducibly, and cache its weights."""

from __future__ import annotations

import hashlib
import json
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
"""Called after each epoch with its number, starting at 1, and its mean loss."""
SCHEMA = 2
"""Increased when training changes, so that older models in the cache are not used."""
BATCH, LR = 64, 1e-3
EPOCHS = 10
"""Mehrafrooz et al. (2025) train their CNNs for ten epochs (Section 5.1)."""


def seeded(make: Callable[[], Made], seed: int) -> Made:
    """Return the result of ``make()`` with PyTorch's generator seeded; the caller's random state is not changed."""
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
    balanced: bool = False,
    on_epoch: OnEpoch | None = None,
) -> nn.Module:
    """Train a model with Adam and cross-entropy on images in [0, 1], and return it in evaluation mode.

    If ``balanced``, an image counts in inverse proportion to the number of images of its class.

    The statistics of batch normalisation are those of all images with the final weights (Wu and Johnson,
    "Rethinking 'Batch' in BatchNorm", 2021, Section 3), because a running mean such as Keras' lags behind in a
    short training.

    The order of the batches and all random draws depend on ``seed`` only, so that the result is the same each time
    with the same number of threads. The initial weights are the caller's: see ``seeded``.
    """
    labels = _labels(images, epochs=epochs, batch=batch)
    count = len(images)
    device = next(model.parameters()).device
    weights = class_weights(labels, len(images.classes)).to(device) if balanced else None
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    order = torch.Generator().manual_seed(seed)
    model.train()
    with _random_from(seed, device), torch.enable_grad():
        for epoch in range(1, epochs + 1):
            total = 0.0
            for chosen in _batches(torch.randperm(count, generator=order), batch):
                inputs = _inputs(images, chosen, device)
                loss = cross_entropy(model(inputs), labels[chosen].to(device), weights)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += float(loss.detach()) * len(chosen)
            if on_epoch is not None:
                on_epoch(epoch, total / count)
        update_bn((_inputs(images, some, device) for some in _batches(torch.arange(count), batch)), model)
    return model.eval()


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """Return the weight of each class ``(classes,)``, inversely proportional to its number of labels ``(n,)``.

    The mean weight of the labels is 1, if all classes occur; one that does not has the weight of a single image.
    """
    counts = labels.bincount(minlength=classes).clamp(min=1)
    return len(labels) / (classes * counts)


def _batches(rows: Tensor, size: int) -> list[Tensor]:
    """Return the rows in batches of at least two, because batch normalisation needs a variance."""
    found = list(rows.split(size))
    if len(found) > 1 and len(found[-1]) == 1:
        found[-2:] = [torch.cat(found[-2:])]
    return found


def _inputs(images: Images, chosen: Tensor, device: torch.device) -> Tensor:
    return torch.from_numpy(images.array[chosen.numpy()]).to(device, torch.float32).div_(255)


def accuracy(predicted: Tensor | NDArray[np.int64], labels: Tensor | NDArray[np.int64]) -> float:
    """Return the fraction of labels ``(n,)`` that logits ``(n, classes)`` or classes ``(n,)`` predict correctly."""
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
    balanced: bool = False,
    on_epoch: OnEpoch | None = None,
) -> nn.Module:
    """Return the model with a name (see `begun`), trained on these images, or the same model from the cache.

    If the checksum of a file in the cache is wrong, the model is trained again. ``on_epoch`` is not called for a
    cached model. The model is trained on ``device`` and returned on the CPU. Training starts from the weights in
    the file ``start``, if there is one. ``balanced`` is as in `fit`.
    """
    _labels(train, epochs=epochs, batch=BATCH)
    shape = train.shape
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
        **({"balanced": True} if balanced else {}),
        **({} if start is None else {"start": hashlib.sha256(check_regular(start).read_bytes()).hexdigest()}),
    }
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    file = cache / f"{key}.safetensors"
    if (weights := _kept(file)) is not None:
        model.load_state_dict(weights)
        return model.eval()
    _make(cache, model)
    with one_thread():  # so that the weights do not depend on the number of cores
        fit(
            model.to(device),
            train,
            epochs=epochs,
            batch=BATCH,
            lr=LR,
            seed=seed,
            balanced=balanced,
            on_epoch=on_epoch,
        )
    model.cpu()
    _keep(file, model)
    return model


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
        ClovenError: if there are no labels, images, epochs or batches.
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
    """Return the weights in a cache file, or None if it does not exist or has changed since it was written."""
    try:
        with safe_open(file, framework="pt") as opened:
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
            checksum = (opened.metadata() or {}).get("sha256")
    except (OSError, SafetensorError):
        return None
    return weights if checksum == _checksum(file, weights) else None


def _keep(file: Path, model: nn.Module) -> None:
    """Write the weights and their checksum atomically."""
    weights = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    content = save(weights, metadata={"sha256": _checksum(file, weights)})
    with replacing(file) as part:
        part.write_bytes(content)


def _checksum(file: Path, weights: dict[str, Tensor]) -> str:
    """Return the digest of the weights and the key in the file's name, so that a renamed file is not accepted."""
    return hashlib.sha256(file.stem.encode() + save(weights)).hexdigest()


def _make(cache: Path, model: nn.Module) -> None:
    """Create the cache and check that the model's weights fit in it, before training for hours."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=cache) as file:
            file.write(save({name: value.cpu().contiguous() for name, value in model.state_dict().items()}))
    except OSError as error:
        raise ClovenError(
            f"{cache}: cannot be used as the cache ({system_reason(error)}); set CLOVEN_CACHE to another folder"
        ) from error
