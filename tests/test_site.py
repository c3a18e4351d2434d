"""The web site, built once without the network: its pages, their order, its links and its search."""
import fcntl
import json
import os
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from common import BIN, NOTEBOOKS, QUIET, REPORTS, ROOT

pytestmark = pytest.mark.slow
OFFLINE = {name: 'http://127.0.0.1:9' for name in ('HTTPS_PROXY', 'HTTP_PROXY', 'https_proxy', 'http_proxy')}
PAGES = [path for path in NOTEBOOKS if re.match(r'\d\d_', path.name)] + REPORTS  # the order of reading
LOADED = dict(script='src', img='src', iframe='src', source='src', link='href')


class Page(HTMLParser):
    "Anchors, links, loaded files and text of an HTML file."

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loaded, self.text = set(), [], [], path.read_text(encoding='utf-8')
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids.add(attrs.get('id'))
        if tag == 'a' and 'href' in attrs: self.links.append(attrs['href'])
        if tag in LOADED and LOADED[tag] in attrs: self.loaded.append(attrs[LOADED[tag]])


@pytest.fixture(scope='session')
def site(tmp_path_factory, testrun_uid):
    "The folder of the built site; a warning would end the build."
    folder = tmp_path_factory.getbasetemp().parent/f'site-{testrun_uid}'
    with open(folder.with_suffix('.lock'), 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one process of pytest-xdist builds, the other waits
        if not (folder/'html').exists(): build_site(folder)
    return folder/'html'


def build_site(folder):
    "Run `make site` without the network; it must not print anything. A stand-in takes the place of `make page`."
    (folder/'page').mkdir(parents=True)
    (folder/'page'/'index.html').write_text('<a href="../index.html">fer2013_cnn</a>')
    command = ['make', '--silent', 'site', f'SITE={folder}', f'VENV={BIN.parent}', f'--old-file={BIN.parent}/installed']
    done = subprocess.run(command, cwd=ROOT, env=QUIET | OFFLINE, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')


@pytest.fixture(scope='session')
def pages(site):
    "Path → page."
    return {path: Page(path) for path in site.rglob('*.html')}


def test_the_sidebar_lists_every_notebook_in_order(site, pages):
    links = [link for link in pages[site/'index.html'].links if link.startswith('nbs/')]
    expected = [path.with_suffix('.html').as_posix() for path in PAGES]
    assert list(dict.fromkeys(links)) == expected and all((site/name).exists() for name in expected)


def test_the_page_that_runs_in_the_browser_is_linked(site, pages):
    links = pages[site/'index.html'].links
    assert 'page/index.html' in links and 'browser.html' in links
    assert 'page/index.html' in pages[site/'browser.html'].links


def test_every_notebook_links_to_colab(site, pages):
    for path in PAGES:
        links = [link for link in pages[site/path.with_suffix('.html')].links if 'colab' in link]
        assert len(links) == 1 and links[0].endswith(f'/blob/main/{path.as_posix()}')


def test_nothing_is_loaded_from_elsewhere(site, pages):
    for path, page in pages.items():
        assert [name for name in page.loaded if urlsplit(name).scheme not in ('', 'data')] == [], path
    for path in site.rglob('*.css'):
        assert not re.search(r'(url\(|@import)\W*(https?:)?//', path.read_text(encoding='utf-8')), path


def test_no_link_within_the_site_is_broken(pages):
    broken = []
    for path, page in pages.items():
        for link in page.links + page.loaded:
            target = urlsplit(link)
            if target.scheme: continue
            file = Path(os.path.normpath(path.parent/unquote(target.path))) if target.path else path
            anchors = pages[file].ids | {''} if file in pages else {''}
            if not file.exists() or unquote(target.fragment) not in anchors: broken.append((path.name, link))
    assert broken == []


def test_the_search_finds_load_pretrained(site):
    text = (site/'searchindex.js').read_text(encoding='utf-8')
    index = json.loads(text[text.index('{'):text.rindex('}') + 1])
    found = index['terms']['load_pretrain']  # words are stemmed
    assert {'api/model.inference', 'nbs/21_model.inference'} <= {index['docnames'][number] for number in found}


def test_pages_are_made_for_readers(site, pages):
    "Parameters and options are explained; neither directives nor folders of this machine appear."
    assert 'of the notebook, see' in pages[site/'api'/'reporting.html'].text
    assert 'Videos: use each N-th frame.' in pages[site/'cli.html'].text
    assert 'paired by image' in pages[site/'report.html'].text
    for path, page in pages.items():
        assert str(ROOT) not in page.text and 'default_exp' not in page.text, path
