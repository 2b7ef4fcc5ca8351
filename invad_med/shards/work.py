"""The working folder of an archive: what is scored, what the scores depend on."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from invad_med.files import flush, whole_file
from invad_med.shards.index import Index
from invad_med.shards.parquet import pq

_SETTINGS = "settings.json"


class OtherSettings(ValueError):
    """Scores of another model or made otherwise lie in the folder."""


@dataclass(frozen=True)
class Settings:
    """What scores depend on besides the files; the same for all rows of a working folder.

    Args:
        version: of this program.
        models: digest of the checkpoint of each modality.
        default: modality of images that say nothing.
        modality: what the user states that images show, or None.
        false_positive_rate, gate, batch_size, engine: as ``python -m invad_med score`` takes them.
        device: where it computes.
        maps: whether maps are written.
        hash_keys: whether keys hold a digest in place of the UID.
    """

    version: str
    models: Mapping[str, str]
    default: str
    modality: str | None
    false_positive_rate: float
    gate: bool
    batch_size: int
    engine: str | None
    device: str
    maps: bool
    hash_keys: bool


class Work:
    """A working folder with its index.

    Args:
        folder: as `invad_med.shards.index.write_index` made it.

    Raises:
        FileNotFoundError, ValueError: as `Index`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.index = folder, Index(folder)

    def scores(self, shard: int) -> Path:
        """Return the file that is there when a shard is scored."""
        return self.folder / "scores" / f"shard-{shard:06d}.parquet"

    def results(self, shard: int) -> Path:
        """Return the folder of a shard's maps."""
        return self.folder / "results" / f"shard-{shard:06d}"

    def lease(self, shard: int) -> Path:
        """Return the file that says who scores a shard."""
        return self.folder / "state" / f"shard-{shard:06d}.lease"

    def ended(self, shard: int) -> Path:
        """Return the file that says which sources workers had in hand that ended over a shard."""
        return self.folder / "state" / f"shard-{shard:06d}.ended"

    def committed(self, shards: Iterable[int] | None = None) -> list[int]:
        """Return which shards, of all if not given, are scored."""
        try:
            names = set(os.listdir(self.folder / "scores"))
        except FileNotFoundError:
            return []
        wanted = range(self.index.shards) if shards is None else shards
        return [shard for shard in wanted if self.scores(shard).name in names]

    def undone(self, shards: Iterable[int]) -> list[int]:
        """Return which of some shards are not scored."""
        shards = list(shards)
        done = set(self.committed(shards))
        return [shard for shard in shards if shard not in done]

    def statuses(self, shard: int) -> Counter[str]:
        """Return how many slices of a shard that is scored have each status."""
        return Counter(pq.read_table(self.scores(shard), columns=["status"])["status"].to_pylist())

    def again(self, shard: int) -> None:
        """Forget that a shard is scored, and what ended over it."""
        self.scores(shard).unlink(missing_ok=True)
        self.ended(shard).unlink(missing_ok=True)

    def require_folders(self) -> None:
        """Raise unless what was indexed is there: of a network drive that is not, no file could be read.

        Raises:
            FileNotFoundError: a folder is not there.
        """
        for folder in self.index.folders:
            if not folder.exists() or (folder.is_dir() and not any(os.scandir(folder))):
                raise FileNotFoundError(
                    f"{folder}, which was indexed, is not there, or empty: is it mounted on this machine?"
                )

    def agree(self, settings: Settings) -> None:
        """Keep what the scores depend on, or refuse another than is kept.

        Raises:
            OtherSettings: the folder holds, or is to hold, scores of another model or made otherwise.
            OSError: it cannot be written.
        """
        kept = self.settings()
        if kept is None:
            kept = self._keep(settings)
        if reasons := _differences(kept, settings):
            raise OtherSettings(
                f"{self.folder} was begun otherwise: {'; '.join(reasons)}. Rows of two kinds never mix: go on as it "
                "was begun, or index the archive into another folder"
            )

    def settings(self) -> Settings | None:
        """Return what the scores depend on, None before the first run.

        Raises:
            ValueError: it cannot be read.
        """
        path = self.folder / _SETTINGS
        try:
            return Settings(**json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({type(error).__name__}): remove scores and settings.json") from None

    def _keep(self, settings: Settings) -> Settings:
        """Write the settings unless another process was quicker; return what is there then."""
        path = self.folder / _SETTINGS
        with whole_file(path) as partial:
            partial.write_text(json.dumps(asdict(settings), indent=1) + "\n")
            flush(partial)
            try:
                os.link(partial, path)  # fails where the name is taken; what then replaces it is the same content
            except FileExistsError:
                partial.write_bytes(path.read_bytes())
            except OSError:  # no links on this file system
                pass
        flush(self.folder)
        return self.settings() or settings


def _differences(kept: Settings, now: Settings) -> list[str]:
    result = []
    for name, before in asdict(kept).items():
        after = getattr(now, name)
        if name == "models":
            for modality in sorted(before.keys() | after.keys()):
                one, other = before.get(modality), after.get(modality)
                if one != other:
                    words = [value[:12] if value else "none" for value in (one, other)]
                    result.append(f"the model for {modality} was {words[0]}, now it is {words[1]}")
        elif before != after:
            result.append(f"{name} was {before}, now it is {after}")
    return result
