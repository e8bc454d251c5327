"""Every benchmark of attacks in turn; each writes its own section of RESULTS.md. `python benchmarks/attacks.py` (`make bench`)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PARTS = ("minimum_norm.py", "minimum_norm_ddn.py", "fixed_budget.py", "scaling.py")


def main() -> None:
    """Run the parts as processes of their own, so that none inherits another's memory or threads."""
    for part in PARTS:
        print(f"== {part}", flush=True)
        subprocess.run([sys.executable, str(Path(__file__).parent / part)], check=True)


if __name__ == "__main__":
    main()
