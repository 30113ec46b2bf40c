#!/bin/sh
# Build the wheel and the source distribution; type-check and run npnet as a stranger installs it.
set -eu
cd "$(dirname "$0")/.."
root=$PWD scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

.venv/bin/python -m build --outdir "$scratch/dist" . >"$scratch/log" 2>&1 ||
    { cat "$scratch/log"; exit 1; }
.venv/bin/python -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check "$scratch"/dist/*.whl types-psutil

cd "$scratch" # away from the source tree, so that the installed npnet is the one imported
venv/bin/npnet --version
venv/bin/npnet gradcheck --backend reference | tail -n 1
venv/bin/npnet train --dataset shapes --width 0.1 --input-size 32 --epochs 1 --max-steps 2 \
    --out run >/dev/null
test -s run/summary.json

# Every file of the source tree is in the wheel, through the two symlinks too.
installed=$(venv/bin/python -c 'import npnet, pathlib; print(pathlib.Path(npnet.__file__).parent)')
diff -r -x __pycache__ "$root/npnet" "$installed"

"$root/.venv/bin/mypy" --config-file "$root/pyproject.toml" --python-executable venv/bin/python
