"""Photographs a second, from a file to its faces with emotions, beside the package fer, by hand:

    pip install --no-deps fer 'setuptools<80'; python tools/photograph_rate.py FOLDER [REPEATS]

Each program is a process of its own with one thread, which reads the files one after another and prints its wall and
CPU time, measured after its imports and one photograph. The programs take turns, so that other work on the machine
slows all of them alike; CPU time depends on it less. fer is called with its default detector, Haar cascades.
"""
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from fer2013_cnn.core import machine_info, package_versions
from fer2013_cnn.prediction.faces import images_in_folder

OURS = '''
from fer2013_cnn.prediction.images import photo_classifier, predict_faces
classifier = photo_classifier({model!r}, tta={tta})
def count_faces(path): return len(predict_faces(path, classifier))
'''
FER = '''
import cv2
from fer.fer import FER
detector = FER()
def count_faces(path): return len(detector.detect_emotions(cv2.imread(path)))
'''
PROGRAMS = {f"{model}, {views} view{'s'*(views > 1)}": OURS.format(model=model, tta=views) for model, views in
            (('base', 8), ('base', 1), ('base', 2), ('base', 10), ('small', 8))} | {'fer': FER}
MEASURE = '''
import json, sys, time
paths = json.load(sys.stdin)
count_faces(paths[0])
cpu, wall = time.process_time(), time.perf_counter()
faces = sum(count_faces(path) for path in paths)
print(json.dumps(dict(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu, faces=faces)))
'''
ONE_THREAD = dict.fromkeys(['OMP_NUM_THREADS', 'TF_NUM_INTRAOP_THREADS', 'TF_NUM_INTEROP_THREADS',
                            'OPENCV_FOR_THREADS_NUM'], '1')


def measure(program, paths):
    "Wall and CPU time in seconds, and the number of faces."
    command = [sys.executable, '-W', 'ignore', '-c', program + MEASURE]
    done = subprocess.run(command, input=json.dumps(paths), capture_output=True, text=True, env=os.environ | ONE_THREAD)
    if done.returncode: sys.exit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def main(folder, repeats=3):
    paths, rows, started = images_in_folder(folder), {name: [] for name in PROGRAMS}, time.strftime('%Y-%m-%d')
    load = round(os.getloadavg()[0], 1)
    for _ in range(int(repeats)):
        for name, program in PROGRAMS.items(): rows[name].append(measure(program, paths))
    columns = {name: {key: [row[key] for row in values] for key in values[0]} for name, values in rows.items()}
    size = sum(Path(path).stat().st_size for path in paths)
    print(json.dumps(dict(photographs=len(paths), bytes=size, times=columns, machine=machine_info(),
                          versions=package_versions(), load_average=load, date=started), indent=1))


if __name__ == '__main__': main(*sys.argv[1:])
