"""Mutation testing of boxes, matching, loss, targets, resizing, post-processing and exact padding.

    pip install mutmut
    python tests/stress/mutation.py
    python tests/stress/mutation.py --only 'transformers_detr.model.boxes_detr*' --folder /tmp/mutation

mutmut changes one operator, number, name or argument at a time and runs the tests that reach the function. A mutant
that no test notices survives. `[tool.mutmut]` in pyproject.toml lists the files and tests. The run works on a copy of
the tracked files and can be interrupted and started again.

Exit status: 0 if at least `--least` per cent of the mutants were noticed, 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = REPOSITORY.parent / "shared"
SURVIVED, UNTESTED = 0, 33
"""Exit codes that mutmut stores: the tests passed, and no test reaches the function."""


def copy_repository(folder: Path) -> None:
    """Copy the tracked files, unless an earlier run has; link the reference data where its tests look for them."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    for name in tracked.stdout.split("\0")[:-1]:
        source, target = REPOSITORY / name, folder / name
        if source.is_file() and (not target.exists() or target.read_bytes() != source.read_bytes()):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    link = folder / "shared"  # the tests run in `folder/mutants` and look beside it
    if SHARED.is_dir() and not link.exists():
        link.symlink_to(SHARED)


def results(folder: Path) -> dict[str, dict[str, int | None]]:
    """Return the exit code of each mutant by file; None for those that were not run."""
    return {
        path.name.removesuffix(".py.meta"): json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
        for path in sorted(folder.glob("mutants/src/**/*.meta"))
    }


def main() -> int:
    """Run, and print the score of each file and the survivors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, default=REPOSITORY / ".mutation", help="working copy (default: .mutation)"
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="PATTERN", help="names of mutants, with wildcards")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--least", type=float, default=95.0, metavar="PERCENT")
    parser.add_argument("--report", action="store_true", help="do not run; print the results of the last run")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    if not arguments.report:
        copy_repository(folder)
        command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(arguments.processes), *arguments.only]
        subprocess.run(command, cwd=folder, check=False)
    total: Counter[str] = Counter()
    survivors = []
    print("| file | mutants | noticed | survived | % |\n|---|---|---|---|---|")
    for name, codes in results(folder).items():
        run = {mutant: code for mutant, code in codes.items() if code is not None}
        alive = [mutant for mutant, code in run.items() if code in (SURVIVED, UNTESTED)]
        survivors += alive
        total += Counter(mutants=len(run), alive=len(alive))
        if run:
            noticed = len(run) - len(alive)
            print(f"| {name} | {len(run)} | {noticed} | {len(alive)} | {100 * noticed / len(run):.1f} |")
    score = 100 * (1 - total["alive"] / max(total["mutants"], 1))
    print(f"| all | {total['mutants']} | {total['mutants'] - total['alive']} | {total['alive']} | {score:.1f} |")
    for mutant in survivors:
        print(mutant)
    print(f"To see one: cd {folder} && python -m mutmut show NAME")
    return 0 if total["mutants"] and score >= arguments.least else 1


if __name__ == "__main__":
    sys.exit(main())
