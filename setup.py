"""Package metadata, taken from settings.ini; the report notebooks travel in the wheel as `fer2013_cnn/reports`."""
from configparser import ConfigParser
from pathlib import Path
from shutil import copy

from setuptools import setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
parser.read(here/"settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]


class BuildWithReports(build_py):
    "Copy `nbs/reports` beside the built modules, so that an installed `fer2013 report` finds them."

    def run(self):
        super().run()
        if not self.editable_mode:
            reports = Path(self.build_lib)/"fer2013_cnn"/"reports"
            reports.mkdir(parents=True, exist_ok=True)
            for path in [*(here/"nbs"/"reports").glob("[!_.]*.ipynb"), *(here/"nbs"/"reports").glob("*.j2")]:
                copy(path, reports)


setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here/"README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    url=cfg["git_url"],
    author=cfg["author"],
    author_email=cfg["author_email"],
    license="MIT",
    keywords=cfg["keywords"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "License :: OSI Approved :: MIT License",
        "Framework :: Jupyter",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in (10, 11, 12, 13)),
    ],
    packages=["fer2013_cnn"],
    package_data={"fer2013_cnn": ["weights/*"]},
    python_requires=f">={cfg['min_python']},<3.14",
    install_requires=cfg["requirements"].split(),
    extras_require={extra: cfg[f"{extra}_requirements"].split() for extra in ("dev", "noise", "export", "demo", "mtcnn")},
    entry_points={"console_scripts": cfg["console_scripts"].split()},
    cmdclass={"build_py": BuildWithReports},
    zip_safe=False,
)
