#!/usr/bin/env bash
# Sets up a Python for arm64 that runs under qemu, with the edge install in it: tests/arm64/setup.sh FOLDER
# Then FOLDER/usr/bin/python is used like any other interpreter. Nothing outside FOLDER is written.
set -euo pipefail
folder=$(realpath -m "${1:?usage: tests/arm64/setup.sh FOLDER}")
checkout=$(cd "$(dirname "$0")/../.." && pwd)
for tool in qemu-aarch64-static debootstrap; do
  if ! command -v "$tool" > /dev/null; then
    echo "error: $tool: expected on PATH, found nothing. apt-get install qemu-user-static debootstrap" >&2
    exit 4
  fi
done

# debootstrap downloads and dpkg-deb unpacks. To configure the packages would take minutes under qemu, and
# Python runs without.
if [ ! -x "$folder/usr/bin/python" ]; then
  if [ -n "$(ls -A "$folder" 2> /dev/null)" ] && [ ! -d "$folder/debootstrap" ]; then
    echo "error: $folder: expected an empty folder, found other files. Name another." >&2
    exit 2
  fi
  rm -rf "$folder"
  debootstrap --foreign --arch=arm64 --variant=minbase --include=python3,libgomp1,libstdc++6 \
    bookworm "$folder" > /dev/null
  for package in "$folder"/var/cache/apt/archives/*.deb; do
    dpkg-deb -x "$package" "$folder"
    rm "$package"
  done
fi

# onnxruntime 1.28 and later crash under qemu 7.2 (measured): the last that runs stands in for them.
sed 's/^onnxruntime==.*/onnxruntime==1.26.0/' "$checkout/constraints.txt" > "$folder/constraints.txt"
# A copy of the source, because building a wheel in the checkout takes in what earlier builds left there.
packages=$folder/usr/local/lib/python3.11/dist-packages
source=$folder/source
rm -rf "$packages" "$source"
mkdir "$source"
cp -r "$checkout"/{pyproject.toml,README.md,LICENSE,recipes,edgemtl} "$source"
"${PYTHON:-python3}" -m pip install --quiet --disable-pip-version-check -c "$folder/constraints.txt" \
  --target "$packages" --only-binary=:all: --python-version 3.11 --implementation cp --abi cp311 \
  --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
  --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 "${source}[ort]"

# The interpreter: qemu with its own path as argv[0], so that sys.executable starts qemu again.
cat > "$folder/usr/bin/python" << END
#!/bin/sh
exec qemu-aarch64-static -L '$folder' -0 "\$0" '$folder/usr/bin/python3.11' "\$@"
END
chmod +x "$folder/usr/bin/python"
