"""``python -m experiments NAME``: see ``docs/experiments.md``."""

import sys

from experiments.common.cli import main

EXPERIMENTS = {
    "patterns": "experiments.patterns",
    "images": "experiments.images",
    "omniglot": "experiments.omniglot",
    "maze": "experiments.maze",
    "cue_reward": "experiments.cue_reward",
    "language": "experiments.language",
}
"""Name on the command line and module whose ``EXPERIMENT`` it is; a module is imported only when it is asked for."""

if __name__ == "__main__":
    sys.exit(main(EXPERIMENTS, sys.argv[1:]))
