"""Where a study ran: versions, machine, threads and the commit of the code around it."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from kernels.threads import get_threads
from simulator.fingerprints import PACKAGES, versions


def inloop_version() -> str:
    """Return the version of inloop that is installed.

    Examples
    --------
    >>> inloop_version().count(".")
    2
    """
    found: str = versions(["inloop"])["inloop"]
    return found


def environment(folder: Path, workers: int, command: list[str]) -> dict[str, Any]:
    """Return what a reader needs to run a study again on a like machine.

    Parameters
    ----------
    folder
        Folder of the study; its git commit is named if it has one.
    workers
        Processes used.
    command
        The command line.

    Examples
    --------
    >>> environment(Path(), 1, ["inloop", "run", "a b.toml"])["command"]
    "inloop run 'a b.toml'"
    """
    return {
        "inloop": inloop_version(),
        "command": shlex.join(command),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "workers": workers,
        "threads": {"torch in the chip": 1, "torch": torch.get_num_threads(), "numba": get_threads()},
        "packages": versions(PACKAGES),
        "git_commit": _commit(folder),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit(folder: Path) -> str | None:
    """Return the commit of the folder's repository, with a mark where files differ from it; None outside of one."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    if not commit:
        return None
    return f"{commit} (with changes)" if git("status", "--porcelain", "--untracked-files=no") else commit
