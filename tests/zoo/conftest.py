"""Fixtures for the tests of data sets."""

from __future__ import annotations

import pytest

from cloven.zoo import flowers


@pytest.fixture(autouse=True)
def labels_of_a_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore the digest of Oxford's labels, which tests replace because they do not have the real file."""
    monkeypatch.setattr(flowers, "LABELS_MD5", flowers.LABELS_MD5)
