"""Build the site: `python docs/build.py FOLDER` writes FOLDER/src from files of the repository, and FOLDER/html."""
import os
import shutil
import sys
from pathlib import Path

os.environ.update(TF_CPP_MIN_LOG_LEVEL='3', MPLBACKEND='agg')
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE/'_ext'))

import browser
import notebooks
import reference
import results
from repository import NBS, PAGES
from sphinx.cmd.build import build_main


def write_sources(folder, page):
    "Write all pages; `page` is the folder of the page that runs in the browser."
    notebooks.write_pages(folder)
    notebooks.write_front_page(folder, browser.write_page(folder, page))
    shutil.copytree(NBS/'images', folder/PAGES[NBS/'images'])
    reference.write_pages(folder)
    results.write_results(folder)
    results.write_cards(folder)


def main(folder):
    "Replace what the last build left in a folder. A warning of Sphinx is an error."
    source, scratch, html = (folder/name for name in ('src', 'report', 'html'))
    for path in (source, scratch, html): shutil.rmtree(path, ignore_errors=True)
    report = results.start_report(scratch)
    write_sources(source, folder/'page')
    results.finish_report(report, source, scratch)
    options = ['--quiet', '--fail-on-warning', '--keep-going', '--nitpicky', '--fresh-env']
    return build_main([*options, '-c', str(HERE), '-d', str(folder/'doctrees'), str(source), str(html)])


if __name__ == '__main__': sys.exit(main(Path(sys.argv[1])))
