"""The gate for CI: what passes, what fails, and the reports of it."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from cloven.auditing.gate import AcceptedLeaks, GateCheck, accept, checks, limits_of
from cloven.auditing.summary import Summary
from cloven.errors import ClovenError
from cloven.reporting.gate_reports import junit, sarif
from tests.reporting import summaries


@pytest.fixture
def summary() -> Summary:
    """Return an audit of which no attack was ended by its budget."""
    made = summaries.document(summaries.summary())
    findings = tuple(one.model_copy(update={"training": None}) for one in made.findings)
    return made.model_copy(update={"findings": findings})


def failed(found: tuple[GateCheck, ...]) -> list[GateCheck]:
    return [one for one in found if one.failure]


def test_what_leaks_more_than_the_limit_fails_and_the_rest_passes(summary: Summary) -> None:
    scores = (one.counts.pixels for one in summary.observations if one.exposed)
    leakages = sorted({score.leakage.high for score in scores if score is not None})
    limit = leakages[len(leakages) // 2]

    found = checks(summary, {"pixels": limit})

    assert {one.leakage for one in failed(found)} == {leakage for leakage in leakages if leakage > limit}
    assert all("pixels leak up to" in one.failure for one in failed(found))
    assert len(found) == sum(one.exposed for one in summary.observations)
    assert not failed(checks(summary, {"pixels": 1.0}))


def test_an_audit_without_a_verdict_never_passes(summary: Summary) -> None:
    verdict = summary.verdict.model_copy(update={"given": False, "reason": "the model has learned too little"})

    (failure,) = failed(checks(summary.model_copy(update={"verdict": verdict}), {"pixels": 1.0}))

    assert failure.failure == "there is no verdict: the model has learned too little"


def test_an_audit_whose_budget_ended_an_attack_never_passes(summary: Summary) -> None:
    cut_off = summaries.document(summaries.summary()).findings

    (failure,) = failed(checks(summary.model_copy(update={"findings": cut_off}), {"pixels": 1.0}))

    assert failure.failure == "the budget ended the training of decoder"


def test_labels_that_no_attack_read_never_pass(summary: Summary) -> None:
    unread = tuple(one.model_copy(update={"labels_read": False}) for one in summary.observations)

    found = failed(checks(summary.model_copy(update={"observations": unread}), {"labels": 1.0}))

    assert {one.failure for one in found} == {"no attack that reads labels was tried"}


def test_accepted_leaks_pass_until_they_grow(summary: Summary) -> None:
    known = accept(checks(summary, {"pixels": 0.0}))
    smaller = AcceptedLeaks(leakage={name: leakage - 0.01 for name, leakage in known.leakage.items()})

    assert known.leakage
    assert not failed(checks(summary, {"pixels": 0.0}, known))
    assert len(failed(checks(summary, {"pixels": 0.0}, smaller))) == len(known.leakage)


def test_junit_has_a_case_for_each_check(summary: Summary) -> None:
    found = checks(summary, {"pixels": 0.1, "labels": 0.1})

    suite = ElementTree.fromstring(junit(found, "plan.toml")).find("testsuite")

    assert suite is not None
    assert suite.get("name") == "plan.toml"
    assert len(suite.findall("testcase")) == len(found) == int(suite.get("tests", ""))
    assert len(suite.findall("testcase/failure")) == len(failed(found)) == int(suite.get("failures", ""))


def test_sarif_has_a_result_with_a_stable_fingerprint_for_each_leak(summary: Summary) -> None:
    found = checks(summary, {"pixels": 0.1})
    again = checks(summary.model_copy(update={"seconds": 1.0}), {"pixels": 0.2})

    (run,) = json.loads(sarif(found, "plan.toml"))["runs"]

    prints = [result["partialFingerprints"]["cloven/v1"] for result in run["results"]]
    assert len(set(prints)) == len(prints) == len(failed(found))
    assert {one.fingerprint for one in again} == {one.fingerprint for one in found}
    assert {result["ruleId"] for result in run["results"]} <= {
        rule["id"] for rule in run["tool"]["driver"]["rules"]
    }


@pytest.mark.parametrize("text", ["pixels", "pixels=2", "colour=0.1", "pixels=0.1,pixels=0.2", "pixels=nan", ""])
def test_a_wrong_limit_is_refused(text: str) -> None:
    with pytest.raises(ClovenError, match="expected pixels=SHARE or labels=SHARE"):
        limits_of(text)
