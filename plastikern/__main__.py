"""``python -m plastikern``: what is built and which backend serves which device; ``selftest``: whether it is right;
``gpu-check``: everything that a card can tell in some minutes; ``compile``: a rule of one's own, before it is used.
"""

from __future__ import annotations

import argparse
import sys

import torch

from . import backends, build_info, selftest
from .gpu_check import cli
from .rules import beforehand


def show() -> None:
    """Print what is built and what serves what."""
    info = build_info()
    print(f"plastikern {info['version']}, torch {info['torch']}, {torch.get_num_threads()} threads")
    print(f"native library: {info['library'] or 'none'}")
    for key, value in info["native"].items():
        print(f"  {key}: {value}")
    print("backends:")
    for name, description in info["backends"].items():
        print(f"  {name}: {description}")
    devices = ["cpu"] + [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    for device in devices:
        try:
            print(f"device {device}: {backends.serving(device)}")
        except (RuntimeError, ValueError) as error:
            print(f"device {device}: {error}")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m plastikern", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    test = commands.add_parser(
        "selftest", help="parity with the reference and a short timing, on your device"
    )
    test.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="default: %(default)s",
    )
    test.add_argument(
        "--backend", default=None, help="default: the one that would serve the device"
    )
    test.add_argument(
        "--repeats", type=int, default=5, help="of the timing; 0: none (default: %(default)s)"
    )
    test.add_argument(
        "--networks", type=int, help="check about so many of them only (default: all)"
    )
    check = commands.add_parser(
        "gpu-check", help="facts, parity, timing and constants of your card, into a file"
    )
    cli.add_arguments(check)
    beforehand.add_arguments(
        commands.add_parser("compile", help="compile a rule of one's own before it is used")
    )
    chosen = parser.parse_args(arguments)
    if chosen.command == "gpu-check":
        return cli.run(check, chosen)
    if chosen.command is None:
        show()
        return 0
    try:
        if chosen.command == "compile":
            return beforehand.run(chosen)
        return selftest.main(chosen.device, chosen.backend, chosen.repeats, chosen.networks)
    except (
        RuntimeError,
        ValueError,
        TypeError,
        AssertionError,
    ) as error:  # torch without CUDA asserts
        print(f"FAIL: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
