"""Makes the classifier of a store of pixels, once: the first process does, and all others wait for it."""

from __future__ import annotations

import shutil
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from fcdm.atomic import file_errors, write_atomic, write_json
from fcdm.data.pixel_store import PixelStore
from fcdm.engine.stop import Interrupted, Stopped
from fcdm.engine.worker import Worker
from fcdm.errors import UserError
from fcdm.features import train_classifier
from fcdm.features.classifier_files import WEIGHTS, ClassifierFiles, facts_file, find_classifier
from fcdm.features.enough_images import LEAST_TAUGHT, TESTED, why_no_classifier
from fcdm.features.train_classifier import IMAGES_A_STEP, SEEDS, Lesson, has_learned, lesson_of
from fcdm.hashing import known_sha256
from fcdm.metrics.inception_score import shuffled

MOST_TAUGHT, MOST_TESTED = 20_000, 2_000
"""Images that are read to learn from, and to be tested on."""
SPLIT_SEED = 20260309


def make_classifier(store: PixelStore, worker: Worker, task: str = "auto") -> tuple[ClassifierFiles, bool]:
    """The store's classifier, and whether it was made now. All ranks together; the first trains, on the CPU.

    task: `labels` or `rotations` decides what is learned; `auto`: see `lesson_of`. Raises Stopped, with nothing kept,
    and UserError for a store with too few images and for networks that have not learned to read.
    """
    ranks = worker.ranks
    path = ranks.first_does(lambda: facts_file(store.folder, store.checksum))
    work = path.with_name(".classifier")

    def is_made() -> bool:
        return find_classifier(store.folder, store.checksum) is not None

    made = False
    with worker.claiming([work], is_made, wait=True) as worker_here:
        if worker_here is not None:
            made = True
            try:
                ranks.first_does(lambda: _make(store, worker_here, task))
            except Interrupted:
                raise Stopped(worker.stop.signum or 0) from None
            finally:
                if ranks.is_main:
                    shutil.rmtree(work, ignore_errors=True)
    found = ranks.first_does(lambda: find_classifier(store.folder, store.checksum))  # others may not see the folder
    assert found is not None
    if task not in ("auto", found.facts["task"]):
        raise UserError(
            f"task={task}: the classifier of {store.folder} stands, and has learned {found.facts['task']}: leave task= "
            f"away, or remove {found.path}, and another one is made, whose evaluations are others"
        )
    return found, made


def _make(store: PixelStore, worker: Worker, task: str) -> None:
    began = time.monotonic()
    lesson, taught = _lesson(store, task)
    steps = train_classifier.STEPS
    total = len(SEEDS) * steps * IMAGES_A_STEP
    worker.progress.note(
        f"classifier of {store.folder}: {len(SEEDS)} small networks learn {_what(lesson)} on {taught:,} images that no "
        f"generator sees; {total:,} images are looked at"
    )
    weights: dict[str, Tensor] = {}
    right: list[int] = []
    for number, seed in enumerate(SEEDS):
        before = number * steps * IMAGES_A_STEP

        def looked(images: int, before: int = before) -> None:
            worker.interrupt()
            worker.beat()
            worker.progress.sampling(0, before + images, total)

        found, correct = train_classifier.train_classifier(lesson, seed, looked)
        weights |= {f"{number}.{key}": value.contiguous() for key, value in found.items()}
        right.append(correct)
    path = facts_file(store.folder, store.checksum)
    with file_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path.with_name(WEIGHTS), save(weights))
    tested = len(lesson.test_answers)
    facts: dict[str, Any] = {
        "store": store.checksum,
        "task": lesson.task,
        "classes": lesson.classes,
        "channels": store.manifest.channels,
        "side": store.manifest.side,
        "taught": taught,
        "tested": tested,
        "seeds": list(SEEDS),
        "steps": steps,
        "accuracy": [correct / tested for correct in right],
        "chance": lesson.chance,
        "learned": all(has_learned(correct, lesson) for correct in right),
        "sha256": known_sha256(path.with_name(WEIGHTS)),
        "seconds": round(time.monotonic() - began, 1),
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
    }
    write_json(path, facts)


def _lesson(store: PixelStore, task: str) -> tuple[Lesson, int]:
    """What there is to learn in the store, and of how many images. Raises UserError where these are too few."""
    if why := why_no_classifier(store.parts):
        raise UserError(why)
    aside = _drawn(store.aside_indices, MOST_TAUGHT)
    tests = _drawn(store.heldout_indices, MOST_TESTED)
    labels = store.labels
    if len(tests) < LEAST_TAUGHT:  # a fifth of what is set aside is not learned from, then
        aside, tests = _cut(aside, labels[aside])
    lesson = lesson_of(store.read(aside), labels[aside], store.read(tests), labels[tests], task)
    return lesson, len(lesson.images)


def _drawn(indices: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """So many of them at most, in the order of the store."""
    return np.sort(indices[np.argsort(shuffled(len(indices), SPLIT_SEED), kind="stable")][:most])


def _cut(aside: NDArray[np.int64], labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(what is learned from, what is tested on): of each class a fifth is tested on, wherever it stands in the store.

    aside: (n,) images, in the order of the store; labels: (n,) of them.
    """
    by_class = np.lexsort((shuffled(len(aside), SPLIT_SEED), labels))
    is_test = np.zeros(len(aside), bool)
    is_test[by_class[TESTED - 1 :: TESTED]] = True
    return aside[~is_test], aside[is_test]


def _what(lesson: Lesson) -> str:
    return f"{lesson.classes} classes" if lesson.task == "labels" else "by which quarter turn an image is rotated"
