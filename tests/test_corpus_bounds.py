"""Time and memory that hostile files may cost, measured in a process of its own: a second and 512 MiB each,
and next to nothing for a header that lies or a bomb of scans.

Time is that of the processor, so that a busy machine fails nothing; memory is a limit of the process, beyond
which it would be gone.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from corpus import make, outcomes

PINNED = outcomes.table()

ALL = """
import resource, sys, time
from pathlib import Path
from barlow._native import DataError, decode
from barlow._native import members

pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + (512 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
slowest = 0.0
for line in sys.stdin:
    path = Path(line.strip())
    begin = time.process_time()
    try:
        decode(path.read_bytes()) if path.parent.name == "images" else members(path)
    except DataError:
        pass
    seconds = time.process_time() - begin
    if seconds > 1:
        print(f"{path.name}: {seconds:.2f} s")
print("done")
"""

# The shortest of several runs: what the work costs when nothing comes between.
LIES = """
import resource, sys, time
from pathlib import Path
from barlow._native import DataError, decode

contents = {}
for line in sys.stdin:
    seconds, path = line.split()
    contents[path] = (float(seconds), Path(path).read_bytes())
try:
    decode(b"")
except DataError:
    pass
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + (2 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path, (allowed, content) in contents.items():
    times = []
    for _ in range(9):
        begin = time.perf_counter()
        try:
            decode(content)
            print(f"{path}: decoded")
        except DataError:
            pass
        times.append(time.perf_counter() - begin)
    if min(times) > allowed:
        print(f"{path}: {min(times) * 1000:.2f} ms")
print("done")
"""


def measured(program: str, lines: list[str]) -> str:
    run = subprocess.run(
        [sys.executable, "-c", program],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout


def test_no_file_costs_more_than_a_second_and_512_mib() -> None:
    assert measured(ALL, [str(make.FOLDER / path) for path in PINNED]) == "done\n"


def test_lies_are_refused_at_once_and_before_memory_is_taken() -> None:
    milliseconds = {path: 1 for path in PINNED if Path(path).name.startswith("claims-")}
    milliseconds |= {"images/scan-bomb.jpg": 5, "images/scan-bomb-large.jpg": 5}
    milliseconds |= {path: 1 for path in PINNED if "-claims" in path and path.endswith(".webp")}
    assert len(milliseconds) >= 12
    assert (
        measured(LIES, [f"{ms / 1000} {make.FOLDER / path}" for path, ms in milliseconds.items()]) == "done\n"
    )
