"""Refused parameters and folders, failing cells, and what a report page shows."""
from unittest.mock import patch

import nbformat
import pytest

from fer2013_cnn.core import UserError
from fer2013_cnn.reporting import (check_parameters, execute_notebook, page_cells, report, report_notebooks,
                                   report_parameters, write_html, write_pdf)

new_text, new_code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell


def write_notebook(path, *cells):
    "A notebook with one parameter, n."
    parameters = new_code('n: int = 1  # a number', metadata=dict(tags=['parameters']))
    nbformat.write(nbformat.v4.new_notebook(cells=[new_text('# Test'), parameters, *cells]), path)
    return path


@pytest.mark.parametrize('name, value, message', [
    ('epoch', 3, "unknown parameter of evaluate 'epoch': expected data, run"),
    ('epochs', 'many', 'epochs=many, expected a value of type int'),
    ('learning_rate', 'low', 'learning_rate=low, expected a value of type float')])
def test_parameters_are_checked(name, value, message):
    with pytest.raises(UserError, match=message):
        check_parameters(report_notebooks()['evaluate'], {name: value})


@pytest.mark.parametrize('notebook', report_notebooks().values(), ids=report_notebooks())
def test_every_parameter_is_typed_and_explained(notebook):
    parameters = report_parameters(notebook)
    assert 'run' in parameters
    assert all(parameter['help'] and parameter['type'] in ('str', 'int', 'float') for parameter in parameters.values())


def test_an_unknown_report_is_refused():
    with pytest.raises(UserError, match="unknown report 'nothing': expected benchmark, compare_runs, data_audit"):
        report('nothing')


def test_a_folder_with_a_report_or_a_run_is_refused(tmp_path):
    for name, message in (('report.html', 'already holds a report'), ('run.json', 'already holds a run')):
        run = tmp_path/name.split('.')[-1]
        run.mkdir()
        (run/name).write_text('{}')
        with pytest.raises(UserError, match=message):
            report('data_audit', run=run, data='sample')
        assert [path.name for path in run.iterdir()] == [name]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path/'file').write_text('')
    with pytest.raises(UserError, match='cannot be written'):
        report('data_audit', run=tmp_path/'file'/'run', data='sample')


@pytest.mark.parametrize('source, message', [
    ('1/0', r'ZeroDivisionError: division by zero \(cell \d+ of .*report.failed.ipynb\)'),
    ("from fer2013_cnn.core import UserError\nraise UserError('one line')", '^one line$'),
    ('raise ValueError', 'ValueError:  ')])
def test_a_failing_cell_leaves_its_notebook_and_no_page(tmp_path, source, message):
    notebook = write_notebook(tmp_path/'test.ipynb', new_code(source))
    (tmp_path/'run').mkdir()
    with pytest.raises(UserError, match=message):
        execute_notebook(notebook, tmp_path/'run', dict(n=2))
    assert [path.name for path in (tmp_path/'run').iterdir()] == ['report.failed.ipynb']


def test_a_dead_kernel_is_named(tmp_path):
    kill = 'import os, signal\nos.kill(os.getpid(), signal.SIGKILL)'
    notebook = write_notebook(tmp_path/'test.ipynb', new_code(kill))
    (tmp_path/'run').mkdir()
    with pytest.raises(UserError, match='the kernel died .*; partial notebook: .*report.running.ipynb'):
        execute_notebook(notebook, tmp_path/'run', {})


def shown(name):
    "A code cell that has printed on one of the streams; None: it has printed nothing."
    return new_code('...', outputs=[nbformat.v4.new_output('stream', name=name, text='text')] if name else [])


@pytest.mark.parametrize('cells, expected', [
    ([new_text('## Empty'), shown(None)], ''),
    ([new_text('## Warning'), shown('stderr')], ''),
    ([new_text('## Full'), shown(None), shown('stdout')], '## Full/...'),
    ([new_text('## Half'), new_text('a'), shown(None), new_text('b'), shown('stdout')], '## Half/b/...'),
    ([new_text('## Empty'), new_text('a'), shown(None), new_text('## Full'), shown('stdout')], '## Full/...'),
    ([new_text('# Title'), shown(None), new_text('## Full'), shown('stdout')], '# Title/## Full/...'),
    ([new_text('## Section'), new_text('### Empty'), shown(None), new_text('### Full'), shown('stdout')],
     '## Section/### Full/...'),
    ([new_text('## Prose'), new_text('without code')], '## Prose/without code')])
def test_a_cell_that_shows_nothing_leaves_no_trace(cells, expected):
    assert '/'.join(cell.source for cell in page_cells(cells)) == expected


def test_a_page_contains_outputs_only(tmp_path):
    hidden = new_code("print('progress')", metadata=dict(tags=['remove_output']))
    warning = new_code("import warnings\nwarnings.warn('careful')")
    shows = new_code("'<' + str(n)")
    notebook = write_notebook(tmp_path/'test.ipynb', hidden, warning, new_text('A value & more:'), shows)
    page = write_html(execute_notebook(notebook, tmp_path, dict(n=4))).read_text()
    assert '&lt;4' in page and f'<title>Test: {tmp_path.name}</title>' in page
    for text in ('progress', 'careful', 'warnings.warn', '<script', 'http:', 'https:'):
        assert text not in page


@pytest.mark.parametrize('browser', [None, '/bin/false', '/no/such/browser'])
def test_without_a_working_browser_there_is_no_pdf(tmp_path, browser):
    (tmp_path/'report.html').write_text('<p>page')
    with patch('shutil.which', return_value=browser):
        assert write_pdf(tmp_path/'report.html') is None
    assert [path.name for path in tmp_path.iterdir()] == ['report.html']
