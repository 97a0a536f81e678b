"""``python plastikern/gpu_check``: the same as ``python -m plastikern gpu-check``, where torch cannot be imported."""

import sys
from pathlib import Path

if not __package__:
    # Run by its path: under a name of its own, since `plastikern` imports torch.
    folder = str(Path(__file__).resolve().parents[1])
    sys.path[0] = folder
    from gpu_check.cli import main  # type: ignore[import-not-found,unused-ignore]

    sys.path.remove(folder)  # its other modules are not to be found without their package
else:
    from .cli import main

if __name__ == "__main__":
    sys.exit(main())
