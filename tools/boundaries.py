"""A valid file for each boundary, a reader for it, and ways to change it; for tests/test_fuzz.py and tools/fuzz.py."""
import gzip
import io
import shutil
from dataclasses import fields
from functools import lru_cache
from unittest.mock import patch

import hostile
import numpy as np
from PIL import Image

from fer2013_cnn.data.folders import read_dataset
from fer2013_cnn.data.synthetic import synthetic_dataset
from fer2013_cnn.model.inference import WEIGHTS, open_classifier
from fer2013_cnn.prediction.faces import open_image
from fer2013_cnn.training.config import TrainConfig
from fer2013_cnn.training.run import read_history

RUN_KEYS = ('data', 'data.class_names', 'data.fingerprint', 'data.counts', 'data.name', 'data.notes', 'data.skipped',
            'private_test_opened', 'finished', 'machine', 'selected_epoch', 'versions')
PICTURES = ('PNG', 'JPEG', 'GIF', 'BMP', 'TIFF', 'WEBP', 'PPM')
SETTINGS = tuple(field.name for field in fields(TrainConfig))


def change(content, changes):
    "Apply changes, (kind, place from 0 to 1, bytes) each, to the bytes of a file."
    content = bytearray(content)
    for kind, place, block in changes:
        start = int(place*len(content))
        if kind == 'flip': content[start:start+1] = bytes(byte ^ block[0] for byte in content[start:start+1])
        elif kind == 'cut': del content[start:start + 4**block[0] % 997 + 1]
        elif kind == 'repeat': content[start:start] = content[start:start + 4**block[0] % 997 + 1]
        else: content[start:start] = block
    return bytes(content)


@lru_cache
def small_csv(): return hostile.csv_bytes(synthetic_dataset((3, 1, 1)))


def picture(kind):
    file = io.BytesIO()
    Image.fromarray(np.arange(2304, dtype=np.uint8).reshape(48, 48)).save(file, kind)
    return file.getvalue()


def file_of_run(name): return (hostile.finished_run()/name).read_bytes()


def read_source(folder, content):
    (folder/'source').write_bytes(content)
    return read_dataset(folder/'source')


def read_in_run(name):
    def read(folder, content):
        run = hostile.run_copy(folder, 'run')
        (run/name).write_bytes(content)
        return read_history(run) if name == 'history.jsonl' else hostile.use_run(run)
    return read


def read_onnx(folder, content):
    (folder/'network.onnx').write_bytes(content)
    return open_classifier(folder/'network.onnx').predict(hostile.faces().images[:2])


def cached(name):
    "A reader of a cache entry with one changed file: the data are right, whatever was changed."
    def read(folder, content):
        cache, source = folder/'cache', folder/'fer.csv'
        shutil.rmtree(cache, ignore_errors=True)
        source.write_bytes(small_csv())
        with patch('fer2013_cnn.data.load.SETTLED', 0): right = hostile.load_data(source, cache).fingerprint
        (next(cache.glob('*-raise-*'))/name).write_bytes(content)
        if hostile.load_data(source, cache, verify=True).fingerprint != right: raise hostile.Broken('wrong data')
    return read


@lru_cache
def entry(name):
    folder = hostile.Path(hostile.tempfile.mkdtemp())
    (folder/'fer.csv').write_bytes(small_csv())
    hostile.load_data(folder/'fer.csv', folder/'cache')
    return (next((folder/'cache').glob('*-raise-*'))/name).read_bytes()


SEEDS = {'csv': small_csv, 'csv.gz': lambda: gzip.compress(small_csv(), mtime=0),
         'tar': lambda: hostile.tarred(('a.csv', small_csv()), pax_headers={'comment': 'x'}),
         'zip': lambda: hostile.zipped(('a.csv', small_csv())),
         **{kind: lambda kind=kind: picture(kind) for kind in PICTURES},
         **{name: lambda name=name: file_of_run(name) for name in ('run.json', 'history.jsonl',
                                                                   'predictions-PublicTest.npz')},
         'about.json': lambda: entry('about.json'), 'images.npy': lambda: entry('images.npy'),
         'onnx': lambda: (WEIGHTS/'small.onnx').read_bytes()}
READERS = {**dict.fromkeys(('csv', 'csv.gz', 'tar', 'zip'), read_source),
           **dict.fromkeys(PICTURES, lambda folder, content: open_image(content)),
           **{name: read_in_run(name) for name in ('run.json', 'history.jsonl', 'predictions-PublicTest.npz')},
           'about.json': cached('about.json'), 'images.npy': cached('images.npy'), 'onnx': read_onnx}
