#!/usr/bin/env bash
# Installs what Hora is measured beside into .peers/<name>, a Python environment each:
#   benchmarks/peers/install.sh                    all of them (600 MB; Horovod takes 10 minutes)
#   benchmarks/peers/install.sh mpich intel        some of: openmpi mpich intel oneccl horovod
# Intel MPI and oneCCL are proprietary; their licenses are shown by `pip show -f impi-rt oneccl-cpu`.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p .peers

environment() {  # name packages...
  local folder=.peers/$1
  shift
  [ -x "$folder/bin/python" ] || python3 -m venv "$folder"
  "$folder/bin/pip" install --quiet --upgrade "$@"
}

# Its last release does not know the C++ that today's PyTorch needs, and looks for PyTorch while it
# is built. It is given Hora's own PyTorch.
horovod() {
  local folder=$PWD/.peers/horovod torch sources
  command -v mpicxx >/dev/null || { echo "horovod: first apt-get install libopenmpi-dev" >&2; return 1; }
  torch=$(.venv/bin/python -c 'import pathlib, torch; print(pathlib.Path(torch.__path__[0]).parent)')
  environment horovod "setuptools<80" wheel packaging cmake cloudpickle psutil pyyaml
  echo "$torch" >"$("$folder/bin/python" -c 'import site; print(site.getsitepackages()[0])')/torch.pth"
  sources=$(mktemp -d)
  "$folder/bin/pip" download --quiet --no-deps --no-binary :all: --no-build-isolation \
    --dest "$sources" horovod==0.28.1
  tar -C "$sources" -xf "$sources"/horovod-*.tar.gz
  sed -i 's/CMAKE_CXX_STANDARD 14/CMAKE_CXX_STANDARD 20/' \
    "$sources"/horovod-*/CMakeLists.txt "$sources"/horovod-*/horovod/torch/CMakeLists.txt
  HOROVOD_WITH_MPI=1 HOROVOD_WITHOUT_GLOO=1 HOROVOD_WITH_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 \
    HOROVOD_WITHOUT_MXNET=1 "$folder/bin/pip" install --quiet --no-build-isolation --no-deps \
    "$sources"/horovod-*/
  rm -rf "$sources"
}

[ $# -gt 0 ] || set -- openmpi mpich intel oneccl horovod
for name in "$@"; do
  echo "peers: $name"
  case $name in
    openmpi) environment openmpi openmpi ;;
    mpich) environment mpich mpich ;;
    intel) environment intel impi-rt impi-devel ;;
    oneccl)
      environment oneccl oneccl-cpu-devel intel-cmplr-lib-rt
      ln -sf libccl.so.1.0 .peers/oneccl/lib/libccl.so.2 # the name it calls itself is not packed
      ;;
    horovod) horovod ;;
    *) echo "$name: no such peer; there are openmpi mpich intel oneccl horovod" >&2; exit 2 ;;
  esac
done
