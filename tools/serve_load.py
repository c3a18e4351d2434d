"""Load test of `fer2013 serve`, by hand: python tools/serve_load.py [REQUESTS [AT_A_TIME]]

Starts a service, sends it photographs and, every tenth time, a body that is none, and prints as JSON: the answers by
status, the memory of the service after each tenth of the requests, its CPU time, and the load of the machine.
"""
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from matplotlib.cbook import get_sample_data
from PIL import Image

from fer2013_cnn.core import machine_info

COMMAND = [sys.executable, '-m', 'fer2013_cnn', 'serve', '--port', '0']
BROKEN = (b'', b'<html>', b'GIF89a')


def photographs():
    "Encoded photographs of different sizes, so that memory is asked for and given back in different amounts."
    image = Image.open(get_sample_data('grace_hopper.jpg', asfileobj=False))
    files = [io.BytesIO() for _ in range(4)]
    for file, factor in zip(files, (.5, 1, 1.5, 3)):
        image.resize([round(side*factor) for side in image.size]).save(file, 'JPEG')
    return [file.getvalue() for file in files]


def memory(process):
    "Resident memory in MB."
    return int(re.search(r'VmRSS:\s+(\d+)', Path(f'/proc/{process.pid}/status').read_text())[1])/1024


def cpu_seconds(process):
    "CPU time of a process so far."
    fields = Path(f'/proc/{process.pid}/stat').read_text().rpartition(')')[2].split()
    return sum(map(int, fields[11:13]))/os.sysconf('SC_CLK_TCK')


def send(client, number, pictures):
    "Status and number of faces, or the error, of the answer to one request; 'lost' if there was none."
    broken = number % 10 == 9
    body = BROKEN[number//10 % len(BROKEN)] if broken else pictures[number % len(pictures)]
    try: answer = client.post('/predict', content=body)
    except httpx.HTTPError as error: return f'lost: {type(error).__name__}'
    result = answer.json()
    return f"{answer.status_code}, {'error' if 'error' in result else '{} face'.format(len(result['faces']))}"


def main(requests=5000, at_a_time=20):
    process = subprocess.Popen(COMMAND, stdout=subprocess.PIPE, text=True)
    address, pictures = re.match(r'(http://.*)/predict', process.stdout.readline())[1], photographs()
    counts, sizes, start = Counter(), [], time.perf_counter()
    with httpx.Client(base_url=address, timeout=600) as client, ThreadPoolExecutor(at_a_time) as pool:
        for tenth in range(10):
            numbers = range(tenth*requests//10, (tenth + 1)*requests//10)
            counts.update(pool.map(lambda number: send(client, number, pictures), numbers))
            sizes.append(round(memory(process)))
            print(f'{numbers.stop:,}: {sizes[-1]} MB', file=sys.stderr, flush=True)
    seconds, cpu = time.perf_counter() - start, cpu_seconds(process)
    process.send_signal(signal.SIGTERM)
    process.wait(20)
    print(json.dumps(dict(requests=requests, at_a_time=at_a_time, answers=counts, memory_mb=sizes,
                          seconds=round(seconds), cpu_seconds=round(cpu), machine=machine_info(),
                          load_average=round(os.getloadavg()[0], 1)), indent=1))


if __name__ == '__main__': main(*map(int, sys.argv[1:]))
