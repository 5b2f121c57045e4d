"""Training: several attackers on the same batches, each with the same result as alone."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cloven.attacks.knowledge import CapturedTensors, LabelReader, Pairs, Reconstructor, laid_out
from cloven.attacks.training_end import Ended
from cloven.errors import ClovenError
from cloven.files import read_tensors, replacing
from cloven.process_memory import keep_freed

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Machine:
    """The hardware to compute on: a torch device, and float32 or bfloat16 autocast. Both can change numbers."""

    device: str = "cpu"
    precision: str = "float32"

    def __post_init__(self) -> None:
        problems = []
        if self.precision not in PRECISIONS:
            problems.append(f"precision is {self.precision!r}; choose from {', '.join(PRECISIONS)}")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            problems.append(f"device is {self.device!r}; PyTorch finds no CUDA here: use cpu")
        elif not self.device.startswith(("cpu", "cuda")):
            problems.append(f"device is {self.device!r}; choose cpu or cuda")
        if problems:
            raise ClovenError(problems)

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which networks run."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.partition(":")[0], torch.bfloat16)

    def seconds(self) -> float:
        """Return a clock in seconds: CPU time of this process, or on a GPU the time."""
        return time.perf_counter() if self.device.startswith("cuda") else time.process_time()

    def wait(self) -> None:
        """Wait until the device has finished."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)


CPU = Machine()
"""The default: float32 on the CPU."""


@dataclass(frozen=True)
class TrainingSchedule:
    """Rounds of training, each a whole cycle of the learning rate, and the number of pairs in a batch.

    The first round has ``epochs`` epochs, and each further one twice as many as the one before; there are at most
    ``rounds``. ``held_out`` is the share of the pairs that choose the best epoch and decide when to stop.
    """

    epochs: int
    batch: int
    held_out: float = 0.0
    rounds: int = 1

    def __post_init__(self) -> None:
        checks = (
            ("epochs", self.epochs, self.epochs >= 1, "1 or more"),
            ("batch", self.batch, self.batch >= 1, "1 or more"),
            ("held_out", self.held_out, 0 <= self.held_out < 1, "a share below 1"),
            ("rounds", self.rounds, self.rounds >= 1, "1 or more"),
        )
        if problems := [f"{name} is {value}; expected {wanted}" for name, value, ok, wanted in checks if not ok]:
            raise ClovenError(problems)

    def training(self, count: int) -> int:
        """Return how many of the pairs train; the last ones are held out."""
        return max(1, count - round(self.held_out * count))

    def cycles(self) -> Iterator[range]:
        """Yield the epochs, counted from 0, of each round."""
        first = 0
        for number in range(self.rounds):
            yield range(first, first := first + (self.epochs << number))


@dataclass(frozen=True)
class Training:
    """The duration of an attack's training, and why it ended.

    It ``ended`` at the end of its ``schedule``, with ``no improvement`` on held-out pairs, or because the
    ``budget`` of seconds did not allow a further round.
    """

    epochs: int | None
    """None for an attack that does not report it."""
    seconds: float
    """CPU seconds of its own steps; wall seconds on a GPU."""
    ended: Ended = "schedule"


class DescribedReconstructor(Reconstructor, Protocol):
    """A `Reconstructor` that describes its training."""

    @property
    def parameters(self) -> int:
        """The number of learned parameters."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """Sentences about the training, such as that it collapsed."""
        ...

    @property
    def training(self) -> Training | None:
        """Its training; None where it was solved in closed form."""
        ...


class DescribedLabelReader(LabelReader, Protocol):
    """A `LabelReader` that describes its training."""

    @property
    def parameters(self) -> int:
        """The number of learned parameters."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """Sentences about the training."""
        ...

    @property
    def training(self) -> Training | None:
        """Its training; None where it was solved in closed form."""
        ...


Learned = DescribedReconstructor | DescribedLabelReader


class Trainee(Protocol):
    """An attacker in training, one step per batch."""

    @property
    def pairs(self) -> Pairs | None:
        """The pairs that it trains on; None for one that needs no steps."""
        ...

    @property
    def schedule(self) -> TrainingSchedule | None:
        """The schedule of its training; None for one that needs no steps."""
        ...

    @property
    def machine(self) -> Machine:
        """The hardware on which it computes."""
        ...

    def step(self, index: Tensor, captured: Sequence[Tensor], images: Tensor, progress: float) -> None:
        """Learn from the pairs ``index``; ``progress`` runs from 0 to 1 over each round."""
        ...

    def ended(self, epoch: int) -> bool:
        """Record the end of an epoch, counted from 1; return True if a further round would not help."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return everything that it needs to continue."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a state."""
        ...

    def finish(self, training: Training | None) -> Learned:
        """Return the result; ``training`` describes it, and is None for an attacker that needs no steps."""
        ...


def train(
    trainees: Sequence[Trainee], checkpoints: Sequence[Path | None] | None = None, budget: float | None = None
) -> list[Learned]:
    """Train to the end. Each result is bit-equal whatever trains beside it, and wherever it was interrupted.

    Trainees with equal pairs, seeds and schedules get each batch one after another, so that its captured tensors
    are computed once.

    A round begins only if the budget suffices to its end; the first is shortened if it does not. A result therefore
    depends on the speed of the machine only if the budget ended it.

    Args:
        trainees: the attackers to train.
        checkpoints: a file for each, which is written after every epoch, and from which its training continues;
            None for no file.
        budget: the CPU seconds of each (wall seconds on a GPU); None for no limit.
    """
    keep_freed()
    runs = [_Run(t, c, budget) for t, c in zip(trainees, checkpoints or [None] * len(trainees), strict=True)]
    groups: dict[tuple[TrainingSchedule, int, int], list[_Run]] = {}
    for run in runs:
        pairs = run.trainee.pairs
        if run.trainee.schedule is not None and pairs is not None:
            groups.setdefault((run.trainee.schedule, pairs.seed, len(pairs)), []).append(run)
    for (schedule, seed, count), members in groups.items():
        _lockstep(members, schedule, seed, count)
    return [run.trainee.finish(run.training) for run in runs]


def _lockstep(members: Sequence[_Run], schedule: TrainingSchedule, seed: int, count: int) -> None:
    for cycle in schedule.cycles():
        for number, epoch in enumerate(cycle):
            active = [run for run in members if run.ended is None and run.epochs <= epoch]
            if not active:
                continue
            batches = order(seed, epoch, schedule.training(count)).split(schedule.batch)
            for step, index in enumerate(batches):
                for run in active:
                    run.step(index, (number + step / len(batches)) / len(cycle))
            for run in active:
                run.end(epoch + 1)


def order(seed: int, epoch: int, count: int) -> Tensor:
    """Return the order ``(count,)`` of the pairs in an epoch, which depends on the arguments only."""
    return torch.randperm(count, generator=torch.Generator().manual_seed((seed + 1_000_003 * epoch) % 2**63))


EARLY = 0.05
"""The share of the first round after which its total time is estimated."""


class _Run:
    """A trainee, its progress, its budget, and its checkpoint file."""

    KEPT = ("epochs", "seconds", "ended", "short")

    def __init__(self, trainee: Trainee, checkpoint: Path | None, budget: float | None) -> None:
        self.trainee, self.checkpoint, self.budget = trainee, checkpoint, math.inf if budget is None else budget
        self.epochs, self.seconds = 0, 0.0
        self.ended: Ended | None = None
        self.short: bool | None = None
        """True if the budget is too short for the first round; None until that is estimated."""
        if checkpoint is not None and checkpoint.exists():
            self._go_on(checkpoint)

    def _go_on(self, path: Path) -> None:
        try:
            about, state = read_tensors(path, "pt")
            self.trainee.restore(state)
            self.epochs, self.seconds, self.ended, self.short = (json.loads(about[name]) for name in self.KEPT)
        except (KeyError, ValueError, RuntimeError) as error:
            raise ClovenError(f"{path} is not a checkpoint of this training ({error}); delete it") from error

    @property
    def training(self) -> Training | None:
        if self.trainee.schedule is None:
            return None
        return Training(self.epochs, round(self.seconds, 3), self.ended or "schedule")

    def step(self, index: Tensor, progress: float) -> None:
        assert self.trainee.pairs is not None
        if self.short is None and (progress >= EARLY or self.seconds >= self.budget):
            self.short = self.seconds > self.budget * progress
        if self.short:
            progress = max(progress, self.seconds / self.budget)
        if progress < 1:
            captured, images = self.trainee.pairs.take(index)
            start = self.trainee.machine.seconds()
            self.trainee.step(index, captured, images, progress)
            self.seconds += self.trainee.machine.seconds() - start

    def end(self, epoch: int) -> None:
        """Record the end of an epoch, counted from 1, and whether it is the last."""
        schedule, machine = self.trainee.schedule, self.trainee.machine
        assert schedule is not None
        start = machine.seconds()
        learned = self.trainee.ended(epoch)
        machine.wait()
        self.seconds += machine.seconds() - start
        self.epochs = epoch
        cycles = list(schedule.cycles())
        if epoch == cycles[-1].stop:
            self.ended = "schedule"
        if learned:
            self.ended = "no improvement"
        elif self.short and (self.seconds >= self.budget or epoch == schedule.epochs):
            self.ended = "budget"
        else:
            following = [len(cycle) for cycle in cycles if cycle.start == epoch]
            if any(self.seconds * (1 + length / epoch) > self.budget for length in following):
                self.ended = "budget"
        self._keep()

    def _keep(self) -> None:
        if self.checkpoint is None:
            return
        state = {name: value.detach().cpu().contiguous() for name, value in self.trainee.state().items()}
        with replacing(self.checkpoint) as part:
            save_file(state, part, {name: json.dumps(getattr(self, name)) for name in self.KEPT})


# --- trainees ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ClosedForm:
    """A trainee without steps, whose result has a closed form."""

    pairs: Pairs | None
    learned: Learned
    schedule: None = None
    machine: Machine = CPU

    def step(self, index: Tensor, captured: Sequence[Tensor], images: Tensor, progress: float) -> None:
        """See `Trainee`; never called."""

    def ended(self, epoch: int) -> bool:
        """See `Trainee`."""
        return True

    def state(self) -> dict[str, Tensor]:
        """See `Trainee`."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See `Trainee`."""

    def finish(self, training: Training | None) -> Learned:
        """See `Trainee`."""
        return self.learned


Loss = Callable[[Tensor, Tensor], Tensor]
Rate = Callable[[float], float]
"""The learning rate at a progress of 0 to 1."""


Optimiser = Callable[[Iterable[nn.Parameter], float], torch.optim.Optimizer]
"""A function from parameters and a learning rate to an optimiser."""


def adam(parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    """Return PyTorch's Adam."""
    return torch.optim.Adam(parameters, lr=rate, fused=True)


def constant(rate: float) -> Rate:
    """Return a constant learning rate."""
    return lambda _: rate


def cycle(rate: float, warm: float = 0.15) -> Rate:
    """Return a rate that rises to ``rate`` in the share ``warm`` of the training, then falls along a cosine."""

    def at(progress: float) -> float:
        if progress < warm:
            return rate * (0.04 + 0.96 * progress / warm)
        return rate * max(1e-3, (1 + math.cos(math.pi * (progress - warm) / (1 - warm))) / 2)

    return at


class Fitting:
    """A network that is fitted to pairs by gradient descent; the best weights on held-out pairs are kept.

    A further round continues from the best weights, as long as the last round improved them significantly. The
    network takes the list of captured tensors ``(n, ...)`` and gives images ``(n, C, H, W)``.
    """

    SURE = 1.0
    """The standard errors (paired over held-out pairs) by which a round must improve their loss."""

    def __init__(
        self,
        network: nn.Module,
        pairs: Pairs,
        schedule: TrainingSchedule,
        *,
        loss: Loss,
        rate: Rate,
        machine: Machine,
        optimiser: Optimiser = adam,
    ) -> None:
        self.pairs, self.schedule, self.machine = pairs, schedule, machine
        self.network = network.to(machine.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.loss, self.rate = loss, rate
        self.optimiser = optimiser(self.network.parameters(), rate(0))
        self.best: dict[str, Tensor] = {}
        self.least = self.before = torch.full((len(pairs) - schedule.training(len(pairs)),), math.inf)
        """The loss of each held-out pair: with the best weights, and with the best of all rounds but the last."""

    def step(self, index: Tensor, captured: Sequence[Tensor], images: Tensor, progress: float) -> None:
        """See `Trainee`."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate(progress)
        self.network.train()
        self.optimiser.zero_grad()
        with torch.enable_grad():
            made = self._made(captured)
            made.register_hook(laid_out)  # a loss's gradient has another memory format, which is half as fast
            self.loss(made.contiguous(), self.wanted(index, images).to(self.machine.device)).backward()
        self.optimiser.step()

    def wanted(self, index: Tensor, images: Tensor) -> Tensor:
        """Return the targets of the pairs ``index``, one row for each."""
        return images

    def _made(self, captured: Sequence[Tensor]) -> Tensor:
        with self.machine.autocast():
            made: Tensor = self.network([z.to(self.machine.device) for z in captured])
        return made.float()

    def ended(self, epoch: int) -> bool:
        """See `Trainee`."""
        if not len(self.least):
            return False
        losses = self._held_out()
        if not self.best or losses.mean() < self.least.mean():
            self.least = losses
            self.best = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        if epoch not in {cycle.stop for cycle in self.schedule.cycles()}:
            return False
        better, self.before = self.before - self.least, self.least
        self.network.load_state_dict(self.best)
        return bool(better.mean() <= self.SURE * better.std() / math.sqrt(len(better)))

    def _held_out(self) -> Tensor:
        """Return the loss of each held-out pair, ``(n,)``."""
        rest = torch.arange(len(self.pairs) - len(self.least), len(self.pairs))
        self.network.eval()
        losses = []
        with torch.no_grad():
            for index in chunked(self.pairs.captured, rest):
                captured, images = self.pairs.take(index)
                made, wanted = self._made(captured), self.wanted(index, images).to(self.machine.device)
                losses.append(torch.vmap(self.loss)(made[:, None], wanted[:, None]).cpu())
        return torch.cat(losses)

    def state(self) -> dict[str, Tensor]:
        """See `Trainee`."""
        best = {f"best/{name}": value for name, value in self.best.items()}
        moments: dict[str, Tensor] = {}
        for i, values in self.optimiser.state_dict()["state"].items():
            moments |= {f"optimiser/{i}/{name}": value for name, value in values.items()}
        network = {f"network/{name}": value for name, value in self.network.state_dict().items()}
        return {**network, **moments, **best, "least": self.least, "before": self.before.clone()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See `Trainee`."""
        self.network.load_state_dict(under("network", state))
        weights = self.optimiser.param_groups[0]["params"]
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in under("optimiser", state).items():
            number, _, moment = name.partition("/")
            weight = weights[int(number)]
            # fused Adam requires the memory format of the weights for their moments
            like = value if value.shape != weight.shape else torch.empty_like(weight).copy_(value)
            moments.setdefault(int(number), {})[moment] = like
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moments})
        self.best, self.least, self.before = under("best", state), state["least"], state["before"]

    def finish(self, training: Training | None) -> Learned:
        """See `Trainee`."""
        if self.best:
            self.network.load_state_dict(self.best)
        return self.learned(training)

    def learned(self, training: Training | None) -> Learned:
        """Return the result that the fitted network gives."""
        return Rebuilt(self.network.eval(), self.machine, training=training)


CHUNK, NUMBERS = 256, 2**26
"""The number of images on which a network is run at a time in inference, and the most captured numbers of these."""


def chunked(captured: CapturedTensors, rows: Tensor) -> tuple[Tensor, ...]:
    """Return rows ``(n,)`` of captured tensors in parts: `CHUNK` at a time, fewer if these are large."""
    return torch.split(rows, max(1, min(CHUNK, NUMBERS // max(1, sum(map(prod, captured.shapes))))))


def over(captured: CapturedTensors, read: Callable[[list[Tensor]], Tensor]) -> Tensor:
    """Return the results ``(n, ...)`` of ``read`` for all rows of captured tensors, some at a time."""
    return torch.cat([read(captured.take(index)) for index in chunked(captured, torch.arange(len(captured)))])


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """A trained network and its training."""

    network: nn.Module
    machine: Machine = CPU
    notes: tuple[str, ...] = ()
    training: Training | None = None

    @property
    def parameters(self) -> int:
        """The number of learned parameters."""
        return sum(p.numel() for p in self.network.parameters())

    def outputs(self, captured: Sequence[Tensor], read: Callable[[Tensor], Tensor]) -> Tensor:
        """Return ``read`` of the network's outputs, ``(n, ...)`` on the CPU, computed `CHUNK` at a time."""
        with torch.inference_mode(), self.machine.autocast():
            chunks = zip(*(z.to(self.machine.device).split(CHUNK) for z in captured), strict=True)
            return torch.cat([read(self.network(list(chunk))).cpu() for chunk in chunks])


class Rebuilt(TrainedNetwork):
    """A trained network as a reconstructor."""

    def __call__(self, captured: Sequence[Tensor]) -> Tensor:
        """See `Reconstructor`."""
        return self.outputs(captured, lambda made: made.float().clamp(0, 1))


def seeded(make: Callable[[], nn.Module], generator: torch.Generator) -> nn.Module:
    """Return a network with initial weights from the generator's seed; PyTorch's own generator is not changed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(generator.initial_seed())
        return make()


def under(head: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the part of a state whose names begin with ``head/``, without that."""
    return {name.removeprefix(f"{head}/"): value for name, value in state.items() if name.startswith(f"{head}/")}
