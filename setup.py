"""What pyproject.toml cannot say: a wheel holds the shipped models, samples, results and profiles too, in ``diffseg_lib/shipped``."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = {"data/pocket": "data/pocket", "data/results": "data/results", "notebooks/profiles": "profiles"}


class BuildWithData(build_py):
    """Copies what the library reads beside its modules; an editable install reads it where it is."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for source, target in SHIPPED.items():
                place = Path(self.build_lib) / "diffseg_lib" / "shipped" / target
                shutil.rmtree(place, ignore_errors=True)
                shutil.copytree(source, place, ignore=shutil.ignore_patterns("*.png"))


setup(cmdclass={"build_py": BuildWithData})
