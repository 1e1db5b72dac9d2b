#!/bin/sh
# Installs into /opt/environment while an image is built; see the Dockerfile, whose mounts it reads: /tools /wheels /cache /environment.
# usage: install.sh torch [from-index] ARGUMENTS… | add ARGUMENTS… | wheel REQUIREMENT FOLDER | lock MODULES…
set -eu
[ ! -f /run/secrets/index ] || . /run/secrets/index
[ ! -f /run/secrets/ca ] || export SSL_CERT_FILE=/run/secrets/ca
export UV_CACHE_DIR=/cache UV_LINK_MODE=copy UV_FIND_LINKS="${LINKS-/wheels}" UV_NO_PROGRESS=1 UV_COMPILE_BYTECODE=1 UV_PYTHON_DOWNLOADS=never
target=/opt/environment
uv=/tools/uv
step=$1
shift
case $step in
torch)
  "$uv" venv --no-project --python "$(command -v python3)" "$target"
  if [ "$1" = from-index ]; then
    shift
    set -- --index "$LONGCTX_TORCH_INDEX" "$@"
  fi
  exec "$uv" pip install --python "$target/bin/python" --only-binary :all: "$@"
  ;;
add)
  exec "$uv" pip install --python "$target/bin/python" "$@"
  ;;
wheel)
  "$uv" pip install --python "$target/bin/python" setuptools wheel ninja packaging psutil pip
  mkdir -p "$2"
  # pip does not know uv's variables.
  export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_FIND_LINKS=/wheels
  [ -z "${UV_DEFAULT_INDEX:-${UV_INDEX_URL:-}}" ] || export PIP_INDEX_URL="${UV_DEFAULT_INDEX:-$UV_INDEX_URL}"
  [ ! -f /run/secrets/ca ] || export PIP_CERT=/run/secrets/ca
  exec "$target/bin/python" -m pip wheel --no-deps --no-build-isolation --wheel-dir "$2" "$1"
  ;;
lock)
  "$uv" pip install --python "$target/bin/python" --only-binary :all: --require-hashes --no-deps -r /environment/requirements.lock
  "$uv" pip check --python "$target/bin/python"
  # Modules are imported with a home that is thrown away: what they leave there is no part of the image.
  HOME=$(mktemp -d)
  export HOME HF_HUB_OFFLINE=1
  "$target/bin/python" -s /tools/inside.py "$@" >"$target/longctx.json" || { cat "$target/longctx.json" >&2; exit 1; }
  rm -rf "$HOME"
  [ "$DEVICE" != cuda ] || ! grep -q '"torch_cuda": null' "$target/longctx.json" || {
    echo "error: the torch that was installed is no CUDA build: name torch_index, or put one into the wheelhouse" >&2
    exit 1
  }
  ;;
esac
