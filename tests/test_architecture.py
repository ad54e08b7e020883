"""The house rules as tests: floors, names, file length, where `unsafe` may stand, what is never called.

Every rule is a function from a file (its path and its text) to sentences about what breaks it. The rules are
run over the tree, and each is also run over a text that breaks it, so that a rule that has gone blind fails.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "python/barlow/"
CRATE = "rust/data/src/"
BINDING = "rust/python/src/"

MAX_LINES = 400
MAX_LINES_OF_AN_EXAMPLE = 150
EXAMPLES = "docs/examples/"
LONGER: dict[str, str] = {}
"""Files that may be longer, each with its reason."""

FORBIDDEN_NAMES = {"utils", "common", "misc", "helpers", "base", "manager", "engine", "hooks", "registry"}

PYTHON_FLOORS = {
    **dict.fromkeys(("axes", "config", "distributed", "durable", "terminal"), 0),
    **dict.fromkeys(("ablations", "data", "model", "objectives", "optim", "synthetic", "validation"), 1),
    **dict.fromkeys(("train", "evaluate"), 2),
    # The benchmark compares what the lower floors do with what others do; nothing is built on it.
    # So does the doctor, on the user's own machine; official runs become folders of what train/ writes.
    **dict.fromkeys(("embed", "export", "report", "demo", "bench", "doctor", "official", "reproduce"), 3),
    # The command line is the front door: it opens every room, and nothing but __main__ opens it.
    "commands": 4,
    "cli": 5,
    "__main__": 6,
}
NATIVE = "_native"

# Top to bottom in the order of the data. A module may use lower floors; on floors 2 and 3 also the modules
# before it on its own floor (a store reads what an index names), on floors 0 and 1 nothing beside it.
CRATE_FLOORS = (
    ("checksum", "error", "limits", "random"),
    ("tar", "jpeg", "png", "webp", "ops"),
    ("recode", "decode", "index", "order", "store", "augment", "floats"),
    ("workers", "scan", "pack", "blocks", "meter", "slots", "trouble", "loader"),
)
BINDING_FLOORS = (("errors",), ("progress",), ("dataset", "pixels", "memory"), ("loader",))

UNSAFE_ALLOWED = {
    CRATE + "jpeg.rs": "calls libjpeg-turbo",
    CRATE + "jpeg/samples.rs": "calls libjpeg-turbo's encoder, in tests",
    CRATE + "index.rs": "maps the index file into memory",
    CRATE + "slots.rs": "writes into memory that Python lent",
    CRATE + "slots/": "the tests of slots.rs lend memory",
    CRATE + "loader/": "the tests lend memory",
    **dict.fromkeys((CRATE + "ops/", CRATE + "recode/simd/"), "SIMD kernels"),
    "rust/data/tests/allocation.rs": "counts what the allocator is asked for",
    BINDING + "loader.rs": "lends arrays to the ring",
    BINDING + "memory.rs": "makes arrays over blocks",
}

FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}
# Files of others, with weights_only=True; and what detectron2's checkpointer reads beside pickles.
ARCHIVES = {PACKAGE + "model/archives.py": "torch.load", PACKAGE + "export/detectron2_file.py": "torch.save"}
ENVIRONMENT_ALLOWED = {PACKAGE + f for f in ("distributed.py", "train/ranks.py", "train/algorithms.py")}


@dataclass(frozen=True)
class File:
    """One source file: its path from the root of the repository, and its text."""

    path: str
    text: str


Rule = Callable[[File], Iterator[str]]


def short_enough(file: File) -> Iterator[str]:
    lines = file.text.count("\n") + 1
    most = MAX_LINES_OF_AN_EXAMPLE if file.path.startswith(EXAMPLES) else MAX_LINES
    if lines > most and file.path not in LONGER:
        yield f"{lines} lines; {most} is the most"


def well_named(file: File) -> Iterator[str]:
    for part in Path(file.path).with_suffix("").parts:
        if part.strip("_") in FORBIDDEN_NAMES:
            yield f"{part!r} says nothing about what is inside"


def opens_with_its_purpose(file: File) -> Iterator[str]:
    name = Path(file.path).name
    if not file.path.startswith((PACKAGE, CRATE, BINDING)) or name in {"__main__.py", "lib.rs", "tests.rs"}:
        return
    if name.endswith(".c"):
        opening = file.text.partition("*/")[0]
    elif name.endswith(".rs"):
        opening = "\n".join(re.findall(r"^//!(.*)", file.text, re.MULTILINE))
    else:
        opening = ast.get_docstring(ast.parse(file.text)) or ""
    if not opening:
        yield "opens without saying what is here"
    elif name != "__init__.py" and not ("Here:" in opening and "Not here:" in opening):
        yield 'its opening lacks "Here: ..." or "Not here: ..."'


def imports_go_down(file: File) -> Iterator[str]:
    if not file.path.startswith(PACKAGE) or not file.path.endswith(".py"):
        return
    here = Path(file.path).relative_to(PACKAGE).with_suffix("").parts
    if here == ("__init__",):
        return
    if here[0] not in PYTHON_FLOORS:
        yield f"the room {here[0]!r} has no floor yet"
        return
    for room in sorted(_rooms_imported(file)):
        if room == NATIVE:
            if here[0] != "data":
                yield "imports barlow._native; only barlow.data may"
        elif room not in PYTHON_FLOORS and room != "__version__":
            yield f"imports barlow.{room}, which has no floor"
        elif room != here[0] and PYTHON_FLOORS.get(room, -1) >= PYTHON_FLOORS[here[0]]:
            yield f"imports barlow.{room}, which is not below barlow.{here[0]}"


def _rooms_imported(file: File) -> set[str]:
    """First component after `barlow.` of every import, wherever it stands in the file."""
    package = ("barlow", *Path(file.path).relative_to(PACKAGE).parts[:-1])
    targets: set[tuple[str, ...]] = set()
    for node in ast.walk(ast.parse(file.text)):
        if isinstance(node, ast.Import):
            targets |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = (*base, *(node.module or "").split(".")) if node.module else base
            targets |= {(*module, alias.name) for alias in node.names}
    return {target[1] for target in targets if target[0] == "barlow" and len(target) > 1}


def rust_goes_down(file: File) -> Iterator[str]:
    for prefix, floors in ((CRATE, CRATE_FLOORS), (BINDING, BINDING_FLOORS)):
        if not file.path.startswith(prefix) or not file.path.endswith(".rs"):
            continue
        module = Path(file.path).relative_to(prefix).with_suffix("").parts[0]
        place = {name: (f, i) for f, floor in enumerate(floors) for i, name in enumerate(floor)}
        if module == "lib":
            continue
        if module not in place:
            yield f"the module {module!r} has no floor yet"
            continue
        floor, position = place[module]
        for used in sorted(_crate_modules_used(_code_of_rust(file.text)) - {module}):
            if used not in place:
                yield f"uses crate::{used}, which has no floor"
                continue
            below = place[used][0] < floor
            before = floor >= 2 and place[used] < (floor, position)
            if not (below or before):
                yield f"uses crate::{used}, which is not below {module}"


def _crate_modules_used(code: str) -> set[str]:
    used = set(re.findall(r"\bcrate::(\w+)", code))
    for start in re.finditer(r"\bcrate::\{", code):
        depth, first = 0, True
        for token in re.findall(r"\w+|[{},]|::", code[start.end() :]):
            if token == "{":
                depth += 1
            elif token == "}":
                depth -= 1
                if depth < 0:
                    break
            elif token == "," and depth == 0:
                first = True
            elif depth == 0 and first and token != "::":
                used.add(token)
                first = False
    return used


def _code_of_rust(text: str) -> str:
    """The text with comments and the insides of strings blanked; line numbers stay."""
    pattern = re.compile(r'//[^\n]*|/\*.*?\*/|r#*".*?"#*|"(?:\\.|[^"\\])*"', re.DOTALL)
    return pattern.sub(lambda match: "\n" * match[0].count("\n"), text)


def unsafe_in_its_place(file: File) -> Iterator[str]:
    if not file.path.endswith(".rs") or not file.path.startswith("rust/"):
        return
    lines = file.text.splitlines()
    for number, line in enumerate(_code_of_rust(file.text).splitlines()):
        if not re.search(r"\bunsafe\b", line):
            continue
        if not any(file.path == p or (p.endswith("/") and file.path.startswith(p)) for p in UNSAFE_ALLOWED):
            yield f"line {number + 1}: unsafe is not allowed in this file"
            continue
        # An `unsafe fn` states a contract in its documentation; a type `unsafe fn(...)` has none of its own.
        declares = re.search(r'\bunsafe\s+(extern\s+"?\w*"?\s*)?fn\b', line)
        promise = "# Safety" if declares else "SAFETY:"
        if re.search(r"\bunsafe\s+(extern\b|fn\s*\()", line) and not re.search(r"\bfn\s+\w+", line):
            continue
        above = lines[max(0, number - 16) : number + 1]
        if not any(promise in earlier or "SAFETY:" in earlier for earlier in above):
            yield f"line {number + 1}: unsafe without a {promise} comment"


def calls_nothing_forbidden(file: File) -> Iterator[str]:
    if not file.path.startswith(PACKAGE) or not file.path.endswith(".py"):
        return
    for node in ast.walk(ast.parse(file.text)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            imported = {f"{node.module}.{alias.name}" for alias in node.names}
            if imported & {"os.environ", "os.getenv", "torch.load", "os.system", "os.popen"}:
                yield f"line {node.lineno}: import it by its module, so that its use can be seen"
        for name in names:
            if name.split(".")[0] in FORBIDDEN_MODULES:
                yield f"imports {name}"
        if isinstance(node, ast.Call):
            yield from _forbidden_call(file.path, node)
        environment = (
            {"os.environ", "os.getenv", "os.putenv"} if file.path not in ENVIRONMENT_ALLOWED else set()
        )
        if isinstance(node, ast.Attribute) and ast.unparse(node) in environment:
            yield f"line {node.lineno}: reads the environment"


def _forbidden_call(path: str, node: ast.Call) -> Iterator[str]:
    called = ast.unparse(node.func)
    safely = any(ast.unparse(k.value) == "True" for k in node.keywords if k.arg == "weights_only")
    if ARCHIVES.get(path) == called and (safely or called == "torch.save"):
        return
    if called in {"eval", "exec", "__import__", "torch.load", "torch.save", "os.system", "os.popen"}:
        yield f"line {node.lineno}: calls {called}"
    for keyword in node.keywords:
        given = not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
        if keyword.arg in {"shell", "allow_pickle"} and given:
            yield f"line {node.lineno}: passes {keyword.arg}={ast.unparse(keyword.value)}"


RULES: tuple[Rule, ...] = (
    short_enough,
    well_named,
    opens_with_its_purpose,
    imports_go_down,
    rust_goes_down,
    unsafe_in_its_place,
    calls_nothing_forbidden,
)


def source_files() -> list[File]:
    found: list[File] = []
    for folder in ("python", "rust", "tests", "benches", "docs"):
        for path in sorted((ROOT / folder).rglob("*")):
            relative = path.relative_to(ROOT).as_posix()
            if path.suffix in {".py", ".pyi", ".rs", ".c"} and "/target/" not in relative:
                found.append(File(relative, path.read_text(encoding="utf-8")))
    return found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_tree_keeps_the_rule(rule: Rule) -> None:
    files = source_files()
    assert len(files) >= 10
    broken = [f"{file.path}: {sentence}" for file in files for sentence in rule(file)]
    assert not broken, "\n".join(broken)


def test_allowances_are_used() -> None:
    paths = {file.path for file in source_files()}
    for allowed in (*LONGER, *UNSAFE_ALLOWED, *ENVIRONMENT_ALLOWED, *ARCHIVES):
        assert any(path == allowed or path.startswith(allowed) for path in paths), f"{allowed} does not exist"


def import_cycle(files: list[File]) -> list[str]:
    """The modules of one cycle of imports among `files` of the package, or an empty list."""
    modules = {f.path[len("python/") : -3].replace("/", ".").removesuffix(".__init__"): f for f in files}
    graph = {name: _imported_with(file, set(modules)) - {name} for name, file in modules.items()}
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name not in done:
            for target in sorted(graph[name]):
                if cycle := visit(target, [*trail, name]):
                    return cycle
            done.add(name)
        return []

    return next((cycle for name in graph if (cycle := visit(name, []))), [])


def _imported_with(file: File, modules: set[str]) -> set[str]:
    """The modules that are imported when this file is: those of its top-level statements."""
    found: set[str] = set()
    for node in ast.parse(file.text).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # `from package import module` needs that module, `from module import name` the module itself.
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in modules else node.module)
    return found & modules - {"barlow"}


def test_python_has_no_import_cycles() -> None:
    files = [f for f in source_files() if f.path.startswith(PACKAGE) and f.path.endswith(".py")]
    assert not import_cycle(files)


def test_an_import_cycle_is_seen() -> None:
    a = File("python/barlow/train/a.py", "from barlow.train.b import x\n")
    b = File("python/barlow/train/b.py", "from barlow.train import a\n")
    late = File("python/barlow/train/b.py", "def f():\n    from barlow.train import a\n")
    assert import_cycle([a, b]) == ["barlow.train.a", "barlow.train.b", "barlow.train.a"]
    assert not import_cycle([a, late])


TWO_LINES = '"""Here: a.\n\nNot here: b.\n"""\n'
BROKEN: list[tuple[Rule, str, str]] = [
    (short_enough, "python/barlow/config.py", "x = 1\n" * 401),
    (short_enough, "docs/examples/simclr.py", "x = 1\n" * 151),
    (well_named, "python/barlow/data/utils.py", ""),
    (well_named, "rust/data/src/helpers/mod.rs", ""),
    (opens_with_its_purpose, "python/barlow/config.py", "x = 1\n"),
    (opens_with_its_purpose, "python/barlow/config.py", '"""Here: only this."""\n'),
    (opens_with_its_purpose, "rust/data/src/tar.rs", "// Here: a. Not here: b.\n"),
    (imports_go_down, "python/barlow/cellar.py", ""),
    (imports_go_down, "python/barlow/model/twins.py", "from barlow.train import loop\n"),
    (imports_go_down, "python/barlow/model/twins.py", "def f():\n    import barlow.optim.lars\n"),
    (imports_go_down, "python/barlow/model/twins.py", "from ..optim import LARS\n"),
    (imports_go_down, "python/barlow/model/twins.py", "from .. import evaluate\n"),
    (imports_go_down, "python/barlow/model/twins.py", "from barlow import data\n"),
    (imports_go_down, "python/barlow/train/loop.py", "from barlow import _native\n"),
    (imports_go_down, "python/barlow/report/page.py", "from barlow.export import write\n"),
    (imports_go_down, "python/barlow/demo.py", "import barlow.cli\n"),
    (rust_goes_down, "rust/data/src/cellar.rs", ""),
    (rust_goes_down, "rust/data/src/jpeg.rs", "use crate::png::decode;\n"),
    (rust_goes_down, "rust/data/src/tar/pax.rs", "use crate::{error::Error, index};\n"),
    (rust_goes_down, "rust/data/src/tar.rs", "use crate::{error::{Error, Fault}, store::Store};\n"),
    (rust_goes_down, "rust/data/src/index.rs", "fn f() { crate::store::open() }\n"),
    (rust_goes_down, "rust/python/src/pixels.rs", "use crate::loader::PyLoader;\n"),
    (unsafe_in_its_place, "rust/data/src/tar.rs", "// SAFETY: no.\nunsafe { x() }\n"),
    (unsafe_in_its_place, "rust/data/src/jpeg.rs", "fn f() {\n    unsafe { x() }\n}\n"),
    (unsafe_in_its_place, "rust/data/src/slots.rs", "/// Lends.\npub unsafe fn lend() {}\n"),
    (calls_nothing_forbidden, "python/barlow/export.py", "import pickle\n"),
    (calls_nothing_forbidden, "python/barlow/export.py", "from yaml import safe_load\n"),
    (calls_nothing_forbidden, "python/barlow/export.py", "import torch\ntorch.load('x')\n"),
    (calls_nothing_forbidden, "python/barlow/export.py", "torch.load('x', weights_only=True)\n"),
    (calls_nothing_forbidden, "python/barlow/export/write.py", "torch.save({}, 'x')\n"),
    (calls_nothing_forbidden, "python/barlow/model/archives.py", "torch.load('x', weights_only=flag)\n"),
    (calls_nothing_forbidden, "python/barlow/export.py", "from torch import load\n"),
    (calls_nothing_forbidden, "python/barlow/export.py", "eval('1')\n"),
    (calls_nothing_forbidden, "python/barlow/demo.py", "subprocess.run('ls', shell=True)\n"),
    (calls_nothing_forbidden, "python/barlow/model/twins.py", "import os\nos.environ['A']\n"),
    (calls_nothing_forbidden, "python/barlow/model/twins.py", "from os import environ\n"),
    (calls_nothing_forbidden, "python/barlow/evaluate/knn.py", "np.load(p, allow_pickle=flag)\n"),
]
KEPT: list[tuple[Rule, str, str]] = [
    (short_enough, "python/barlow/config.py", "x = 1\n" * 399),
    (opens_with_its_purpose, "python/barlow/config.py", TWO_LINES),
    (opens_with_its_purpose, "rust/data/src/tar.rs", "//! Here: a.\n//! Not here: b.\n"),
    (
        imports_go_down,
        "python/barlow/train/loop.py",
        "from barlow.data import Loader\nfrom . import metrics\n",
    ),
    (imports_go_down, "python/barlow/data/loader.py", "from barlow._native import Stream\n"),
    (imports_go_down, "python/barlow/cli.py", "import barlow.report\n"),
    (rust_goes_down, "rust/data/src/store.rs", "use crate::{error::Result, index::Index};\n"),
    (rust_goes_down, "rust/data/src/tar.rs", "// crate::loader reads this\nuse crate::error::Error;\n"),
    (unsafe_in_its_place, "rust/data/src/jpeg.rs", "// SAFETY: y is live.\nlet x = unsafe { *y };\n"),
    (unsafe_in_its_place, "rust/data/src/tar.rs", '// unsafe would be\nlet s = "unsafe";\n'),
    (calls_nothing_forbidden, "python/barlow/distributed.py", "import os\nos.environ['RANK']\n"),
    (calls_nothing_forbidden, "python/barlow/model/archives.py", "torch.load('x', weights_only=True)\n"),
    (calls_nothing_forbidden, "python/barlow/evaluate/knn.py", "model.eval()\nrun(shell=False)\n"),
]


@pytest.mark.parametrize(("rule", "path", "text"), BROKEN)
def test_a_rule_sees_what_breaks_it(rule: Rule, path: str, text: str) -> None:
    assert list(rule(File(path, text)))


@pytest.mark.parametrize(("rule", "path", "text"), KEPT)
def test_a_rule_lets_good_code_pass(rule: Rule, path: str, text: str) -> None:
    assert not list(rule(File(path, text)))
