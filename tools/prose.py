"""Check the English of docstrings, comments, messages, Markdown pages and templates.

``python -m tools.prose [PATH ...]`` prints each place that breaks a rule and exits with 1 if there is any. Code is
not read: an identifier may be called anything. Without paths, the whole project is checked.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PATHS = ("src", "tests", "benchmarks", "tools", "docs", "README.md", "CONTRIBUTING.md", "CHANGELOG.md")

# Terms that only look like a retired phrase; they are removed before the rules are applied.
ALLOWED = re.compile(
    r"\b(?:is|are) no longer\b|\bthere (?:is|are) no\b|\b(?:math|np|numpy|torch)\.floor\b", re.IGNORECASE
)

RETIRED = {
    r"floors?": "baseline",
    r"ladders?": "attack suite",
    r"amiss": "incomplete, wrong",
    r"mends?|mended|mending": "fix",
    r"doors": "vulnerabilities, entry points",
    r"in so many words": "explicitly",
    r"told apart": "reported separately, distinguished",
    r"fails well": "fails with a clear error",
    r"unlike speeds?": "different speeds",
    r"says? nothing without": "requires",
    r"can be had": "say which values are allowed",
    r"(?:was|were) asked for": "say what was got",
    r"cannot be meant": "say what is wrong",
    r"talks? nonsense": "malformed message",
    r"nought": "zero",
    r"mistrusts?": "may be compromised",
    r"(?:a|its|their) class of (?:his|its|their|one's) own": "a separate class",
    r"(?:is|are|was|were) no": "is not, has no",
    r"S1": "Mehrafrooz et al. (2025), or: the paper",
    r"S2": "Rajasekar et al. (2024), or: the paper",
}

NOT_VERBS = frozenset(
    """a all along an and any as at beside both by each every for from here how if in it its no none nothing of on
    one only or others out over since so than that the then these this those to two under what when where whether
    which who whom whose why with without""".split()
)

RULES = {
    re.compile(rf"\b(?:{words})\b", 0 if words.isupper() else re.IGNORECASE): advice
    for words, advice in RETIRED.items()
}
QUESTION_WORDS = ("What", "Where", "Which", "How", "Whether", "Who")


@dataclass(frozen=True)
class Passage:
    """A piece of prose and the line that it begins on."""

    path: Path
    line: int
    text: str
    kind: str = "text"


def passages(path: Path) -> Iterator[Passage]:
    """Yield the prose of a file: Python, Markdown or a template."""
    if path.suffix not in {".py", ".md", ".j2"}:
        return
    text = path.read_text("utf-8")
    if path.suffix == ".py":
        yield from python_passages(path, text)
    elif path.suffix == ".md":
        yield Passage(path, 1, blank(r"^```.*?^```|`[^`\n]*`|\]\([^)]*\)", text))
    else:
        yield Passage(path, 1, blank(r"\{%.*?%\}|\{\{.*?\}\}|<style.*?</style>|<script.*?</script>|<[^>]*>", text))


def blank(pattern: str, text: str) -> str:
    """Return a text without the matches of a pattern; its lines keep their numbers."""
    return re.sub(pattern, lambda match: "\n" * match[0].count("\n") or "`", text, flags=re.DOTALL | re.MULTILINE)


def python_passages(path: Path, text: str) -> Iterator[Passage]:
    """Yield the comments, docstrings and other strings of a Python file.

    Strings of one word, and strings that are split into words, are identifiers.
    """
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield Passage(path, token.start[0], token.string)
    tree = ast.parse(text)
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        ) and ast.get_docstring(node):
            expression = node.body[0]
            assert isinstance(expression, ast.Expr)
            docstrings.add(expression.value)
            kind = "function" if is_plain_function(node) else "docstring"
            yield Passage(
                path, expression.lineno, blank(r"``.*?``", ast.get_docstring(node, clean=False) or ""), kind
            )
    parts = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    parts |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "split"}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield Passage(path, node.lineno, "".join(constant_text(part) for part in node.values))
        elif node not in docstrings and node not in parts and " " in constant_text(node):
            yield Passage(path, getattr(node, "lineno", 1), constant_text(node))


def is_plain_function(node: ast.AST) -> bool:
    """Return whether a node is a function that is not a property."""
    decorators = getattr(node, "decorator_list", ())
    names = {ast.unparse(decorator).rpartition(".")[2] for decorator in decorators}
    return not isinstance(node, ast.Module | ast.ClassDef) and not names & {"property", "cached_property"}


def constant_text(node: ast.AST) -> str:
    """Return the text of a string constant, and ``{}`` for a value that is put into an f-string."""
    if isinstance(node, ast.FormattedValue):
        return "{}"
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def problems(passage: Passage) -> Iterator[str]:
    """Yield a line for each broken rule."""
    text = ALLOWED.sub("", passage.text)
    matches = [(match.start(), match[0], advice) for rule, advice in RULES.items() for match in rule.finditer(text)]
    for start, words, advice in sorted(matches):
        line = passage.line + text[:start].count("\n")
        yield f"{passage.path}:{line}: {words!r}: write {advice}"
    first = re.match(r"\s*([\w']*)", passage.text)
    word = first[1] if first else ""
    if passage.kind != "text" and word in QUESTION_WORDS:
        yield f"{passage.path}:{passage.line}: a docstring begins with {word!r}"
    elif (
        passage.kind == "function"
        and passage.path.parts[:1] != ("tests",)
        and (not word or word.lower() in NOT_VERBS or "'" in word)
    ):
        yield f"{passage.path}:{passage.line}: the docstring of a function begins with {word!r}, not with a verb"


def files(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files below some paths, in order."""
    for path in paths:
        yield from sorted(path.rglob("*")) if path.is_dir() else [path]


def main(arguments: list[str]) -> int:
    """Print the problems of the files that are named, or of the whole project."""
    own = Path(__file__).resolve()
    quoting = {own, own.parent.parent / "tests" / "test_prose.py"}  # they quote what they forbid
    found = [
        problem
        for path in files(Path(name) for name in arguments or PATHS)
        if path.resolve() not in quoting
        for passage in passages(path)
        for problem in problems(passage)
    ]
    print(*found, sep="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
