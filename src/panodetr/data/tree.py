"""The files of a data set's folder, listed once, and the image that a name in an annotation means.

`Tree` walks a folder. `Images.find` is asked for all names of one annotation file at once, because
where most of them lie says where the others are meant to lie.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from panodetr.errors import DataError
from panodetr.images.read import SUFFIXES

MOST_FILES = 3_000_000
"""A folder of more is no data set: somebody named a whole disk."""

DEEPEST = 12
"""Folders within folders that are walked."""

ANNOTATIONS_DEPTH = 4
"""Folders below the one that is opened in which annotation files are looked for."""

SPLITS = ("train", "val", "test")

_SPLIT = re.compile(
    r"(?P<name>train(?:ing)?|val(?:id(?:ate|ation)?)?|test(?:ing)?)(?P<year>(?:19|20)\d\d)?"
)
_NO_SPLIT = frozenset(("instances", "panoptic", "annotations", "coco", "default", "all"))
IMAGE_FOLDERS = frozenset(("images", "image", "imgs", "img", "jpegimages", "photos", "pictures"))
_TRUTH_FOLDERS = frozenset(
    ("masks", "mask", "labels", "panoptic", "segmentationclass", "segmentationobject")
)


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
    kind = next(split for split in SPLITS if found["name"].startswith(split))
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


def same_split(found: Iterable[str], split: str) -> str | None:
    """Find a split by its name, which may leave out the year or be another word for it."""
    names, wanted = list(found), split_of(split)
    if split in names:
        return split
    if wanted is None:
        return next((n for n in names if split and n[:-4] == split and n[-4:].isdecimal()), None)
    same = [n for n in names if (s := split_of(n)) and wanted.name in (s.name, s.kind)]
    return same[0] if same else None


def fold(name: str) -> str:
    """Give what names have in common that differ only in case or in how accents are written."""
    return unicodedata.normalize("NFC", name).casefold()


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
        self._annotations = annotations
        self._images = images
        self._names: dict[Path, frozenset[str]] = {}
        self.folders: dict[PurePosixPath, list[str]] = {}
        self._walk()

    def _walk(self) -> None:
        count = 0
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
            files = self.folders[folder] = list[str]()
            below: list[PurePosixPath] = []
            for entry in entries:
                if entry.name.startswith(".") or entry.name == "__MACOSX":
                    continue
                try:
                    is_folder = entry.is_dir()
                except OSError:
                    is_folder = False
                if is_folder:
                    below.append(folder / entry.name)
                else:
                    files.append(entry.name)
            count += len(files)
            if count > MOST_FILES:
                raise DataError(
                    f"{self.root} has more than {MOST_FILES:,} files; expected the folder of one "
                    "data set"
                )
            waiting += [(path, above | {inode}) for path in reversed(below)]

    def files(self, *suffixes: str, depth: int = DEEPEST) -> Iterator[PurePosixPath]:
        """Give the files with one of some suffixes, in lower case, folder by folder."""
        only = self._annotations
        if only is not None and not SUFFIXES.issuperset(suffixes) and ".txt" not in suffixes:
            if only.suffix.lower() in suffixes:
                yield PurePosixPath(os.path.relpath(only, self.root))
            return
        for folder, names in self.folders.items():
            if len(folder.parts) <= depth:
                for name in names:
                    if os.path.splitext(name)[1].lower() in suffixes:
                        yield folder / name

    def read_bytes(self, path: PurePosixPath, most: int = -1) -> bytes:
        """Read a file, or its first bytes; nothing where it cannot be read."""
        try:
            whole = self.root / path
            if not whole.is_file():  # a pipe would never end
                return b""
            with whole.open("rb") as file:
                return file.read(most).removeprefix(b"\xef\xbb\xbf")
        except OSError:
            return b""

    def images_in(self, folder: PurePosixPath, *, deep: bool = False) -> list[PurePosixPath]:
        """List the images of a folder, and of those below it where `deep`, sorted."""
        inner = [
            other for other in self.folders if other == folder or (deep and folder in other.parents)
        ]
        return sorted(
            other / name
            for other in inner
            for name in self.folders[other]
            if os.path.splitext(name)[1].lower() in SUFFIXES
        )

    def names_in(self, folder: Path) -> frozenset[str]:
        """Give the files of a folder, which may be outside the tree; none where there is none."""
        known = self._names.get(folder)
        if known is None:
            try:
                known = frozenset(n for n in os.listdir(folder) if not n.startswith("._"))
            except (OSError, ValueError):
                known = frozenset[str]()
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

    def images_beside(self, folder: Path) -> list[Path]:
        """List the images of a folder alone; none where it is outside the tree."""
        inner = PurePosixPath(os.path.relpath(folder, self.root))
        return [self.root / path for path in self.images_in(inner) if inner in self.folders]

    @cached_property
    def images(self) -> Images:
        """The index of all images."""
        tree = self if self._images is None else Tree(self._images)
        return Images(tree, tree.files(*SUFFIXES))

    def describe(self) -> str:
        """List the folders of images and the other files at the top, for a refusal."""
        images = Counter[str]()
        for folder, names in self.folders.items():
            count = sum(os.path.splitext(name)[1].lower() in SUFFIXES for name in names)
            if count:
                images[f"{folder}/" if folder.parts else "the folder itself"] = count
        shown = [f"{count} images in {name}" for name, count in images.most_common(4)]
        others = [
            name
            for name in self.folders.get(PurePosixPath(), [])
            if os.path.splitext(name)[1].lower() not in SUFFIXES
        ]
        return ", ".join(shown + others[:6]) or "nothing"


@dataclass(kw_only=True)
class Found:
    """Where the images of one annotation file are.

    Attributes:
        paths: of the names that mean one file, by the names.
        absent: names that mean no file.
        several: names that may mean several files, with these.
    """

    paths: dict[str, Path] = field(default_factory=dict[str, Path])
    absent: list[str] = field(default_factory=list[str])
    several: dict[str, list[Path]] = field(default_factory=dict[str, list[Path]])


class Images:
    """An index of image files by their names."""

    def __init__(self, tree: Tree, files: Iterator[PurePosixPath]) -> None:
        self._tree = tree
        self._by_name: dict[str, list[PurePosixPath]] = defaultdict(list)
        for path in files:
            self._by_name[path.name].append(path)

    @cached_property
    def _by_fold(self) -> dict[str, list[PurePosixPath]]:
        return self._regroup(lambda name: fold(name))

    @cached_property
    def _by_stem(self) -> dict[str, list[PurePosixPath]]:
        return self._regroup(lambda name: fold(os.path.splitext(name)[0]))

    def _regroup(self, key: Callable[[str], str]) -> dict[str, list[PurePosixPath]]:
        found: dict[str, list[PurePosixPath]] = defaultdict(list)
        for name, paths in self._by_name.items():
            found[key(name)] += paths
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
    ) -> Found:
        """Find the image that each name of an annotation file means.

        A name means the path as it is written, from the annotation file or from the root, wherever
        it leads; else the file whose path ends most like it, in the one folder that has all names,
        or the only one; case counts only where it tells files apart; an ending that differs, where
        one image has the stem. What lies in the folder of another split is left alone.

        Args:
            names: as they are written.
            folder: the annotation file's.
            split: the annotation file's.
            others: the splits of other annotation files.
            maps: the folder in which id maps are expected, where names are of id maps.
            taken: files that are something else.
        """
        found = Found()
        beside = PurePosixPath(os.path.relpath(folder, self._tree.root))
        kind = split_of(split)
        banned = {s.kind for name in others if (s := split_of(name))} - {kind.kind if kind else ""}
        banned = banned if kind else set[str]()

        def keep(path: PurePosixPath, base: PurePosixPath) -> bool:
            if (banned and _in_split(base, banned)) or (taken and self._tree.root / path in taken):
                return False
            return maps is None or _may_hold_maps(base, maps)

        open_names: dict[str, list[PurePosixPath]] = {}
        votes: Counter[PurePosixPath] = Counter()
        parts_of: dict[str, tuple[str, ...]] = {}
        for name in dict.fromkeys(names):
            parts = parts_of[name] = _parts(name)
            candidates = self._candidates(parts, keep)
            if not candidates and (unquoted := unquote(name)) != name:
                candidates = self._candidates(_parts(unquoted), keep)
            open_names[name] = candidates
            for path in candidates:
                votes[_base(path, parts)] += 1
        there = sum(bool(candidates) for candidates in open_names.values())
        whole = [base for base, count in votes.items() if count == there]
        chosen = _best(whole, beside, kind, maps)
        for name, candidates in open_names.items():
            exact = self._as_written(name, parts_of[name], beside)
            if exact is not None and exact not in taken:
                found.paths[name] = exact
                continue
            kept = [path for path in candidates if _base(path, parts_of[name]) == chosen]
            if len(kept) != 1:
                base = _best([_base(p, parts_of[name]) for p in candidates], beside, kind, maps)
                kept = [path for path in candidates if _base(path, parts_of[name]) == base]
            if len(kept) != 1:
                images = [p for p in candidates if maps or not _is_truth(p.parts[:-1])]
                candidates = images or candidates
                kept = candidates[:1] if candidates and self._are_copies(candidates) else []
            if len(kept) == 1:
                found.paths[name] = self._tree.root / kept[0]
            elif candidates:
                found.several[name] = [self._tree.root / path for path in candidates]
            else:
                found.absent.append(name)
        return found

    def find_beside(self, named: Sequence[tuple[Path, str]], split: str) -> dict[Path, Found]:
        """Find the image that each of many annotation files names, for each file."""
        names: dict[Path, list[str]] = {}
        for path, name in named:
            names.setdefault(path.parent, []).append(name)
        found = {folder: self.find(inner, folder, split=split) for folder, inner in names.items()}
        return {path: found[path.parent] for path, _ in named}

    def _are_copies(self, paths: Sequence[PurePosixPath]) -> bool:
        """Whether files have the same contents."""
        try:
            sizes = {(self._tree.root / path).stat().st_size for path in paths}
            return len(sizes) == 1 and len({(self._tree.root / p).read_bytes() for p in paths}) == 1
        except OSError:
            return False

    def _as_written(self, name: str, parts: tuple[str, ...], beside: PurePosixPath) -> Path | None:
        """Give the file at the path as it is written; None where there is none."""
        if not parts or "\0" in name:
            return None
        written = name.replace("\\", "/")
        for base in dict.fromkeys((beside, PurePosixPath())):
            path = PurePosixPath(os.path.normpath(base / written))
            names = self._by_name.get(path.name, ())
            if path in names:
                return self._tree.root / path
        if written.startswith("/") or ".." in written:  # else the walk has seen it
            for base in (self._tree.root / beside, self._tree.root):
                try:
                    if (base / written).is_file():
                        return base / written
                except OSError:
                    return None
        return None

    def _candidates(
        self, parts: tuple[str, ...], keep: Callable[[PurePosixPath, PurePosixPath], bool]
    ) -> list[PurePosixPath]:
        """Give the files whose paths end most like a name, of those that may be meant."""
        if not parts:
            return []
        stem = os.path.splitext(parts[-1])[0]
        for index, key in (
            (lambda: self._by_name, parts[-1]),
            (lambda: self._by_fold, fold(parts[-1])),
            (lambda: self._by_stem, fold(stem)),
        ):
            paths = [path for path in index().get(key, ()) if keep(path, _base(path, parts))]
            if len(paths) > 1:
                longest = max(_shared(path, parts) for path in paths)
                paths = [path for path in paths if _shared(path, parts) == longest]
            if paths:
                return paths
        return []


def _parts(name: str) -> tuple[str, ...]:
    """Give the folders and the file that a name consists of, whatever the system it is from."""
    return tuple(p for p in re.split(r"[\\/]", name) if p not in ("", ".", "..") and p[1:] != ":")


def _shared(path: PurePosixPath, parts: tuple[str, ...]) -> int:
    """Count how many parts at the end of a path are those of a name; the last one always is."""
    count = 1
    for one, other in zip(reversed(path.parts[:-1]), reversed(parts[:-1]), strict=False):
        if fold(one) != fold(other):
            break
        count += 1
    return count


def _base(path: PurePosixPath, parts: tuple[str, ...]) -> PurePosixPath:
    """Give the folder from which a name leads to a path."""
    return PurePosixPath(*path.parts[: -_shared(path, parts)])


def _in_split(folder: PurePosixPath, kinds: set[str]) -> bool:
    return any((split := split_of(part)) and split.kind in kinds for part in folder.parts)


def _may_hold_maps(base: PurePosixPath, maps: str) -> bool:
    """Whether id maps may be in a folder: not where images are by its name."""
    names = [fold(part) for part in base.parts]
    if fold(maps) in names or _is_truth(names):
        return True
    return not names or not (holds_images(names[-1]) or _in_split(base, set(SPLITS)))


def _is_truth(names: Iterable[str]) -> bool:
    return any(not _TRUTH_FOLDERS.isdisjoint(words_of(name)) for name in names)


def holds_images(name: str) -> bool:
    """Whether a folder is called as those of images are, as "input_images"."""
    return not IMAGE_FOLDERS.isdisjoint(words_of(name)) and not _is_truth([name])


def words_of(name: str) -> list[str]:
    """Give the words that a name consists of, in lower case."""
    return [word for word in re.split(r"[^0-9a-z]+", fold(name)) if word]


def _best(
    bases: Sequence[PurePosixPath], beside: PurePosixPath, split: Split | None, maps: str | None
) -> PurePosixPath | None:
    """Choose the folder that names are meant from; None where two may be meant."""

    def rank(base: PurePosixPath) -> tuple[int, int]:
        away = len(PurePosixPath(os.path.relpath(base, beside)).parts)
        kind = sort(base)
        return kind, away if kind < OTHER else 0

    def sort(base: PurePosixPath) -> int:
        names = [fold(part) for part in base.parts]
        is_truth = _is_truth(names)
        if maps is not None:
            return 0 if fold(maps) in names else 1 if is_truth else 2
        if is_truth:
            return OTHER + 1
        if base == beside:
            return 1
        if split and _in_split(base, {split.kind}):
            return 2 if any(s and s.name == split.name for s in map(split_of, base.parts)) else 3
        return 4 if not names or holds_images(names[-1]) else OTHER

    ranked = sorted(dict.fromkeys(bases), key=rank)
    if len(ranked) > 1 and rank(ranked[0]) == rank(ranked[1]):
        return None
    return ranked[0] if ranked else None
