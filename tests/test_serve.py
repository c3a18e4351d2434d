"""The service as other programs meet it: a process, many requests at a time, bodies that are no photographs."""
import io
import re
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from common import BIN, QUIET
from matplotlib.cbook import get_sample_data
from PIL import Image

pytestmark = pytest.mark.slow
PHOTOGRAPH = Path(get_sample_data('grace_hopper.jpg', asfileobj=False)).read_bytes()


@pytest.fixture(scope='module')
def service():
    "A running service: its process and address."
    process = subprocess.Popen([BIN/'fer2013', 'serve', '--model', 'small', '--port', '0'], env=QUIET,
                               stdout=subprocess.PIPE, text=True)
    yield process, re.match(r'(http://127.0.0.1:\d+)/predict', process.stdout.readline())[1]
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 1  # stopped


def memory(process):
    "Resident memory in MB."
    return int(re.search(r'VmRSS:\s+(\d+)', Path(f'/proc/{process.pid}/status').read_text())[1])/1024


def test_twenty_at_a_time_lose_none_and_memory_stays_flat(service):
    process, address = service
    with httpx.Client(base_url=address, timeout=120) as client, ThreadPoolExecutor(20) as pool:
        def ask(_): return client.post('/predict', content=PHOTOGRAPH)
        answers = [*pool.map(ask, range(40))]
        before = memory(process)
        answers += pool.map(ask, range(160))
        assert memory(process) < 1.1*before
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()['faces'][0]['emotion'] for answer in answers} == {'neutral'}


@pytest.mark.parametrize('body, status, says', [
    (b'', 422, 'empty'), (b'GIF89a', 422, 'not an image'), (b'<html>', 422, 'not an image'),
    (PHOTOGRAPH[:5000], 422, ''),
    (bytes(20_000_001), 413, 'more than 20,000,000 bytes')])
def test_a_bad_body_gets_one_sentence(service, body, status, says):
    answer = httpx.post(f'{service[1]}/predict', content=body, timeout=60)
    assert answer.status_code == status and says in answer.json()['error'] and '\n' not in answer.json()['error']


def test_a_photograph_of_too_many_pixels_is_refused_before_it_is_decoded(service):
    Image.new('1', (20_000, 10_000)).save(file := io.BytesIO(), 'PNG')
    before = memory(service[0])
    answer = httpx.post(f'{service[1]}/predict', content=file.getvalue(), timeout=60)
    assert answer.status_code == 422 and 'at most 150,000,000' in answer.json()['error']
    assert memory(service[0]) < before + 20  # decoded, it would be 200 MB


@pytest.mark.parametrize('headers', [
    {'Host': 'evil.example'}, {'Host': 'rebound.example:8000'},            # DNS rebinding
    {'Origin': 'https://evil.example'}, {'Origin': 'null'}, {'Origin': 'http://127.0.0.1:1'},
    {'Sec-Fetch-Site': 'cross-site', 'Sec-Fetch-Mode': 'no-cors'}], ids=str)
def test_pages_and_names_from_elsewhere_are_refused(service, headers):
    for answer in (httpx.get(service[1], headers=headers),
                   httpx.post(f'{service[1]}/predict', content=PHOTOGRAPH, headers=headers)):
        assert answer.status_code == 403 and answer.json()['error'].startswith('refused')


def test_programs_and_own_pages_are_answered(service):
    port = service[1].rpartition(':')[2]
    for headers in ({}, {'Host': f'localhost:{port}'}, {'Origin': service[1]}):
        assert httpx.get(service[1], headers=headers).status_code == 200
    assert httpx.get(f'{service[1]}/nothing').json() == {'error': 'Not Found'}
