"""A rank of `hora.run`: `python -m hora.launched FOLDER` calls what lies there."""

from __future__ import annotations

import json
import os
import pathlib
import pickle
import sys
import traceback


def main(folder: pathlib.Path, rank: str) -> int:
    """Leaves (did it work, the result or a traceback) in the folder, and gives the exit code."""
    sys.path[:] = json.loads((folder / "path").read_text())
    code = 0
    try:
        func, args, kwargs = pickle.loads((folder / "call").read_bytes())
        told = _dumps((True, func(*args, **kwargs)))
    except BaseException:  # whoever called run() gets it, as text
        traceback.print_exc()
        told = pickle.dumps((False, traceback.format_exc()))
        code = 1
    unfinished = folder / f"unfinished.{rank}"
    unfinished.write_bytes(told)
    unfinished.rename(folder / f"result.{rank}")
    return code


def _dumps(result: object) -> bytes:
    try:
        import cloudpickle
    except ImportError:
        return pickle.dumps(result)
    return cloudpickle.dumps(result)


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1]), os.environ["HORA_RANK"]))
