#!/bin/sh
# Makes .venv from requirements.lock, or brings it up to date; run by make, which sets PYTHON. A .venv that was never finished,
# that was moved or copied, or whose interpreter is gone or has been replaced, is made anew.
#   environment.sh           does so
#   environment.sh usable    says by its exit status whether .venv is whole and in its place
set -euf
UV=0.13.8
python=${PYTHON:-python3}
here=$(pwd -P)

stop() {
    echo "make: $*" >&2
    exit 1
}

usable() {
    [ -e .venv/.ready ] && { [ ! -s .venv/.ready ] || [ "$(cat .venv/.ready)" = "$here" ]; } &&
        .venv/bin/python -I -c 'import emofuse' 2>/dev/null
}

create() {
    # Not with the Python of .venv itself, which may be activated.
    outside= && IFS=:
    for folder in $PATH; do [ "$folder" -ef .venv/bin ] || outside=$outside:$folder; done
    unset IFS
    PATH=${outside#:}
    command -v $python >/dev/null ||
        stop "$python: not found; install Python 3.11 or later with venv, or name it: make PYTHON=python3.11"
    $python -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        stop "$python is older than Python 3.11; name a later one: make PYTHON=python3.11"
    $python -c 'import ensurepip, venv' 2>/dev/null ||
        stop "$python has no venv; install it (on Debian and Ubuntu, the package python3-venv)"
    rm -f .venv/.ready
    $python -m venv --clear .venv
}

install() {
    .venv/bin/python -m pip install --quiet --disable-pip-version-check uv==$UV &&
        .venv/bin/uv pip install --quiet --python .venv/bin/python --requirement requirements.lock &&
        .venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable . &&
        .venv/bin/python -m emofuse.utils.user
}

if [ "${1-}" = usable ]; then
    usable
    exit
fi
usable || create
cache=${XDG_CACHE_HOME:-${HOME:-/}/.cache}
if ! { mkdir -p "$cache" && [ -w "$cache" ]; } 2>/dev/null; then
    export UV_CACHE_DIR="$here/.venv/.cache"
fi
if [ -e .venv/.ready ]; then
    mv .venv/.ready .venv/.before # if this is interrupted, .venv is made anew
fi
if ! install; then
    [ ! -e .venv/.before ] || mv .venv/.before .venv/.ready
    stop "could not install the packages into .venv (see above); try again"
fi
rm -rf .venv/.before .venv/.cache
echo "$here" >.venv/.ready
