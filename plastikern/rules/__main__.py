"""Writes the text of the library's own rules: ``python -m plastikern.rules``; ``--check`` only compares."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .committed import files

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(prog="python -m plastikern.rules", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; 1 where a file differs"
    )
    check = parser.parse_args().check
    found = files()
    differ = [
        path for path, text in found.items()
        if not (ROOT / path).exists() or (ROOT / path).read_text() != text
    ]  # fmt: skip
    for path in differ:
        print(f"{path}: {'differs' if check else 'written'}")
        if not check:
            (ROOT / path).parent.mkdir(exist_ok=True)
            (ROOT / path).write_text(found[path])
    return int(check and bool(differ))


if __name__ == "__main__":
    sys.exit(main())
