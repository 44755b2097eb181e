"""Feature maps of photos in one folder, one file a layer, one record a photo."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

_INDEX = "records.json"


class Records:
    """Feature maps on disk, in the order in which they were appended.

    They are read with plain reads (``pread``) rather than mapped: the bytes come from the same page cache, and leave
    the process's memory at once, so that what a process holds does not grow with what it has gone through. Numbers
    are kept in the type in which the backbone computed them, so that nothing is lost and bfloat16 takes half the
    space.

    Attributes:
        dtype: Type of the numbers on disk.
        shapes: Layer -> shape (C, h, w) of a photo's map.
    """

    def __init__(self, folder: Path, *, dtype: torch.dtype) -> None:
        """No records yet, in a folder that exists."""
        self.dtype = dtype
        self.shapes: dict[int, torch.Size] = {}
        self._folder = folder
        self._files: dict[int, int] = {}
        self._count = 0

    @classmethod
    def open(cls, folder: Path) -> Records:
        """The records that ``finish`` left in a folder, to be read.

        Raises:
            OSError: There are none.
            ValueError: What is there is none of them, or shorter than it says.
        """
        records = Records(folder, dtype=torch.float32)
        records._load()
        return records

    def __len__(self) -> int:
        return self._count

    @property
    def num_bytes(self) -> int:
        """Bytes of all records."""
        return self._count * sum(map(self._num_bytes, self.shapes))

    def append(self, maps: Mapping[int, Tensor]) -> None:
        """Adds B photos: for each layer shape (B, C_l, h_l, w_l)."""
        for layer, features in maps.items():
            if layer not in self._files:
                flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
                self._files[layer] = os.open(self._folder / f"layer-{layer}", flags, 0o600)
                self.shapes[layer] = features.shape[1:]
            data = features.to("cpu", self.dtype).contiguous().view(torch.uint8).numpy().tobytes()
            written = 0
            while written < len(data):  # a write may stop half-way, at 2 GiB for one
                written += os.write(self._files[layer], data[written:])
        self._count += len(next(iter(maps.values())))

    def finish(self) -> None:
        """Says beside the records what they are, for ``open``."""
        shapes = {str(layer): list(shape) for layer, shape in sorted(self.shapes.items())}
        index = {"dtype": str(self.dtype).removeprefix("torch."), "count": self._count, "shapes": shapes}
        (self._folder / _INDEX).write_text(json.dumps(index), encoding="utf-8")

    def read(self, layer: int, numbers: Sequence[int]) -> Tensor:
        """Maps of the photos with these numbers: shape (B, C_l, h_l, w_l), in the type on disk.

        Raises:
            OSError: A record is no longer there.
        """
        num_bytes = self._num_bytes(layer)
        records = bytearray(num_bytes * len(numbers))
        view = memoryview(records)
        for place, number in enumerate(numbers):
            part = view[place * num_bytes : (place + 1) * num_bytes]
            if os.preadv(self._files[layer], [part], number * num_bytes) != num_bytes:
                raise OSError(f"The feature cache lost photo {number} of layer {layer}.")
        return torch.frombuffer(records, dtype=self.dtype).view(len(numbers), *self.shapes[layer])

    def _load(self) -> None:
        """Opens the files that the index names."""
        index = json.loads((self._folder / _INDEX).read_text(encoding="utf-8"))
        self.dtype, self._count = getattr(torch, index["dtype"]), index["count"]
        try:
            for name, shape in index["shapes"].items():
                layer = int(name)
                self.shapes[layer] = torch.Size(shape)
                file = self._files[layer] = os.open(self._folder / f"layer-{layer}", os.O_RDONLY)
                if os.fstat(file).st_size != self._num_bytes(layer) * self._count:
                    raise ValueError(f"layer {layer} in {self._folder} is not as long as its {self._count} records.")
        except BaseException:
            Records.close(self)
            raise

    def close(self) -> None:
        """Closes the files; nothing can be read any more."""
        for file in self._files.values():
            os.close(file)
        self._files.clear()

    def _num_bytes(self, layer: int) -> int:
        return self.shapes[layer].numel() * self.dtype.itemsize
