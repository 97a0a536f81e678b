"""Whole installations in clean environments: from the sdist, one wheel under several torches, and without tools.

``make check-wheel`` runs them under two releases of torch, which pip fetches. PLASTIKERN_TORCHES names others,
separated by spaces: requirements such as ``torch==2.14.1``, or folders of packages that hold a torch; by default the
folder of the torch that runs the tests. PLASTIKERN_WHEEL names a wheel that is there, which saves the minutes of its
build.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import torch

pytest.importorskip("setuptools", minversion="77")
pytest.importorskip("pip")
from build_backend import native

ROOT = Path(__file__).resolve().parents[1]
HERE = str(Path(torch.__file__).parents[1])
TORCHES = os.environ.get("PLASTIKERN_TORCHES", "").split() or [HERE]
# What an environment gets of a folder with torch: not this package, and not the tools that a build brings itself.
LEFT_OUT = ("plastikern", "__editable__", "pip", "setuptools", "wheel", "distutils-precedence")
MINUTES = 60
TRAINS = """
import torch, plastikern
output, state = plastikern.PlasticRNN(3, 5, backend="reference")(torch.ones(4, 2, 3))
output.sum().backward()
print(output.shape, bool(state.trace.abs().sum() > 0))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="lays packages out by links"),
]


class Environment:
    """A virtual environment with a torch and what that needs, and no compiler and no nvcc in sight."""

    def __init__(self, folder: Path, source: str, without: tuple[str, ...] = ()) -> None:
        self.folder, self.python = folder, str(folder / "bin" / "python")
        venv.create(folder, with_pip=True, symlinks=True)
        (packages,) = folder.glob("lib/python*/site-packages")
        if Path(source).is_dir():
            for path in Path(source).iterdir():
                if (
                    not path.name.startswith((*LEFT_OUT, *without))
                    and not (packages / path.name).exists()
                ):
                    (packages / path.name).symlink_to(path)
        else:
            self.pip("install", source, "numpy")

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        dropped = ("PYTHONPATH", "CXX", "CUDACXX", "CUDA_HOME", "CUDA_PATH", "VIRTUAL_ENV")
        kept = {
            key: value
            for key, value in os.environ.items()
            if key not in dropped and not key.startswith("PLASTIKERN_")
        }
        kept |= {"PATH": str(self.folder / "bin"), "CUDACXX": "no-such-nvcc"}
        return subprocess.run(
            [self.python, *arguments], cwd=self.folder, env={**kept, **environment}, capture_output=True, text=True,
            timeout=MINUTES * 60, check=False,
        )  # fmt: skip

    def pip(self, *arguments: str, **environment: str) -> str:
        """What pip says. Without its cache, in which it keeps the wheel of an sdist that it has built before."""
        done = self.run(
            "-m", "pip", "--disable-pip-version-check", "--no-cache-dir", *arguments, **environment
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout + done.stderr

    def python_says(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def lines(said: str) -> list[str]:
    """What the build says to the user, out of pip's output."""
    return [line.strip() for line in said.splitlines() if line.strip().startswith("plastikern: ")]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    script = f"import build_backend; build_backend.build_sdist({str(folder)!r})"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (archive,) = folder.glob("*.tar.gz")
    return archive


@pytest.fixture(scope="module", params=TORCHES)
def environment(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Environment:
    """Without Triton, too, where torch does not bring it itself."""
    return Environment(tmp_path_factory.mktemp("environment"), request.param)


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built once, by pip from the sdist, with the oldest torch named and isolated; there is a compiler, but no nvcc."""
    if named := os.environ.get("PLASTIKERN_WHEEL"):
        return Path(named)
    folder = tmp_path_factory.mktemp("wheel")
    builder = Environment(folder / "environment", TORCHES[0])
    said = builder.pip(
        "wheel",
        "--verbose",
        "--no-deps",
        "--wheel-dir",
        str(folder),
        str(sdist),
        PATH=os.environ["PATH"],
    )
    assert any(
        line.startswith("plastikern: no CUDA kernels are built: nvcc is not there")
        for line in lines(said)
    )
    (found,) = folder.glob("plastikern-*-cp310-abi3-*.whl")
    return found


def test_one_wheel_has_the_same_parity_under_every_torch(
    wheel: Path, environment: Environment
) -> None:
    environment.pip("install", "--no-deps", "--force-reinstall", str(wheel))
    shown = environment.python_says("-m", "plastikern")
    assert str(environment.folder) in shown.splitlines()[1] and native.LIBRARY_NAME in shown
    assert "device cpu: served by cpu" in shown
    assert (
        "cuda: not available: the native library was built without CUDA kernels: install nvcc"
        in shown
    )
    tested = environment.python_says("-m", "plastikern", "selftest", "--device", "cpu")
    assert "backend cpu on cpu" in tested and "\npass: 81 of 81 networks" in tested


def test_without_a_compiler_the_sdist_installs_and_says_how_to_get_kernels(
    sdist: Path, tmp_path: Path
) -> None:
    bare = Environment(tmp_path, TORCHES[0], without=("triton",))
    said = lines(bare.pip("install", "--verbose", "--no-deps", str(sdist)))
    assert said == [
        "plastikern: no native kernels are built: no C++ compiler: none of g++, c++, clang++ is there, and CXX names "
        "no other; pure Python install"
    ] * len(said) and said  # fmt: skip
    shown = bare.python_says("-m", "plastikern")
    assert "device cpu: served by reference" in shown
    assert (
        "install a C++ compiler such as g++, then plastikern again: PLASTIKERN_BUILD=cpu pip install"
        in shown
    )
    assert bare.python_says("-c", TRAINS) == "torch.Size([4, 2, 5]) True\n"
    refused = bare.run(
        "-m", "pip", "install", "--no-deps", "--force-reinstall", str(sdist), PLASTIKERN_BUILD="cpu"
    )
    assert refused.returncode != 0
    assert (
        "plastikern: PLASTIKERN_BUILD=cpu, but no C++ compiler: " in refused.stdout + refused.stderr
    )


def test_without_triton_everything_else_works(wheel: Path, tmp_path: Path) -> None:
    bare = Environment(tmp_path, HERE, without=("triton",))
    bare.pip("install", "--no-deps", "--no-index", str(wheel))
    assert (
        "triton: not available: the package triton is not installed: pip install triton"
        in bare.python_says("-m", "plastikern")
    )
    assert bare.python_says("-c", TRAINS) == "torch.Size([4, 2, 5]) True\n"
    imported = bare.python_says(
        "-c", "import sys, plastikern; print([name for name in sys.modules if 'triton' in name])"
    )
    assert "plastikern.triton" not in imported


def test_importing_needs_no_tool_at_all(wheel: Path, tmp_path: Path) -> None:
    """Nothing on the PATH, no home, no folder to write to."""
    bare = Environment(tmp_path / "environment", HERE)
    bare.pip("install", "--no-deps", "--no-index", str(wheel))
    done = bare.run("-c", TRAINS, PATH="", HOME="/nonexistent", TMPDIR="/nonexistent")
    assert done.returncode == 0, done.stderr
