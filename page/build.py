"""Build the page: `python page/build.py FOLDER` writes static files for any web server to FOLDER.

ONNX Runtime Web comes from its npm package, once; everything else is in the repository.
"""
import gzip
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from platformdirs import user_cache_path

from fer2013_cnn.core import UserError
from fer2013_cnn.evaluation.tables import FER2013_LIMITS
from fer2013_cnn.model.inference import pretrained_card, usage_notice, WEIGHTS
from fer2013_cnn.model.tta import TTA_VIEWS
from fer2013_cnn.prediction.images import EMOTION_COLORS, MIN_CONFIDENCE, PHOTO_TTA

HERE = Path(__file__).resolve().parent
RUNTIME = 'onnxruntime-web-1.30.0'
RUNTIME_SHA512 = ('ab4cbe26baedba45d2cec05610c71c55fa97db92d19a8b171c5f8269126683ca'
                  '590a5cdc57bb2f35ce2b298de32f4d956fb42644c0ecd528a0a91e025c07ca61')  # of the .tgz
RUNTIME_FILES = ('ort.wasm.min.mjs', 'ort-wasm-simd-threaded.mjs')
RUNTIME_BINARY = 'ort-wasm-simd-threaded.wasm'
NETWORKS = ('base', 'small')    # the first is loaded with the page
DETECTORS = ('short', 'full')
MAX_WIRE_BYTES = 8_000_000      # of what is loaded with the page


def fetch_runtime():
    "The npm package of ONNX Runtime Web, from the cache if it is there."
    folder = user_cache_path('fer2013_cnn')/'npm'
    path = folder/f'{RUNTIME}.tgz'
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        name, version = RUNTIME.rsplit('-', 1)
        with TemporaryDirectory(dir=folder) as scratch:
            command = ['npm', 'pack', '--silent', '--pack-destination', scratch, f'{name}@{version}']
            try: subprocess.run(command, cwd=scratch, check=True, stdout=subprocess.DEVNULL)
            except FileNotFoundError: raise UserError('npm is not installed: it comes with Node.js') from None
            except subprocess.CalledProcessError: raise UserError(f'npm could not fetch {name} {version}') from None
            (Path(scratch)/path.name).replace(path)
    found = hashlib.sha512(path.read_bytes()).hexdigest()
    if found != RUNTIME_SHA512:
        path.unlink()
        raise UserError(f'{path.name} has the SHA-512 {found}, expected {RUNTIME_SHA512}: it was removed, try again')
    return path


def runtime_files():
    "The needed files of the npm package: name → content."
    with tarfile.open(fetch_runtime()) as package:
        return {name: package.extractfile(f'package/dist/{name}').read() for name in (*RUNTIME_FILES, RUNTIME_BINARY)}


def write_compressed(folder, name, data):
    "Write a compressed file with its checksum in its name; returns its entry in about.json."
    compressed = gzip.compress(data, 9, mtime=0)
    stem, suffix = name.rsplit('.', 1)
    path = Path('networks')/f'{stem}.{hashlib.sha256(data).hexdigest()[:12]}.{suffix}.gz'
    (folder/path).write_bytes(compressed)
    return dict(path=path.as_posix(), bytes=len(compressed))


def write_licences(folder):
    "Copy the licences; the npm package has none, that of Python is the same software."
    runtime = Path(find_spec('onnxruntime').origin).parent
    for name, path in {'fer2013_cnn.txt': HERE.parent/'LICENSE', 'blazeface.txt': WEIGHTS/'blazeface.LICENSE.txt',
                       'blazeface-changes.txt': WEIGHTS/'blazeface.md', 'onnxruntime-web.txt': runtime/'LICENSE',
                       'onnxruntime-web-third-parties.txt': runtime/'ThirdPartyNotices.txt'}.items():
        shutil.copyfile(path, folder/name)


def write_about(folder, binary):
    "Write the large files, and about.json: what the page says and which of them it loads."
    cards = {name: pretrained_card(name) for name in NETWORKS}
    class_names = cards[NETWORKS[0]]['data']['class_names']
    if any(card['data']['class_names'] != class_names for card in cards.values()):
        raise UserError('the networks have different classes')
    def write_onnx(name): return write_compressed(folder, f'{name}.onnx', (WEIGHTS/f'{name}.onnx').read_bytes())
    networks = {name: dict(notice=usage_notice(name), file=write_onnx(name)) for name in NETWORKS}
    about = dict(class_names=class_names, colors=EMOTION_COLORS, limits=FER2013_LIMITS, networks=networks,
                 views=TTA_VIEWS[PHOTO_TTA], min_confidence=MIN_CONFIDENCE,
                 runtime=write_compressed(folder, RUNTIME_BINARY, binary),
                 detectors={name: write_onnx(f'blazeface_{name}') for name in DETECTORS})
    (folder/'about.json').write_text(json.dumps(about, indent=1), encoding='utf-8')
    return about


def write_worker(folder):
    "Complete the service worker; its version changes with each file."
    paths = sorted(path for path in folder.rglob('*') if path.is_file() and path.name != 'sw.js')
    digest = hashlib.sha256(b''.join(hashlib.sha256(path.read_bytes()).digest() for path in paths))
    names = [path.relative_to(folder).as_posix() for path in paths]
    large = [name for name in names if name.startswith('networks/')]
    shell = [name for name in names if name not in large and 'third-parties' not in name]
    text = (HERE/'sw.js').read_text(encoding='utf-8').replace('@VERSION@', digest.hexdigest()[:12])
    for mark, files in {'@SHELL@': shell, '@NETWORKS@': large}.items(): text = text.replace(mark, "', '".join(files))
    (folder/'sw.js').write_text(text, encoding='utf-8')
    return shell


def wire_bytes(folder, about, shell):
    "Bytes that loading the page transfers from a server that compresses text."
    text = sum(len(gzip.compress((folder/name).read_bytes())) for name in [*shell, 'sw.js'])
    large = [about['runtime'], *about['detectors'].values(), about['networks'][NETWORKS[0]]['file']]
    return text + sum(entry['bytes'] for entry in large)


def build(folder):
    "Replace what the last build left in a folder; returns the bytes that loading the page transfers."
    shutil.rmtree(folder, ignore_errors=True)
    for name in ('networks', 'ort', 'licences'): (folder/name).mkdir(parents=True)
    for path in HERE.iterdir():
        if path.suffix in ('.html', '.css', '.js'): shutil.copyfile(path, folder/path.name)
    files = runtime_files()
    for name in RUNTIME_FILES: (folder/'ort'/name).write_bytes(files[name])
    write_licences(folder/'licences')
    about = write_about(folder, files[RUNTIME_BINARY])
    size = wire_bytes(folder, about, write_worker(folder))
    if size >= MAX_WIRE_BYTES: raise UserError(f'the page loads {size:,} bytes, expected less than {MAX_WIRE_BYTES:,}')
    return size


if __name__ == '__main__':
    try: print(f'{sys.argv[1]}/index.html: loads {build(Path(sys.argv[1]))/1e6:.2f} MB')
    except UserError as error: sys.exit(str(error))
