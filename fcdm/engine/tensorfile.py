"""Writes safetensors files tensor by tensor, hashed on the way.

The library's `save_file` first copies a whole group from the GPU (5.6 GB of moments for an XL model), refuses
channels_last and shared tensors, and hides the operating system's error. The format is simple: 8 bytes, the
header's length (little-endian); a JSON header {name: {"dtype", "shape", "data_offsets": [begin, end]}}; the
tensors' bytes, row-major, end to end (https://github.com/huggingface/safetensors#format). Reading is left to
the library.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_CHUNK = 1 << 24
"""Bytes written and hashed at a time: what was just hashed is still in the cache when it is written."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> tuple[int, str]:
    """Creates the safetensors file `path`, on the disk when it returns: (its bytes, its sha256).

    Values are kept bit for bit; strides (channels_last) and shared storage are not: each name gets its own
    row-major bytes. Takes the memory of one tensor more. Raises OSError, and ValueError for a dtype that the
    format lacks.
    """
    # Wide elements first keeps each tensor aligned to its element size; the library does the same.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {}
    end = 0
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in _NAMES:
            raise ValueError(f"{name}: {tensor.dtype} cannot be stored in a checkpoint")
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    head = len(head).to_bytes(8, "little") + head
    digest = hashlib.sha256()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    with open(descriptor, "wb") as file:
        for part in (None, *order):
            raw = memoryview(head) if part is None else _bytes_of(tensors[part])
            for begin in range(0, len(raw), _CHUNK):
                chunk = raw[begin : begin + _CHUNK]
                digest.update(chunk)
                file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return len(head) + end, digest.hexdigest()


def _bytes_of(tensor: Tensor) -> memoryview:
    """The tensor's values, row-major, in this machine's (little-endian) order."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
