# Sourced by the other scripts: `environment NAME EXTRAS` makes the virtual environment .venv-NAME with this package
# and the extras in it, or reuses it while pyproject.toml and the constraints are the same; $python is its interpreter.
environment() {
  local folder=".venv-$1" extras="$2" stamp
  stamp="$(cat pyproject.toml configs/constraints.txt | cksum) $extras"
  python="$folder/bin/python"
  if [ ! -x "$python" ] || [ "$(cat "$folder/stamp" 2>/dev/null)" != "$stamp" ]; then
    "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
      echo "Python 3.11 or newer is needed; name one with PYTHON=…" >&2
      return 1
    }
    "${PYTHON:-python3}" -m venv "$folder"
    # torch first and by its exact version, so that no other package's range brings in a CUDA build.
    "$python" -m pip install --quiet --disable-pip-version-check --constraint configs/constraints.txt torch==2.13.0
    "$python" -m pip install --quiet --disable-pip-version-check --constraint configs/constraints.txt \
      --editable ".[$extras]"
    echo "$stamp" > "$folder/stamp"
  fi
}
