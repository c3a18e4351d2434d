"""The repository: its settings, its notebooks in the order of reading, and the page of the site for each file."""
import os
import re
from configparser import ConfigParser
from functools import cache
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[2]
parser = ConfigParser(delimiters=['='])
parser.read(ROOT/'settings.ini', encoding='utf-8')
SETTINGS = parser['DEFAULT']
NBS = ROOT/SETTINGS['nbs_path']
NOTEBOOKS = sorted(NBS.glob('[0-9]*.ipynb'))
REPORTS = sorted((NBS/'reports').glob('[a-z]*.ipynb'))
RESULTS = sorted(path for path in (NBS/'results').iterdir() if path.suffix == '.json' or path.is_dir())
CARDS = sorted((ROOT/SETTINGS['lib_path']/'weights').glob('*.md'))


def site_pages():
    "File or folder of the repository → its page or file in the sources of the site."
    pages = {NBS/SETTINGS['readme_nb']: Path('index.ipynb'), NBS/'results': Path('results/index.ipynb')}
    kept = [*NOTEBOOKS, *REPORTS, NBS/'images', *(NBS/'images').iterdir()]
    pages |= {path: path.relative_to(ROOT) for path in kept}
    pages |= {path: Path('results')/f'{path.stem}.md' for path in RESULTS}
    return pages | {path: Path('models')/path.name for path in CARDS}


PAGES = site_pages()


def repository_url(path, kind='blob'):
    "The address of a file in the public repository."
    return f"{SETTINGS['git_url']}/{kind}/{SETTINGS['branch']}/{path.relative_to(ROOT).as_posix()}"


def rewrite_links(text, source):
    "Point the relative links in the Markdown of a file to pages of the site, or to the repository."
    def new_link(match):
        name, hash_, anchor = match[1].partition('#')
        path = Path(os.path.normpath(source.parent/name))
        if not name or not path.exists(): return match[0]
        if path in PAGES: return f'](/{PAGES[path].as_posix()}{hash_}{anchor})'
        return f"]({repository_url(path, 'tree' if path.is_dir() else 'blob')})"
    return re.sub(r'\]\(([^)\s:]*)\)', new_link, text)


def heading_anchor(title):
    "The anchor of a heading, as JupyterLab forms it."
    return title.replace(' ', '-')


@cache
def read_notebook(path):
    "Read a notebook once."
    return nbformat.read(path, 4)


@cache
def notebook_title(path):
    "The first heading of a notebook."
    sources = (cell.source for cell in read_notebook(path).cells)
    return next(source.splitlines()[0].removeprefix('# ') for source in sources if source.startswith('# '))


def numbered_title(path):
    "The title of a notebook behind its number: `34 Training`."
    return f"{path.stem.split('_')[0]} {notebook_title(path)}"


@cache
def module_of(path):
    "The module that a notebook exports, with the package's name."
    found = re.search(r'#\| default_exp ([\w.]+)', '\n'.join(cell.source for cell in read_notebook(path).cells))
    return f"{SETTINGS['lib_name']}.{found[1]}"


def short_name(path):
    "The module that a notebook exports, without the package's name."
    return module_of(path).partition('.')[2]


def notebook_of(module):
    "The notebook that exports a module."
    return next(path for path in NOTEBOOKS if module_of(path) == module)
