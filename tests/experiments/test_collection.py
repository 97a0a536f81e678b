"""The page over all runs."""

import json

import pytest

from experiments.__main__ import EXPERIMENTS
from experiments.common.cli import main
from experiments.common.collection import duration
from experiments.common.plots import draw, finish, new_figure, quartiles
from experiments.common.published import Level

RUNS = {
    "patterns-a": ["patterns", "--seeds", "0-2", "--set", "bits=50", "patterns=2"],
    "maze-b": ["maze", "--preset", "paper1", "--net", "rnn", "--set", "hidden=5"],
}
SHORT = ["--threads", "1", "--episodes", "6"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    for name, arguments in RUNS.items():
        assert (
            main(
                EXPERIMENTS,
                [
                    *arguments,
                    "evaluation_episodes=2",
                    "log_every=1",
                    *SHORT,
                    "--out",
                    str(out / name),
                ],
            )
            == 0
        )
    return out


def report(out, *arguments):
    return main(EXPERIMENTS, ["report", "--out", str(out), *arguments])


def test_a_row_has_published_and_own_values_seeds_episodes_time_and_command(runs):
    assert report(runs) == 0
    table = (runs / "report.md").read_text()
    assert table.startswith(
        "| experiment | result | published | ours | seeds | episodes | wall time | state | command |"
    )
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert all(len(line) == 9 for line in lines)
    maze = next(line for line in lines if line[0] == "maze, rnn (maze-b)")
    assert maze[4:6] == ["1", "6"]
    assert maze[7] == "finished"
    assert maze[8].startswith(
        "`python -m experiments maze --preset paper1 --net rnn --set hidden=5"
    )
    patterns = next(line for line in lines if line[0].startswith("patterns, plastic"))
    assert patterns[4] == "3"
    assert " to " in patterns[3], "median and range over the seeds"
    assert "17.5 at 50,000: Miconi et al. 2018, Fig. 6, non-plastic" in table
    assert "12.800% at 25,000: Miconi et al. 2018, Fig. 3, LSTM" in table


def test_the_page_needs_no_other_file(runs):
    assert report(runs) == 0
    page = (runs / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert page.count("data:image/gif;base64,") == 1
    assert 'src="/' not in page
    assert "http" not in page
    assert "maze, rnn (maze-b)" in page


def test_results_are_small_files_without_checkpoints(runs, tmp_path):
    assert report(runs, "--results", str(tmp_path / "results")) == 0
    files = {path.name: path for path in (tmp_path / "results").glob("*.json")}
    assert set(files) == {"maze-b.json", "patterns-a.json"}
    found = json.loads(files["patterns-a.json"].read_text())
    assert set(found["seeds"]) == {"0", "1", "2"}
    assert found["finished"] is True
    assert found["config"]["bits"] == 50
    assert found["command"].startswith("python -m experiments patterns")
    assert {number["metric"] for number in found["published"]} == {"error"}, (
        "what the figures draw beside"
    )
    seed = found["seeds"]["1"]
    assert seed["curve"]["episode"] == [1, 2, 3, 4, 5, 6]
    assert len(seed["curve"]["loss_last_20"]) == 6
    assert seed["result"]["kind"] == "result"
    assert files["patterns-a.json"].stat().st_size < 10_000


def test_a_run_in_progress_is_shown_as_such(runs, tmp_path):
    whole = (runs / "maze-b" / "seed-0" / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    folder = tmp_path / "deep" / "inside" / "seed-4"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_bytes(b"".join(whole[:3]) + b'{"kind": "tr')
    (tmp_path / "empty" / "seed-0").mkdir(parents=True)
    (tmp_path / "empty" / "seed-0" / "metrics.jsonl").touch()
    assert report(tmp_path) == 0
    table = (tmp_path / "report.md").read_text()
    assert "maze, rnn (deep-inside)" in table
    assert "| not finished |" in table
    assert "reward last 500" in table
    assert "empty" not in table


def test_mistakes_are_one_line(tmp_path, capsys):
    assert report(tmp_path) == 2
    assert capsys.readouterr().err == f"error: {tmp_path} holds no runs\n"
    (tmp_path / "seed-0").mkdir()
    (tmp_path / "seed-0" / "metrics.jsonl").write_text("no JSON\n")
    assert report(tmp_path) == 2
    assert "line 1 is not JSON" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.6, "0 min 05 s"), (3599, "59 min 59 s"), (7380, "2 h 03 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_axes_fit_what_was_measured_and_a_level_far_off_is_named_beneath():
    figure, _ = new_figure(4, 3)
    axes = figure.subplots()
    curve = {0: 900.0} | {episode: 20.0 - episode / 100 for episode in range(100, 1001, 100)}
    draw(axes, "C0", "ours", [curve])
    finish(axes, [Level("near", "loss", 8.0), Level("far", "loss", 300.0)])
    low, high = axes.get_ylim()
    assert low < 8 and 19 < high < 25, "the loss of the start would press the rest flat"
    assert axes.get_xlim() == (0, 1020)
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["ours", "near", "far: 300, beyond this axis"]
    figure.canvas.draw()
    assert axes.get_legend().get_window_extent().y1 < axes.get_window_extent().y0, (
        "it hides no line"
    )


def test_seeds_that_are_further_than_others_are_drawn_to_their_ends():
    episodes, (_, middle, _) = quartiles([{1: 1.0, 2: 2.0}, {1: 3.0, 2: 4.0, 3: 5.0}])
    assert episodes == [1, 2, 3]
    assert middle.tolist() == [2, 3, 5]
