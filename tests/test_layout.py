"""The sources: clean notebooks, modules and README in step with them, one order of files, reading and imports."""
import ast
import filecmp
import json
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from functools import cache
from importlib.metadata import packages_distributions

import pytest
from common import BIN, NOTEBOOKS, REPORTS, ROOT, call

PAGES = [path for path in NOTEBOOKS if re.match(r'\d\d_', path.name)]  # sorted by name: the order of reading
COPIED = ('nbs', 'fer2013_cnn', 'settings.ini', 'setup.py', 'pyproject.toml', 'constraints.txt', 'Makefile')
MAX_FLOORS = 9


@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    "A copy of the sources, to clean and to export without touching the real ones."
    folder = tmp_path_factory.mktemp('copy')
    ignore = shutil.ignore_patterns('.*', '__pycache__', 'outputs')
    for name in COPIED:
        if (ROOT/name).is_dir(): shutil.copytree(ROOT/name, folder/name, ignore=ignore)
        else: shutil.copy(ROOT/name, folder)
    return folder


def test_notebooks_are_clean(copy):
    assert call('nbdev_clean', cwd=copy).returncode == 0
    changed = [str(path) for path in NOTEBOOKS + REPORTS if not filecmp.cmp(ROOT/path, copy/path, shallow=False)]
    assert changed == [], 'run: make export'


def test_export_reproduces_the_package(copy):
    def modules(root): return sorted(path.relative_to(root) for path in (root/'fer2013_cnn').rglob('*.py'))
    command = ['make', '--silent', f'VENV={BIN.parent}', f'--old-file={BIN.parent}/installed', 'modules']
    subprocess.run(command, cwd=copy, check=True)
    assert modules(copy) == modules(ROOT), 'run: make export'
    changed = [str(path) for path in modules(ROOT) if not filecmp.cmp(ROOT/path, copy/path, shallow=False)]
    assert changed == [], 'run: make export'


def test_readme_is_in_step(tmp_path):
    command = ['make', '--silent', 'readme', f'README={tmp_path}/README.md', f'VENV={BIN.parent}']
    subprocess.run(command, cwd=ROOT, check=True)
    assert (tmp_path/'README.md').read_text() == (ROOT/'README.md').read_text(), 'run: make export'


def test_lint():
    assert call('ruff', 'check', '.').returncode == 0


@cache
def code_of(page):
    "Code cells of a notebook, without shell and magic lines."
    cells = json.loads((ROOT/page).read_text())['cells']
    sources = [''.join(cell['source']) for cell in cells if cell['cell_type'] == 'code']
    return [re.sub(r'(?m)^(\s*)[%!].*$', r'\1pass', source) for source in sources]


@cache
def module_of(page):
    "The module that a notebook exports, without the package's name."
    return next(match[1] for source in code_of(page) if (match := re.search(r'#\| default_exp ([\w.]+)', source)))




def test_pages_import_only_from_pages_before():
    order = [module_of(page) for page in PAGES]
    for place, page in enumerate(PAGES):
        imports = rf"\b(?:from|import) fer2013_cnn\.({'|'.join(map(re.escape, order))})\b(?!\.)"
        used = {name for source in code_of(page) for name in re.findall(imports, source)}
        later = [name for name in used if order.index(name) > place]
        assert later == [], f'{page.name} imports from pages that come after it'


def test_modules_import_only_from_modules_before():
    "The same for the exported modules, with their depth: at most nine floors."
    order, floors = [module_of(page) for page in PAGES], {}
    for name in order:
        path = ROOT/'fer2013_cnn'/f"{name.replace('.', '/')}.py"
        used = package_imports(path, name)
        assert [other for other in used if order.index(other) >= order.index(name)] == [], name
        floors[name] = 1 + max((floors[other] for other in used), default=0)
    assert max(floors.values()) <= MAX_FLOORS, floors


def package_imports(path, name):
    "Modules of the package that an exported module imports, at its top or inside of functions."
    package, found = ['fer2013_cnn', *name.split('.')[:-1]], set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom): continue
        parts = (node.module or '').split('.')
        if node.level: parts = package[:len(package) - node.level + 1] + parts
        if parts[0] != 'fer2013_cnn' or len(parts) == 1: continue
        module = '.'.join(parts[1:])
        if (ROOT/'fer2013_cnn'/f"{module.replace('.', '/')}.py").exists(): found.add(module)
        else: found |= {f'{module}.{alias.name}' for alias in node.names}
    return found


def test_every_notebook_installs_the_package_where_it_is_missing():
    "On Colab, for instance: by the same cell, the first one with code, from the address in settings.ini."
    settings = ConfigParser(delimiters=['='])
    settings.read(ROOT/'settings.ini')
    wanted = f"""from importlib.util import find_spec
if not find_spec('fer2013_cnn'):  # on Colab or Kaggle: install the package, fetch the notebooks' files
    !git clone -q --depth 1 {settings['DEFAULT']['git_url']} && pip install -q './fer2013_cnn[dev]'
    %cd fer2013_cnn/nbs"""
    for path in [*NOTEBOOKS, *REPORTS]:
        cells = json.loads((ROOT/path).read_text())['cells']
        first = next(''.join(cell['source']) for cell in cells if cell['cell_type'] == 'code')
        assert re.sub(r'(?m)^#\|.*\n', '', first) == wanted, path.name


def imported(source):
    "Top-level modules that a piece of code imports, other packages' only."
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import): names |= {alias.name.split('.')[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and not node.level: names.add(node.module.split('.')[0])
    return names - {*sys.stdlib_module_names, 'fer2013_cnn'}


def canonical(name): return re.sub('[-_.]+', '-', name).lower()


def test_every_dependency_is_imported_or_has_a_reason_and_every_import_is_declared():
    "Of the package, notebooks, tests, tools and site; atheris is installed by hand, see tools/fuzz.py."
    own = {path.stem for path in [*(ROOT/'tests').glob('*.py'), *(ROOT/'tools').glob('*.py'),
                                 *(ROOT/'docs').rglob('*.py')]}
    sources = [path.read_text() for name in ('fer2013_cnn', 'tests', 'tools', 'docs')
               for path in (ROOT/name).rglob('*.py')]
    used = {module for source in sources for module in imported(source)}
    used |= {module for page in [*NOTEBOOKS, *REPORTS] for source in code_of(page) for module in imported(source)}
    provided = packages_distributions()
    used = {canonical(name) for module in used - own - {'atheris'} for name in provided[module]}
    text = (ROOT/'settings.ini').read_text()
    lines = re.findall(r'(?m)^(?:\w+_)?requirements = (.*)$', text)
    declared = {canonical(re.match(r'[\w.-]+', item)[0]) for line in lines for item in line.split() if item[0] != '%'}
    reasons = {canonical(name) for name in re.findall(r'(?m)^# ([\w.-]+): ', text)}
    assert declared - used == reasons and reasons <= declared
    assert used <= declared


def test_every_page_opens_with_title_and_summary():
    for page in PAGES:
        cells = json.loads((ROOT/page).read_text())['cells']
        title = ''.join(cells[1]['source']).splitlines()
        assert title[0].startswith('# ') and title[1].startswith('> '), page.name


def test_readme_has_the_summary_of_every_page():
    readme = (ROOT/'README.md').read_text()
    for page in PAGES:
        heading = ''.join(json.loads((ROOT/page).read_text())['cells'][1]['source']).splitlines()
        row = f"|[{page.stem}]({page.as_posix()})|{heading[1].removeprefix('> ')}|"
        assert row in readme, f'run the notebook index again: {row}'


def test_cells_are_short():
    for page in PAGES:
        for source in code_of(page):
            lines = [line for line in source.splitlines() if line.strip() and not line.startswith('#|')]
            assert len(lines) <= 25, f'{page.name}: {lines[0]}'


def test_parameters_cells_keep_their_tag():
    for path in REPORTS:
        cells = json.loads((ROOT/path).read_text())['cells']
        assert sum('parameters' in cell['metadata'].get('tags', []) for cell in cells) == 1, path.name


@pytest.mark.slow
@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(notebook, real_data):
    flags = ['--flags', 'realdata'] if real_data else []
    done = call('nbdev_test', '--path', notebook, '--n_workers', 0, '--do_print', *flags)
    assert done.returncode == 0 and 'Success.' in done.stdout + done.stderr


def test_version_is_the_same_everywhere():
    "In settings.ini, the package, the changelog and the citation; and in the tag of this commit, if it has one."
    settings = ConfigParser(delimiters=['='])
    settings.read(ROOT/'settings.ini')
    version = settings['DEFAULT']['version']
    assert f'__version__ = "{version}"' in (ROOT/'fer2013_cnn'/'__init__.py').read_text()
    changes = re.findall(r'(?m)^## (\S+) – (unreleased|\d{4}-\d\d-\d\d)$', (ROOT/'CHANGELOG.md').read_text())
    assert changes[0][0] == version
    assert f'\nversion: {version}\n' in (ROOT/'CITATION.cff').read_text()
    git = ['git', 'tag', '--points-at', 'HEAD']
    tags = subprocess.run(git, cwd=ROOT, capture_output=True, text=True).stdout.split()
    if tags: assert f'v{version}' in tags and changes[0][1] != 'unreleased'


def test_addresses_derive_from_one():
    "Each link to the repository begins with `git_url` of settings.ini, each link to the site with `doc_url`."
    settings = ConfigParser(delimiters=['='])
    settings.read(ROOT/'settings.ini')
    known = tuple(settings['DEFAULT'][name].rstrip('/') for name in ('git_url', 'doc_url'))
    names = ('README.md', 'CITATION.cff', 'CHANGELOG.md', 'CONTRIBUTING.md', *NOTEBOOKS, *REPORTS)
    for path in [ROOT/name for name in names]:
        for link in re.findall(r'https?://[^\s)"\'\\]+', path.read_text()):
            if settings['DEFAULT']['user'] in link: assert link.startswith(known), f'{path.name}: {link}'
