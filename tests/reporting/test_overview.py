from __future__ import annotations

from typing import Any

from cloven.reporting.overview import Row, drawn
from tests.reporting.summaries import captured, document, summary


def rows(**changes: Any) -> tuple[Row, ...]:
    return drawn(document(summary(**changes)))


def vertical(given: dict[str, Any]) -> list[dict[str, Any]]:
    return [finding for finding in given["findings"] if finding["strategy"] == "vertical"]


def test_a_chain_has_a_link_between_each_two_devices_and_comes_first() -> None:
    chain, *others = rows()

    assert [station.name for station in chain.stations] == ["edge0", "edge1", "edge2", "edge3"]
    assert [(tap.name, tap.cut) for tap in chain.hops] == [
        ("edge0 → edge1", "after conv2"),
        ("edge1 → edge2", "after pool2"),
        ("edge2 → edge3", "after conv3"),
    ]
    assert all(not other.hops and other.taps for other in others)


def test_a_sentence_says_who_learns_what() -> None:
    chain = rows()[0]

    assert chain.sentence == (
        "Anyone listening between edge0 and edge1 sees the image; between edge1 and edge2 recognises the image and "
        "reads the class of most images; between edge2 and edge3 sees a trace of the image and reads the class of "
        "some images."
    )


def test_links_that_follow_one_another_and_leak_alike_are_named_together() -> None:
    given = summary()
    for row in given["observations"]:
        row["counts"] = given["observations"][0]["counts"]

    assert drawn(document(given))[0].sentence == "Anyone listening anywhere between edge0 and edge3 sees the image."


def test_an_encrypted_link_leaks_only_ciphertext() -> None:
    given = summary()
    for row in (vertical(given)[0], given["observations"][0]):
        row["protection"] = ["ascon-aead128"]
    first = drawn(document(given))[0].hops[0]

    assert first.learns == "sees only ciphertext (ascon-aead128)"
    assert first.levels == (0, 0)
    assert first.steps == (3, 3)  # without the protection


def test_an_accelerator_reads_what_an_enclave_hands_over_whatever_encrypts_it() -> None:
    given = summary()
    given["programs"][0]["parts"][0]["trusted"] = True
    vertical(given)[0]["protection"] = ["mtls"]
    chain = drawn(document(given))[0]

    assert chain.sentence.startswith("The untrusted edge1, which decrypts what it gets, sees the image; ")
    assert chain.hops[0].levels == (3, 3)


def test_a_link_that_was_not_attacked_is_named() -> None:
    given = summary()
    given["findings"].remove(vertical(given)[1])
    chain = drawn(document(given))[0]

    assert [tap.attacked for tap in chain.hops] == [True, False, True]
    assert chain.sentence.endswith("Not attacked: edge1 → edge2.")


def test_without_a_verdict_nothing_is_claimed() -> None:
    chain = rows(verdict={"given": False, "reason": "the CNN has learned too little"})[0]

    assert chain.sentence == ""
    assert {tap.levels for tap in chain.hops} == {(0, 0)}


def test_what_no_link_carries_counts_as_not_attacked() -> None:
    given = summary()
    for finding in given["findings"]:
        finding["crosses"] = False

    (chain,) = drawn(document(given))
    assert chain.sentence == "Not attacked: edge0 → edge1, edge1 → edge2, edge2 → edge3."


def test_a_device_that_is_taken_over_is_a_place_of_its_own() -> None:
    given = summary()
    controlled = {"label": "All that edge1 gets", "view": "full", "protection": []}
    given["findings"].append(vertical(given)[0] | controlled)
    chain = drawn(document(given))[0]

    assert [tap.name for tap in chain.taps] == ["device edge1"]
    assert "Whoever controls edge1 sees the image" in chain.sentence


def test_where_devices_form_no_chain_each_link_has_two_lanes() -> None:
    horizontal = next(row for row in rows() if row.title.startswith("horizontal"))
    drawing = horizontal.mesh

    assert {arrow.link for arrow in drawing.arrows} == set(horizontal.links)
    assert len(drawing.places) == 4
    for x, y in drawing.places.values():
        assert 0 < x < drawing.width
        assert 0 < y < drawing.height


def test_a_recorded_link_is_drawn_between_its_ends() -> None:
    (row,) = drawn(document(captured()))

    assert [station.name for station in row.stations] == ["10.0.0.1:40112", "[2001:db8::2]:7001"]
    assert row.hops[0].attacked


def test_links_that_are_tapped_together_are_not_said_to_leak_alone() -> None:
    given = summary()
    links = [["edge0", "edge1"], ["edge1", "edge2"]]
    together = {"link": None, "links": links, "label": "2 links together", "view": "full", "observation": "both"}
    given["findings"].append(vertical(given)[0] | together)
    given["observations"].append(given["observations"][0] | together)
    chain = drawn(document(given))[0]

    assert chain.sentence.startswith(
        "Anyone listening between edge0 and edge1 or on edge0 → edge1 together with edge1 → edge2 sees the image;"
    )
