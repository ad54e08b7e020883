"""Here: the border between Rust and Python, all of it; `barlow.data` is the only importer.

Not here: anything that Rust does not define.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, final

import numpy as np
from numpy.typing import NDArray

_Path = str | os.PathLike[str]
_Progress = Callable[[int, int], None]
"""(done, total), from the calling thread, at most about 10 times a second and at the end."""

class DataError(ValueError):
    """Bad input with its address."""

    kind: str
    """io, archive, image, version (of a recoded image), limit, index, checksum, empty or source."""
    shard: str | None
    """Path of the shard, archive, image or index."""
    member: str | None
    """Name inside the shard, control bytes escaped."""
    offset: int | None
    """Byte in the shard."""

# Sources (rust/python/src/dataset.rs)

@final
class Index:
    """The samples of a source: where each one lies, its label, size and checksum. Immutable."""

    @staticmethod
    def open(path: _Path) -> Index:
        """Opens an index file, a folder with `barlow.index`, or a tar with `NAME.tar.index` beside it."""

    @staticmethod
    def scan(
        path: _Path, threads: int = 0, progress: _Progress | None = None, *, members: bool = True
    ) -> Index:
        """Makes an index in memory: of a tar, a folder of tars, a folder of class folders or of images.

        `members`: extra members are read and recorded, too; otherwise they are among the ignored files.
        """

    def __len__(self) -> int: ...
    @property
    def labels(self) -> NDArray[np.int64]:
        """[N], -1 where there is none; a fresh array at each access."""

    @property
    def class_names(self) -> list[str]:
        """Names by label."""

    @property
    def source(self) -> str:
        """What was opened or scanned, as given."""

    @property
    def root(self) -> str:
        """Folder that shard paths are relative to."""

    @property
    def num_shards(self) -> int:
        """Archives, or single files of a folder."""

    def shards(self) -> list[Path]:
        """Their paths; those of a subset are all that it was made from."""

    @property
    def num_ignored(self) -> int:
        """Files passed over by `scan` that are no images and belong to none, and links in archives."""

    def name(self, i: int) -> str:
        """Member name of sample `i`, surrogateescape."""

    def shape(self, i: int) -> tuple[int, int]:
        """(height, width) in pixels."""

    def shard(self, i: int) -> str:
        """Path of the shard that holds sample `i`."""

    def read(self, i: int, *, original: bool = False) -> bytes:
        """The encoded bytes, checksum verified; with `original` of the file that a recoded image was."""

    def recoded(self) -> NDArray[np.int64]:
        """Positions of the samples that are recoded images, [count]."""

    @property
    def member_names(self) -> list[str]:
        """Extensions of all extra members, in byte order: those of files next to an image of its stem, such
        as `json` of 0001.json beside 0001.jpg; all that follows the first dot, in lower case."""

    def members(self, i: int) -> list[str]:
        """Those of sample `i`, in byte order; surrogateescape."""

    def read_member(self, i: int, name: str) -> bytes:
        """The bytes of one of them, checksum verified; KeyError if sample `i` lacks it."""

    def check_members(self, names: Sequence[str]) -> None:
        """ValueError for a name that no sample of the data set has."""

    def digest(self) -> str:
        """sha256 of names, labels, lengths, checksums and class names; neither where shards lie nor extra
        members matter."""

    def subset(self, ids: Sequence[int] | NDArray[np.integer]) -> Index:
        """The samples `ids`, in this order, numbered anew; IndexError for an unknown one."""

    def write(self, path: _Path) -> str:
        """Writes it durably to a file, or to FOLDER/barlow.index; returns the path."""

@final
class Order:
    """Which samples make up which batch: a pure function of integers in O(1) memory."""

    def __new__(
        cls,
        num_samples: int,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        drop_last: bool = True,
    ) -> Order: ...
    @property
    def steps_per_epoch(self) -> int:
        """Batches of one epoch."""

    def batch(self, epoch: int, step: int) -> NDArray[np.uint32]:
        """This rank's ids, [rows]; empty past the end."""

    def digest(self) -> str:
        """16 hex digits, the same for every rank and world size."""

ORDER_VERSION: int

def index_path(source: _Path) -> str:
    """Where the index of a source belongs: FOLDER/barlow.index, NAME.tar.index, or the index file itself."""

def members(path: _Path) -> list[tuple[bytes, int, int]]:
    """Regular members of a tar: (name, data offset, length in bytes)."""

def pack(
    source: _Path,
    out: _Path,
    *,
    shard_bytes: int = 268435456,
    min_shards: int = 1,
    held_out: float = 0.0,
    on_error: Literal["raise", "skip"] = "raise",
    members: bool = True,
    decode: bool = True,
    recode: bool = False,
    prove: Literal["rewrite", "strict"] = "strict",
    overwrite: bool = False,
    threads: int = 0,
    progress: _Progress | None = None,
) -> dict[str, Any]:
    """Decodes every image once and writes shards and their index; the output is absent or complete.

    `members`: extra members are packed, too. `decode=False` reads headers alone, at the speed of the disk.
    `recode`: JPEGs are stored with their Huffman codes undone, under their names and `.bjc`; those that
    cannot be, and everything else, as they are. `prove`: how it is proven that each comes back, "strict" or
    "rewrite" (docs/recode-format.md); what is stored is the same.

    Returns images, held_out_images, extra_members, shards, bytes, classes, ignored (files that are no images
    and belong to none, and links in archives), classes_without_training (whose only image was held out),
    recoded (images), recoded_from_bytes and recoded_to_bytes (their size before and now), not_recoded (for
    each reason how many JPEGs it kept as they are), skipped and seconds.
    """

def unpack(
    source: _Path,
    out: _Path,
    *,
    on_error: Literal["raise", "skip"] = "raise",
    progress: _Progress | None = None,
) -> dict[str, Any]:
    """Writes the original files back, byte for byte; returns files, restored (those of them that were
    recoded), bytes, skipped (members that are damaged, of which nothing was written) and seconds."""

# Pixels (rust/python/src/pixels.rs)

class Parameters(TypedDict):
    """What was drawn for one view of one image."""

    window: tuple[int, int, int, int]
    """x, y, width, height in source pixels."""
    resized: tuple[int, int]
    """Width and height that the window is resized to."""
    offset: tuple[int, int]
    """x, y of the square of `size` pixels that is cut out of that."""
    size: int
    interpolation: Literal["bilinear", "bicubic"]
    operations: list[tuple[str] | tuple[str, float]]
    """In order: flip, brightness f, contrast f, saturation f, hue f (turns), grayscale, blur sigma_px,
    solarize threshold."""

def recode(data: bytes) -> bytes | None:
    """The recoded image that `pack(recode=True)` stores for a JPEG, proven to give the file back; None: it is
    stored as it is."""

def restore(data: bytes) -> bytes:
    """The original file of a recoded image, checked against its checksum; DataError if it is damaged."""

def peek(data: bytes) -> tuple[str, int, int]:
    """Format (jpeg, png, webp, recoded), height and width in pixels, from the header alone."""

def decode(data: bytes, shrink: int = 1, library_codes: bool = False) -> NDArray[np.uint8]:
    """RGB pixels [H, W, 3] of a JPEG (recoded or not), PNG or WebP, as Pillow gives them; EXIF orientation is
    ignored.

    `shrink` 2, 4 or 8 divides both sides of a JPEG (rounded up), as Pillow's `draft` does. One exception:
    16-bit grey PNGs keep their high byte, where Pillow's `convert("RGB")` cuts everything above 255 to white.
    With `library_codes` libjpeg-turbo reads a JPEG's Huffman codes itself: slower, the same pixels.
    """

def check_view(view: Any) -> None:
    """ValueError or TypeError for a view of `barlow.data.views` that cannot work."""

def draw(
    view: Any, seed: int, epoch: int, sample: int, view_index: int, width: int, height: int
) -> Parameters:
    """The parameters of one view of one image of `width` x `height` pixels: a function of its arguments."""

def apply(image: NDArray[np.uint8], parameters: Parameters, simd: str | None = None) -> NDArray[np.uint8]:
    """Image [H, W, 3], C-contiguous, to view [3, size, size].

    `simd` is one of `simd()`, by default the fastest; all give equal pixels.
    """

def simd() -> list[str]:
    """Instruction sets of this CPU that pixels can be computed on, slowest first: `portable` always, then
    `avx2` and `avx512` (with VNNI and VBMI), or `neon`."""

VIEWS_VERSION: int
"""Another version gives other parameters or pixels for the same image and settings."""

def to_floats(
    views: NDArray[np.uint8],
    scale: tuple[float, float, float],
    shift: tuple[float, float, float],
    threads: int,
    out: NDArray[np.float32],
) -> None:
    """uint8 [N, 3, H, W] into float32 [N, H, W, 3], both C-contiguous: value * scale + shift by channel."""

# Batches (rust/python/src/loader.rs)

def blur_kernels(sigmas: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """[N, width], centred: the weights of one pass of the blur (three along rows, three along columns) for
    each sigma in pixels; ValueError if they do not fit. Sigma 0 leaves everything as it is."""

@final
class Pool:
    """Makes arrays whose memory is used again once nothing refers to it any more."""

    def __new__(cls, keep: int) -> Pool:
        """Keeps the memory of at most `keep` arrays that are not in use."""

    def take(self, shape: tuple[int, int, int, int]) -> NDArray[np.uint8]:
        """An array that nobody else sees, its content undefined. Slices, tensors and capsules made from it
        keep its memory as it does."""

@final
class Meter:
    """What the threads of a loader have done, from stream to stream."""

    def __new__(cls, threads: int) -> Meter:
        """For so many worker threads; 0: one for each core that this process may run on."""

    def ask(self) -> None:
        """The consumer asks for a batch."""

    def answer(self) -> None:
        """The consumer has its batch."""

    def stats(self) -> dict[str, Any]:
        """images, replaced, threads, threads_s, idle_s, consumer_s, waited_s, and for each stage a dictionary
        of busy_s, count, bytes, p50_s and p99_s; see `barlow.data.Stats`."""

@final
class Loader:
    """A stream of batches from a position on, written into lent memory; `barlow.data.Loader` drives it."""

    def __new__(
        cls,
        index: Index,
        views: Sequence[Any],
        order: Order,
        meter: Meter,
        *,
        epoch: int,
        step: int,
        end_epoch: int | None,
        shrink_on_load: bool,
        replace: tuple[int, int] | None,
        members: Sequence[str] = (),
        hand_over: Literal["views", "crops", "encoded"] = "views",
    ) -> Loader:
        """`meter` decides the number of threads. `replace`: None, or how many samples may be replaced in an
        epoch, and how many of the first epoch's have been already. `members`: extensions of the extra members
        that come with each sample."""

    @property
    def forked(self) -> bool:
        """True in a process forked off from the one with the threads: only `close` may be called there."""

    def wanted(self) -> tuple[int, int, int] | None:
        """(epoch, step, rows) of the batch that memory is wanted for; None at the end of the stream."""

    def row_bytes(self) -> list[int]:
        """Bytes of one row of each array that `lend` takes: the pixels of each view (not if encoded bytes are
        handed over), then, unless views are, each view's cut (int32 [8]) and each view's steps (float32
        [columns, 2])."""

    def lend(
        self, views: Sequence[NDArray[np.uint8]], labels: NDArray[np.int64], ids: NDArray[np.int64]
    ) -> None:
        """Lends memory for it: of `rows` rows for each of `row_bytes`, and [rows], contiguous and writeable.

        Nobody else may touch it until `take` has returned this batch.
        """

    def take(
        self, timeout_s: float
    ) -> tuple[int, list[tuple[int, DataError]], list[list[bytes | None]], list[NDArray[np.uint8]]] | None:
        """Waits for the oldest lent batch, which is the caller's again; DataError if it failed.

        None when it is not finished in time; otherwise how many rows hold another sample than the order
        says, position and error of each damaged sample that was met, for each of `members` the bytes by
        row, and the encoded images of all rows if these are handed over.
        """

    def doing(self) -> list[tuple[int, str, int, float]]:
        """Number, activity (off, idle, read, decode, augment), sample and seconds of each worker."""

    def occupancy(self) -> tuple[int, int]:
        """Batches in flight, and how many of them are finished."""

    def close(self, patience_s: float) -> int:
        """Ends the threads; returns how many still hang in a read after `patience_s`. What was lent to those
        stays referred to until they end."""
