"""The module map: who may import whom, what `import fitkit` costs, and what the package shows."""

import ast
import doctest
import inspect
import operator
import os
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import fitkit

PACKAGE = Path(fitkit.__file__).parent
ROOT = Path(__file__).parent.parent

# From the ground up: a room imports only from those before it.
ROOMS = (
    "_format",
    "_front_end",
    "_progress",
    "_jaxprs",
    "_per_leaf",
    "_sharding",
    "_checkpoint",
    "_paths",
    "_input",
    "_residuals",
    "_programs",
    "_fisher",
    "_nonfinite",
    "_optimisers",
    "_result",
    "_many",
    "_profile",
    "_fit",
    "_handoff",
    "_plotting",
    "_dashboard",
)
DRAWING = {"_plotting", "_dashboard"}
DRAWING_LIBRARIES = {"matplotlib", "ipywidgets"}


def imported_names(file: Path):
    """Yield the absolute dotted name of everything that `file` imports, inside functions too."""
    package = ("fitkit", *file.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            base += [node.module] if node.module else []
            yield from (".".join([*base, alias.name]) for alias in node.names)


def room_of(module: str) -> str:
    """Return ``"_fit"`` of ``"fitkit._fit.loop.Loop"``."""
    return module.split(".")[1]


def own_imports(file: Path):
    """Yield the names that `file` imports from fitkit."""
    return (name for name in imported_names(file) if name.startswith("fitkit."))


FILES = sorted(file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_room_imports_only_from_those_below_it_and_only_what_they_show(file):
    room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert room in ROOMS, f"{room} is no room: give it its place in ROOMS"
    allowed = {*ROOMS[: ROOMS.index(room) + 1]}
    for name in own_imports(file):
        other = room_of(name)
        assert other in allowed, f"{room} must not import {name}"
        if other != room:
            assert name.count(".") == 2, f"{room} reaches past the __init__ of {other}: {name}"
    libraries = {name.partition(".")[0] for name in imported_names(file)}
    assert room in DRAWING or not libraries & DRAWING_LIBRARIES, f"only {sorted(DRAWING)} draw"


@pytest.mark.parametrize("room", [room for room in ROOMS if (PACKAGE / room).is_dir()])
def test_the_files_of_a_room_import_in_one_direction(room):
    files = [file for file in (PACKAGE / room).glob("*.py") if file.name != "__init__.py"]
    prefix = f"fitkit.{room}."
    graph = {
        file.stem: {
            name.removeprefix(prefix).split(".")[0]
            for name in own_imports(file)
            if name.startswith(prefix)
        }
        for file in files
    }
    TopologicalSorter(graph).prepare()  # Raises CycleError, which names the circle.


def test_the_package_only_re_exports():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fitkit._"):
            assert all(alias.name == alias.asname for alias in node.names), ast.unparse(node)
    names = [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
    allowed = {f"fitkit.{name}" for name in ROOMS} | {"importlib.metadata", "typing"}
    assert set(names) <= allowed


def run_python(code: str, **environment: str) -> str:
    command = [sys.executable, "-c", code]
    env = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), **environment}
    result = subprocess.run(command, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_import_is_quick():
    """Under 0.3 s beyond the dependencies.

    The processor's time, which a busy machine stretches less than the clock's, and the best of
    three, because what disturbs only ever adds.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    dependencies = ", ".join(line.partition(">")[0] for line in project["dependencies"])
    code = (
        f"import {dependencies}, gc, time\n"
        # Or a collection that falls into it looks through all that they have allocated.
        "gc.freeze()\n"
        "start = time.process_time()\n"
        "import fitkit\n"
        "print(time.process_time() - start)"
    )
    assert min(float(run_python(code)) for _ in range(3)) < 0.3


def test_import_starts_nothing():
    """No JAX backend (there is none of that name), no pyplot with its global figures, no thread."""
    code = (
        "import sys, threading, fitkit\n"
        "assert not {'matplotlib.pyplot', 'matplotlib.figure'} & {*sys.modules}\n"
        "assert threading.active_count() == 1"
    )
    run_python(code, JAX_PLATFORMS="none_such")


SHOWN = {name: getattr(fitkit, name) for name in dir(fitkit) if not name.startswith("_")}
# Those in a module of their own, ``handoff.blackjax``, too.
PUBLIC = sorted(
    [name for name, value in SHOWN.items() if callable(value)]
    + [
        f"{name}.{inner}"
        for name, module in SHOWN.items()
        if inspect.ismodule(module) and module.__name__.startswith("fitkit.")
        for inner, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__
    ]
)
# Nobody makes these; the examples of the functions that do show them.
RECORDS = {
    "Assessment",
    "Best",
    "CheckpointError",
    "Completion",
    "Event",
    "FisherMatrix",
    "FisherSpectrum",
    "Independence",
    "NonFiniteError",
    "NonFiniteReport",
    "NotDifferentiableError",
    "Result",
    "StepInfo",
    "UnknownPathError",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_an_example_that_runs(name):
    value = operator.attrgetter(name)(fitkit)
    if name.startswith("handoff."):  # to the package of this name
        pytest.importorskip(name.partition(".")[2])
    assert inspect.getdoc(value), f"fitkit.{name} has no docstring"
    tests = doctest.DocTestFinder().find(value, name)
    examples = sum(len(test.examples) for test in tests)
    assert examples or name in RECORDS, f"fitkit.{name} has no example (>>> …)"
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    runner = doctest.DocTestRunner(optionflags=flags)
    report: list[str] = []
    for test in tests:
        runner.run(test, out=report.append)
    assert runner.failures == 0, "".join(report)
