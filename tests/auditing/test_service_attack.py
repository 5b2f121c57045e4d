"""An attack on a service: what is refused before and after images are sent, and images that the tap missed."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cloven.auditing import service_attack
from cloven.auditing.captured import IMAGES
from cloven.auditing.pipeline import Execution
from cloven.auditing.service_attack import PAIRS, ServiceAttack, attack_service
from cloven.auditing.settings import AuditSettings
from cloven.auditing.suite import AttackSuite
from cloven.auditing.summary import Summary
from cloven.errors import ClovenError
from cloven.runtime.service_client import Answer, Service, ServiceDescription
from cloven.runtime.tap.extraction import CapturedMessages

URL = "http://service:8000"
SETTINGS = AuditSettings(suite=AttackSuite(("probe",), 1))
PCAP = bytes.fromhex("d4c3b2a1 0200 0400 00000000 00000000 ffff0000 01000000")
"""A recording without packets."""


class User:
    """A user of a linear model whose link carries the means of the image's rows; the tap starts late."""

    def __init__(self, shape: tuple[int, int, int] = (1, 28, 28)) -> None:
        self.service, self.model, self.late = Service(URL), ServiceDescription(input=shape, slots=False), 0
        self.sent: list[NDArray[np.float32]] = []

    def __enter__(self) -> User:
        return self

    def __exit__(self, *error: object) -> None: ...

    def reserved(self) -> Any:
        return nullcontext()

    def classify(self, image: NDArray[np.float32]) -> Answer:
        self.sent.append(image.mean((0, 2)))
        logits = self.sent[-1][::3].tolist()
        return Answer(image=len(self.sent) - 1, **{"class": int(np.argmax(logits))}, logits=logits)

    def recorded(self, *_: object) -> CapturedMessages:
        inputs = np.arange(self.late, len(self.sent))
        return CapturedMessages(inputs, {0: np.stack(self.sent)[inputs]}, "a:1 -> b:2", False, 9, ("00",))


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> User:
    user = User()
    monkeypatch.setattr(service_attack, "ServiceClient", lambda _: user)
    monkeypatch.setattr(service_attack, "_recorded", user.recorded)
    return user


def attacked(folder: Path, recording: bytes = PCAP, **options: Any) -> Summary:
    pcap = folder / "link.pcap"
    pcap.write_bytes(recording)
    asked = ServiceAttack(Service(URL), pcap, "digits", "photos", queries=40, victims=25, **options)
    return attack_service(asked, SETTINGS, Execution(folder / "out", 1))


def test_a_recording_that_began_too_late_is_refused_and_images_are_sent_again(user: User, tmp_path: Path) -> None:
    user.late = 46
    with pytest.raises(ClovenError) as refused:
        attacked(tmp_path)
    assert refused.value.problems == (
        f"{tmp_path / 'link.pcap'} has the messages of 0 of the 40 auxiliary images; expected 2 or more: start "
        "`cloven tap` before `cloven attack`, and leave it running",
        f"{tmp_path / 'link.pcap'} has the messages of 19 of the 25 victim images; expected 20 or more: start "
        "`cloven tap` before `cloven attack`, and leave it running",
    )
    assert not (tmp_path / "out" / PAIRS / IMAGES).exists()

    user.sent, user.late = [], 5
    assert "Images that were sent but not captured, left out: 5." in attacked(tmp_path).notes


def test_a_file_that_is_no_recording_is_refused_before_images_are_sent(user: User, tmp_path: Path) -> None:
    with pytest.raises(ClovenError, match="is neither a pcap nor a pcapng file"):
        attacked(tmp_path, b"other")
    assert not user.sent


def test_a_model_whose_images_cannot_be_made(user: User, tmp_path: Path) -> None:
    user.model = ServiceDescription(input=(4, 28, 28), slots=False)
    with pytest.raises(ClovenError) as refused:
        attacked(tmp_path)
    assert refused.value.problems == (
        f"the model of {URL}: shape: got (4, 28, 28), expected (channels, height, width) with 1 or 3 channels and "
        "sides of 2 to 4096",
    )
