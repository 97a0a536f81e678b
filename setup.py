"""What pyproject.toml cannot say of the build: the native library, and a wheel tagged by whether it has one."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # without build isolation pip takes whatever is installed
    raise SystemExit(
        "plastikern: the build needs setuptools 77 or newer: pip install --upgrade setuptools"
    ) from None

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

from build_backend import native, toolchain  # noqa: E402  (the folder is on the path only from here on)

CHOICE = toolchain.requested_build()


class BuildNative(build_ext):
    """Puts the native library where setuptools expects a module of that name; leaves no trace where none is built."""

    def run(self) -> None:
        library = native.build(ROOT, CHOICE)
        target = Path(self.build_lib, "plastikern", native.LIBRARY_NAME)
        # One that an earlier build left must not pass for the present one's.
        target.unlink(missing_ok=True)
        if self.inplace:
            (ROOT / "plastikern" / native.LIBRARY_NAME).unlink(missing_ok=True)
        if library is None:
            self.extensions = self.distribution.ext_modules = []
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        self.copy_file(str(library), str(target))
        if self.inplace:
            self.copy_extensions_to_source()

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split(".")).with_name(native.LIBRARY_NAME))


class BuildPython(build_py):
    """Adds the headers with which users' rules are compiled."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for header in [*ROOT.glob("csrc/**/*.h"), *ROOT.glob("csrc/**/*.cuh")]:
            target = Path(self.build_lib, "plastikern", header.relative_to(ROOT))
            target.parent.mkdir(parents=True, exist_ok=True)
            self.copy_file(str(header), str(target))


class TaggedWheel(bdist_wheel):
    """Tags the wheel after the build, when it is known whether there is native code in it."""

    def run(self) -> None:
        self.run_command("build")
        self.skip_build = True
        self.root_is_pure = not self.distribution.ext_modules
        # A free-threaded Python installs no abi3 wheel.
        if not self.root_is_pure and not sysconfig.get_config_var("Py_GIL_DISABLED"):
            self.py_limited_api = "cp310"
        super().run()


setup(
    ext_modules=[Extension("plastikern._C", sources=[], optional=True)],
    cmdclass={"build_ext": BuildNative, "build_py": BuildPython, "bdist_wheel": TaggedWheel},
)
