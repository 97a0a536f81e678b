"""The pole of ``cartpole.py`` balanced by ``RecurrentPPO`` of Stable-Baselines3-contrib, with a plastic policy.

``python examples/cartpole_sb3.py`` trains three seeds, each for less than a minute; needs ``pip install sb3-contrib``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

from cartpole import RULE, make
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from plastikern.integrations.sb3 import PlasticPolicy

WORLDS, STEPS = 8, 128
POLICY: dict[str, Any] = {
    "lstm_hidden_size": 32, "network_kwargs": {"plasticity": RULE}, "history": 1024,
    "enable_critic_lstm": True, "net_arch": [],
}  # fmt: skip


def learner(seed: int) -> Any:
    """RecurrentPPO that has learned nothing yet."""
    return RecurrentPPO(
        PlasticPolicy, make_vec_env(make, WORLDS, seed=seed), n_steps=STEPS, batch_size=STEPS * WORLDS // 4, n_epochs=5,
        gamma=0.98, learning_rate=lambda left: 3e-3 * left, ent_coef=0.01, vf_coef=0.5, seed=seed, policy_kwargs=POLICY,
        device="cpu",
    )  # fmt: skip


def mean_return(model: Any, episodes: int = 20) -> float:
    """Of episodes with the likeliest action at every step."""
    worlds = make_vec_env(make, 10, seed=1000)
    return float(evaluate_policy(model, worlds, n_eval_episodes=episodes)[0])


def main(arguments: Sequence[str] | None = None) -> list[dict[str, float]]:
    """Trains policies; of each its mean return before and after, and the seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(arguments)
    found = []
    for seed in range(options.seeds):
        model = learner(seed)
        before, start = mean_return(model), time.perf_counter()
        model.learn(options.steps)
        seconds = time.perf_counter() - start
        run = {"before": before, "after": mean_return(model), "seconds": seconds}
        found.append(run)
        print(
            f"seed {seed}: mean return {before:.0f} before, {run['after']:.0f} after {seconds:.0f} s"
        )
    return found


if __name__ == "__main__":
    main()
