"""``cloven attack``: attack a running service as one of its users."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cloven.cli.audit_tables import print_audit
from cloven.cli.options import (
    ATTACKS,
    COMPUTING,
    DATA,
    IMAGES,
    LISTENER,
    AsJson,
    AttackSeconds,
    Device,
    Epochs,
    Jobs,
    Keys,
    Numbers,
    OwnCount,
    Seed,
    Seeds,
    VictimCount,
    cores,
    device_of,
    names_in,
)
from cloven.cli.printing import resumable
from cloven.errors import ClovenError, tried

log = logging.getLogger("cloven")


def attack(
    service: Annotated[str, typer.Option(help="URL of the service, such as http://HOST:8000.", metavar="URL")],
    pcap: Annotated[
        Path,
        typer.Option(
            help="Recording that `cloven tap --interface` is writing (pcap or pcapng).",
            metavar="FILE",
            rich_help_panel=LISTENER,
        ),
    ],
    source: Annotated[
        str | None,
        typer.Option(
            help="Address of the sender on the link; default: the sender of the most bytes.",
            metavar="IP[:PORT]",
            rich_help_panel=LISTENER,
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Address of the receiver.", metavar="IP[:PORT]", rich_help_panel=LISTENER)
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help="The attacker's knowledge of shapes: e.g. 0=6x14x14, or inferred; default: messages are vectors.",
            metavar="HOW",
            rich_help_panel=LISTENER,
        ),
    ] = None,
    numbers: Numbers = "float32",
    data: Annotated[str, DATA] = "digits",
    auxiliary: Annotated[
        str,
        typer.Option(
            help="The attacker's own images: photos, folder:DIR, ...", metavar="SPEC", rich_help_panel=IMAGES
        ),
    ] = "photos",
    queries: OwnCount = 1000,
    victims: VictimCount = None,
    attacks: Annotated[
        str,
        typer.Option(
            help="As in `cloven audit`, but without the attacks that need the weights.",
            metavar="NAME,...",
            rich_help_panel=ATTACKS,
        ),
    ] = "decoder,probe",
    epochs: Epochs = None,
    seeds: Seeds = 1,
    attack_seconds: AttackSeconds = None,
    device: Device = "auto",
    seed: Seed = 0,
    jobs: Jobs = None,
    keys: Keys = None,
    out: Annotated[
        Path, typer.Option(help="Folder for results.", metavar="FOLDER", rich_help_panel=COMPUTING)
    ] = Path("runs/service"),
    as_json: AsJson = False,
) -> None:
    """Attack a running service as one of its users, who taps one link.

    Record the link with `cloven tap --interface` meanwhile. The attacker's images are sent first, then the victims'
    as another user; the attack is trained on what was recorded of the former, and its reconstructions of the latter
    are submitted to the service: Mehrafrooz et al. (2025), Sect. 4. To resume, run the same command again.
    """
    from cloven.attacks.trainer import Machine
    from cloven.auditing.pipeline import Execution
    from cloven.auditing.service_attack import ServiceAttack, attack_service
    from cloven.auditing.settings import AuditSettings
    from cloven.auditing.suite import AttackSuite
    from cloven.runtime.link.identity import read
    from cloven.runtime.message_shapes import message_shapes
    from cloven.runtime.service_client import Service

    problems: list[str] = []
    shapes = tried(partial(message_shapes, tuple(shape or ())), problems)
    identity = tried(lambda: read(keys), problems) if keys is not None else None
    if problems:
        raise ClovenError(problems)
    settings = AuditSettings(
        suite=AttackSuite(names_in(attacks), epochs),
        knows="inferred" if shape == ["inferred"] else "shapes" if shapes else "numbers",
        seeds=tuple(range(seed, seed + seeds)),
        attack_seconds=attack_seconds,
        machine=Machine(device_of(device)),
    )
    asked = ServiceAttack(
        service=Service(service.rstrip("/"), identity),
        recording=pcap,
        data=data,
        auxiliary=auxiliary,
        queries=queries,
        victims=victims,
        source=source,
        target=target,
        shapes=shapes,
        numbers=numbers,
        seed=seed,
    )
    with resumable(out) as progress:
        summary = attack_service(asked, settings, Execution(out, jobs or cores(), progress))
    print_audit(summary, out, as_json=as_json)
