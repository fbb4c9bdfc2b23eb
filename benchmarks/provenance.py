"""Where results come from: the commit that was measured, the day, the machine."""

from __future__ import annotations

import platform
import subprocess
from datetime import date
from pathlib import Path

from temper.runtime.machine import cpu_name


def stamp() -> dict[str, str]:
    """Commit, with "-dirty" where files were changed since, and date; "unknown" outside a checkout."""
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        told = "unknown"
    return {"commit": told, "date": date.today().isoformat()}


def system() -> dict[str, str]:
    """The machine that results are of."""
    return {"cpu": cpu_name(), "system": platform.platform(), "python": platform.python_version()}
