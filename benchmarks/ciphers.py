"""Measure the cost of protecting a link: MB/s of each cipher, and Ascon in numba compared with C.

    python -m benchmarks.ciphers [--runs N]

Each cipher seals messages of 0.8 MB (200,704 float32 values, 14 x 14 x 1024) and of 1 kB into an existing buffer,
on one thread, in CPU time, including Python's overhead. If there is a C compiler, Ascon in plain C, compiled with
-O3 for this processor, is measured too. The ciphers alternate; the figures are medians. The exit code is 1 if
numba takes more than 1.3 times as long as C for a large message.
"""

from __future__ import annotations

import argparse
import ctypes
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.measurement import Measurement, alternating, measured, ratios, shown
from cloven.runtime.link.ciphers import CIPHERS, Cipher

NAME = "ciphers"
SIZES = {"0.8 MB": 802_816, "1 kB": 1_000}
LARGE = "0.8 MB"
SAMPLE = 1_000_000
"""Bytes per sample; small messages are sealed many times."""
BOUND = 1.3
IN_C = ("ascon-128", "ascon-aead128")
FLAGS = ("-O3", "-march=native", "-shared", "-fPIC")

Seal = Callable[[bytes, bytearray], object]


def with_cipher(cipher: Cipher) -> Seal:
    """Return a function that seals with a cipher, always with the same key and nonce."""
    key, nonce = bytes(range(cipher.key_bytes)), bytes(range(cipher.nonce_bytes))
    return lambda message, out: cipher.seal_into(key, nonce, b"", message, out)


def with_c(library: ctypes.CDLL, name: str) -> Seal:
    """Return a function that seals with a function of ascon.c, with the key and nonce of `with_cipher`."""
    function = library[name.replace("-", "_")]
    function.restype = None
    text, size = ctypes.c_char_p, ctypes.c_size_t
    function.argtypes = [text, text, text, size, text, size, ctypes.c_void_p]
    key = bytes(range(16))

    def seal(message: bytes, out: bytearray) -> None:
        target = ctypes.c_char.from_buffer(out)
        function(key, key, b"", 0, message, len(message), ctypes.addressof(target))

    return seal


def compiled(folder: Path) -> dict[str, Seal]:
    """Return both variants in C, or none without a compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return {}
    target = folder / "ascon.so"
    source = Path(__file__).with_name("ascon.c")
    subprocess.run([compiler, *FLAGS, "-o", str(target), str(source)], check=True)
    library = ctypes.CDLL(str(target))
    return {f"{name} in C": with_c(library, name) for name in IN_C}


def check(seals: dict[str, Seal]) -> None:
    """Check that C and numba give the same bytes."""
    message = np.random.default_rng(0).bytes(1001)
    for name in IN_C:
        outs = [bytearray(len(message) + 16) for _ in range(2)]
        for seal, out in zip((seals[name], seals.get(f"{name} in C", seals[name])), outs, strict=True):
            seal(message, out)
        if outs[0] != outs[1]:
            raise SystemExit(f"{name}: C and numba disagree")


def seconds(seals: dict[str, Seal], size: int, runs: int) -> dict[str, list[float]]:
    """Return the CPU seconds of each cipher for a message of `size` bytes, in alternating runs."""
    message = np.random.default_rng(1).bytes(size)
    out = bytearray(size + 16)
    calls = max(1, SAMPLE // size)

    def many(seal: Seal) -> None:
        for _ in range(calls):
            seal(message, out)

    taken = alternating({name: partial(many, seal) for name, seal in seals.items()}, runs)
    return {name: [value / calls for value in values] for name, values in taken.items()}


def measure(runs: int = 21) -> Iterator[Measurement]:
    """Yield the speeds of the ciphers, and the time of numba relative to C."""
    with tempfile.TemporaryDirectory() as folder:
        seals = {name: with_cipher(cipher) for name, cipher in CIPHERS.items()} | compiled(Path(folder))
        check(seals)
        taken = {label: seconds(seals, size, runs) for label, size in SIZES.items()}
    for label, row in taken.items():
        for name, values in row.items():
            speeds = [SIZES[label] / value / 1e6 for value in values]
            yield measured(NAME, f"{name}, messages of {label}", speeds, "MB/s", better="higher")
    large = taken[LARGE]
    for name in IN_C:
        if f"{name} in C" in large:
            times = ratios(large[name], large[f"{name} in C"])
            yield measured(NAME, f"{name} in numba / in C, {LARGE}", times, "x", goal=BOUND)


def main() -> int:
    """Measure, print, and return 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=21)
    return shown(measure(parser.parse_args().runs))


if __name__ == "__main__":
    sys.exit(main())
