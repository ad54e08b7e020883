"""What the README and docs/ say runs: Python blocks, make targets, subcommands, links to files."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

import nursery
from barlow import synthetic
from barlow.config import PRESETS
from commands import barlow_here

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    "README.md", ".github/CONTRIBUTING.md", "benches/RESULTS.md",
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
)  # fmt: skip


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shards/train, as the README assumes."""
    from barlow.data import pack

    out = tmp_path_factory.mktemp("readme")
    synthetic.write(out / "pictures", counts={"train": 256})
    pack(out / "pictures" / "train", out / "shards" / "train")
    return out


BLOCKS = [
    pytest.param(block, id=f"{name}-{number}")
    for name in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page(name), re.DOTALL))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_a_python_block_runs(block: str, folder: Path) -> None:
    if '"cuda"' in block and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    result = nursery.run([sys.executable, "-c", block], cwd=folder)
    assert result.returncode == 0, result.stderr
    promised = re.findall(r"print\(.*\)  # (\{.*\})", block)
    for text in promised:
        assert text in result.stdout


@pytest.mark.parametrize("name", PAGES)
def test_links_and_commands_exist(name: str) -> None:
    text = page(name)
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (ROOT / name).parent.joinpath(link).exists(), f"{name} links to {link}"
    makefile = page("Makefile")
    commands = "\n".join(re.findall(r"^    .*|`[^`\n]*`", text, re.MULTILINE))
    for line in re.findall(r"\bmake ((?:[a-z-]+ ?)+)", commands):
        for target in line.split():
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{name}: make {target}"
    for preset in re.findall(r"--preset ([a-z][\w-]*)", text):
        assert preset in PRESETS, f"{name}: --preset {preset}"


@pytest.mark.parametrize("name", PAGES)
def test_subcommands_have_help(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    commands = set(re.findall(r"(?:^    |`|-m |^        )barlow ([a-z]+)\b", page(name), re.MULTILINE))
    for command in sorted(commands):
        shown = barlow_here(capfd, command, "--help")
        assert shown.code == 0, f"{name}: barlow {command}: {shown.err}"


def test_flags_of_the_readme_are_fields() -> None:
    from barlow.config import Config

    for section, field in re.findall(r"--(\w+)\.([\w-]+)", "".join(map(page, PAGES))):
        assert hasattr(getattr(Config(), section), field.replace("-", "_")), f"--{section}.{field}"
