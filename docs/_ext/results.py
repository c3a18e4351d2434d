"""The pages of results: runs, measurements, model cards, and a report that is written from stored predictions."""
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
from nbformat.v4 import new_markdown_cell
from notebooks import page_cells, toctree, write_notebook
from repository import CARDS, NBS, PAGES, RESULTS, SETTINGS, read_notebook, repository_url, rewrite_links
from tables import file_tables, markdown_table

from fer2013_cnn import reporting
from fer2013_cnn.core import checksum, CLASSES, read_run
from fer2013_cnn.evaluation.plots import plot_confusion, plot_history
from fer2013_cnn.evaluation.tables import (badge_line, badges, class_table, format_metric, headline_markdown,
    headline_table, metric_table, pretrained_accuracy, PROBABILITY_METRICS)
from fer2013_cnn.model.inference import unpack_weights
from fer2013_cnn.model.zoo import build_model
from fer2013_cnn.training.run import load_predictions, read_history, read_metrics, update_run

RUNS = [path for path in RESULTS if (path/'metrics.json').exists()]
REPORTED = [path for path in RUNS if (path/'weights.npz').exists()]  # with predictions, so a report can compare them


def figure(folder, name, fig, alt):
    "Save a figure beside the pages of results; the Markdown that shows it."
    fig.savefig(folder/'results'/f'{name}.svg', metadata=dict(Date=None))
    return f'![{alt}]({name}.svg)'


def run_page(run, folder):
    "The scores of a run, its curves and its settings."
    metrics, run_info = read_metrics(run), read_run(run)
    private = metrics['PrivateTest']
    history = plot_history(read_history(run), run_info['selected_epoch'])
    parts = [f'# {run.name}', badge_line(badges(run_info)), headline_markdown(private, run_info),
             '## Accuracy', markdown_table(headline_table(metrics)), 'PrivateTest in detail:',
             markdown_table(metric_table(private)),
             '## Probabilities', markdown_table(metric_table(private, PROBABILITY_METRICS)),
             '## Classes', markdown_table(class_table(private))]
    if run in REPORTED:
        confusion = plot_confusion(load_predictions(run, 'PrivateTest'), 'PrivateTest')
        parts.append(figure(folder, f'{run.name}_confusion', confusion, 'Confusion matrix of PrivateTest'))
    parts += ['## Learning curves',
              figure(folder, f'{run.name}_history', history, 'Accuracy and loss of Training and PublicTest by epoch'),
              '## Configuration', markdown_table(pd.Series(run_info['config']).to_frame('')),
              '## Machine and versions',
              markdown_table(pd.Series(run_info['machine'] | run_info['versions']).to_frame(''))]
    return parts


def measurement_page(path):
    "The tables of a JSON file, or of all JSON files in a folder."
    if path.is_file(): return [f'# {path.stem}', *file_tables(path, 2)]
    parts = [f'# {path.name}']
    for file in sorted(path.glob('*.json')): parts += [f'## {file.name}', *file_tables(file, 3)]
    return parts


def file_list(path):
    "Links to the files of a result in the repository."
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return 'Files: ' + ', '.join(f'[{file.name}]({repository_url(file)})' for file in files) + '.'


def write_results(folder):
    "Write a page for each run and measurement, and the front page's section on results as their overview."
    (folder/'results').mkdir()
    for path in RESULTS:
        parts = run_page(path, folder) if path in RUNS else measurement_page(path)
        (folder/PAGES[path]).write_text('\n\n'.join([*parts, file_list(path)]), encoding='utf-8')
    source, page = NBS/SETTINGS['readme_nb'], PAGES[NBS/'results']
    cells = page_cells(results_section(read_notebook(source).cells), source)
    cells[0].source = cells[0].source.replace('## ', '# ', 1)
    scores = {run: format_metric(read_metrics(run)['PrivateTest'], 'accuracy') for run in RUNS}
    scores = pd.Series({f'[{run.name}]({run.name}.md)': score for run, score in scores.items()})
    others = [path.stem for path in RESULTS if path not in RUNS]
    texts = ['## All runs', markdown_table(scores.to_frame('PrivateTest accuracy')),
             '## Measurements', '\n'.join(f'* [{name}]({name}.md)' for name in others),
             toctree([path.stem for path in RUNS] + others)]
    write_notebook(folder/page, [*cells, new_markdown_cell('\n\n'.join(texts))])


def results_section(cells):
    "The cells from the heading of the results to the next heading."
    headings = [position for position, cell in enumerate(cells) if cell.source.startswith('## ')]
    start = next(position for position in headings if cells[position].source.startswith('## Results'))
    return cells[start:headings[headings.index(start) + 1]]


def write_cards(folder):
    "Write the model cards and their overview."
    (folder/'models').mkdir()
    for path in CARDS:
        text = rewrite_links(path.read_text(encoding='utf-8'), path)
        (folder/PAGES[path]).write_text(text, encoding='utf-8')
    scores = pretrained_accuracy().rename('PrivateTest accuracy')
    scores.index = [f'[{name}]({name}.md)' for name in scores.index]
    parts = ['# Model cards', markdown_table(scores.to_frame()), toctree([path.stem for path in CARDS])]
    (folder/'models'/'index.md').write_text('\n\n'.join(parts), encoding='utf-8')


def restore_run(run, scratch):
    "A copy of a stored run, with its network, of which the repository has only the weights."
    copy = shutil.copytree(run, scratch/run.name)
    network = build_model(read_run(copy)['config']['model'], len(CLASSES))
    unpack_weights(network, copy/'weights.npz')
    network.save(copy/'model.keras')
    update_run(copy, model_sha256=checksum(copy/'model.keras'))


def report_command():
    "The command that writes the report."
    runs = ','.join(run.name for run in REPORTED)
    return ['fer2013', 'report', 'compare_runs', '-p', f'runs={runs}', '-p', 'split=PrivateTest', '--run', 'report']


def start_report(scratch):
    "Start the report on restored runs, in a folder of its own; it takes seconds, in which other pages are written."
    scratch.mkdir(parents=True)
    for run in REPORTED: restore_run(run, scratch)
    program, *words = report_command()
    command = [Path(sys.executable).parent/program, *words]
    return subprocess.Popen(command, cwd=scratch, stdout=subprocess.DEVNULL)


def show_outputs(cell):
    "Reduce a code cell to its outputs, with the descriptions of its images."
    cell.outputs = reporting.visible_outputs(cell)
    cell.metadata = dict(tags=['remove-input'])
    for output in cell.outputs:
        if image := output.get('metadata', {}).get('image/png'):
            cell.metadata['mystnb'] = dict(image=dict(alt=image.get('alt', '')))


def finish_report(process, folder, scratch):
    "Wait for the report and write its page, also as the single file that a user gets."
    if process.wait(): raise SystemExit(f"{' '.join(report_command())} failed")
    cells = reporting.page_cells(read_notebook(scratch/'report'/'report.ipynb').cells)
    for cell in cells:
        if cell.cell_type == 'code': show_outputs(cell)
    note = (f"`{' '.join(report_command())}` wrote this report from [stored runs](/results/index.ipynb) when the site "
            'was built. It is also <a href="report/report.html">a single file</a>.')
    write_notebook(folder/'report.ipynb', [cells[0], new_markdown_cell(note), *cells[1:]])
    (folder/'_extra'/'report').mkdir(parents=True)
    shutil.copy(scratch/'report'/'report.html', folder/'_extra'/'report')
