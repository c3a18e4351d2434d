"""Hostile input for every boundary: `python tools/hostile.py [GROUP...]` prints what broke, and `N of M`.

A case is right if it ends within its time limit with the right result, or with a `UserError` of one printable line.
The groups in `SLOW` start processes; `make test` runs the others.
"""
import base64
import bz2
import gzip
import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from contextlib import contextmanager, redirect_stdout
from functools import lru_cache
from pathlib import Path
from unittest.mock import patch

os.environ.update(TQDM_DISABLE='1', TF_CPP_MIN_LOG_LEVEL='3')
import numpy as np
import pandas as pd
from PIL import Image

from fer2013_cnn.core import (CLASSES, SPLITS, UserError, atomic_write, csv_text, only_process, printable, read_run,
                              write_json)
from fer2013_cnn.data.load import load_data, load_ferplus, read_cache
from fer2013_cnn.data.synthetic import synthetic_dataset

BIN = Path(sys.executable).parent
LIMIT = 30  # seconds a case, or five minutes where processes train
SLOW = ('processes',)
GROUPS = {}
EVIL = ('\x1b[2J\x1b[31mred', 'a\nfer2013: all is well', '\x07bell', '\u202egnp.exe', '\x9b31m', 'tab\there',
        '$\\frac{1}{$')
FORMULAS = ('=1+1', '+1', '-1', '@SUM(A1)', '\t=1')
LINK, TAG = '[x](javascript:alert(1))', '<img src=x onerror=alert(1)>'
BAD_BYTES = os.fsdecode(b'caf\xe9')


def group(cases):
    "Decorator: a generator of pairs (name, call) is a group of cases."
    GROUPS[cases.__name__] = cases
    return cases


class Broken(AssertionError):
    "The result of a case is not what it must be."


@contextmanager
def time_limit(seconds):
    def stop(number, frame): raise Broken(f'more than {seconds} s')
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try: yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def check_line(message):
    "The message of an error must be one printable line that can be read."
    if not message.isprintable() or not 0 < len(message) < 2100: raise Broken(f'message {message[:200]!r}')


def run_case(call, limit=LIMIT):
    "None if the case is right, otherwise what broke."
    try:
        with time_limit(limit): call()
    except UserError as error:
        try: check_line(str(error))
        except Broken as broken: return str(broken)
    except Broken as broken: return str(broken)
    except Exception as error: return f'{type(error).__name__}: {str(error)[:200]}'
    return None


def refused(call, *args, says='', **options):
    "A case that must end with a `UserError`."
    def case():
        try: result = call(*args, **options)
        except UserError as error:
            check_line(str(error))
            if says not in str(error): raise Broken(f'{str(error)[:200]!r} does not say {says!r}') from None
            return
        raise Broken(f'accepted: {str(result)[:80]}')
    return case


def equal(expected, call):
    "A case with a known result."
    def case():
        if (result := call()) != expected: raise Broken(f'{result!r}, expected {expected!r}')
    return case


# what is damaged

@lru_cache
def faces(): return synthetic_dataset((70, 14, 14))


def csv_bytes(dataset=None, header='emotion,pixels,Usage'):
    dataset = dataset or faces()
    rows = (f"{label},{' '.join(map(str, image.ravel()))},{SPLITS[split]}"
            for image, label, split in zip(dataset.images, dataset.labels, dataset.splits))
    return '\n'.join([header, *rows, '']).encode()


PIXELS = ' '.join(['7']*2304)


def png(size=(48, 48), mode='L', **options):
    file = io.BytesIO()
    Image.new(mode, size).save(file, 'PNG', **options)
    return file.getvalue()


def loader(folder, name, content, **options):
    "A case in which a file is loaded, and loaded again from the cache."
    def load():
        path = folder/name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content() if callable(content) else content)
        for _ in range(2): dataset = load_data(path, folder/'cache', **options)
        return dataset
    return load


def zipped(*members, method=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', method) as archive:
        for name, content in members: archive.writestr(name, content)
    return file.getvalue()


def tarred(*members, **changes):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w', format=changes.pop('format', tarfile.PAX_FORMAT)) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in changes.items(): setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def bomb(block, count):
    "A gzip file of a block that is repeated."
    file = io.BytesIO()
    with gzip.GzipFile(fileobj=file, mode='wb', compresslevel=9) as stream:
        for _ in range(count): stream.write(block)
    return file.getvalue()


@group
def tables(folder):
    line = f'0,{PIXELS},Training'
    files = {
        'empty': b'', 'blank lines': b'\n'*99, 'header only': b'emotion,pixels,Usage\n', 'NUL': bytes(5000),
        'binary': bytes(range(256))*99, 'utf-16': csv_bytes().decode().encode('utf-16')[:9999],
        'latin-1 header': 'emotion,pixels,Us\xe4ge\n'.encode('latin-1'), 'one quote': b'"\n' + csv_bytes()[:9999],
        'open quote': f'emotion,pixels,Usage\n0,"{PIXELS},Training\n'.encode(), 'no columns': b'a,b,c\n1,2,3\n',
        'two pixels': b'pixels,pixels\n1,2\n', 'escape in the header': b'\x1b[2J,a\n', 'html': b'<html>\n<b>\n',
        'pickle': b'\x80\x04\x95', 'a long line': b'pixels\n' + b'1'*2**21, 'a long header': b'a,'*2**20,
        'many columns': b'pixels,' + b'x,'*5000 + b'\n', 'cr only': csv_bytes().replace(b'\n', b'\r')}
    pixels = {'256': PIXELS.replace('7', '256', 1), 'negative': PIXELS.replace('7', '-7', 1), 'one short': PIXELS[2:],
              'one more': PIXELS + ' 7', 'text': PIXELS.replace('7', 'x', 1), 'float': PIXELS.replace('7', '1.5', 1),
              'huge': PIXELS.replace('7', '9'*500, 1), 'nan': PIXELS.replace('7', 'nan', 1), 'empty': '',
              'escape': PIXELS.replace('7', '\x1b[2J', 1), 'exponent': PIXELS.replace('7', '1e2', 1),
              'underscore': PIXELS.replace('7', '1_0', 1), 'unicode digit': PIXELS.replace('7', '٣', 1)}
    for name, content in files.items(): yield name, refused(loader(folder, 'fer.csv', content))
    for name, text in pixels.items():
        content = f'emotion,pixels,Usage\n0,{text},Training\n'.encode()
        yield f'pixels {name}', refused(loader(folder, 'fer.csv', content))
    for label in ('7', '-1', '', '0.0', 'x', '\x1b[2J', '9'*999, '0;1', 'é'):
        yield f'label {label[:9]!r}', refused(loader(folder, 'fer.csv', line.replace('0', label, 1).join(
            ['emotion,pixels,Usage\n', '\n']).encode()))
    for usage in ('Test', '', 'training', '\x1b[2J', 'Training '*999):
        yield f'usage {usage[:9]!r}', refused(loader(folder, 'fer.csv', f'emotion,pixels,Usage\n0,{PIXELS},{usage}\n'
                                                     .encode()))
    yield 'two million blank lines', refused(loader(folder, 'fer.csv', b'pixels\n' + b'\n'*2_000_000), says='lines')
    yield 'skip is bounded', refused(loader(folder, 'fer.csv', b'pixels\n' + b'x\n'*1_100_000, on_bad='skip'))
    yield 'an option', refused(loader(folder, 'fer.csv', csv_bytes(), on_bad='\x1b[2J'))
    yield 'the name of a file', lambda: equal(98, lambda: len(loader(folder, EVIL[0] + '.csv', csv_bytes())()))()
    yield 'bytes in the name', lambda: equal(98, lambda: len(loader(folder, BAD_BYTES + '.csv', csv_bytes())()))()
    yield 'as it should be', equal(faces().fingerprint, lambda: loader(folder, 'good.csv', csv_bytes())().fingerprint)


@group
def archives(folder):
    good, plain = csv_bytes(), [('a.csv', csv_bytes())]
    packed = gzip.compress(good)
    for cut in (1, 100, len(packed)//2, len(packed) - 1):
        yield f'gzip cut at {cut}', refused(loader(folder, 'fer.gz', packed[:cut]))
    flipped = bytearray(packed)
    flipped[len(packed)//2] ^= 8
    yield 'gzip flipped', refused(loader(folder, 'fer.gz', bytes(flipped)))
    yield 'gzip checksum', refused(loader(folder, 'fer.gz', packed[:-8] + bytes(8)))
    yield 'gzip in gzip', refused(loader(folder, 'fer.gz', gzip.compress(packed)), says='gzip within gzip')
    deep = packed
    for _ in range(5): deep = gzip.compress(deep)
    yield 'gzip, six deep', refused(loader(folder, 'fer.gz', deep), says='gzip within gzip')
    yield 'bomb of blank lines', refused(loader(folder, 'fer.gz', lambda: b''.join([bomb(b'pixels\n', 1),
                                                                                   bomb(b'\n'*2**20, 256)])))
    yield 'bomb of zeros', refused(loader(folder, 'fer.gz', lambda: bomb(bytes(2**20), 256)))
    yield 'bomb in a tarball', refused(loader(folder, 'fer.tgz', lambda: bomb(tarred(('a.txt', bytes(2**20))), 256)))
    pax = tarred(('a.csv', good), pax_headers={'path': 'a.csv', 'comment': 'x'*600})
    yield 'pax header', lambda: loader(folder, 'pax.tar', pax)()
    for number, damage in enumerate((b'0 comment=', b'-5 comment=', b'99999999 comment=', b'xx comment=')):
        yield f'pax header {number}', lambda damage=damage: loader(
            folder, 'pax.tar', pax.replace(b'612 comment=', damage.ljust(12, b'x'))) ()
    yield 'tar size', refused(loader(folder, 'a.tar', tarred(('a.csv', good))[:-5000]))
    for kind, name in ((tarfile.SYMTYPE, 'link'), (tarfile.LNKTYPE, 'hard link'), (tarfile.FIFOTYPE, 'pipe'),
                       (tarfile.CHRTYPE, 'device')):
        yield f'tar {name}', refused(loader(folder, 'a.tar', tarred(('a.csv', b''), type=kind, linkname='/etc/passwd')))
    for name in ('../a.csv', '/a.csv', 'x/../../a.csv', 'a\\..\\b.csv'):
        yield f'tar {name}', refused(loader(folder, 'a.tar', tarred((name, good))))
        yield f'zip {name}', refused(loader(folder, 'a.zip', zipped((name, good))))
    yield 'tar of 20,000 files', refused(loader(folder, 'a.tar', lambda: tarred(
        *[(f'{i}', b'') for i in range(20_000)])))
    yield 'tar, a name of 170,000 characters', refused(loader(folder, 'a.tar', tarred(('x'*170_000, good), type=b'2')))
    yield 'zip, a name of 60,000 characters', refused(loader(folder, 'a.zip', zipped(('../' + 'x'*60_000, good))))
    yield 'zip cut', refused(loader(folder, 'a.zip', zipped(*plain)[:-30]))
    yield 'zip of two pictures with one name', refused(loader(folder, 'a.zip', zipped(
        *[(f'{split}/{name}/1.png', png()) for split in ('train', 'test') for name in ('a', 'b')],
        ('train/a/1.png', png()))), says='twice')
    for method, name in ((zipfile.ZIP_BZIP2, 'bzip2'), (zipfile.ZIP_LZMA, 'lzma'), (zipfile.ZIP_DEFLATED, 'deflate')):
        whole = bytearray(zipped(('fer2013.csv', good), method=method))
        for place in (40, 60, len(whole)//2):
            broken = bytes(whole[:place]) + bytes([whole[place] ^ 255]) + bytes(whole[place + 1:])
            yield f'zip {name} broken at {place}', refused(loader(folder, 'a.zip', broken))
    yield 'zip bomb', refused(loader(folder, 'a.zip', lambda: zipped(('a.csv', bytes(2**27)))))
    yield 'zip bomb of many', refused(loader(folder, 'a.zip', lambda: zipped(
        *[(f'train/a/{i}.png', bytes(2**21)) for i in range(64)])), says='packed size')
    encrypted = bytearray(zipped(*plain))
    for place in (6, encrypted.index(b'PK\x01\x02') + 8): encrypted[place] |= 1
    yield 'zip encrypted', refused(loader(folder, 'a.zip', bytes(encrypted)))
    yield 'zip of nothing', refused(loader(folder, 'a.zip', zipped()))
    yield 'zip of text', refused(loader(folder, 'a.zip', zipped(('a.txt', b'x'))))
    yield 'zip of two tables', refused(loader(folder, 'a.zip', zipped(('a.csv', good), ('b.csv', good))))
    yield 'zip in zip', refused(loader(folder, 'a.zip', zipped(('b.zip', zipped(*plain)))))
    yield 'zip, evil names', refused(loader(folder, 'a.zip', zipped(*[(f'{name}/1.png', png()) for name in EVIL])))
    yield 'a name that is no zip', refused(loader(folder, 'a.zip', b'hello'))
    yield 'bz2', refused(loader(folder, 'a.bz2', bz2.compress(good)))
    for name, content in {'b.zip': zipped(*plain), 'b.tar': tarred(*plain), 'b.gz': packed}.items():
        yield f'{name} as it should be', equal(faces().fingerprint, lambda name=name, content=content: loader(
            folder, name, content)().fingerprint)


def picture_folder(folder, names, content=None, count=12):
    root = folder/'faces'
    for name in names:
        (root/name).mkdir(parents=True, exist_ok=True)
        for number in range(count): (root/name/f'{number}.png').write_bytes(content or png())
    return root


@group
def folders(folder):
    def read(names, **options): return lambda: load_data(picture_folder(folder, names, **options), folder/'cache')
    for name in EVIL: yield f'class {name[:9]!r}', refused(read([name, 'b']), says='class name')
    for name in (BAD_BYTES, '\ud800'.encode('utf-8', 'surrogatepass').decode('latin-1'), ' ', 'x'*101, '$x$'):
        yield f'class {name[:9]!r}', refused(read([name, 'b']))
    for name in (*FORMULAS[:4], LINK[:4], 'a, b', 'a"b', "a'b", '日本語', '😀'):
        yield f'class {name!r} is read', equal({name, 'b'}, lambda name=name: set(read([name, 'b'])().class_names))
    yield 'no class', refused(read(['']))
    yield 'no picture', refused(read(['a'], count=0))
    yield 'few pictures', refused(read(['a', 'b'], count=3))
    yield '300 classes', refused(read([f'c{i}' for i in range(300)], count=1))
    for number, content in enumerate((b'', b'x', png()[:60], png((1, 1)) + b'x', png((48, 48), 'RGBA'),
                                      png((60_000, 1)), png((20_000, 20_000), '1'), png()[:-20],
                                      b'GIF89a' + bytes(99))):
        yield f'picture {number}', read(['a', 'b'], content=content)
    def special(make):
        def load():
            root = picture_folder(folder, ['a', 'b'])
            make(root/'a'/'x.png')
            return load_data(root, folder/'cache')
        return load
    yield 'a pipe', refused(special(os.mkfifo), says='regular file')
    yield 'a link to /dev/zero', refused(special(lambda path: path.symlink_to('/dev/zero')), says='regular file')
    yield 'a broken link', refused(special(lambda path: path.symlink_to('nowhere')))
    yield 'a link to itself', refused(special(lambda path: path.symlink_to(path)))
    yield 'a link to the folder above', refused(special(lambda path: path.symlink_to('..')), says='link to a folder')
    yield 'a folder named like a picture', special(lambda path: path.mkdir())
    yield 'a socket', refused(special(lambda path: os.mknod(path, 0o140600)))


@group
def special_files(folder):
    os.mkfifo(folder/'pipe')
    (folder/'loop').symlink_to('loop')
    for path in (folder/'pipe', '/dev/zero', '/dev/null', '/dev/stdin', '/proc/self/mem', folder/'loop', folder/'none',
                 'x'*300, 'x/'*3000, 'nul\0', '~nobody-of-this-name/x', '', ' ', '\x1b[2J', BAD_BYTES, 'kaggle:x',
                 'kaggle:../../x/y'):
        if path == '': continue
        yield f'data {str(path)[:20]!r}', refused(load_data, path, folder/'cache')
    from fer2013_cnn.model.inference import open_classifier, open_network
    for path in (folder/'pipe', '/dev/zero', folder, 'x'*300, 'nul\0', '\x1b[2J', BAD_BYTES, 'base\n', folder/'x.onnx'):
        yield f'network {str(path)[:20]!r}', refused(open_classifier, path)
        yield f'Keras network {str(path)[:20]!r}', refused(open_network, str(path))
    from fer2013_cnn.prediction.images import predict_faces
    for path in (folder/'pipe', '/dev/zero', folder/'none.jpg', 'x'*300, 'nul\0', '\x1b[2J', BAD_BYTES, '[', '**[', []):
        yield f'picture {str(path)[:20]!r}', refused(predict_faces, path)
    for path in ('x'*300, 'nul\0', folder/'pipe', '/dev/zero', '\x1b[2J'):
        yield f'run {str(path)[:20]!r}', refused(read_run, path)
        yield f'cache {str(path)[:20]!r}', refused(load_data, __file__, path)
        yield f'votes {str(path)[:20]!r}', refused(load_ferplus, path, faces())


@group
def pictures(folder):
    from fer2013_cnn.prediction.faces import open_image
    whole = {kind: io.BytesIO() for kind in ('PNG', 'JPEG', 'BMP', 'GIF', 'TIFF', 'WEBP', 'PPM')}
    for kind, file in whole.items(): Image.fromarray(np.arange(4096, dtype=np.uint8).reshape(64, 64)).save(file, kind)
    for kind, file in whole.items():
        data = file.getvalue()
        yield f'{kind} cut', lambda data=data: open_image(data[:len(data)//2])
        yield f'{kind} start', refused(open_image, data[:12])
        yield f'{kind} flipped', lambda data=data: [open_image(data[:i] + bytes([data[i] ^ 255]) + data[i+1:])
                                                    for i in range(20, 40)]
    chunk = struct.pack('>IIBBBBB', 2**31 - 1, 2**31 - 1, 8, 0, 0, 0, 0)
    chunk = b'IHDR' + chunk
    header = b'\x89PNG\r\n\x1a\n' + struct.pack('>I', 13) + chunk + struct.pack('>I', zlib.crc32(chunk))
    yield 'a PNG of 4 exapixels', refused(open_image, header + b'\0'*99)
    yield 'a text chunk of 100 MB', refused(open_image, png()[:33] + struct.pack('>I', 10**8) + b'zTXt' + b'x'*99)
    yield 'svg', refused(open_image, b'<svg xmlns="http://www.w3.org/2000/svg"/>')
    yield 'eps', refused(open_image, b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n')
    yield 'pdf', refused(open_image, b'%PDF-1.4')
    for shape, kind in (((0, 5), 'u1'), ((5, 5), 'f8'), ((3,), 'u1'), ((2, 2, 7), 'u1')):
        yield f'array {shape}', refused(open_image, np.zeros(shape, kind))


# runs

@lru_cache
def finished_run():
    "A run folder with two splits of predictions; its network is the package's."
    from fer2013_cnn.training.run import (Predictions, append_history, describe_data, save_predictions, start_run,
                                          update_run)
    run = start_run(Path(tempfile.mkdtemp())/'run', dict(data=describe_data(faces()), config=dict(model='small'),
                                                         backend='tensorflow'))
    rng = np.random.default_rng(0)
    for split in SPLITS[1:]:
        indices = faces().indices(split)
        probabilities = rng.dirichlet([1]*7, len(indices)).astype(np.float32)
        save_predictions(run, Predictions(indices, faces().labels[indices], probabilities, indices >= 0,
                                          np.array(CLASSES), np.zeros(len(indices)), split))
    for epoch in (1, 2):
        append_history(run, epoch=epoch, loss=1., accuracy=.5, val_loss=1., val_accuracy=.5, seconds=1.)
    update_run(run, finished='2026-01-01T00:00:00+00:00', selected_epoch=1, selected_on='PublicTest')
    return run


def run_copy(folder, name):
    shutil.rmtree(folder/name, ignore_errors=True)
    return Path(shutil.copytree(finished_run(), folder/name))


def use_run(run):
    "What commands do with a run folder, without a network."
    from fer2013_cnn.evaluation.metrics import evaluate_run
    from fer2013_cnn.evaluation.tables import card_facts, card_text, data_paragraph, headline_html, protocol_paragraph
    from fer2013_cnn.training.run import read_history, read_metrics
    run_info = read_run(run)
    metrics = {split: evaluate_run(run, split) for split in SPLITS[1:]}
    headline_html(metrics['PrivateTest'], run_info)
    data_paragraph(run_info['data'], 'asked for')
    protocol_paragraph(run_info | dict(config=dict(epochs=2, seed=0)), 'asked for')
    card_text('run', card_facts(run) | dict(parameters=1, config=None))
    read_history(run)
    return read_metrics(run)


def edited(folder, edit, name='run.json'):
    "A case with a run of which one JSON file was edited; the checksum is left out, as in older runs."
    def case():
        run = run_copy(folder, 'edited')
        content = json.loads((run/name).read_text())
        content.pop('checksum', None)
        content = edit(content)
        (run/name).write_text(content if isinstance(content, str) else json.dumps(content))
        return use_run(run)
    return case


def setting(path, value):
    "An edit that sets an entry, 'a.b.c', or removes it (value `...`)."
    *parents, last = path.split('.')
    def edit(content):
        inner = content
        for name in parents: inner = inner[name]
        if value is ...: del inner[last]
        else: inner[last] = value
        return content
    return edit


@group
def run_folders(folder):
    for text in ('{}', '[]', 'null', '"text"', '3', '', '{', '{"data": 3}', '[[[[', '{"data": {}}', 'NaN', '\x00',
                 '{"a": 1, "a": 2}', '['*100_000, '{"data": [1]}', '"' + 'x'*10**6):
        yield f'run.json {text[:20]!r}', refused(edited(folder, lambda content, text=text: text))
    for key in ('data', 'data.class_names', 'data.fingerprint', 'data.counts', 'data.name', 'data.description',
                'data.notes', 'private_test_opened', 'versions', 'finished'):
        yield f'without {key}', edited(folder, setting(key, ...))
        for value in (3, 'x', [1], {'a': 1}, None):
            yield f'{key} = {value}', edited(folder, setting(key, value))
    for names in (['a'], ['a']*7, [*CLASSES[:6], '\x1b[2J'], [*CLASSES[:6], ''], [1]*7, [*CLASSES, *CLASSES], [[]]*7):
        yield f'class names {str(names)[:20]}', edited(folder, setting('data.class_names', names))
    def flip(name, places):
        def case():
            run = run_copy(folder, 'flipped')
            for place in places:
                data = bytearray((finished_run()/name).read_bytes())
                data[place % len(data)] ^= 1 << place % 8
                (run/name).write_bytes(data)
                if (broken := run_case(lambda: use_run(run))): raise Broken(f'{name}, byte {place}: {broken}')
        return case
    for name in ('run.json', 'history.jsonl', 'predictions-PublicTest.npz'):
        yield f'{name} flipped', flip(name, range(7, 2000, 97))
        for content in (b'', b'x', b'{}\n', b'PK\3\4', bytes(999), b'[]\n', b'\xff\n'):
            def case(name=name, content=content):
                run = run_copy(folder, 'replaced')
                (run/name).write_bytes(content)
                return use_run(run)
            yield f'{name} = {content[:9]}', refused(case)
    for line in ('{"epoch": 2}\n', '{"epoch": "1"}\n', '3\n', '{"epoch": 1, "loss": [1]}\n', '{"loss": 1}\n', 'null\n'):
        def case(line=line):
            run = run_copy(folder, 'history')
            (run/'history.jsonl').write_text(line)
            return use_run(run)
        yield f'history {line!r}', refused(case)
    good = {name: values for name, values in np.load(finished_run()/'predictions-PublicTest.npz').items()}
    n = len(good['labels'])
    right = good['probabilities']
    changes = dict(nan=dict(probabilities=right*np.nan), logits=dict(probabilities=right*9),
                   negative=dict(probabilities=-right), rows=dict(probabilities=right[1:]),
                   columns=dict(probabilities=right[:, 1:]), labels=dict(labels=good['labels'] + 7),
                   text=dict(labels=np.array(['x']*n)), names=dict(class_names=np.array(['a']*7)),
                   evil=dict(class_names=np.array([*CLASSES[:6], '\x1b[2J'])),
                   indices=dict(indices=good['indices'] - 10**6),
                   scalar=dict(labels=np.array(3)), none=dict(labels=good['labels'][:0]), more=dict(extra=np.zeros(3)))
    for name, change in changes.items():
        def case(change=change):
            run = run_copy(folder, 'predictions')
            np.savez(run/'predictions-PublicTest.npz', **good | change)
            return use_run(run)
        yield f'predictions: {name}', refused(case)
    def pickled():
        run = run_copy(folder, 'predictions')
        np.savez(run/'predictions-PublicTest.npz', **good | dict(labels=np.array([print]*n, object)))
        return use_run(run)
    yield 'predictions: a pickle', refused(pickled)
    for text in ('[]', '3', '{"PublicTest": 3}', '{"PrivateTest": {"n": "x"}}', '{', 'NaN'):
        def case(text=text):
            run = run_copy(folder, 'metrics')
            (run/'metrics.json').write_text(text)
            return use_run(run)
        yield f'metrics {text!r}', refused(case)
    yield 'as it should be', lambda: use_run(run_copy(folder, 'good'))


@group
def networks(folder):
    import onnx
    from fer2013_cnn.model.inference import WEIGHTS, open_classifier, open_network
    from fer2013_cnn.model.zoo import keras, layers
    from fer2013_cnn.core import checksum
    from fer2013_cnn.training.run import update_run
    images = faces().images[:3]
    def forged(metadata, change=lambda model: None):
        def case():
            model = onnx.load(WEIGHTS/'small.onnx')
            del model.metadata_props[:]
            onnx.helper.set_model_props(model, metadata)
            change(model)
            onnx.save(model, folder/'forged.onnx')
            return open_classifier(folder/'forged.onnx').predict(images)
        return case
    ours = dict(made_by='fer2013_cnn')
    for names in ('', '3', 'null', '{}', '{"a": 1}', '[1, 2, 3, 4, 5, 6, 7]', '["a"]', '[["a"]]', 'x', '[', '['*9999,
                  json.dumps(['a']*7), json.dumps([*CLASSES[:6], '\x1b[2J']), json.dumps([*CLASSES[:6], '']), 'NaN'):
        yield f'onnx class_names {names[:20]}', refused(forged(ours | dict(class_names=names)))
    yield 'onnx without class_names', refused(forged(ours))
    yield 'onnx of somebody else', refused(forged(dict(class_names=json.dumps(CLASSES))))
    names = ours | dict(class_names=json.dumps(CLASSES))
    def append(op, **attributes):
        def change(model):
            output = model.graph.output[0].name
            for node in model.graph.node:
                for place, name in enumerate(node.output):
                    if name == output: node.output[place] = 'inner'
            model.graph.node.append(onnx.helper.make_node(op, ['inner'], [output], **attributes))
        return change
    for op in ('Log', 'Neg', 'Exp'): yield f'onnx answers {op}', refused(forged(names, append(op)))
    yield 'onnx as it should be', forged(names)
    data = (WEIGHTS/'small.onnx').read_bytes()
    for place in range(1000, len(data), len(data)//9):
        def case(place=place):
            (folder/'cut.onnx').write_bytes(data[:place])
            return open_classifier(folder/'cut.onnx').predict(images)
        yield f'onnx cut at {place}', refused(case)

    def saved(network, run=None):
        path = folder/'forged.keras'
        network.save(path)
        if run is None: return lambda: open_classifier(path, external=True).predict(images)
        copy = run_copy(folder, run)
        shutil.copy(path, copy/'model.keras')
        update_run(copy, model_sha256=checksum(path))
        return lambda: open_classifier(copy).predict(images)
    pixels = keras.Input((48, 48, 1))
    flat = layers.Flatten()(pixels)
    softmax = layers.Dense(7, 'softmax')(flat)
    forgeries = dict(
        lambda_layer=keras.Sequential([pixels, layers.Lambda(lambda x: x[:, 0, :7, 0])]),
        logits=keras.Model(pixels, layers.Dense(7)(flat)), dictionary=keras.Model(pixels, dict(a=softmax, b=softmax)),
        two=keras.Model(pixels, [softmax, softmax]), six=keras.Model(pixels, layers.Dense(6, 'softmax')(flat)),
        map=keras.Model(pixels, layers.Conv2D(7, 1)(pixels)), zero=keras.Model(pixels, layers.Dense(7, 'relu')(flat*0)))
    for name, network in forgeries.items():
        for run in (None, f'forged-{name}'): yield f'Keras {name} {run or ""}', refused(saved(network, run))
    two_inputs = keras.Model([pixels, keras.Input((3,))], softmax)
    yield 'Keras two inputs', refused(saved(two_inputs))
    yield 'Keras as it should be', saved(keras.Model(pixels, softmax), 'good')
    for name in ('a.keras', 'a.h5', 'a.pkl', 'a.onnx'):
        def case(name=name):
            (folder/name).write_bytes(b'\x80\x04cos\nsystem\n(S"false"\ntR.')
            return open_network(str(folder/name))
        yield f'a pickle named {name}', refused(case)


# names, cells, cache, disks, parameters

@group
def names(folder):
    from fer2013_cnn.evaluation.tables import escape_markdown
    from fer2013_cnn.model.inference import join_class_names, parse_class_names
    from fer2013_cnn.prediction.images import BOX, format_summary, result_files
    for text in (*EVIL, BAD_BYTES, '\r', '\x85', '\u2028', 'x'*10**6):
        def case(text=text): check_line(printable(text))
        yield f'printable {text[:9]!r}', case
        yield f'an error about {text[:9]!r}', refused(lambda text=text: (_ for _ in ()).throw(UserError(text)))
    for text in (LINK, TAG, '![x](javascript:1)', '<javascript:1>', '[a]: javascript:1', '`</code><b>', '|x|', '**x**',
                 '&lt;'):
        def case(text=text):
            from nbconvert.filters import markdown2html
            page = markdown2html(f'a **{escape_markdown(text)}** b')
            if any(tag in page for tag in ('<img', '<a ', 'href=', '<b>')): raise Broken(page)
        yield f'Markdown {text}', case
    for text in FORMULAS:
        def case(text=text):
            (folder/'a.csv').unlink(missing_ok=True)
            table = pd.DataFrame([[0, 0, 9, 9, 1., text, .7]], columns=[*BOX, 'confidence', 'emotion', text])
            with result_files(folder/'a.csv') as keep: keep(text + '.jpg', table)
            cells = [cell for line in (folder/'a.csv').read_text().splitlines() for cell in line.split(',')]
            if any(cell.lstrip('"')[:1] in ('=', '+', '-', '@', '\t') for cell in cells): raise Broken(cells)
        yield f'csv {text!r}', case
        table = pd.DataFrame({'a': [text]})
        yield f'table {text!r}', equal("'", lambda table=table: csv_text(table).splitlines()[1].strip('"')[0])
    for names_ in (['a, b', 'c'], ['"', "'"], ['a"b', ' '.join('cd')], ['=', ';'], ['é', '日本']):
        yield f'class names {names_}', equal(names_, lambda names_=names_: parse_class_names(join_class_names(names_)))
    for text in ('a,a', ',', '"', 'a\nb', '\x1b[2J,a', 'x'*10**5, 'a\0b'):
        yield f'--class-names {text[:9]!r}', refused(parse_class_names, text)
    def summary():
        lines = format_summary('image', pd.Series(['happy']), 1, [f'{EVIL[1]}.jpg: not an image'], 0).splitlines()
        if len(lines) != 3: raise Broken(lines)
    yield 'a newline in a file name', summary


@group
def cache_entries(folder):
    def entry():
        cache = folder/'cache'
        shutil.rmtree(cache, ignore_errors=True)
        (folder/'fer.csv').write_bytes(csv_bytes())
        load_data(folder/'fer.csv', cache)
        return next(cache.glob('*-raise-*'))
    def again():
        if load_data(folder/'fer.csv', folder/'cache').fingerprint != faces().fingerprint: raise Broken('wrong data')
    def damaged(name, damage):
        def case():
            path = entry()/name
            damage(path)
            again()
        return case
    for name in ('about.json', 'checksum', 'images.npy', 'labels.npy', 'splits.npy', 'source_rows.npy'):
        yield f'{name} removed', damaged(name, Path.unlink)
        yield f'{name} emptied', damaged(name, lambda path: path.write_bytes(b''))
        yield f'{name} cut', damaged(name, lambda path: os.truncate(path, path.stat().st_size//2))
        yield f'{name} flipped', damaged(name, lambda path: path.write_bytes(
            bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]))
        yield f'{name} is a folder', damaged(name, lambda path: (path.unlink(), path.mkdir()))
        yield f'{name} is a pipe', damaged(name, lambda path: (path.unlink(), os.mkfifo(path)))
    def classes(path):
        about = json.loads(path.read_text())
        path.write_text(json.dumps(about | dict(class_names=about['class_names'][::-1])))
    def fingerprint(path):
        path.write_text(json.dumps(json.loads(path.read_text()) | dict(fingerprint='0'*64)))
    yield 'class names edited', damaged('about.json', classes)
    yield 'fingerprint edited', damaged('about.json', fingerprint)
    for text in ('', '{}', '[]', '{"state": 3}', '{"state": "x", "digest": "../../x"}'):
        def record(text=text):
            entry()
            for path in (folder/'cache'/'sources').iterdir(): path.write_text(text)
            again()
        yield f'record {text!r}', record
    def abandoned():
        cache = entry().parent
        (cache/'.writing-x').mkdir()
        (cache/'.writing-x'/'images.npy').write_bytes(bytes(9))
        again()
        if [*cache.glob('.writing*')]: raise Broken('not removed')
    yield 'a killed writer', abandoned
    def changing(when):
        def case():
            import fer2013_cnn.data.load as module
            cache, path = folder/'changing', folder/'changing.csv'
            shutil.rmtree(cache, ignore_errors=True)
            old, new = csv_bytes(), csv_bytes().replace(b'\n3,', b'\n4,')
            path.write_bytes(old)
            original = module.read_dataset
            def read(*args, **options):
                if when == 'before': path.write_bytes(new)
                dataset = original(*args, **options)
                if when == 'after': path.write_bytes(new)
                if when == 'twice': path.write_bytes(old)
                return dataset
            with patch.object(module, 'read_dataset', read):
                try: load_data(path, cache)
                except UserError: pass
                else: raise Broken('not noticed')
            for content in (old, new):
                (folder/'copy.csv').write_bytes(content)
                fresh, cached = load_data(folder/'copy.csv', folder/'other'), load_data(folder/'copy.csv', cache)
                if fresh.fingerprint != cached.fingerprint: raise Broken('wrong rows from the cache')
        return case
    for when in ('before', 'after', 'twice'): yield f'a source that changes {when}', changing(when)
    def wrong_entry():
        if read_cache(folder/'nowhere') is not None: raise Broken
    yield 'no entry', wrong_entry


def write_locked(folder):
    "What every command does that writes a folder."
    with only_process(folder): (folder/'x').write_text('')


@group
def disks(folder):
    from fer2013_cnn.core import WriteError
    from fer2013_cnn.evaluation.metrics import evaluate_run
    from fer2013_cnn.prediction.images import result_files
    from fer2013_cnn.training.run import append_history, load_predictions, new_run, save_predictions, update_run
    run = run_copy(folder, 'run')
    predictions = load_predictions(run, 'PublicTest')
    writers = dict(update_run=lambda: update_run(run, tta=1), evaluate_run=lambda: evaluate_run(run, 'PublicTest'),
                   save_predictions=lambda: save_predictions(run, predictions),
                   write_json=lambda: write_json(run/'x.json', {}),
                   atomic=lambda: write_file(run/'x'), cache=lambda: load_data(folder/'fer.csv', folder/'cache'))
    def write_file(path):
        with atomic_write(path) as temporary: temporary.write_text('x')
    (folder/'fer.csv').write_bytes(csv_bytes())
    for number, reason in ((28, 'No space left on device'), (30, 'Read-only file system'), (5, 'Input/output error'),
                           (13, 'Permission denied'), (122, 'Disk quota exceeded')):
        def fail(*args, number=number, reason=reason, **options): raise OSError(number, reason)
        for name, write in writers.items():
            def case(write=write, fail=fail):
                shutil.rmtree(folder/'cache', ignore_errors=True)
                before = {path.name for path in run.iterdir()}
                try:
                    with patch('os.replace', fail): write()
                finally:
                    if {path.name for path in run.iterdir()} != before: raise Broken('left a temporary file')
            yield f'{name}: {reason}', refused(case, says=reason)
        def texts(fail=fail):
            with patch('pathlib.Path.write_bytes', fail): write_json(run/'x.json', {})
        yield f'writing: {reason}', refused(texts, says=reason)
        def full(fail=fail):
            (folder/'a.csv').unlink(missing_ok=True)
            with result_files(folder/'a.csv') as keep, patch('fer2013_cnn.prediction.images.append_text', fail):
                keep('a.jpg', pd.DataFrame(dict(a=[1])))
        yield f'csv: {reason}', refused(full, says=reason)
    for path in ('/dev/full', '/proc/x', folder/'fer.csv'/'x', folder, '/dev/null/x', 'x'*300,
                 folder/('y'*300), 'nul\0'):
        def write(path=path):
            with result_files(path) as keep: keep('a.jpg', pd.DataFrame(dict(a=[1])))
        yield f'csv {str(path)[:20]}', refused(write)
        if not str(path).startswith('/dev/full') and path != folder:
            yield f'run {str(path)[:20]}', refused(update_run, path, tta=1)
    yield 'history', refused(append_history, folder/'nowhere', epoch=1)
    def no_outputs():
        here = os.getcwd()
        (folder/'cwd').mkdir()
        os.chdir(folder/'cwd')
        try:
            Path('outputs').write_text('')
            new_run()
        finally: os.chdir(here)
    yield 'outputs is a file', refused(no_outputs)
    def hdf5():
        from fer2013_cnn.core import writing
        with writing('model.h5'): raise RuntimeError("errno = 28, error message = 'No space left on device'")
    yield 'HDF5', refused(hdf5, says='No space left')
    assert issubclass(WriteError, UserError)


@group
def parameters(folder):
    from fer2013_cnn.reporting import check_parameters, report, report_notebooks
    from fer2013_cnn.training.config import make_config, recorded_config
    from fer2013_cnn.training.loop import check_trainable
    for name, value in dict(epochs='x', batch_size='1.5', learning_rate='nan', seed='-1', model='vgg99', warmup='inf',
                            optimizer='\x1b[2J', zoom='2', rotation='-inf', precision='', erasing='1e999',
                            nothing='3').items():
        yield f'{name}={value}', refused(make_config, 'smoke', **{name: value})
    for preset in ('', 'fast', '\x1b[2J', None, 3, ()): yield f'preset {preset}', refused(make_config, preset)
    for config in (dict(epochs='3'), dict(nothing=1), dict(epochs=None), dict(epochs=True), dict(epochs=2.5),
                   dict(seed=2**40)):
        yield f'recorded {config}', refused(recorded_config, dict(config=config))
    notebook = report_notebooks()['evaluate']
    for name, value in dict(epochs='x', nothing='1', seed='1.5', learning_rate='y').items():
        yield f'report {name}={value}', refused(check_parameters, notebook, {name: value})
    for name in ('', 'x', '../evaluate', '\x1b[2J'): yield f'report {name!r}', refused(report, name, folder/'run')
    one = synthetic_dataset((70, 14, 14))
    vars(one)['labels'] = np.full(len(one), 3, np.uint8)
    yield 'one class', refused(check_trainable, one, says="only the class 'happy'")


# processes: slow

def fer2013(*words, env=None, cwd=None, timeout=300, **options):
    return subprocess.run([BIN/'fer2013', *map(os.fspath, words)], env={**os.environ, **(env or {})}, cwd=cwd,
                          timeout=timeout, capture_output=True, text=True, errors='replace', **options)


def one_line(done, says='', status=1):
    "Raise `Broken` unless a command ended in one line."
    if done.returncode != status or done.stderr.count('\n') > 1 or 'Traceback' in done.stderr + (done.stdout or ''):
        raise Broken(f'{done.returncode}: {done.stderr[-300:]}')
    if says not in done.stderr: raise Broken(f'{done.stderr!r} does not say {says!r}')


def stopped(words, after, number, says='', cwd=None, status=1):
    "Start a command, send a signal after some seconds, and expect one line."
    def default(): signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen([BIN/'fer2013', *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               text=True, cwd=cwd, preexec_fn=default)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None and not (after() if callable(after) else False):
        time.sleep(.02 if callable(after) else after)
        if not callable(after): break
    if process.poll() is None: process.send_signal(number)
    stderr = process.communicate(timeout=60)[1]
    if process.returncode == -number and not stderr and after == .15: return  # Python itself was still starting
    one_line(subprocess.CompletedProcess([], process.returncode, '', stderr), says, status)


@group
def processes(folder):
    def closed():
        done = subprocess.run(f'"{BIN}/fer2013" models >&-', shell=True, capture_output=True, text=True)
        one_line(done, status=0)
    yield 'stdout closed', closed
    def full():
        with open('/dev/full', 'w') as out:
            done = subprocess.run([BIN/'fer2013', 'models'], stdout=out, stderr=subprocess.PIPE, text=True)
        one_line(done, 'No space left')
    yield 'stdout full', full
    def pipe():
        done = subprocess.run(f'"{BIN}/fer2013" models | head -1', shell=True, capture_output=True, text=True)
        one_line(done, status=0)
    yield 'a reader that ends', pipe
    for backend in ('torch', 'nothing'):
        yield f'KERAS_BACKEND={backend}', lambda backend=backend: one_line(
            fer2013('train', '--data', 'sample', '--run', folder/'k', env=dict(KERAS_BACKEND=backend)), 'Keras cannot')
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        for after in (.15, .4, .8): # while Python and the libraries are imported
            yield f'{number.name} after {after} s', lambda after=after, number=number: stopped(
                ['prepare', '--data', 'sample'], after, number)
        run = folder/f'signal-{number}'
        words = ['train', '--data', 'sample', '--run', run]
        yield f'{number.name} while training', lambda run=run, words=words, number=number: stopped(
            words, (run/'history.jsonl').exists, number, f'fer2013 train --resume --run {run}')
        run = folder/f'report-{number}'
        yield f'{number.name} while reporting', lambda run=run, number=number: stopped(
            ['report', '--data', 'sample', '--run', run], (run/'history.jsonl').exists, number, '--resume --run')
    yield 'Ctrl-C while exporting', lambda: stopped(
        ['export', 'small', '--data', 'sample', '--to', folder], 6, signal.SIGINT, 'stopped')

    def shadow():
        cwd = folder/'shadow'
        cwd.mkdir()
        for name in ('numpy', 'pandas', 'json', 'ipykernel', 'matplotlib'):
            (cwd/f'{name}.py').write_text('raise SystemExit("shadowed")')
        done = fer2013('report', 'data_audit', '--data', 'sample', '--run', 'run', cwd=cwd)
        if done.returncode: raise Broken(done.stderr)
        done = subprocess.run([sys.executable, '-m', 'fer2013_cnn', '--version'], cwd=cwd, capture_output=True,
                              text=True)
        if done.returncode: raise Broken(done.stderr)
    yield 'numpy.py in the current folder', shadow

    def together(words, outcome):
        def case():
            pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            started = [subprocess.Popen([BIN/'fer2013', *map(str, words)], text=True, cwd=folder, **pipes)
                       for _ in range(2)]
            done = [process.communicate(timeout=300) for process in started]
            codes = sorted(process.returncode for process in started)
            outcome(codes, done)
        return case
    def one_refused(codes, done):
        if codes != [0, 1]: raise Broken(f'{codes}: {done}')
        for out, err in done: check_line(err.strip() or '-')
    run = folder/'two'
    words = ['train', '--data', 'sample', '--run', run, '--set', 'epochs=2']
    yield 'two trainings, one folder', together(words, one_refused)
    def both(codes, done):
        if codes != [0, 0] or len({*(folder/'outputs').iterdir()}) != 2: raise Broken(f'{codes}: {done}')
    yield 'two trainings without a name', together(['train', '--data', 'sample', '--set', 'epochs=1'], both)
    (folder/'pictures').mkdir()
    for number in range(40): (folder/'pictures'/f'{number}.png').write_bytes(png((640, 480)))
    yield 'two predictions, one csv', together(['predict', folder/'pictures', '--csv', folder/'two.csv'], one_refused)
    yield 'two predictions, one folder', together(['predict', folder/'pictures', '--draw', folder/'drawn'], one_refused)
    def stdin():
        image = base64.b64decode(base64.b64encode(png()))
        done = fer2013('predict', folder/'nul', input=image.decode('latin-1'))
        one_line(done, 'does not exist')
    yield 'nothing there', stdin
    for name in EVIL[:3]:
        (folder/f'{name}.jpg').write_bytes(b'x')
        def printed(name=name):
            done = fer2013('predict', folder/f'{name}.jpg')
            one_line(done)
            if any(char in done.stderr.strip() for char in '\x1b\x07\n'): raise Broken(repr(done.stderr))
        yield f'a picture named {name[:9]!r}', printed


def run_group(name):
    "Failures of a group, name of the case → what broke; and the number of cases."
    folder, failures, count, here = Path(tempfile.mkdtemp()), {}, 0, os.getcwd()
    limit = 300 if name in SLOW else LIMIT
    os.chdir(folder)  # some names are relative
    for case, call in GROUPS[name](folder):
        count += 1
        with redirect_stdout(io.StringIO()): broken = run_case(call, limit)
        for leftover in ('faces',): shutil.rmtree(folder/leftover, ignore_errors=True)
        if broken: failures[case] = broken
    os.chdir(here)
    shutil.rmtree(folder, ignore_errors=True)
    return failures, count


def main():
    chosen, right, total = sys.argv[1:] or [*GROUPS], 0, 0
    for name in chosen:
        start = time.monotonic()
        failures, count = run_group(name)
        right, total = right + count - len(failures), total + count
        print(f'{name}: {count - len(failures)} of {count} ({time.monotonic() - start:.0f} s)', flush=True)
        for case, broken in failures.items(): print(f'   {case}: {broken}', flush=True)
    print(f'{right} of {total}')
    sys.exit(right < total)


if __name__ == '__main__': main()
