"""Reports of a gate in the formats of CI systems: JUnit XML and SARIF 2.1.0."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from xml.etree import ElementTree

from cloven.auditing.gate import GateCheck

SARIF = "https://json.schemastore.org/sarif-2.1.0.json"

RULES = {
    "pixels": "A listener reconstructs more of the image than the limit allows",
    "labels": "A listener reads more classes than the limit allows",
    "audit": "The audit is not complete",
}


def junit(checks: Sequence[GateCheck], name: str) -> str:
    """Return checks as a JUnit XML file: one test case each.

    Args:
        checks: of `cloven.auditing.gate.checks`.
        name: of the test suite, such as the plan's.
    """
    failures = sum(bool(one.failure) for one in checks)
    suite = ElementTree.Element("testsuite", name=name, tests=str(len(checks)), failures=str(failures))
    for one in checks:
        case = ElementTree.SubElement(suite, "testcase", classname=one.place, name=one.axis or "audit")
        if one.failure:
            ElementTree.SubElement(case, "failure", message=one.failure, type="leak")
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def sarif(checks: Sequence[GateCheck], name: str) -> str:
    """Return the checks that failed as a SARIF file, with fingerprints that stay the same between audits.

    Args:
        checks: of `cloven.auditing.gate.checks`.
        name: the plan file, at which the results are shown, or the model.
    """
    rules = [{"id": rule, "shortDescription": {"text": text}} for rule, text in RULES.items()]
    results = [
        {
            "ruleId": one.axis or "audit",
            "level": "error",
            "message": {"text": f"{name}: {one.place}: {one.failure}"},
            "locations": [{"physicalLocation": {"artifactLocation": {"uri": name}}}],
            "partialFingerprints": {"cloven/v1": one.fingerprint},
        }
        for one in checks
        if one.failure
    ]
    driver = {"name": "cloven", "version": version("cloven"), "rules": rules}
    document = {"$schema": SARIF, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}
    return json.dumps(document, indent=1) + "\n"
