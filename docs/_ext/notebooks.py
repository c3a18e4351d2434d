"""The notebooks as pages: without directives and hidden cells, with links to Colab, Kaggle and the API."""
import ast
import re
from copy import deepcopy
from itertools import groupby

import nbformat
from nbformat.v4 import new_markdown_cell
from repository import (NBS, notebook_title, NOTEBOOKS, numbered_title, PAGES, read_notebook, REPORTS,
    repository_url, rewrite_links, SETTINGS, short_name)

EXPORT_CALL = r'(import nbdev\s*)?(nbdev\.)?nbdev_export\(\)'
LANGUAGE = dict(name='python', pygments_lexer='ipython3')  # nbdev removes it from the notebooks' metadata


def defined_names(code):
    "Names that the code of an exported cell defines."
    for node in ast.parse(code).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)): yield node.name
        for target in ast.walk(node) if isinstance(node, ast.Assign) else ():
            if isinstance(target, ast.Name) and isinstance(target.ctx, ast.Store): yield target.id


def visible_cells(cell):
    "A code cell without its directives, behind the anchors of what it exports; nothing if a reader should not see it."
    lines = cell.source.splitlines()
    directives = {line.removeprefix('#|').split()[0] for line in lines if line.startswith('#|')}
    code = '\n'.join(line for line in lines if not line.startswith('#|')).strip()
    if directives & {'hide', 'default_exp'} or not code or re.fullmatch(EXPORT_CALL, code): return []
    anchors = ''.join(f'<a id="def-{name}"></a>' for name in defined_names(code)) if 'export' in directives else ''
    cell.source = code
    cell.metadata['tags'] = [tag.replace('_', '-') for tag in cell.metadata.get('tags', [])]
    return [new_markdown_cell(anchors), cell] if anchors else [cell]


def page_cells(cells, source):
    "The visible cells of a notebook, with links that work on the site."
    shown = []
    for cell in deepcopy(cells):
        if cell.cell_type == 'markdown': cell.source = rewrite_links(cell.source, source)
        for output in cell.get('outputs', []):
            if text := output.get('data', {}).get('text/markdown'):
                output.data['text/markdown'] = rewrite_links(text, source)
        shown += [cell] if cell.cell_type == 'markdown' else visible_cells(cell)
    return shown


def write_notebook(path, cells):
    "Write the cells of a page."
    path.parent.mkdir(parents=True, exist_ok=True)
    for number, cell in enumerate(cells): cell['id'] = str(number)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=dict(language_info=LANGUAGE)), path)


def link_line(path):
    "Where else a notebook can be read or run, and the reference of its module."
    in_repository = f"{SETTINGS['user']}/{SETTINGS['repo']}/blob/{SETTINGS['branch']}/{PAGES[path].as_posix()}"
    links = {'Open in Colab': f'https://colab.research.google.com/github/{in_repository}',
             'Open in Kaggle': f'https://www.kaggle.com/kernels/welcome?src={repository_url(path)}',
             'Notebook file': repository_url(path)}
    if path in NOTEBOOKS: links['API'] = f'/api/{short_name(path)}.md'
    return ' · '.join(f'[{text}]({target})' for text, target in links.items())


def write_pages(folder):
    "Write a page for each notebook."
    for path in [*NOTEBOOKS, *REPORTS]:
        cells = page_cells(read_notebook(path).cells, path)
        cells.insert(1, new_markdown_cell(link_line(path)))
        write_notebook(folder/PAGES[path], cells)


def toctree(entries, caption=''):
    "A part of the sidebar; its entries are documents, or `title <document>`."
    title = [f':caption: {caption}'] if caption else []
    return '\n'.join(['```{toctree}', ':hidden:', *title, '', *entries, '```', ''])


def chapters():
    "Title of each chapter → its notebooks; the title is that of the notebook with the bare name of the chapter."
    for _, group in groupby(NOTEBOOKS, key=lambda path: path.name[0]):
        paths = list(group)
        main = next(path for path in paths if '.' not in path.stem)
        yield notebook_title(main), [f"{numbered_title(path)} </{PAGES[path].with_suffix('')}>" for path in paths]


def write_front_page(folder, invitation=''):
    "Write nbs/index.ipynb as front page, with the contents of the site, and the Markdown of `browser` if there is any."
    source = NBS/SETTINGS['readme_nb']
    cells = page_cells(read_notebook(source).cells, source)
    if invitation: cells.insert(1, new_markdown_cell(invitation))
    try_it = ['In the browser <browser>'] if invitation else []
    trees = [toctree([*try_it, 'results/index', 'Example of a report <report>', 'models/index'], 'Results'),
             toctree(['cli', 'api/index', f"Repository <{SETTINGS['git_url']}>"], 'Reference')]
    trees += [toctree(pages, title) for title, pages in chapters()]
    trees += [toctree([str(PAGES[path].with_suffix('')) for path in REPORTS], 'Report notebooks')]
    write_notebook(folder/PAGES[source], [*cells, *map(new_markdown_cell, trees)])
