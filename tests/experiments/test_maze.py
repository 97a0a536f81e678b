"""The maze's rules, against a walk in plain Python; what its networks are; what is drawn of it."""

import math
from dataclasses import replace

import pytest
import torch
from PIL import Image

from experiments.common.agents import Agent
from experiments.common.experiment import stream
from experiments.common.worlds import act
from experiments.maze import Maze, MazeConfig, walls

CPU = torch.device("cpu")
PRESETS = {
    preset: next(iter(Maze.presets[preset].values()))
    for preset in ("paper1", "code1", "paper2", "code2")
}
STEPS = {(-1, 0): "up", (1, 0): "down", (0, -1): "left", (0, 1): "right"}


def small(config: MazeConfig, **changes) -> Maze:
    return Maze(replace(config, batch=9, steps=60, hidden=8, **changes), CPU)


def is_wall(row: int, column: int, size: int) -> bool:
    """The border, and every other square in both directions, but for the centre."""
    if not (1 <= row <= size and 1 <= column <= size):
        return True
    centre = (size + 1) // 2
    return row % 2 == 0 and column % 2 == 0 and (row, column) != (centre, centre)


def walk(config: MazeConfig, goal, teleports, actions):
    """Inputs by name and rewards of one episode, square by square."""
    centre = (config.size + 1) // 2
    row, column, reward = centre, centre, 0.0
    action = 0 if config.first_action else None
    seen, rewards = [], []
    for t, chosen in enumerate(actions):
        view = [
            float(is_wall(row + down, column + right, config.size))
            for down in (-1, 0, 1)
            for right in (-1, 0, 1)
        ]
        seen.append((t, view, reward, action))
        down, right = list(STEPS)[chosen]
        reward, action = 0.0, chosen
        if is_wall(row + down, column + right, config.size):
            reward -= config.wall_penalty
        else:
            row, column = row + down, column + right
        if (row, column) == goal:
            reward += config.reward
            row, column = teleports[t]
        rewards.append(reward)
    return seen, rewards


@pytest.mark.parametrize("preset", PRESETS)
def test_a_batch_of_episodes_is_walked_by_the_rules(preset):
    config = PRESETS[preset]
    maze = small(config, reward=7.0)
    config = maze.config
    episode = maze.episode(stream(3, "test"), held_out=False)
    torch.manual_seed(1)
    rollout = act(maze.build("reference"), *episode)
    squares = [tuple(square) for square in maze.maze.squares.tolist()]
    found = 0
    for b in range(config.batch):
        goal = squares[episode.world.goals[b]]
        teleports = [squares[number] for number in episode.world.teleports[:, b].tolist()]
        seen, rewards = walk(config, goal, teleports, rollout.actions[:, b].tolist())
        found += sum(reward > 0 for reward in rewards)
        assert rollout.rewards[:, b].tolist() == pytest.approx(rewards)
        for inputs, (t, view, reward, action) in zip(rollout.inputs[:, b], seen, strict=True):
            expected = [*view, reward]
            if config.see_action:
                expected += [float(action == number) for number in range(4)]
            expected += [0.0] * config.unused + [1.0] * config.see_bias
            if config.see_time != "none":
                expected.append(t / config.steps if config.see_time == "share" else t)
            assert inputs.tolist() == pytest.approx(expected)
    assert found > 0, "nobody found the reward: the test would not see a mistake there"


def test_inputs_are_as_many_as_published():
    sizes = {preset: small(config).inputs for preset, config in PRESETS.items()}
    assert sizes == {"paper1": 10, "code1": 17, "paper2": 14, "code2": 17}


@pytest.mark.parametrize(("size", "free", "pillars"), [(9, 65, 16), (11, 97, 24)])
def test_the_maze_is_the_published_one(size, free, pillars):
    grid = walls(size)
    assert int((~grid).sum()) == free
    assert int(grid[1:-1, 1:-1].sum()) == pillars
    assert all(
        bool(grid[r, c]) == is_wall(r, c, size) for r in range(size + 2) for c in range(size + 2)
    )


@pytest.mark.parametrize("allowed", [True, False])
def test_rewards_and_teleports_are_uniform_over_the_squares_that_are_allowed(allowed):
    maze = Maze(replace(PRESETS["paper2"], goal_at_start=allowed, teleport_onto_goal=allowed), CPU)
    world = maze.world(stream(0, "test"), 20_000, slice(0, 20_000))
    goals = torch.bincount(world.goals, minlength=65)
    assert bool(goals[maze.maze.start]) == allowed
    expected = 20_000 / (65 if allowed else 64)
    assert (goals[goals > 0] - expected).abs().max() < 5 * math.sqrt(expected)
    assert int((goals > 0).sum()) == (65 if allowed else 64)
    assert bool((world.teleports[:5] == world.goals).any()) == allowed


PARAMETERS = {
    ("code2", "rnn"): 22_523,
    ("code2", "plastic"): 22_731,
    ("code2", "simple"): 22_406,
    ("code2", "retroactive"): 22_407,
    ("demo", "simple"): 22_606,
    ("code1", "plastic"): 84_606,
}


@pytest.mark.parametrize(("preset", "net"), PARAMETERS)
def test_networks_have_as_many_parameters_as_the_authors(preset, net):
    maze = Maze(Maze.presets[preset][net], CPU)
    assert (
        sum(parameter.numel() for parameter in maze.build(None).parameters())
        == PARAMETERS[preset, net]
    )


@pytest.mark.parametrize("net", ["rnn", "plastic", "homogeneous", "simple", "retroactive"])
@pytest.mark.parametrize("backend", [None, "reference"])
def test_learning_sees_the_scores_that_were_acted_on(net, backend):
    maze = small(PRESETS["code2"], net=net, scale=0.3, eta_init=0.2)
    torch.manual_seed(0)
    agent = maze.build(backend)
    states = []
    episode = maze.episode(stream(0, "test"), held_out=False)
    rollout = act(agent, *episode, watch=lambda state: states.append(state[0]))
    scores, values = agent(rollout.inputs)
    torch.testing.assert_close(scores, agent.policy(torch.stack(states)), rtol=1e-4, atol=1e-5)
    assert values.shape == rollout.actions.shape
    best = (scores + episode.noise).topk(2).values
    sure = best[..., 0] - best[..., 1] > 1e-4
    assert sure.float().mean() > 0.9
    chosen = (scores + episode.noise).argmax(-1)
    assert torch.equal(chosen[sure], rollout.actions[sure])


def test_actions_are_drawn_from_the_policy():
    maze = Maze(replace(PRESETS["paper2"], batch=4_000, steps=1, hidden=4), CPU)
    agent = maze.build(None)
    with torch.no_grad():
        agent.policy.weight.zero_()
        agent.policy.bias.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]).log())
    rollout = act(agent, *maze.episode(stream(0, "test"), held_out=False))
    shares = torch.bincount(rollout.actions.flatten(), minlength=4) / 4_000
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.2, 0.3, 0.4]), rtol=0, atol=0.03)


def test_the_same_episodes_and_weights_give_the_same_walk():
    maze = small(PRESETS["paper2"])
    agent = maze.build(None)
    first, again = (act(agent, *maze.episode(stream(4, "test"), held_out=False)) for _ in range(2))
    other = act(agent, *maze.episode(stream(5, "test"), held_out=False))
    assert all(torch.equal(a, b) for a, b in zip(first[:3], again[:3], strict=True))
    assert not torch.equal(first.actions, other.actions)


@pytest.mark.parametrize("net", ["rnn", "simple"])
def test_an_episode_is_drawn_as_a_film(tmp_path, net):
    maze = small(PRESETS["code2"], net=net)
    agent = maze.build(None)
    assert isinstance(agent, Agent)
    (film,) = maze.figures(agent, tmp_path)
    with Image.open(film) as image:
        assert image.n_frames == maze.config.steps
        shown = []
        for frame in (0, 30):
            image.seek(frame)
            shown.append(image.convert("RGB").tobytes())
    assert shown[0] != shown[1]
