"""A file system without locks: a library for LD_PRELOAD in which flock, and fcntl if asked to, fail."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CODE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
static int fail(void) { errno = atoi(getenv("LOCK_ERRNO")); return -1; }
int flock(int fd, int operation) { (void)fd; (void)operation; return fail(); }
static int control(const char *name, int fd, int command, void *argument) {
    int (*real)(int, int, ...) = dlsym(RTLD_NEXT, name);
    int lock = command == F_SETLK || command == F_SETLKW || command == F_GETLK;
    return lock && getenv("LOCK_FCNTL") ? fail() : real(fd, command, argument);
}
#define DEFINE(name) int name(int fd, int command, ...) { \
    va_list list; va_start(list, command); void *argument = va_arg(list, void *); va_end(list); \
    return control(#name, fd, command, argument); }
DEFINE(fcntl)
DEFINE(fcntl64)
"""


def settings(folder: Path, number: int, with_fcntl: bool = False) -> dict[str, str]:
    """The environment of a process for which locking fails with an error number; skips the test without a C compiler."""
    if not (compiler := shutil.which("cc")):
        pytest.skip("no C compiler")
    source, library = folder / "nolocks.c", folder / "nolocks.so"
    source.write_text(CODE)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "LOCK_ERRNO": str(number), **({"LOCK_FCNTL": "1"} if with_fcntl else {})}
