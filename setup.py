"""Package metadata, read from settings.ini; the report notebooks travel in the wheel as `fer2013_cnn/reports`."""
from configparser import ConfigParser
from pathlib import Path
from shutil import copy

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
parser.read(HERE/"settings.ini", encoding="utf-8")
SETTINGS = parser["DEFAULT"]
EXTRAS = ("dev", "noise", "export", "demo")
STATUS = {"3": "3 - Alpha", "4": "4 - Beta", "5": "5 - Production/Stable"}


class BuildWithReports(build_py):
    "Copy `nbs/reports` beside the built modules, so that an installed `fer2013 report` finds them."

    def run(self):
        super().run()
        if self.editable_mode: return
        reports = Path(self.build_lib)/SETTINGS["lib_name"]/"reports"
        reports.mkdir(parents=True, exist_ok=True)
        for pattern in ("[!_.]*.ipynb", "*.j2"):
            for path in (HERE/"nbs"/"reports").glob(pattern): copy(path, reports)


setup(
    name=SETTINGS["lib_name"],
    version=SETTINGS["version"],
    description=SETTINGS["description"],
    long_description=(HERE/"README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    url=SETTINGS["git_url"],
    author=SETTINGS["author"],
    author_email=SETTINGS["author_email"],
    license=SETTINGS["license"].upper(),
    keywords=SETTINGS["keywords"],
    classifiers=[
        f"Development Status :: {STATUS[SETTINGS['status']]}",
        f"Intended Audience :: {SETTINGS['audience']}",
        f"License :: OSI Approved :: {SETTINGS['license'].upper()} License",
        "Framework :: Jupyter",
        *(f"Programming Language :: Python :: {version}" for version in SETTINGS["pythons"].split()),
    ],
    packages=find_packages(include=[SETTINGS["lib_path"], f"{SETTINGS['lib_path']}.*"]),
    package_data={SETTINGS["lib_name"]: ["weights/*"]},
    python_requires=f">={SETTINGS['min_python']},<3.14",
    install_requires=SETTINGS["requirements"].split(),
    extras_require={extra: SETTINGS[f"{extra}_requirements"].split() for extra in EXTRAS},
    entry_points={"console_scripts": SETTINGS["console_scripts"].split()},
    cmdclass={"build_py": BuildWithReports},
    zip_safe=False,
)
