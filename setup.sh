#!/bin/sh
# Make a virtual environment with npnet in it.
#
#   ./setup.sh [EXTRAS]      default: mpi; several as mpi,plots
#
#   mpi        MPICH, with its mpiexec, inside the environment
#   openmpi    Open MPI instead
#   plots      pictures of runs and studies (matplotlib)
#   images     JPEG, PNG and the like (Pillow)
#   exchange   weights of Keras and of ONNX (h5py, onnx)
#   dev        what tests and checks need; plots, images and exchange, too
#
# VENV names the folder (default .venv), PYTHON the interpreter (default python3). Only when Debian's
# Python comes without its venv module is a system package installed, python3.11-venv or so.
set -eu
cd "$(dirname "$0")"
extras=${1:-mpi} venv=${VENV:-.venv} python=${PYTHON:-python3}

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "setup: $python is too old or missing: npnet needs Python 3.11 or newer" >&2
    exit 1
fi
case $(uname -m) in
armv6l | armv7l | i?86)
    echo "setup: this is a 32-bit system, for which Numba has no package: use the 64-bit one" >&2
    exit 1
    ;;
esac
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    echo "setup: installing $package, which Debian's Python comes without"
    root=
    [ "$(id -u)" = 0 ] || root=sudo
    $root apt-get update -qq && $root apt-get install -y -qq "$package" || {
        echo "setup: that failed: install $package yourself, then run this again" >&2
        exit 1
    }
fi
[ -x "$venv/bin/pip" ] || "$python" -m venv "$venv"
echo "setup: installing npnet[$extras] into $venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check -e ".[$extras]"

launch=
[ ! -x "$venv/bin/mpiexec" ] || launch="mpiexec -n 2 "
cat <<END
setup: done. Next:
    . $venv/bin/activate
    ${launch}npnet train --dataset shapes --input-size 64 --epochs 6 --batch-per-rank 16 --lr 0.04
    npnet --help
END
