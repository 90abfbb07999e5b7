"""The files of a data set's folder, listed once, and the image that a name in an annotation means.

`Tree` walks a folder. `Images.find` is asked for all names of one annotation file at once, because
where most of them lie says where the others are meant to lie.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias, TypeVar
from urllib.parse import unquote

from panodetr.errors import DataError, reason_of
from panodetr.files import read_bytes
from panodetr.images.read import SUFFIXES

T = TypeVar("T")
At = TypeVar("At", bound=Hashable)

MOST_FILES = 3_000_000
"""A folder of more is no data set: somebody named a whole disk."""

DEEPEST = 12
"""Folders within folders that are walked."""

MOST_LINKS = 100
"""Ways to one folder; folders of links to each other have any number."""

ANNOTATIONS_DEPTH = 4
"""Folders below the one that is opened in which annotation files are looked for."""

MOST_KEPT = 2**29
"""Bytes of files that were looked into, and are kept for their readers."""

LEAST_THERE = 0.1
"""Part of the listed images that must be there: fewer are those of another export."""

ABSENT = "list images that are not there"
"""Why an annotation file is left out."""

HEAD, TAIL = 1 << 16, 1 << 12
"""Bytes at the beginning and end of a file that are looked at."""

_HIDDEN = re.compile(r"\.(?!annotations\.coco\.json$)|__MACOSX$")
"""The names of hidden files and folders, but for what Roboflow's become where "_" is lost."""

_NAMES = re.compile(
    rb'"(?:file_name|imagePath|filename)"\s*:\s*"((?:[^"\\]|\\.)+)"|<filename>([^<]+)</filename>'
)
"""What annotation files call images."""

_NAN = re.compile(rb"(?<=[:,\[\s])NaN(?=[,\]}\s])")
"""What Python writes into JSON, where nothing is allowed but null."""

SPLITS = ("train", "val", "test")

_OF_SPLITS = (
    r"images?|imgs?|photos?|frames?|masks?|labels?|annot(?:ation)?s?|jsons?|xmls?|data|(?:data)?set"
)
_SPLIT = re.compile(
    rf"(?:(?:{_OF_SPLITS}|coco|yolo|task|\d\d?)[_ -])?"
    r"(?P<name>train(?:ing)?|val(?:id(?:ate|ation)?)?|dev|eval(?:uation)?|test(?:ing)?)"
    r"(?P<year>(?:19|20)\d\d)?"
    rf"(?:[_ -]?(?:{_OF_SPLITS})|[_ -]v?\d\d?| ?\(\d\d?\))?"
)
_NO_SPLIT = frozenset(("instances", "panoptic", "annotations", "coco", "default", "all"))
IMAGE_FOLDERS = frozenset(("images", "image", "imgs", "img", "jpegimages", "photos", "pictures"))
_TRUTH_FOLDERS = frozenset(
    ("masks", "mask", "labels", "panoptic", "segmentationclass", "segmentationobject")
)


Found: TypeAlias = dict[str, list[PurePosixPath]]
"""The annotation files of each split; "" stands for none."""


@dataclass(frozen=True)
class Split:
    """A split's name, as "val2017", and what it is called without year, as "val"."""

    name: str
    kind: str


def split_of(text: str) -> Split | None:
    """Read a word as the name of a split; None where it is none."""
    found = _SPLIT.fullmatch(text.lower())
    if found is None:
        return None
    kind = next((split for split in SPLITS if found["name"].startswith(split)), "val")
    return Split(kind + (found["year"] or ""), kind)


def split_of_file(path: PurePosixPath) -> str:
    """Give the split that a file's stem names, or else its nearest folder; "" where none does.

    A stem that names something else after COCO's "instances_" or "panoptic_" names a split, too.
    """
    words = words_of(path.stem)
    found = [split for word in words if (split := split_of(word))]
    if len(found) == 1:
        return found[0].name
    if split := split_of_folder(path.parent):
        return split
    named = re.fullmatch(r"(?:instances|panoptic)_(.+)", path.stem)
    return named[1] if named and not _NO_SPLIT.issuperset(words) else ""


def split_of_folder(folder: PurePosixPath) -> str:
    """Give the split that a folder or one above it names, the nearest first; "" where none does."""
    return next((split.name for part in reversed(folder.parts) if (split := split_of(part))), "")


def sort_by_split(
    paths: Iterable[PurePosixPath], split_of_path: Callable[[PurePosixPath], str]
) -> Found:
    """Sort annotation files by the splits that their paths name."""
    found: Found = {}
    for path in paths:
        found.setdefault(split_of_path(path), []).append(path)
    return found


def same_split(found: Iterable[str], split: str) -> str | None:
    """Find a split by its name, which may leave out the year or be another word for it."""
    names, wanted = list(found), split_of(split)
    if split in names:
        return split
    if wanted is None:
        return next((n for n in names if split and n[:-4] == split and n[-4:].isdecimal()), None)
    same = [n for n in names if (s := split_of(n)) and wanted.name in (s.name, s.kind)]
    return same[0] if same else None


def is_image(name: str) -> bool:
    """Whether a file is called as an image is."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def read_file(path: Path) -> bytes:
    """Read a file; text becomes UTF-8 where a byte order mark says how it is written.

    Raises:
        DataError: it cannot be read, is no file, or no text where it says so.
    """
    try:
        contents = read_bytes(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {reason_of(error)}") from error
    except MemoryError as error:
        raise DataError(f"cannot read {path}: it is larger than the memory") from error
    if contents[:2] in (b"\xff\xfe", b"\xfe\xff"):
        contents = as_text(contents, path, "utf-16").encode("utf-8", "replace")
    if path.suffix.lower() == ".json" and b"NaN" in contents:
        contents = _NAN.sub(b"null", contents)
    return contents.removeprefix(b"\xef\xbb\xbf")


def as_text(contents: bytes, path: Path, encoding: str = "utf-8") -> str:
    """Decode a text.

    Raises:
        DataError: it is written in another way; `path` is for the message.
    """
    try:
        return contents.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"cannot read {path}: {error}; expected text in UTF-8") from error


def as_lines(contents: bytes, path: Path) -> list[str]:
    """Give the lines of a text that are not empty, without the spaces around them.

    Raises:
        DataError: it is not UTF-8; `path` is for the message.
    """
    lines = map(str.strip, as_text(contents, path).splitlines())
    return [line for line in lines if line]


def fold(name: str) -> str:
    """Give what names have in common that differ only in case or in how accents are written."""
    return unicodedata.normalize("NFC", name).casefold()


def loose(name: str) -> str:
    """Give what names have in common that differ in case, accents' writing or URLs' escapes."""
    return fold(unquote(name))


_COCO_KEYS = ("images", "annotations", "categories", "segments_info")
"""What may stand anywhere in a JSON: each list of COCO's may be long."""

_KEYS = (
    *_COCO_KEYS,
    *("imagePath", "shapes", "points", "filename", "regions", "_via_img_metadata"),
    *("file_name", "objects", "bbox", "bboxes", "boxes"),
)

_END = 2**20
"""Bytes at either end of a JSON in which `_KEYS` are looked for."""

Folder: TypeAlias = tuple[str, ...]
"""The parts of a folder's path from the root."""

File: TypeAlias = tuple[Folder, str]
"""A folder, and the name of a file in it."""

OTHER = 5
"""The sort of a folder that nothing speaks for."""


class Tree:
    """The files below a folder, hidden ones left out; links are followed where they exist."""

    def __init__(
        self, root: Path, *, annotations: Path | None = None, images: Path | None = None
    ) -> None:
        """Walk the folder.

        Args:
            root: the data set's folder.
            annotations: the only annotation file that counts; None looks for them.
            images: the folder in which images are looked for; None means the same folder.

        Raises:
            DataError: there are far too many files.
        """
        self.root = root
        self.only = annotations
        self._images = images
        self._names: dict[Path, dict[str, str]] = {}
        self.found: dict[tuple[object, object], Any] = {}  # by what looked, and where
        self.left_out: dict[
            str, dict[Path, None]
        ] = {}  # annotation files, by why they are not read
        self._contents: dict[Path, bytes] = {}
        self._kept = 0
        self.folders: dict[PurePosixPath, list[str]] = {}  # the files in each
        self.below: dict[PurePosixPath, list[str]] = {}  # the folders in each
        self._walk()

    def _walk(self) -> None:
        count, ways = 0, Counter[tuple[int, int]]()
        waiting: list[tuple[PurePosixPath, frozenset[tuple[int, int]]]] = [
            (PurePosixPath(), frozenset())
        ]
        while waiting:
            folder, above = waiting.pop()
            try:
                state = os.stat(self.root / folder)
                inode = (state.st_dev, state.st_ino)
                if inode in above or len(folder.parts) > DEEPEST:  # a link to a folder above itself
                    continue
                entries = sorted(os.scandir(self.root / folder), key=lambda entry: entry.name)
            except OSError:
                continue
            ways[inode] += 1
            if ways[inode] > MOST_LINKS:
                raise DataError(
                    f"links lead to {self.root / folder} in more than {MOST_LINKS} ways; expected "
                    "the folder of one data set"
                )
            files = self.folders[folder] = list[str]()
            below = self.below[folder] = list[str]()
            for entry in entries:
                if _HIDDEN.match(entry.name):
                    continue
                try:
                    is_folder = entry.is_dir()
                except OSError:
                    is_folder = False
                (below if is_folder else files).append(entry.name)
            count += len(files)
            if count > MOST_FILES:
                raise DataError(
                    f"{self.root} has more than {MOST_FILES:,} files; expected the folder of one "
                    "data set"
                )
            waiting += [(folder / name, above | {inode}) for name in reversed(below)]

    def files(self, *suffixes: str, depth: int = DEEPEST) -> Iterator[PurePosixPath]:
        """Give the files with one of some suffixes, in lower case, folder by folder."""
        only = self.only
        if only is not None and not SUFFIXES.issuperset(suffixes) and ".txt" not in suffixes:
            if only.suffix.lower() in suffixes:
                yield PurePosixPath(os.path.relpath(only, self.root))
            return
        for folder, names in self.folders.items():
            if len(folder.parts) <= depth:
                for name in names:
                    if os.path.splitext(name)[1].lower() in suffixes:
                        yield folder / name

    def read(self, path: Path, *, keep: bool = False) -> bytes:
        """Read a file as `read_file` does; one that somebody reads again is kept until then.

        Raises:
            DataError: it cannot be read.
        """
        contents = self._contents.pop(path, None)
        if contents is None:
            contents = read_file(path)
        else:
            self._kept -= len(contents)
        if keep and self._kept + len(contents) <= MOST_KEPT:
            self._contents[path] = contents
            self._kept += len(contents)
        return contents

    def forget(self) -> None:
        """Keep no contents any longer: nobody is expected to read more."""
        self._contents.clear()
        self._kept = 0

    def ends(self, path: Path) -> bytes:
        """Read a file's beginning and its end; nothing where it cannot be read."""
        return self.once(_read_ends, path)

    def lines(self, path: Path, *, keep: bool = False) -> list[str]:
        """Read the lines of a text file as `as_lines` gives them; otherwise as `read`.

        Raises:
            DataError: it is no text, or cannot be read.
        """
        return as_lines(self.read(path, keep=keep), path)

    def once(self, look: Callable[[Tree, At], T], at: At) -> T:
        """Give what a function finds, for which it looks the first time alone."""
        if (look, at) not in self.found:
            self.found[look, at] = look(self, at)
        return self.found[look, at]

    def keys_in(self, path: Path) -> frozenset[str]:
        """Say which of the keys that tell formats apart a JSON has."""
        return self.once(_find_keys, path)

    def leave_out(self, reason: str, paths: Iterable[Path]) -> None:
        """Take up annotation files that are not read, for a note."""
        self.left_out.setdefault(reason, {}).update(dict.fromkeys(paths))

    def lists_images(self, path: Path) -> bool:
        """Whether images that an annotation file names are there, as far as its ends tell."""
        return self.once(_lists_images, path)

    def images_in(self, folder: PurePosixPath, *, deep: bool = False) -> list[PurePosixPath]:
        """List the images of a folder, and of those below it where `deep`, sorted."""
        inner = [other for other in self.folders if folder in other.parents] if deep else []
        return sorted(
            other / name
            for other in (folder, *inner)
            for name in filter(is_image, self.folders.get(other, ()))
        )

    def names_in(self, folder: Path) -> dict[str, str]:
        """Give the files of a folder, which may be outside the tree; none where there is none.

        They are listed by their names, and by these as `loose` gives them.
        """
        known = self._names.get(folder)
        if known is None:
            try:
                names = [n for n in os.listdir(folder) if not n.startswith("._")]
                known = {loose(n): n for n in names} | {n: n for n in names}
            except (OSError, ValueError):
                known = dict[str, str]()
            self._names[folder] = known
        return known

    def images_below(self, folder: Path) -> list[Path]:
        """List the images of a folder and those below it, also where it is outside the tree."""
        inside = folder == self.root or self.root in folder.parents
        inner = PurePosixPath(os.path.relpath(folder, self.root))
        if not inside or inner not in self.folders:
            tree = Tree(folder)
            return [tree.root / path for path in tree.images_in(PurePosixPath(), deep=True)]
        return [self.root / path for path in self.images_in(inner, deep=True)]

    @cached_property
    def pictures(self) -> Images:
        """The index of all image files, masks and id maps among them."""
        return Images(self)

    @cached_property
    def images(self) -> Images:
        """The index of those that may be images: of the folder that was named, or all."""
        return self.pictures if self._images is None else Tree(self._images).pictures

    def describe(self) -> str:
        """List the folders of images, and the other files at the top and below, for a refusal."""
        images, below = Counter[str](), Counter[str]()
        for folder, names in self.folders.items():
            where = f"{folder}/" if folder.parts else "the folder itself"
            images[where] = sum(map(is_image, names))
            if folder.parts:
                ends = (os.path.splitext(n)[1] or n for n in names if not is_image(n))
                below.update(f"{end} in {where}" for end in ends)
        shown = [f"{count} images in {name}" for name, count in (+images).most_common(4)]
        others = [n for n in self.folders.get(PurePosixPath(), []) if not is_image(n)]
        deeper = [f"{count} {what}" for what, count in below.most_common(3)]
        return ", ".join(shown + others[:6] + deeper) or "nothing"


class Images:
    """An index of image files by their names."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._root = str(tree.root)
        self._masks: dict[Folder, bool] = {}
        self._by_name: dict[str, list[Folder]] = defaultdict(list)
        for folder, names in tree.folders.items():
            parts = folder.parts
            for name in filter(is_image, names):
                self._by_name[name].append(parts)

    @cached_property
    def _by_fold(self) -> dict[str, list[File]]:
        return self._regroup(fold)

    @cached_property
    def _by_stem(self) -> dict[str, list[File]]:
        return self._regroup(lambda name: fold(os.path.splitext(name)[0]))

    def _regroup(self, key: Callable[[str], str]) -> dict[str, list[File]]:
        found: dict[str, list[File]] = defaultdict(list)
        for name, folders in self._by_name.items():
            found[key(name)] += [(folder, name) for folder in folders]
        return found

    def find(
        self,
        names: Sequence[str],
        folder: Path,
        *,
        split: str = "",
        others: frozenset[str] = frozenset(),
        maps: str | None = None,
        taken: frozenset[Path] = frozenset(),
    ) -> dict[str, list[Path]]:
        """Find the image that each name of an annotation file means; several where it is not clear.

        A name means the path as it is written, from the annotation file or from the root, wherever
        it leads; else the file whose path ends most like it, in the one folder that has all names,
        or the only one; or else the only one below folders that have all words of the written ones.
        Case counts only where it tells files apart; an ending may differ where one image has the
        stem. What lies in the folder of another split, or of masks, is left alone.

        Args:
            names: as they are written.
            folder: the annotation file's.
            split: the annotation file's.
            others: the splits of other annotation files.
            maps: the folder in which id maps are expected, where names are of id maps.
            taken: files that are something else.
        """
        found: dict[str, list[Path]] = {}
        beside = PurePosixPath(os.path.relpath(folder, self._tree.root)).parts
        kind = split_of(split)
        banned = {s.kind for name in others if (s := split_of(name))} - {kind.kind if kind else ""}

        @cache
        def may_be(base: Folder, inner: Folder) -> bool:
            if kind and banned and _in_split(base, banned):
                return False
            return not self.holds_masks(inner) if maps is None else _may_hold_maps(base, maps)

        candidates: dict[str, list[tuple[Folder, File]]] = {}
        votes: Counter[Folder] = Counter()
        for name in dict.fromkeys(names):
            kept = self._candidates(_parts(name), may_be, taken)
            if not kept and (unquoted := unquote(name)) != name:
                kept = self._candidates(_parts(unquoted), may_be, taken)
            candidates[name] = kept
            votes.update(base for base, _ in kept)
        there = sum(bool(kept) for kept in candidates.values())
        chosen = _best([b for b, count in votes.items() if count == there], beside, kind, maps)
        for name, kept in candidates.items():
            exact = self._as_written(name, beside)
            if exact is not None and exact not in taken:
                found[name] = [exact]
                continue
            meant = [file for base, file in kept if base == chosen]
            if len(meant) != 1:
                best = _best([base for base, _ in kept], beside, kind, maps)
                meant = [file for base, file in kept if base == best]
            paths = [self._path(file) for file in meant]
            if len(paths) != 1:
                images = [file for _, file in kept if maps or not _is_truth(file[0])]
                images = images or [file for _, file in kept]
                words = set(words_of("/".join(_parts(name)[:-1])))
                alike = [f for f in images if words and words <= set(words_of("/".join(f[0])))]
                paths = [self._path(file) for file in (alike if len(alike) == 1 else images)]
                paths = paths[:1] if paths and are_copies(paths) else paths
            if paths:
                found[name] = paths
        return found

    def holds_masks(self, folder: Folder) -> bool:
        """Whether a folder is called as those of masks, and most of its files as images."""
        if folder not in self._masks:
            names = self._tree.folders[PurePosixPath(*folder)] if _is_truth(folder) else []
            stems = [fold(os.path.splitext(name)[0]) for name in filter(is_image, names)]
            twins = [s for s in stems if any(not _is_truth(f) for f, _ in self._by_stem[s])]
            self._masks[folder] = 2 * len(twins) > len(stems)
        return self._masks[folder]

    def _path(self, file: File) -> Path:
        return Path("/".join((self._root, *file[0], file[1])))

    def _as_written(self, name: str, beside: Folder) -> Path | None:
        """Give the file at the path as it is written; None where there is none."""
        *parents, last = name.replace("\\", "/").split("/")
        for base in (beside, ()):
            if (*base, *parents) in self._by_name.get(last, ()):
                return self._path(((*base, *parents), last))
        if (parents and parents[0] in ("", ".")) or ".." in parents:  # else the walk has seen it
            for base in (self._tree.root.joinpath(*beside), self._tree.root):
                path = os.path.normpath(base.joinpath(*parents or ("/",), last))
                if parents[0] == "":
                    path = name
                if os.path.isfile(path):
                    return Path(path)
        return None

    def _candidates(
        self, parts: Folder, may_be: Callable[[Folder, Folder], bool], taken: frozenset[Path]
    ) -> list[tuple[Folder, File]]:
        """Give the files whose paths end most like a name, and the folders it leads from."""
        if not parts:
            return []
        name, above = parts[-1], parts[:-1]
        for number in range(3):
            if number == 0:
                files = [(folder, name) for folder in self._by_name.get(name, ())]
            elif number == 1:
                files = self._by_fold.get(fold(name), [])
            else:
                files = self._by_stem.get(fold(os.path.splitext(name)[0]), [])
            kept = [
                (base, file)
                for file in files
                if may_be(base := _base(file[0], above), file[0])
                and not (taken and self._path(file) in taken)
            ]
            if kept:
                shortest = min(len(base) - len(file[0]) for base, file in kept)
                return [one for one in kept if len(one[0]) - len(one[1][0]) == shortest]
        return []


def _read_ends(_: Tree, path: Path) -> bytes:
    try:
        if not path.stat().st_size:  # a pipe would never end
            return b""
        with path.open("rb") as file:
            head = file.read(HEAD)
            file.seek(max(HEAD, file.seek(0, os.SEEK_END) - TAIL))
            return head + file.read()
    except OSError:
        return b""


def _lists_images(tree: Tree, path: Path) -> bool:
    text = tree.ends(path)
    written = {json or xml for json, xml in _NAMES.findall(text)}
    names: set[str] = set()
    for name in written:
        with suppress(UnicodeDecodeError):
            names.add(name.decode().replace("\\\\", "\\"))
    if not names or re.search(rb'"imageData"\s*:\s*"', text):  # which is an image of labelme's
        return True
    found = tree.images.find(sorted(names), path.parent)
    is_one = len(names) == 1 and tree.images.find([f"{path.stem}.jpg"], path.parent)
    return bool(is_one) or len(found) >= LEAST_THERE * len(names)


def _find_keys(tree: Tree, path: Path) -> frozenset[str]:
    try:
        contents = tree.read(path, keep=True)
    except DataError:
        return frozenset()
    ends = contents[:_END] + contents[-_END:]  # 338 MB take a second less a key
    where = {key: contents if key in _COCO_KEYS else ends for key in _KEYS}
    return frozenset(key for key, text in where.items() if b'"%s"' % key.encode() in text)


def sure(found: Mapping[str, Sequence[Path]]) -> list[Path]:
    """Give the files that names mean which mean one."""
    return [files[0] for files in found.values() if len(files) == 1]


def are_copies(paths: Sequence[Path]) -> bool:
    """Whether files have the same contents."""
    try:
        sizes = {path.stat().st_size for path in paths}
        return len(sizes) == 1 and len({path.read_bytes() for path in paths}) == 1
    except OSError:
        return False


def _parts(name: str) -> Folder:
    """Give the folders and the file that a name consists of, whatever the system it is from."""
    parts = name.replace("\\", "/").split("/")
    return tuple(p for p in parts if p not in ("", ".", "..") and p[1:] != ":")


@cache
def _base(folder: Folder, above: Folder) -> Folder:
    """Give the folder from which a name's folders lead to a file's folder, as far as they do."""
    count = 0
    for one, other in zip(reversed(folder), reversed(above), strict=False):
        if fold(one) != fold(other):
            break
        count += 1
    return folder[: len(folder) - count]


def _in_split(folder: Folder, kinds: set[str]) -> bool:
    return any((split := split_of(part)) and split.kind in kinds for part in folder)


def _may_hold_maps(base: Folder, maps: str) -> bool:
    """Whether id maps may be in a folder: not where images are by its name."""
    names = [fold(part) for part in base]
    if fold(maps) in names or _is_truth(names):
        return True
    return not names or not (holds_images(names[-1]) or _in_split(base, set(SPLITS)))


def _is_truth(names: Iterable[str]) -> bool:
    return not _TRUTH_FOLDERS.isdisjoint(words_of("/".join(names)))


def holds_images(name: str) -> bool:
    """Whether a folder is called as those of images are, as "input_images"."""
    return not IMAGE_FOLDERS.isdisjoint(words_of(name)) and not _is_truth([name])


def words_of(name: str) -> list[str]:
    """Give the words that a name consists of, in lower case."""
    return [word for word in re.split(r"[^0-9a-z]+", fold(name)) if word]


def _best(
    bases: Sequence[Folder], beside: Folder, split: Split | None, maps: str | None
) -> Folder | None:
    """Choose the folder that names are meant from; None where two may be meant."""
    if len(bases) == 1:
        return bases[0]

    def rank(base: Folder) -> tuple[int, int]:
        pairs = zip(base, beside, strict=False)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        away = len(base) + len(beside) - 2 * shared
        kind = sort(base)
        return kind, away if kind < OTHER else 0

    def sort(base: Folder) -> int:
        names = [fold(part) for part in base]
        is_truth = _is_truth(names)
        if maps is not None:
            return 0 if fold(maps) in names else 1 if is_truth else 2
        if is_truth:
            return OTHER + 1
        if base == beside:
            return 1
        if split and _in_split(base, {split.kind}):
            return 2 if any(s and s.name == split.name for s in map(split_of, base)) else 3
        return 4 if not names or holds_images(names[-1]) else OTHER

    ranked = sorted(dict.fromkeys(bases), key=rank)
    if len(ranked) > 1 and rank(ranked[0]) == rank(ranked[1]):
        return None
    return ranked[0] if ranked else None
