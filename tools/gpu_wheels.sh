#!/usr/bin/env bash
# Collect in .gpu/ what tools/train_on_gpu.py needs on a GPU machine without a network, and print the lines to run there.
# They are for a service that copies the tracked files and the paths after "carry" there, runs one command, and returns
# the files in $OUT.
#
#     tools/gpu_wheels.sh FOLDER [LIMIT]
#
# FOLDER has the data in parts: fer2013-tiles/*.png, fer2013-labels.csv, ferplus.csv and unpack.py, which writes
# fer2013.csv and fer2013new.csv from them. LIMIT: MiB that travel with one command, with the tracked files (default 62).
# The machine has CPython 3.12 on x86-64 Linux with jax (CUDA), NumPy, SciPy, pandas, scikit-learn, Pillow, h5py,
# matplotlib, seaborn, onnxruntime, absl-py, rich and tqdm; the wheels are what is missing there. Fewer parts are needed
# while nbs, docs, tests and page lie outside of the checkout: move them away before, and back after the last command.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 2; }
cd "$(dirname "$0")/.."
data=$1 limit=${2:-62}
wheels=(keras namex optree platformdirs filelock typer annotated-doc shellingham
        pydantic pydantic-core annotated-types typing-inspection)

git check-ignore -q .gpu/wheels || { echo '.gpu is not ignored by git'; exit 1; }
rm -rf .gpu && mkdir -p .gpu/wheels
platforms=(); for glibc in 28 27 17; do platforms+=(--platform "manylinux_2_${glibc}_x86_64"); done
for name in "${wheels[@]}"; do
  version=$(sed -nE "s/^$name==([^ ;]+)( ; python_full_version >= '3.11')?\$/==\1/p" constraints.txt | tail -1)
  python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
    --implementation cp "${platforms[@]}" --platform manylinux2014_x86_64 --platform any -d .gpu/wheels "$name$version"
done
git describe --always --dirty --abbrev=40 > .gpu/commit

# The parts: as many tiles in each as fit beside the tracked files.
tracked=$({ git ls-files -z | xargs -0 cat 2> /dev/null || true; } | wc -c)
room=$((limit*1048576 - tracked - $(cat .gpu/wheels/* | wc -c))) used=0 part=1
mkdir -p .gpu/data_1/fer2013-tiles
cp "$data"/{unpack.py,fer2013-labels.csv,ferplus.csv} .gpu/data_1
used=$(cat .gpu/data_1/*.* | wc -c)
for tile in "$data"/fer2013-tiles/*.png; do
  size=$(wc -c < "$tile")
  if ((used + size > room)); then part=$((part + 1)) used=0; mkdir -p ".gpu/data_$part/fer2013-tiles"; fi
  ((size <= room)) || { echo "$tile does not fit beside $((tracked/1048576)) MiB of tracked files"; exit 1; }
  cp "$tile" ".gpu/data_$part/fer2013-tiles"; used=$((used + size))
done

# shellcheck disable=SC2016
install='python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site .gpu/wheels/*.whl && export PYTHONPATH=/tmp/site'
echo "tracked files: $((tracked/1048576)) MiB; wheels and data in .gpu: $(du -sm --apparent-size .gpu | cut -f1) MiB, $part part(s)"
for ((i = 1; i < part; i++)); do
  printf '\n%s\n' "carry .gpu/data_$i"
  echo "mkdir -p /tmp/data && cp -r .gpu/data_$i/. /tmp/data"
done
printf '\n%s\n' "carry .gpu/wheels .gpu/commit .gpu/data_$part; within half a minute, if there were parts before"
echo "mkdir -p /tmp/data && cp -r .gpu/data_$part/. /tmp/data && $install && python3 /tmp/data/unpack.py /tmp/data csv ferplus && nvidia-smi -L; python3 tools/train_on_gpu.py --data /tmp/data/fer2013.csv --ferplus /tmp/data/fer2013new.csv --work /tmp/work --to \"\$OUT\" --minutes 9.2"
printf '\n%s\n' 'again, on the same machine, until it prints "complete": carry .gpu/commit'
echo "export PYTHONPATH=/tmp/site; python3 tools/train_on_gpu.py --data /tmp/data/fer2013.csv --ferplus /tmp/data/fer2013new.csv --work /tmp/work --to \"\$OUT\" --minutes 9.2"
