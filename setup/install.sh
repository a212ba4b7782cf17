#!/usr/bin/env bash
# Makes this machine ready to build and test Hora: Debian packages by apt-get (those that are
# missing), Python packages into .venv. Running it again costs a second.
#
#   setup/install.sh [--ask]     --ask: show what would be installed and ask first
#
# Logs go to build/logs. Without the right or the network to install Debian packages it says which.
set -euo pipefail
cd "$(dirname "$0")/.."
logs=build/logs
python=.venv/bin/python
mkdir -p "$logs"

say() { printf '%s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# run LOG COMMAND...: quiet when it succeeds, the log's end when it does not.
run() {
  local log=$logs/$1.log
  shift
  if ! "$@" >"$log" 2>&1 </dev/null; then
    tail -n 25 "$log" >&2
    printf 'setup: `%s` failed; the whole log is in %s\n' "$*" "$log" >&2
    return 1
  fi
}

installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

missing_debian() {
  command -v g++ >/dev/null || say g++
  command -v cmake >/dev/null || say cmake
  command -v make >/dev/null || say make
  command -v python3 >/dev/null || say python3
  command -v dpkg-query >/dev/null || return 0
  local package
  while read -r package _; do
    case $package in ''|'#'*) continue ;; esac
    installed "$package" || say "$package"
  done <setup/debian.txt
}

# What .venv was made from; a change of the lists installs again.
wanted() { cat setup/torch.txt setup/python.txt; }
python_ready() { [ -x $python ] && [ -f .venv/hora-packages.txt ] && wanted | cmp -s - .venv/hora-packages.txt; }

ask() {
  say "To build and run Hora, this installs"
  [ -z "$1" ] || say "  with apt-get: $(echo $1)"
  python_ready || say "  into .venv (about 1 GB): $(grep -hv '^#' setup/torch.txt setup/python.txt | tr '\n' ' ')"
  local answer
  read -r -p "Go on? [Y/n] " answer
  case $answer in ''|y|Y|yes|Yes) ;; *) fail "nothing was installed" ;; esac
}

install_debian() {
  local sudo=
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || fail "not root, and no sudo. Ask an administrator to install: $*"
    sudo=sudo
  fi
  command -v apt-get >/dev/null || fail "no apt-get on this machine. Install the equivalents of: $*"
  [ -z "$sudo" ] || $sudo -v || fail "sudo refused. Ask an administrator to install: $*"
  say "setup: installing Debian packages: $*"
  run apt-update $sudo apt-get update || say "setup: going on with the package lists that are there"
  run apt-install $sudo env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends "$@" || exit 1
}

install_python() {
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "Python 3.11 or later is needed"
  [ -x $python ] || run venv python3 -m venv .venv || exit 1
  local pip="$python -m pip --disable-pip-version-check --no-input install"
  # Only what the core's tests need may stop us here: a machine without PyTorch tests the rest.
  rm -f .venv/no-torch.txt
  say "setup: installing PyTorch into .venv (about a minute)"
  if ! run pip-torch $pip -r setup/torch.txt; then
    say "PyTorch could not be installed: see $logs/pip-torch.log" | tee .venv/no-torch.txt
  fi
  say "setup: installing Python packages into .venv"
  run pip $pip -r setup/python.txt || exit 1
  [ -f .venv/no-torch.txt ] || wanted >.venv/hora-packages.txt
}

missing=$(missing_debian)
if [ -n "$missing" ] || ! python_ready; then
  if [ "${1:-}" = --ask ] && [ -t 0 ] && [ -z "${CI:-}" ]; then ask "$missing"; fi
  [ -z "$missing" ] || install_debian $missing
  python_ready || install_python
fi
