"""The architecture: the allowed imports between packages, light modules, and the public interface."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from itertools import chain
from pathlib import Path

import pytest

import cloven

SOURCE = Path(cloven.__file__).parent

ALLOWED = {
    "graph": set(),
    "partition": {"graph"},
    "cost": {"graph", "partition"},
    "runtime": {"graph", "partition", "cost"},
    "attacks": set(),
    "score": set(),
    "zoo": set(),
    "enclave": {"graph", "partition", "cost", "runtime", "zoo"},
    "auditing": {"graph", "partition", "runtime", "attacks", "score", "zoo"},
    "advising": {"graph", "partition", "cost", "attacks", "score", "zoo", "auditing"},
    "papers": {"graph", "partition", "cost", "runtime", "attacks", "score", "zoo", "enclave", "auditing"},
    "reporting": {"partition", "cost", "enclave", "auditing", "advising", "papers"},
}
ALLOWED["cli"] = set(ALLOWED)
"""The packages that each package may import; top-level modules, such as `errors`, belong to none."""


def imported(path: Path) -> set[str]:
    """Return the modules that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def needed(path: Path) -> set[str]:
    """Return the modules that a file imports, also inside functions, but not only for `TYPE_CHECKING`."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text("utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = SOURCE.parent / node.module.replace(".", "/")
            for alias in node.names:
                is_module = (inside / f"{alias.name}.py").exists() or (inside / alias.name / "__init__.py").exists()
                found.add(f"{node.module}.{alias.name}" if is_module else node.module)
        waiting += ast.iter_child_nodes(node)
    return found


def rooms(path: Path) -> set[str]:
    parts = (name.split(".") for name in imported(path))
    return {p[1] for p in parts if p[0] == "cloven" and len(p) > 1 and p[1] in ALLOWED}


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_a_room_imports_only_what_the_data_reaches_before_it(room: str) -> None:
    for path in (SOURCE / room).glob("**/*.py"):
        assert rooms(path) <= ALLOWED[room] | {room}, path


def test_every_folder_is_a_known_room() -> None:
    assert {p.name for p in SOURCE.iterdir() if p.is_dir() and p.name != "__pycache__"} == set(ALLOWED)


def test_nothing_unpickles_but_the_restricted_reader_of_cifar10() -> None:
    users = {path.name for path in SOURCE.glob("**/*.py") if imported(path) & {"pickle", "cloudpickle", "dill"}}

    assert users == {"cifar.py"}
    lines = [line for p in SOURCE.glob("**/*.py") for line in p.read_text("utf-8").splitlines()]
    loads = [line for line in lines if "torch.load(" in line]
    assert loads
    assert all("weights_only=True" in line for line in loads)


def loaded(statement: str) -> set[str]:
    """Return the packages that are loaded after a statement in a new interpreter."""
    code = f"import sys\n{statement}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split("\n")[-2].split())


SAME_ROLE = {
    "advise.py": "the command, and what it calls",
    "attack.py": "the command, and the interface of attacks",
    "baselines.py": "what a score is compared with, and what advice is compared with",
    "data.py": "the command, and the strategy of that name",
    "description.py": "the description of a model, and that of a divided one",
    "estimate.py": "the command, and what it calls",
    "errors.py": "the exceptions of a room, and those of the whole package",
    "keys.py": "the command, and what it calls",
    "models.py": "the models of the zoo, and those that a command line names",
    "plan.py": "the command, and what it calls",
    "profile.py": "the command, and the documents that it writes",
    "reproduce.py": "the command, and what it calls",
    "results.py": "the command, and what it shows",
    "worker.py": "the command, and what it calls",
}
"""Module names that occur more than once, each with its reason."""


def test_a_module_or_class_name_occurs_once_or_for_a_reason() -> None:
    modules = Counter(path.name for path in SOURCE.glob("**/*.py") if not path.name.startswith("__"))
    trees = [ast.parse(path.read_text("utf-8")) for path in SOURCE.glob("**/*.py")]
    nodes = chain.from_iterable(map(ast.walk, trees))
    classes = Counter(node.name for node in nodes if isinstance(node, ast.ClassDef))

    assert {name for name, times in modules.items() if times > 1} <= set(SAME_ROLE)
    assert {name for name, times in classes.items() if times > 1} == set()


def test_a_function_takes_at_most_twelve_arguments_but_for_commands() -> None:
    for path in SOURCE.glob("**/*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and path.parent != SOURCE / "cli":
                given = node.args
                assert len([*given.posonlyargs, *given.args, *given.kwonlyargs]) <= 12, (path, node.name)


def test_no_module_is_part_of_a_circle_of_imports() -> None:
    """Imports of whole packages are left out: what they load is in their ``__init__``."""
    imports = {}
    for path in SOURCE.glob("**/*.py"):
        if not path.name.startswith("__"):
            name = ".".join(["cloven", *path.relative_to(SOURCE).with_suffix("").parts])
            imports[name] = needed(path)
    graph = TopologicalSorter({name: found & imports.keys() - {name} for name, found in imports.items()})

    graph.prepare()  # raises CycleError with the circle


def public_functions(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield node


def test_public_signatures_name_what_is_in_a_document() -> None:
    for path in SOURCE.glob("**/*.py"):
        for node in public_functions(ast.parse(path.read_text("utf-8")).body):
            signature = ast.unparse(node.args) + ast.unparse(node.returns or ast.Constant(None))
            assert "dict[str, Any]" not in signature, (path, node.name)
            assert "Mapping[str, Any]" not in signature, (path, node.name)


def test_formatting_is_never_skipped() -> None:
    assert [path for path in SOURCE.glob("**/*.py") if "# fmt: skip" in path.read_text("utf-8")] == []


HEAVY = {"torch", "numpy", "matplotlib", "sklearn", "PIL", "jinja2", "scipy"}


def test_importing_cloven_brings_nothing_heavy() -> None:
    assert not loaded("import cloven") & HEAVY


def test_help_brings_nothing_heavy() -> None:
    code = (
        "import cloven.cli, typer.testing as t; assert not t.CliRunner().invoke(cloven.cli.app, ['-h']).exit_code"
    )

    assert not loaded(code) & HEAVY


def test_a_program_is_data_and_is_compiled_without_torch() -> None:
    assert "torch" not in loaded("import cloven.partition.plan, cloven.partition.observe, cloven.graph.cuts")


def test_findings_are_exported_without_torch() -> None:
    assert "torch" not in loaded(
        "import cloven.auditing.run_folders, cloven.auditing.finding_row, cloven.reporting.exports"
    )


def test_the_public_names_are_few_sorted_and_there() -> None:
    assert cloven.__all__ == sorted(cloven.__all__)
    assert len(cloven.__all__) <= 40
    for name in cloven.__all__:
        assert callable(getattr(cloven, name))


EVERY_MODULE = """
import cloven, importlib, inspect, pkgutil, pydoc
for module in pkgutil.walk_packages(cloven.__path__, "cloven."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
for name in cloven.__all__:
    assert inspect.isroutine(getattr(cloven, name)) or inspect.isclass(getattr(cloven, name)), name
print(pydoc.plain(pydoc.render_doc(cloven.audit)))
"""


def test_an_exported_function_is_a_function_after_every_module_was_imported() -> None:
    done = subprocess.run([sys.executable, "-c", EVERY_MODULE], capture_output=True, text=True, check=True)

    assert "audit(" in done.stdout
    assert "auxiliary" in done.stdout


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'adit'"):
        _ = cloven.adit
