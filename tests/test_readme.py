"""Every code block of the README and of the pages in docs/ does as it stands what the text says."""

import contextlib
import doctest
import importlib.util
import io
import re
import shutil
import sys
import tomllib
from pathlib import Path

import jax
import matplotlib
import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
PYTHON = [code for language, code in BLOCKS if language == "python"]
SHELL = [code for language, code in BLOCKS if language == "sh"]
CI = (ROOT / ".ci" / "run").read_text()
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def test_every_block_is_run_here():
    assert len(PYTHON) + len(SHELL) == len(BLOCKS)


def test_the_first_block_is_short():
    lines = [line for line in PYTHON[0].splitlines() if line.strip()]
    assert 12 <= len(lines) <= 15
    assert lines[-1] == "fk.Dashboard(fit)"


def text_of(outputs):
    """Join what a cell printed, beside its progress: one `print` may arrive as two outputs."""
    return "".join(output.text for output in outputs if output.output_type == "stream")


@pytest.mark.slow
def test_the_python_blocks_run_one_after_the_other(monkeypatch):
    # As a reader has it, whatever the tests have set.
    monkeypatch.delenv("JAX_ENABLE_X64", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    asked = "print(fit.status)"
    cells = [PYTHON[0], asked, *PYTHON[1:], "print(final.result().success, final.params)"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in cells])
    client = nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3")
    client.execute()

    shown, status, *_, printed, truth = (cell.outputs for cell in notebook.cells)
    assert "image/png" in shown[-1].data
    # Still running, so that a reader who has just seen the dashboard finds something to steer.
    assert text_of(status) == "running\n"
    assert "centre" in text_of(printed)
    success, params = text_of(truth).split(" ", 1)
    assert success == "True"
    (centre,) = re.findall(r"'centre': Array\(([\d.]+)", params)
    # Three times the error that 0.2 of noise on these 500 points leaves, which is 0.005.
    assert float(centre) == pytest.approx(4.0, abs=0.015)


@pytest.mark.parametrize("command", SHELL, ids=lambda command: command.split("&& ")[-1].strip())
def test_shell_commands_name_what_is_there(command):
    make, activate, install, use = command.strip().split(" && ")
    assert (make, activate) == ("python3 -m venv .venv", ". .venv/bin/activate")
    assert re.fullmatch(r'pip install "\.\[[\w,]+\]"', install)
    program, *arguments = use.split()
    # Beside this Python, where the environment's programs are though nobody activated it.
    assert shutil.which(program, path=Path(sys.executable).parent)
    for argument in arguments:
        if "/" in argument or argument in ("tests", "notebooks"):
            assert (ROOT / argument).exists()


def test_extras_that_the_text_names_exist():
    named = re.findall(r'"\.\[([\w,]+)\]"', (ROOT / "README.md").read_text())
    assert {extra for extras in named for extra in extras.split(",")} <= set(EXTRAS)


def test_ci_runs_the_test_command_to_the_letter():
    (found,) = re.findall(r"readme_command=\$\(grep -m 1 '(.*)' README.md\)", CI)
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if found in line]
    assert lines[0] == SHELL[-1].strip()


# A comment that says whether a block is run, the block, and in another block what it prints.
BLOCK = re.compile(
    r"(?:^<!-- (.*?) -->\n)?^```python\n(.*?)^```$(?:\n+^```text\n(.*?)^```$)?", re.M | re.S
)
PAGES = [
    page
    for page in sorted((ROOT / "docs").rglob("*.md"))
    # What the page on noise finds is compared in test_noise.py.
    if BLOCK.search(page.read_text()) and page.stem != "noise"
]


@pytest.fixture
def as_a_reader(tmp_path, monkeypatch):
    """Undo what the tests set and a reader has not, and what a page sets."""
    monkeypatch.chdir(tmp_path)
    precision = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_enable_x64", False)
    with jax.numpy_rank_promotion("allow"), matplotlib.rc_context({"backend": "agg"}):
        yield
    jax.config.update("jax_enable_x64", precision)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run_one_after_the_other(page, as_a_reader):
    namespace: dict[str, object] = {"__name__": "__main__"}
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    text = page.read_text()
    for found in BLOCK.finditer(text):
        said, code, expected = found.groups(default="")
        # So that a traceback shows the line of the page.
        block = compile("\n" * text.count("\n", 0, found.start(2)) + code, str(page), "exec")
        assert said == "" or re.match("needs |not run: ", said), said
        if said.startswith("not run") or not all(map(importlib.util.find_spec, said.split()[1:])):
            continue
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(block, namespace)
        assert not expected or doctest.OutputChecker().check_output(
            expected, printed.getvalue(), flags
        ), printed.getvalue()
