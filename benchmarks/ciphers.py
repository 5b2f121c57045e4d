"""Measure the cost of protecting a link: MB/s of each cipher, and Ascon in numba compared with C.

    python -m benchmarks.ciphers [--runs N] [--json]

Each cipher seals messages of 0.8 MB (200,704 float32 values, 14 x 14 x 1024) and of 1 kB into an existing buffer,
on one thread, in CPU time, including Python's overhead. If there is a C compiler, Ascon in plain C, compiled with
-O3 for this processor, is measured too. The ciphers alternate; the figures are medians. The exit code is 1 if
numba takes more than 1.3 times as long as C for a large message.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from cloven.runtime.link.ciphers import CIPHERS, Cipher

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


def seconds(seals: dict[str, Seal], size: int, runs: int) -> dict[str, float]:
    """Return the median CPU seconds of each cipher for a message of `size` bytes, in alternating runs."""
    message = np.random.default_rng(1).bytes(size)
    out = bytearray(size + 16)
    calls = max(1, SAMPLE // size)
    taken: dict[str, list[float]] = {name: [] for name in seals}
    for turn in range(runs + 1):
        for name, seal in seals.items():
            start = time.process_time()
            for _ in range(calls):
                seal(message, out)
            # The first run compiles and warms up.
            if turn:
                taken[name].append((time.process_time() - start) / calls)
    return {name: statistics.median(values) for name, values in taken.items()}


def measured(runs: int) -> dict[str, dict[str, float]]:
    """Return the seconds by size and cipher."""
    with tempfile.TemporaryDirectory() as folder:
        seals = {name: with_cipher(cipher) for name, cipher in CIPHERS.items()} | compiled(Path(folder))
        check(seals)
        return {label: seconds(seals, size, runs) for label, size in SIZES.items()}


def surroundings() -> dict[str, str]:
    """Return the versions and the processor that the figures depend on."""
    from cryptography.hazmat.backends.openssl import backend

    return {
        "python": platform.python_version(),
        "numba": version("numba"),
        "cryptography": version("cryptography"),
        "openssl": backend.openssl_version_text(),
        "machine": platform.machine(),
        "threads": "1",
        "c flags": " ".join(FLAGS[:2]),
    }


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=21)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    taken = measured(args.runs)
    speeds = {label: {n: SIZES[label] / s / 1e6 for n, s in row.items()} for label, row in taken.items()}
    large = taken[LARGE]
    ratios = {name: large[name] / large[f"{name} in C"] for name in IN_C if f"{name} in C" in large}
    if args.json:
        print(json.dumps({"MB/s": speeds, "numba over C": ratios, "with": surroundings()}))
    else:
        print(f"{'MB/s':22}", *(f"{label:>10}" for label in speeds), f"{'AES-128-GCM takes 1':>22}")
        for name in large:
            row = (f"{speeds[label][name]:10.0f}" for label in speeds)
            print(f"{name:22}", *row, f"{large[name] / large['aes-128-gcm']:22.1f}")
        for name, ratio in ratios.items():
            print(f"{name}: numba takes {ratio:.2f} times C's time on {LARGE} (bound {BOUND})")
        if not ratios:
            print("no C compiler (cc) found: Ascon is not compared with C")
        print(", ".join(f"{what} {which}" for what, which in surroundings().items()))
    return int(any(ratio > BOUND for ratio in ratios.values()))


if __name__ == "__main__":
    sys.exit(main())
