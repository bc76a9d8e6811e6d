#!/usr/bin/env bash
# Builds TensorRT engines from the ONNX files of this bundle, on the device that will run them.
# It reads device.txt beside it and writes engines/. It installs nothing and leaves the clocks alone.
set -euo pipefail

root=${EDGEMTL_ROOT:-} # tests put a tree of a board's files here
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dry_run='' force='' layout='' least_mib=256

usage() {
  cat <<'TEXT'
Usage: ./build.sh [--layout NAME] [--dry-run] [--force]

  --layout NAME  build merged or split alone; by default what the bundle has
  --dry-run      print the facts and the trtexec lines, build nothing
  --force        build for a TensorRT that the bundle was not exported for

An engine that is there and sound is kept; remove it to build it anew.
TEXT
}

fail() { # STATUS WHERE EXPECTED FOUND FIX
  echo "error: $2: expected $3, found $4. $5" >&2
  exit "$1"
}

parse_arguments() {
  while (($#)); do
    case $1 in
      --layout) layout=${2:-}; shift $(($# > 1)) ;;
      --dry-run) dry_run=yes ;;
      --force) force=yes ;;
      -h | --help) usage; exit 0 ;;
      *) usage >&2; fail 2 arguments 'an option above' "\`$1\`" 'Leave it out.' ;;
    esac
    shift
  done
}

setting() { # NAME: the value of the first such line of device.txt
  sed -n "/^$1 /{s///p;q}" "$here/device.txt"
}

version_of() { # PACKAGE: the first three numbers of its version, nothing where it is not installed
  dpkg-query --admindir="$root/var/lib/dpkg" -W -f='${Version}' "$1" 2>/dev/null |
    sed 's/^\([0-9]*\.[0-9]*\.[0-9]*\).*/\1/' || true
}

# /etc/nv_tegra_release says "# R36 (release), REVISION: 4.3, ..."; a desktop has neither file nor package.
find_l4t() {
  local file=$root/etc/nv_tegra_release
  l4t=''
  if [[ -r $file ]]; then
    l4t=$(sed -n 's/^# R\([0-9]*\) (release), REVISION: \([0-9.]*\).*/\1.\2/p' "$file")
  fi
  [[ -n $l4t ]] || l4t=$(version_of nvidia-l4t-core)
}

find_trtexec() {
  trtexec=$(command -v trtexec || true)
  if [[ -z $trtexec && -x $root/usr/src/tensorrt/bin/trtexec ]]; then
    trtexec=$root/usr/src/tensorrt/bin/trtexec
  fi
  [[ -n $trtexec ]] || fail 4 trtexec 'it in PATH or in /usr/src/tensorrt/bin' none \
    'JetPack brings it in the package libnvinfer-bin; flash the board with the full JetPack, or ask who did.'
}

# trtexec names itself [TensorRT v8502] or [TensorRT v100300]; dpkg knows where it does not.
find_tensorrt() {
  local digits package
  digits=$("$trtexec" --help 2>&1 | sed -n 's/.*\[TensorRT v\([0-9]*\)\].*/\1/p') || true
  digits=${digits%%$'\n'*} # it may name itself twice
  case ${#digits} in
    4) tensorrt=$((digits / 1000)).$((digits / 100 % 10)).$((digits % 100)) ;;
    6) tensorrt=$((digits / 10000)).$((digits / 100 % 100)).$((digits % 100)) ;;
    *)
      tensorrt=''
      for package in libnvinfer11 libnvinfer10 libnvinfer8; do
        tensorrt=$(version_of "$package")
        [[ -z $tensorrt ]] || break
      done
      ;;
  esac
  [[ -n $tensorrt ]] || fail 4 TensorRT 'its version from trtexec or dpkg' none 'Check the JetPack on this board.'
}

# An engine works for one compute capability. Tegra's chip tells it; a desktop's driver does.
find_gpu() {
  local chip=''
  if [[ -r $root/proc/device-tree/compatible ]]; then
    chip=$(tr '\0' '\n' <"$root/proc/device-tree/compatible" | sed -n '/^nvidia,tegra[0-9]*$/{s/nvidia,//p;q}')
  fi
  case $chip in
    tegra194) capability=7.2 ;;
    tegra234) capability=8.7 ;;
    tegra264) capability=11.0 ;;
    *) capability=$(nvidia_smi compute_cap) ;;
  esac
  if [[ -n $chip ]]; then board=$(tr -d '\0' <"$root/proc/device-tree/model"); else board=$(nvidia_smi name); fi
  [[ $capability =~ ^[0-9]+\.[0-9]+$ ]] || fail 4 GPU 'its compute capability from the device tree or nvidia-smi' \
    "${chip:-none}" 'Run this on the device itself, outside of containers that hide it.'
}

nvidia_smi() { # FIELD of the first GPU
  nvidia-smi --id=0 --query-gpu="$1" --format=csv,noheader,nounits 2>/dev/null || true
}

# Half of what is free: a Jetson's GPU shares the memory of the CPU, and builds that take more get killed.
find_workspace() {
  local free_mib=''
  if [[ -z $l4t ]]; then free_mib=$(nvidia_smi memory.free); fi
  if [[ ! $free_mib =~ ^[0-9]+$ ]]; then # a GPU without memory of its own says [N/A]
    free_mib=$(awk '/^MemAvailable:/ { print int($2 / 1024) }' "$root/proc/meminfo")
  fi
  workspace_mib=$((free_mib / 2))
  ((workspace_mib >= least_mib)) || fail 4 memory "$((2 * least_mib)) MiB free" "$free_mib MiB" \
    'Stop other programs, the desktop first, or add swap.'
}

check_versions() {
  local wanted
  while read -r wanted; do
    [[ $tensorrt. == "$wanted".* ]] && return
  done < <(sed -n 's/^tensorrt //p' "$here/device.txt")
  wanted=$(sed -n 's/^tensorrt //p' "$here/device.txt" | paste -sd ' ')
  [[ -n $force ]] || fail 4 TensorRT "one that this bundle is for: $wanted" "$tensorrt" \
    'Export with the --jetpack of this board, or try with --force.'
}

# The arguments of trtexec for one model: NAME FILE [SMALLEST LARGEST], the shapes where the batch is free.
arguments_of() {
  local major=${tensorrt%%.*} weak=()
  # What the file says of its types. Where it says nothing all is fp32, and a DLA computes none of it.
  read -ra weak < <(setting "weak $1") || true
  uses_dla=$([[ $dla == true && ${#weak[@]} -gt 0 ]] && echo yes || true)
  arguments=("--onnx=$2" "--saveEngine=$engine.part" "--timingCacheFile=$cache")
  arguments+=("--memPoolSize=workspace:$workspace_mib")
  # TensorRT 8.5 calls it otherwise. Measuring is bench.py's work: trtexec 11 measures unlike 10 by default.
  if [[ $tensorrt == 8.5.* ]]; then arguments+=(--buildOnly); else arguments+=(--skipInference); fi
  arguments+=(--noTF32) # TF32 has 10 bits of mantissa: what is fp32 would not meet the golden samples
  # TensorRT 8 has no reliable strong typing, so it is told these types; 11 has no other. For a DLA 10 is told,
  # too: its trtexec then asks for fp16 by a flag, which a strongly typed network refuses.
  if ((major == 8)) || [[ $major == 10 && -n $uses_dla ]]; then
    arguments+=("${weak[@]}")
  elif ((major == 10)); then
    arguments+=(--stronglyTyped)
  fi
  if [[ -n ${3:-} ]]; then arguments+=("--minShapes=$3" "--optShapes=$3" "--maxShapes=$4"); fi
  if [[ -n $uses_dla ]]; then arguments+=(--useDLACore=0 --allowGPUFallback --verbose); fi
}

# What runs where is only known once TensorRT has cut the network: a DLA that takes little is slower than none.
print_layers_per_device() { # LOG
  local device
  for device in Dla Gpu; do
    echo "  layers on ${device^^}: $(grep -c "\[${device}Layer\]" "$1" || true)"
    sed -n "s/.*\[${device}Layer\] */    /p" "$1"
  done
}

sha256_of() { # FILE
  sha256sum "$1" | cut -d ' ' -f 1
}

# What an engine depends on, as its sidecar has it: `edgemtl` looks for these facts, too, under these names.
origin() { # SHA256 of the model
  local batch
  batch=$(setting batch)
  cat <<TEXT
  "onnx_sha256": "$1",
  "runtime": "tensorrt $tensorrt",
  "device": "$board",
  "capability": "$capability",
  "batch": [${batch/ /, }],
  "dla": $dla,
TEXT
}

# Whether an engine was built from this model on such a device, and is as it was then.
is_there() { # ENGINE SHA256 of the model
  local found fact
  [[ -s $1 && -r $1.json ]] || return 1
  found=$(tr -d '[:space:]' <"$1.json") # edgemtl breaks its lines elsewhere
  while read -r fact; do
    fact=${fact%,}
    [[ $found == *"${fact//[[:space:]]/}"* ]] || return 1
  done < <(origin "$2" && echo "\"engine_sha256\": \"$(sha256_of "$1")\"")
}

build() { # NAME FILE [SMALLEST LARGEST]
  local engine=engines/$1.tensorrt-$tensorrt.sm${capability/./}.engine digest status=0 start=$SECONDS
  local log=${engine%.engine}.log arguments uses_dla
  local cache=engines/timing.tensorrt-$tensorrt.sm${capability/./}.cache
  arguments_of "$@"
  echo "$trtexec ${arguments[*]}"
  if [[ -n $dry_run ]]; then return; fi
  digest=$(sha256_of "$2")
  if is_there "$engine" "$digest"; then
    echo "  $engine is there"
    return
  fi
  "$trtexec" "${arguments[@]}" >"$log" 2>&1 || status=$?
  if ((status)) || [[ ! -s $engine.part ]]; then
    rm -f "$engine.part"
    tail -n 20 "$log" >&2
    if ((status == 137)); then fail 1 "$2" 'an engine' 'trtexec killed: out of memory' 'Stop other programs or add swap.'; fi
    fail 1 "$2" 'an engine' "status $status of trtexec" "Its last lines are above, all of them in $log."
  fi
  mv "$engine.part" "$engine"
  cat >"$engine.json" <<TEXT
{
$(origin "$digest")
  "engine_sha256": "$(sha256_of "$engine")",
  "build_s": $((SECONDS - start)),
  "created": "$(date --utc --iso-8601=seconds)",
  "built_by": "$trtexec ${arguments[*]}"
}
TEXT
  if [[ -n $uses_dla ]]; then print_layers_per_device "$log"; fi
  echo "  wrote $engine"
}

main() {
  parse_arguments "$@"
  cd "$here"
  sha256sum --check --quiet --strict SHA256SUMS ||
    fail 3 "$here" 'the files that were exported' 'others' 'Copy the bundle to the board again.'
  find_l4t
  find_trtexec
  find_tensorrt
  find_gpu
  find_workspace
  check_versions
  echo "board: ${board:-unknown}; L4T: ${l4t:-none}; TensorRT: $tensorrt; compute capability: $capability"
  echo "workspace: $workspace_mib MiB, half of what is free"
  if [[ -z $dry_run ]]; then mkdir -p engines; fi
  dla=$(setting dla)
  local built='' of rest
  while read -r of rest; do
    if [[ -z $layout || $layout == "$of" ]]; then
      # shellcheck disable=SC2086 # name, file and shapes are words without spaces
      build $rest </dev/null
      built=yes
    fi
  done < <(sed -n 's/^model //p' device.txt)
  [[ -n $built ]] || fail 2 --layout 'a layout of the bundle' "\`$layout\`" 'See the lines of device.txt.'
}

main "$@"
