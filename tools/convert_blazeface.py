"""Convert BlazeFace from the npm package of MediaPipe to the ONNX files in fer2013_cnn/weights.

Run it with the development environment and npm:  .venv/bin/python tools/convert_blazeface.py [FOLDER]

The weights, which the TensorFlow Lite files hold in half precision, stay in half precision and are widened when the
network is opened; the inputs and outputs get the same names in both files. That the result answers as the original
does, and that it is the file of this repository to the byte, is checked.
"""
import hashlib
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import tf2onnx
from ai_edge_litert.interpreter import Interpreter
from onnx import helper, numpy_helper

PACKAGE = '@mediapipe/face_detection@0.4.1657300184'
WEIGHTS = Path(__file__).parent.parent/'fer2013_cnn'/'weights'
TFLITE_SHA256 = dict(short='3bc182eb9f33925d9e58b5c8d59308a760f4adea8f282370e428c51212c26633',
                     full='99bf9494d84f50acc6617d89873f71bf6635a841ea699c17cb3377f9507cfec3')
ONNX_SHA256 = dict(short='c4efcaf0d7838c807bfcc183cc253154e4dbcfb6d751c99b140c77eb62c41aa8',
                   full='82a1b749fa18a819a7b46b67a309a91c4da75c168d470edeb5019d315d6ef01f')
OUTPUTS = {16: 'boxes', 1: 'scores'}  # by the size of the last dimension


def check(data: bytes, expected: str, name: str):
    "Exit if data is not what was converted before."
    found = hashlib.sha256(data).hexdigest()
    if found != expected: sys.exit(f'{name}: SHA-256 is {found}, expected {expected}')


def download(folder: Path):
    "Write the two TensorFlow Lite files of the npm package."
    subprocess.run(['npm', 'pack', '--silent', PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    with tarfile.open(next(folder.glob('*.tgz'))) as archive:
        for name, expected in TFLITE_SHA256.items():
            data = archive.extractfile(f'package/face_detection_{name}_range.tflite').read()
            check(data, expected, f'{name}.tflite')
            (folder/f'{name}.tflite').write_bytes(data)


def arrange(graph: onnx.GraphProto):
    """Number all nodes and tensors from the outputs back: tf2onnx names and orders them differently in each run.

    The input is called `images`, the outputs `boxes` and `scores`."""
    maker = {name: node for node in graph.node for name in node.output}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    names = {graph.input[0].name: 'images'}
    names |= {value.name: OUTPUTS[value.type.tensor_type.shape.dim[-1].dim_value] for value in graph.output}
    nodes, tensors, seen = [], [], set()
    def visit(name):
        if name in seen or not name: return
        seen.add(name)
        if name in weights: tensors.append(weights[name])
        for source in maker[name].input if name in maker else (): visit(source)
        if name in maker: nodes.append(maker[name])
        names.setdefault(name, f'tensor_{len(names)}')
    outputs = sorted(graph.output, key=lambda value: names[value.name])
    for value in outputs: visit(value.name)
    for number, node in enumerate(nodes):
        node.name = f'{node.op_type}_{number}'
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names[name] for name in node.output]
    for named in (*tensors, *graph.input, *outputs): named.name = names[named.name]
    for field, values in ((graph.node, nodes), (graph.initializer, tensors), (graph.output, outputs)):
        values = [type(value).FromString(value.SerializeToString(deterministic=True)) for value in values]
        del field[:]
        field.extend(values)
    del graph.value_info[:]
    graph.name = 'blazeface'


def halve(graph: onnx.GraphProto):
    "Store float32 weights as float16, followed by a Cast; only if each of them is a float16 number."
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT: continue
        weights, name = numpy_helper.to_array(tensor), tensor.name
        half = weights.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), weights): sys.exit(f'{name} is not in half precision')
        tensor.CopyFrom(numpy_helper.from_array(half, f'{name}_half'))
        casts.append(helper.make_node('Cast', [f'{name}_half'], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def convert(tflite: Path) -> bytes:
    "The ONNX file of a TensorFlow Lite file."
    model, _ = tf2onnx.convert.from_tflite(str(tflite), opset=17)
    arrange(model.graph)
    halve(model.graph)
    model.producer_name, model.doc_string = 'tf2onnx', f'BlazeFace of {PACKAGE}, Apache-2.0; see blazeface.md'
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def compare(tflite: Path, data: bytes):
    "Exit if both files differ on random images."
    original, session = Interpreter(str(tflite)), onnxruntime.InferenceSession(data)
    original.allocate_tensors()
    source, targets = original.get_input_details()[0], original.get_output_details()
    images = np.random.default_rng(0).uniform(-1, 1, (4, *source['shape'][1:])).astype(np.float32)
    for number, image in enumerate(images):
        original.set_tensor(source['index'], image[None])
        original.invoke()
        for target in targets:
            name = OUTPUTS[target['shape'][-1]]
            answer, = session.run([name], {'images': image[None]})
            difference = np.abs(original.get_tensor(target['index']) - answer).max()
            if difference > 2e-3: sys.exit(f'{tflite.name}: {name} differ by {difference}')
            print(f'{tflite.stem} image {number}: {name} differ by at most {difference:.1e}')


if __name__ == '__main__':
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else WEIGHTS
    with tempfile.TemporaryDirectory() as folder:
        download(Path(folder))
        for name, expected in ONNX_SHA256.items():
            path = Path(folder)/f'{name}.tflite'
            data = convert(path)
            compare(path, data)
            check(data, expected, f'{name}.onnx')
            (output/f'blazeface_{name}.onnx').write_bytes(data)
            print(f'blazeface_{name}.onnx {len(data):,} bytes', hashlib.sha256(data).hexdigest())
