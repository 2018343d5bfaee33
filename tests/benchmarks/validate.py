"""What checking a spec costs: `python tests/benchmarks/validate.py` prints CPU times and their ratios.

Processes are started in turn, so that a busy machine slows all alike, and the median of each is taken. By itself
`import pydantic` loads little of Pydantic; the first class with one field makes it load the rest, and is the floor of
any program that checks its input by it. What one more spec costs is the difference between all shipped specs and one.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SPECS = sorted(str(path) for path in (ROOT / "specs").glob("*.yaml"))
COMMAND = "import sys; from driftspec.cli import main; sys.exit(main(sys.argv[1:]))"
PROCESSES = {
    "import pydantic": ["import pydantic"],
    "import its usual names": ["from pydantic import BaseModel, Field, TypeAdapter"],
    "one class with one field": ["import pydantic\nclass A(pydantic.BaseModel):\n    a: int = 1"],
    "validate one spec": [COMMAND, "validate", str(ROOT / "specs" / "cnf_moons.yaml")],
    "validate all specs": [COMMAND, "validate", *SPECS],
}
ROUNDS = 21


def seconds(words: list[str]) -> float:
    """CPU of one process, system time included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-c", *words], stdout=subprocess.DEVNULL, check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    taken: dict[str, list[float]] = {name: [] for name in PROCESSES}
    for _ in range(ROUNDS + 1):  # the first one fills the caches of bytecode and of files
        for name, words in PROCESSES.items():
            taken[name].append(seconds(words))
    times = {name: statistics.median(values[1:]) for name, values in taken.items()}
    base, usual, floor, one, every = times.values()
    for name, value in times.items():
        print(f"{name:<26}{value:.3f} s")
    print(f"one spec / import pydantic            {one / base:.2f}")
    print(f"one spec / import its usual names     {one / usual:.2f}")
    print(f"one class / import pydantic           {floor / base:.2f}")
    print(f"one spec / one class                  {one / floor:.2f}")
    print(f"each further spec                     {(every - one) / (len(SPECS) - 1):.4f} s")


if __name__ == "__main__":
    main()
