"""What the README and docs/ say runs: Python blocks, make targets, commands, flags, links."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import nursery
from barlow import cli, synthetic
from barlow.config import PRESETS

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    "README.md", "CHANGELOG.md", ".github/CONTRIBUTING.md", "benches/RESULTS.md",
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


OTHERS = {
    "torchrun": "--nnodes --nproc-per-node --node-rank --master-addr --master-port --rdzv-backend --rdzv-id "
    "--rdzv-endpoint --rdzv-conf --standalone --signals-to-handle",
    "SLURM": "--nodes --ntasks-per-node --gpus-per-node --requeue --signal",
    "detectron2's train_net.py": "--config --eval-only --num-gpus",
    "the official evaluate.py": "--weights",
    "pytest-benchmark": "--benchmark-only",
    "unshare": "--uts",
}
"""Flags in the docs that are not ours, by whose they are."""


@pytest.fixture(scope="module")
def flags() -> dict[str, set[str]]:
    """The flags in the help of every command; of `barlow bench` its commands have them."""
    found = {}
    for first, names in (((), commands_of(())), (("bench",), commands_of(("bench",)))):
        for name in names:
            text = help_of((*first, name))
            found[" ".join((*first, name))] = set(re.findall(r"--[a-z][\w.-]*", text))
    return found


def commands_of(words: tuple[str, ...]) -> list[str]:
    return re.findall(r"^  ([a-z]+)  ", help_of(words), re.MULTILINE)


def help_of(words: tuple[str, ...]) -> str:
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(sys, "argv", ["barlow", *words, "--help"])
        with pytest.raises(SystemExit) as stop:
            cli.main()
    assert not stop.value.code
    return out.getvalue()


def asked_for(text: str) -> Iterator[tuple[str, list[str]]]:
    """Every command of a page, with the flags behind it: `barlow train ...`, also in `-m barlow -- train`."""
    joined = re.sub(r"\\\n\s*", "    ", text)
    for found in re.finditer(r"\bbarlow(?: --)? ((?:bench )?[a-z]+)\b((?:(?!`|\bbarlow |#).)*)", joined):
        if joined[: found.start()].endswith(("    ", "`", "-m ")):
            yield found[1], re.findall(r"(?<!\S)--[a-z][\w.-]*", found[2])


@pytest.mark.parametrize("name", PAGES)
def test_commands_and_their_flags_exist(name: str, flags: dict[str, set[str]]) -> None:
    known = set().union(*flags.values(), *(words.split() for words in OTHERS.values()), {"--version"})
    scripts = "".join(path.read_text() for d in ("benches", "tests") for path in (ROOT / d).glob("*.py"))
    for command, asked in asked_for(page(name)):
        assert command in flags, f"{name}: barlow {command}"
        assert set(asked) <= flags[command], f"{name}: barlow {command}: {set(asked) - flags[command]}"
    for flag in re.findall(r"(?<![\w-])--[a-z][\w.-]*[\w]", page(name)):
        assert flag in known or f'"{flag}"' in scripts, f"{name}: whose flag is {flag}?"


def test_the_check_of_flags_sees_what_is_wrong(flags: dict[str, set[str]]) -> None:
    assert {"train", "eval", "bench loader", "bench step", "bench loss"} <= set(flags)
    text = "    x -m barlow -- train D \\\n      --runn R\n    x \\\n    barlow say\n`barlow bench loss`\n"
    assert list(asked_for(text)) == [("train", ["--runn"]), ("say", []), ("bench loss", [])]
    assert "--runn" not in flags["train"] >= {"--run", "--data.image-size", "--train.no-compile"}
