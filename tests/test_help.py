"""What `--help` prints, and how a mistyped command or flag is answered."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from barlow import cli
from commands import barlow_here, the_error
from test_cli import COMMANDS

Capture = pytest.CaptureFixture[str]
NOISE = re.compile(
    r"\{None\}|\(default: *(None|''|)\)|--no-(json|list|dry-run|overwrite|recode|keep-weights)\b"
)


@pytest.mark.parametrize("width", [80, 140])
def test_every_help_is_plain_and_no_wider_than_the_terminal(
    capfd: Capture, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for words in (
        (),
        *((name,) for name in COMMANDS),
        ("bench", "loader"),
        ("bench", "step"),
        ("bench", "loss"),
    ):
        shown = barlow_here(capfd, *words, "--help")
        assert (shown.code, shown.err) == (0, "")
        # The usage is short, or says [OPTIONS]: tyro breaks no line there.
        lines = [line for line in shown.out.splitlines() if not line.startswith("usage: ")]
        assert max(map(len, lines)) <= width, words
        # Where a default fills its line, the next one begins with it.
        assert not NOISE.findall(" ".join(re.sub(r"[│\s]+", " ", shown.out).split())), words


def test_the_overview_is_a_page_with_a_sentence_for_each_command(
    capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = barlow_here(capfd, "--help").out
    assert len(shown.splitlines()) < 45
    listed = re.findall(r"^  ([a-z]+) +[A-Z]", shown, re.MULTILINE)
    assert set(listed) == {name for group in cli._commands([]).values() for name in group} >= set(COMMANDS)
    assert len(listed) == len(set(listed))


def test_a_docstring_is_filled_anew(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own line breaks would leave half lines, and tyro keeps those before a digit or a bracket."""
    monkeypatch.setenv("COLUMNS", "100")
    shown = barlow_here(capfd, "train", "--help").out
    before_usage = shown.partition("usage:")[0]
    for paragraph in before_usage.strip().split("\n\n"):
        lines = paragraph.splitlines()
        for line, after in pairwise(lines):
            assert len(line) + 1 + len(after.split()[0]) > 100
    words = " ".join(re.sub(r"[│\s]+", " ", shown).split())
    assert "the same without blur for images of about 32 pixels; anything else" in words
    monkeypatch.setenv("COLUMNS", "110")  # where the bracket has room behind the words before it
    packing = barlow_here(capfd, "pack", "--help").out
    rows = [line.strip("│ ") for line in (shown + packing).splitlines()]
    assert not {"images of", "(docs/recode-format.md)."} & set(rows)


def test_help_of_eval_leaves_out_what_only_training_reads(capfd: Capture) -> None:
    shown = barlow_here(capfd, "eval", "--help").out
    for flag in ("--data.prefetch", "--data.device-stage", "--data.max-replaced", "--evaluate.online-images"):
        assert flag not in shown
    assert "--data.crop-scale" in shown
    assert "--evaluate.knn-k" in shown
    assert "--data.prefetch" in barlow_here(capfd, "train", "--help").out


def test_a_default_that_says_something_stays_and_what_is_needed_says_so(capfd: Capture) -> None:
    train = barlow_here(capfd, "train", "--preset", "demo", "--help").out
    train = re.sub(r"[│\s]+", " ", train)
    assert re.search(r"--train\.compile, --train\.no-compile .{,250}?\(default: False\)", train)
    assert re.search(r"--nproc INT .{,80}?\(default: 0\)", train)
    reproduce = barlow_here(capfd, "reproduce", "--help").out
    assert re.search(r"--scale NAME\s.+?\(required\)", reproduce, re.DOTALL)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("trian", "DATA"), "there is no command 'trian' (perhaps train); `barlow --help` lists them"),
        (
            ("bench", "lader"),
            "there is no command 'lader' (perhaps loader); `barlow bench --help` lists them",
        ),
        (("xyzzy",), "there is no command 'xyzzy'; `barlow --help` lists them"),
        # A hint at another command's flag of this very name would help nobody.
        (("doctor", "--preset", "demo"), "Unrecognized options: --preset, demo"),
        (("doctor", "--nprok", "2"), "Unrecognized options: --nprok, 2 (perhaps --nproc)"),
        (("doctor", "--nproc", "-1"), "--nproc must lie between 0 and 4096, not -1"),
        (("doctor", "--ranks", "-1"), "--nproc must lie between 0 and 4096, not -1"),
    ],
)
def test_what_was_mistyped(capfd: Capture, words: tuple[str, ...], message: str) -> None:
    found = barlow_here(capfd, *words)
    assert (found.code, the_error(found.err)) == (2, message)
    assert found.out == ""
