"""Workers of mounted volumes: whether there can be one here, and what it is told to begin with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from mirrorha.cluster.opening import Judgement
from mirrorha.cluster.settings import VolumeName, Wish, machine_settings
from mirrorha.config import to_ms
from mirrorha.volume.fuse.obstacles import (
    cover_warning,
    foreign_namespace_warning,
    missing_means,
)
from mirrorha.volume.worker.client import WorkerEngine
from mirrorha.volume.worker.messages import VERSION, KeysAt, MountWish, Open

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mirrorha.config import ClusterConfig
    from mirrorha.core.orders import AnyReport
    from mirrorha.net.keys import NodeKeys
    from mirrorha.volume.fuse.obstacles import Machine
    from mirrorha.volume.local_disk.identity import VolumeIdentity


@final
class Workers:
    """Makes the workers of one run of a node.

    Args:
        keys: what this node shows to the peer's workers.
        reserve: a file that may be removed when the disk of the state directory is full.
    """

    def __init__(self, config: ClusterConfig, *, keys: NodeKeys, reserve: Path) -> None:
        self._config: Final = config
        self._keys: Final = KeysAt(path=str(keys.path), authority_pem=keys.authority_pem)
        self._reserve: Final = reserve

    def make(
        self,
        name: VolumeName,
        state_dir: Path,
        *,
        judge: Callable[[VolumeIdentity], Judgement],
        report: Callable[[AnyReport], None],
        is_put_back_known: bool,
    ) -> tuple[WorkerEngine, Callable[[], Judgement]]:
        """A worker that was not started, and what was made of its directory once it is open.

        Args:
            state_dir: of this volume.
            judge: given what stands in the directory, before anything is done to it.
            is_put_back_known: see `open_volume`.
        """
        judgements: list[Judgement] = []

        def problem(found: VolumeIdentity) -> str:
            judgements.append(judge(found))
            return judgements[-1].problem

        opening = Open(
            version=VERSION,
            volume=name.name,
            root=name.path,
            state_dir=str(state_dir),
            reserve=str(self._reserve),
            settings=machine_settings(self._config, name),
            freeze_max_ms=to_ms(self._config.timing.freeze_max_s),
            keys=self._keys,
            mount=MountWish(exclude=name.exclude, allow_other=is_for_all()),
            is_put_back_known=is_put_back_known,
        )
        return WorkerEngine(opening, report=report, judge=problem), lambda: judgements[-1]


def covers(names: Iterable[VolumeName]) -> list[str]:
    """What programs see of volumes that could not be opened, if a crash left it so. Blocks shortly.

    Of one that must not be mounted, opening it took off whatever was there.
    """
    wished = [name for name in names if name.mount is not Wish.NEVER]
    said = (cover_warning(Path(name.path), volume=name.name) for name in wished)
    return [each for each in said if each is not None]


def is_for_all() -> bool:
    """Whether other users may use what this process mounts: root's mounts are everybody's."""
    return os.geteuid() == 0


def choose(name: VolumeName, *, machine: Machine | None = None) -> tuple[bool, str]:
    """Whether to mount a volume, and what a person should know of that, or "". Blocks shortly.

    One that must be mounted is tried in any case: what stands in the way is told then.
    """
    if name.mount is Wish.NEVER:
        return False, ""
    lacking = missing_means(is_for_all=is_for_all(), machine=machine)
    if name.mount is Wish.IF_POSSIBLE and lacking:
        return False, (
            f"{name.path} is not mounted: what programs write there is NOT mirrored, only what "
            f"comes through the file API: {'; '.join(lacking)}. mount = false says that this is "
            "meant, mount = true that this node must wait instead"
        )
    return True, foreign_namespace_warning() or ""
