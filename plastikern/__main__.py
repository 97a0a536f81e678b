"""``python -m plastikern``: what is built and which backend serves which device."""

from __future__ import annotations

import torch

from . import backends, build_info


def main() -> None:
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
            print(f"device {device}: served by {backends.select(None, torch.empty(0, device=device))}")
        except (RuntimeError, ValueError) as error:
            print(f"device {device}: {error}")


if __name__ == "__main__":
    main()
