"""Sessions for people who work on mirrorha: `nox -l` lists them, `nox -s tests` runs one.

CI does not use nox: `.ci/run` runs the same commands in one environment.
"""

from __future__ import annotations

from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "imports", "tests"]

ROOT = Path(__file__).parent
PYPROJECT = nox.project.load_toml("pyproject.toml")


def install(session: nox.Session, *groups: str, project: bool = True) -> None:
    """Install the named dependency groups, and the project itself in place."""
    session.install(*nox.project.dependency_groups(PYPROJECT, *groups))
    if project:
        session.install("-e", ".")


@nox.session
def tests(session: nox.Session) -> None:
    """Run pytest; what needs root, /dev/fuse or a program that is missing is skipped."""
    install(session, "test")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    install(session, "lint", project=False)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Run mypy in strict mode over the package."""
    install(session, "lint")
    session.run("mypy")


@nox.session
def imports(session: nox.Session) -> None:
    """Check that imports point inward (the contracts are in pyproject.toml)."""
    install(session, "lint")
    session.run("lint-imports")


@nox.session
def sim(session: nox.Session) -> None:
    """Run simulator seeds; `nox -s sim -- --seeds 5000 --production` runs more of them."""
    install(session, "test")
    arguments = session.posargs or ["--seeds", "500"]
    session.run("python", "-m", "mirrorha.testing.simulate", *arguments)


@nox.session
def campaign(session: nox.Session) -> None:
    """The simulator's whole mix: 10,000 seeds on both cores, and a table of all it exercised."""
    install(session, "test")
    arguments = session.posargs or ["--seeds", "10000"]
    session.run("python", "-m", "mirrorha.testing.simulate", "--campaign", *arguments)


@nox.session
def explore(session: nox.Session) -> None:
    """Visit every interleaving in a small scope, then take out each rule of which a loss is known.

    About an hour on one core; `nox -s explore -- --without dropjoin` shows one loss.
    """
    install(session, "test")
    command = ("python", "-m", "mirrorha.testing.explore")
    if session.posargs:
        session.run(*command, *session.posargs)
        return
    session.run(*command)
    session.run(*command, "--breaks", "1", "--unanswered", "0", "--delayed", "0")
    session.run(*command, "--breaks", "1", "--delayed", "0", "--writes", "1", "--epochs", "3")
    session.run(*command, "--known", "--states", "2000000")


@nox.session
def pairs(session: nox.Session) -> None:
    """Cut, kill, stop, block and swap two real nodes, 20 times each: 35 minutes. Needs root."""
    install(session, "test")
    session.run("python", "benchmarks/campaign_witness.py")
    session.run("python", "benchmarks/campaign_probe.py")
    session.run("python", "benchmarks/campaign_pair.py", *session.posargs)


@nox.session
def suites(session: nox.Session) -> None:
    """Run suites that others wrote on a mounted volume, for 15 minutes. Needs root, /dev/fuse."""
    install(session, "test")
    session.run("python", "benchmarks/suites_mount.py", *session.posargs)


@nox.session
def databases(session: nox.Session) -> None:
    """Kill the primary under four databases and git, 20 times each. Needs root and /dev/fuse."""
    install(session, "test")
    session.run("python", "benchmarks/campaign_databases.py", *session.posargs)


@nox.session
def crashes(session: nox.Session) -> None:
    """Kill two nodes and cut their power, 300 times: 40 minutes. Needs root and /dev/fuse."""
    install(session, "test")
    session.run("python", "benchmarks/campaign_crashes.py", *session.posargs)
    if not session.posargs:
        session.run("python", "benchmarks/campaign_crashes.py", "--eatmydata")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    install(session, "docs")
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html")


@nox.session
def demo(session: nox.Session) -> None:
    """Run the two-node demonstration on this machine."""
    session.install(".")
    session.run("mirrorha", "demo", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Run every benchmark script, or those named: `nox -s bench -- benchmarks/bench_import.py`."""
    install(session, "test")
    scripts = session.posargs or sorted(str(p) for p in ROOT.glob("benchmarks/bench_*.py"))
    for script in scripts:
        session.run("python", script)
