"""The pages: no link is dead, every command of every README is one that the tools take, every code block is run."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer
import yaml

from swingkd import PrivateDistillationConfig
from swingkd.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for folder in ("", "docs", "recipes", "recipes/*", "model_cards/*", "swingkd/evaluate_modules/*")
    for path in ROOT.glob(f"{folder}/*.md" if folder else "*.md")
)
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_no_link_is_dead(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            ours = re.match(r"https://github.com/swingkd/swingkd/tree/main/(.*)", target)
            assert ours is None or (ROOT / ours[1]).exists(), target
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        # A card's figures stand beside it.
        assert linked.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(linked), f"{page.name}: {target}"


def commands() -> list[tuple[str, str]]:
    found = []
    for page, name in zip(PAGES, NAMES, strict=True):
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                command = line.split("#")[0].strip()
                if command:
                    found.append((name, command))
    return found


@pytest.mark.parametrize(("page", "command"), commands())
def test_every_command_is_one_that_the_tools_take(page, command):
    words = shlex.split(command.split("|")[-1])
    words = words[next((i for i, word in enumerate(words) if "=" not in word), 0) :]
    if words[0] == "swingkd":
        root = typer.main.get_command(app)
        sub = root.commands[words[1]]
        try:
            with sub.make_context(words[1], words[2:]):
                pass
        except click.exceptions.NoSuchOption as error:
            pytest.fail(f"{page}: {error}")
        except click.exceptions.BadParameter as error:
            if "does not exist" not in str(error):
                pytest.fail(f"{page}: {error}")
    elif words[:2] == ["accelerate", "launch"] or words[0] == "python":
        scripts = [word for word in words if word.endswith((".py", ".yaml"))]
        assert scripts
        for file in scripts:
            assert (ROOT / file).exists(), f"{page}: {file}"
            if file.endswith(".yaml"):
                assert isinstance(yaml.safe_load((ROOT / file).read_text()), dict)
    elif words[0] == "make":
        assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text(), f"{page}: {command}"
    else:
        assert words[0] in ("pip", "flwr", "export", "cd", "flower-superlink", "flower-supernode", "echo"), (
            f"{page}: {command}"
        )


def test_every_recipe_is_in_the_index():
    folders = {path.parent.name for path in (ROOT / "recipes").glob("*/run.py")}
    index = (ROOT / "recipes" / "README.md").read_text()
    assert {name for name in folders if f"[{name}]({name})" not in index} == set()
    for name in folders:
        assert (ROOT / "recipes" / name / "README.md").exists()
        assert len((ROOT / "recipes" / name / "run.py").read_text().splitlines()) <= 100


def test_the_site_is_built(tmp_path):
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    api = (tmp_path / "api" / "index.html").read_text()
    for name in ("PrivateDistillationTrainer", "CanarySet", "distillation_loss"):
        assert f'id="swingkd.{name}"' in api


def test_a_cards_folder_is_small_and_holds_no_weights():
    for folder in (path for path in (ROOT / "model_cards").iterdir() if path.is_dir()):
        files = list(folder.iterdir())
        assert sum(file.stat().st_size for file in files) < 10**6, folder.name
        assert {file.suffix for file in files} <= {".md", ".json", ".png", ".html"}, folder.name


def test_the_settings_are_those_of_the_fields():
    """docs/settings.md is made by docs/settings.py, from the help texts, and is never typed."""
    made = runpy.run_path(str(ROOT / "docs" / "settings.py"))["page"]()
    assert (ROOT / "docs" / "settings.md").read_text() == made
    for name in PrivateDistillationConfig.GROUPS:
        assert f"| `{name}` |" in made


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_no_example_evaluates_or_attacks_with_rows_that_were_trained_on(page):
    """What is evaluated is not what is trained on, and who was in is not who was out."""
    text = page.read_text()
    for trained, evaluated in re.findall(r"train_dataset=(.+?),\s+eval_dataset=(.+?),\n", text):
        assert trained.split(".")[0] != evaluated.split(".")[0], evaluated
    for inside, outside in re.findall(r"members[= ](\S+),? (?:--)?nonmembers[= ](\S+)", text):
        assert inside.rstrip(",)") != outside.rstrip(",)"), outside


def test_the_comparison_names_tests_that_there_are_and_sources_that_it_lists():
    page = (ROOT / "docs" / "comparison.md").read_text()
    tests = re.findall(r"`(tests/[\w/]+\.py)`", page)
    assert len(set(tests)) > 15
    assert all((ROOT / path).exists() for path in tests)
    table, _, sources = page.partition("## Where it was read")
    listed = {int(number) for number in re.findall(r"^(\d+)\. ", sources, re.MULTILINE)}
    assert {int(number) for number in re.findall(r"\[(\d+)\]", table)} == listed == set(range(1, len(listed) + 1))
    rows = [line for line in table.splitlines() if line.startswith("| ") and "---" not in line]
    columns = rows[0].count("|")
    assert all(row.count("|") == columns for row in rows)
    # Whatever is said of a peer has a source, and what is not said is a dash.
    for row in rows[1:]:
        for cell in row.split("|")[3:-1]:
            assert cell.strip() == "\u2013" or re.search(r"\[\d+\]", cell), row
