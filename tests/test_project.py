"""What the repository says about itself is true."""

import re
import tomllib
from pathlib import Path

import pytest
from test_imports import PUBLIC, ROOMS

import fitkit

ROOT = Path(__file__).parent.parent
CONFIGURATION = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, TOOLS = CONFIGURATION["project"], CONFIGURATION["tool"]


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


def test_the_version_is_in_the_changelog_and_in_the_citation():
    assert f"\n## {PROJECT['version']} " in text_of("CHANGELOG.md")
    assert f"\nversion: {PROJECT['version']}\n" in text_of("CITATION.cff")


def test_every_public_name_is_in_the_reference():
    reference = "".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
    shown = re.findall(r"^\.\. auto\w+:: (?:fitkit\.)?([\w.]+)", reference, re.MULTILINE)
    assert sorted(shown) == PUBLIC


@pytest.mark.parametrize(
    "command",
    [
        "pytest --nbval tests notebooks",
        "ruff check",
        "ruff format --check",
        "pyright",
        "sphinx-build -b html -c docs -W --keep-going . build/docs",
    ],
)
def test_ci_runs_what_contributors_are_told_to(command):
    assert command in text_of("CONTRIBUTING.md")
    # CI takes the first of them from the README, to the letter.
    assert command in text_of("README.md" if command.startswith("pytest") else ".ci/run")


def test_the_rooms_are_described_from_the_ground_up():
    described = re.findall(r"^\| `(_\w+)` \|", text_of("CONTRIBUTING.md"), re.MULTILINE)
    assert [room for room in described if room in ROOMS] == list(ROOMS)


def test_type_checkers_see_the_annotations():
    # In CI this is the package as it was installed from its wheel.
    assert (Path(fitkit.__file__).parent / "py.typed").exists()


@pytest.mark.parametrize(
    "file", sorted((ROOT / "tests").glob("test_*.py")), ids=lambda file: file.name
)
def test_browser_tests_are_marked_and_nothing_is_installed(file):
    if file != Path(__file__):
        text = file.read_text()
        assert "import browser" not in text or "pytest.mark.browser" in text
        assert "pip" not in re.findall(r'"(\w+)"', text), "tests install nothing: .ci/run does"


def test_markers_are_those_that_contributors_are_told_of():
    told = text_of("CONTRIBUTING.md")
    for marker in TOOLS["pytest"]["ini_options"]["markers"]:
        assert f"`{marker.partition(':')[0]}`" in told


def test_short_things_are_short():
    assert len(text_of("CONTRIBUTING.md").splitlines()) < 100
    readme = text_of("README.md").splitlines()
    assert len(readme) < 100
    assert any(line.startswith("```") for line in readme[:30])


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(name):
    for target in re.findall(r"\]\(([^)]+)\)", text_of(name)):
        if not target.startswith("http"):
            assert (ROOT / target.partition("#")[0]).exists(), target


def test_the_conda_recipe_asks_for_what_the_package_does():
    run = text_of("recipe/recipe.yaml").partition("  run:\n")[2].partition("\n\n")[0]
    wanted = [line.replace("matplotlib", "matplotlib-base") for line in PROJECT["dependencies"]]
    found = [line.replace(" ", "") for line in re.findall(r"^    - (.*)$", run, re.MULTILINE)]
    assert found == [f"python{PROJECT['requires-python']}", *wanted]
    assert f"version: {PROJECT['version']}\n" in text_of("recipe/recipe.yaml")


def test_conda_users_get_the_same_lower_bounds():
    environment = text_of("environment.yml")
    for wanted in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["lab"]:
        package = wanted.partition(">=")[0].replace("matplotlib", "matplotlib-base")
        for found in re.findall(rf"^  - {package}(>=.*)$", environment, re.MULTILINE):
            assert found == wanted[wanted.index(">=") :]
