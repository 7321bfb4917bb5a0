"""Unpacking of a model archive that may be hostile."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path, PurePosixPath

from sodbatch.errors import UsageError
from sodbatch.model.folder import CONFIG_NAMES, PROGRAM_SUFFIXES, STEMS

MAX_BYTES = 2 * 2**30
"""Of an archive and of what comes out of it; the largest official model has under 0.5 GiB."""

MAX_MEMBERS = 100

MODEL_FILES = frozenset(CONFIG_NAMES) | {
    stem + suffix for stem in STEMS for suffix in (*PROGRAM_SUFFIXES, ".pdiparams")
}


def unpack_model(archive: Path, folder: Path) -> None:
    """Write the model files of a tar archive into a folder.

    Only regular files with a model file's name, at the top or in one folder, are taken; other
    regular files are passed over.

    Args:
        archive: An uncompressed tar file.
        folder: An existing folder.

    Raises:
        UsageError: If the archive is damaged, holds a link, a device or a path that leads out,
            or would unpack to more than it should.
    """
    left = MAX_BYTES
    taken: set[str] = set()
    try:
        with tarfile.open(archive, "r:") as tar:
            for count, member in enumerate(tar, start=1):
                path = _checked_path(member)
                if count > MAX_MEMBERS:
                    raise UsageError(f"the archive has more than {MAX_MEMBERS} entries")
                if member.isdir() or path.name not in MODEL_FILES or len(path.parts) > 2:
                    continue
                left -= member.size
                if left < 0:
                    raise UsageError(f"the archive unpacks to more than {MAX_BYTES} bytes")
                if path.name in taken:
                    raise UsageError(f"the archive holds {path.name} twice")
                taken.add(path.name)
                source = tar.extractfile(member)
                assert source is not None  # noqa: S101 - regular files have content
                with source, (folder / path.name).open("xb") as target:
                    shutil.copyfileobj(source, target)
                if (folder / path.name).stat().st_size != member.size:
                    raise UsageError(f"the archive ends within {path.name}")
    except (tarfile.TarError, EOFError) as error:
        raise UsageError(f"the archive is damaged: {error}") from error


def _checked_path(member: tarfile.TarInfo) -> PurePosixPath:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name:
        raise UsageError(f"the archive holds {member.name!r}, a path that leads out of it")
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise UsageError(f"the archive holds {member.name!r}, which is neither a file nor a folder")
    return path
