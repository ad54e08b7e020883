"""A headless Chromium for the tests: one page at a time, told what to do over a pipe (DevTools protocol)."""

from __future__ import annotations

import base64
import fcntl
import io
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "headless_shell")
_WAIT_S = 240.0


def installed() -> str:
    """The path of a Chromium. Without one the test is skipped; not in CI, where .ci/tools sees to it."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    if os.environ.get("CI"):
        pytest.fail("CI must look at the reports, and there is no Chromium")
    pytest.skip("no Chromium here: apt-get install chromium")


class Browser:
    """A Chromium with one empty page; use it with `with`."""

    def __init__(self, profile: Path) -> None:
        # Chromium reads commands from descriptor 3 and answers on 4.
        command_r, self._command_w = os.pipe()
        self._answer_r, answer_w = os.pipe()
        theirs = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in (command_r, answer_w)]

        def place() -> None:
            os.dup2(theirs[0], 3)
            os.dup2(theirs[1], 4)

        self._process = subprocess.Popen(
            [
                installed(), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                "--hide-scrollbars", "--no-first-run", "--disable-extensions",
                "--disable-background-networking",
                f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank",
            ],
            preexec_fn=place, pass_fds=(3, 4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for fd in (command_r, answer_w, *theirs):
            os.close(fd)
        self._number, self._buffer = 0, b""
        self.events: list[dict[str, Any]] = []
        """What the page has told of itself: requests, console, exceptions."""
        self._session = ""
        (target,) = (t for t in self._ask("Target.getTargets")["targetInfos"] if t["type"] == "page")
        attached = self._ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._ask(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._command_w)
        os.close(self._answer_r)

    def open(self, page: Path, *, width: int, height: int = 900, scheme: Literal["light", "dark"]) -> None:
        """Shows a file in a window of this size and this colour scheme; forgets the events before."""
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._ask("Emulation.setEmulatedMedia", features=features)
        self.events.clear()
        self._ask("Page.navigate", url=page.resolve().as_uri())
        self._until(lambda: any(event["method"] == "Page.loadEventFired" for event in self.events))

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        found = self._ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def screenshot(self, clip: dict[str, float] | None = None) -> np.ndarray:
        """The whole page, or `x`, `y`, `width`, `height` of it, uint8 [H, W, 3]."""
        parameters = {"clip": {**clip, "scale": 1}} if clip else {}
        found = self._ask("Page.captureScreenshot", captureBeyondViewport=True, **parameters)
        with Image.open(io.BytesIO(base64.b64decode(found["data"]))) as image:
            return np.asarray(image.convert("RGB"))

    def requests(self) -> list[str]:
        """The addresses of everything that the page has asked for."""
        asked = (event for event in self.events if event["method"] == "Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in asked]

    def complaints(self) -> list[dict[str, Any]]:
        """Everything in the console, and exceptions."""
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [event["params"] for event in self.events if event["method"] in kinds]

    def _ask(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        number, session = self._number, {"sessionId": self._session} if self._session else {}
        message = {"id": number, "method": method, "params": parameters, **session}
        os.write(self._command_w, json.dumps(message).encode() + b"\0")
        answers: list[dict[str, Any]] = []
        self._until(lambda: bool(answers), number, answers)
        assert "error" not in answers[0], answers[0]
        return answers[0]["result"]

    def _until(self, done: Any, number: int = 0, answers: list[dict[str, Any]] | None = None) -> None:
        end_s = time.monotonic() + _WAIT_S
        while not done():
            ready, _, _ = select.select([self._answer_r], [], [], max(0.0, end_s - time.monotonic()))
            assert ready, f"Chromium says nothing for {_WAIT_S} s"
            chunk = os.read(self._answer_r, 1 << 20)
            assert chunk, "Chromium has ended"
            *messages, self._buffer = (self._buffer + chunk).split(b"\0")
            for raw in messages:
                message = json.loads(raw)
                if answers is not None and message.get("id") == number:
                    answers.append(message)
                elif "method" in message:
                    self.events.append(message)
