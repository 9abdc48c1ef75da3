"""What the repository says about itself is true."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


def test_the_version_is_in_the_changelog():
    assert f"\n## {PROJECT['version']} " in text_of("CHANGELOG.md")


@pytest.mark.parametrize(
    "command", ["pytest --nbval tests notebooks", "ruff check", "ruff format --check", "pyright"]
)
def test_ci_runs_what_contributors_are_told_to(command):
    assert command in text_of("CONTRIBUTING.md")
    # CI takes the first of them from the README, to the letter.
    assert command in text_of("README.md" if command.startswith("pytest") else ".ci/run")


def test_short_things_are_short():
    assert len(text_of("CONTRIBUTING.md").splitlines()) < 50
    readme = text_of("README.md").splitlines()
    assert len(readme) < 100
    assert any(line.startswith("```") for line in readme[:30])


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(name):
    for target in re.findall(r"\]\(([^)]+)\)", text_of(name)):
        if not target.startswith("http"):
            assert (ROOT / target.partition("#")[0]).exists(), target


def test_conda_users_get_the_same_lower_bounds():
    environment = text_of("environment.yml")
    for wanted in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["lab"]:
        package = wanted.partition(">=")[0].replace("matplotlib", "matplotlib-base")
        for found in re.findall(rf"^  - {package}(>=.*)$", environment, re.MULTILINE):
            assert found == wanted[wanted.index(">=") :]
