"""raydvae import-poison and export-poison: official releases in, ours out in forms that others read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from raydvae.cli.common import Progress, finish, opened, storage_options


@dataclass(frozen=True)
class ImportPoison:
    """Lay an official release of a poison over the clean data set that it was made for."""

    file: Annotated[Positional[str], arg(metavar="FILE")]
    """The release: .pkl, .npy or .pt, or a folder of .npy chunks, of NTGA's files or of PNGs called by index."""
    out: Annotated[Positional[str], arg(metavar="OUT")]
    """Folder or URI for the poisoned data set."""
    clean: str
    """The clean data set, in the order that the release is for."""
    storage_option: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="KEY=VALUE")] = ()
    """Option of the file system, such as endpoint_url=http://…; can be given several times."""
    verify_files: bool = False
    """Compare checksums of all files that the run has committed; presence and sizes always are. Damage is mended."""
    json: bool = False
    """End with one line of JSON."""

    def run(self) -> None:
        """Import."""
        from raydvae.attacks.releases import import_poison
        from raydvae.data.classes import find_classes
        from raydvae.data.dataset import probe_size
        from raydvae.data.store import Store
        from raydvae.engine import InProcess

        options = storage_options(self.storage_option)
        data = opened(self.clean, None, options, "train")
        found = import_poison(
            self.file,
            data,
            find_classes(data),
            probe_size(data),
            Store(self.out, options),
            InProcess(),
            options,
            Progress(),
            self.verify_files,
        )
        text = (
            f"{found['rows_poisoned']} of {found['rows_in']} rows poisoned; l2 norm {found['l2_mean']:.3f} on average, "
            f"{found['l2_max']:.3f} at most; {found['linf_levels']:.0f}/255 in any value: {self.out}"
        )
        finish({**found, "out": self.out}, self.json, text)


@dataclass(frozen=True)
class ExportPoison:
    """Write the noise of a poisoned data set in a form that other projects read."""

    poisoned: Annotated[Positional[str], arg(metavar="POISONED")]
    """The poisoned data set."""
    out: Annotated[Positional[str], arg(metavar="OUT")]
    """File to write."""
    clean: str
    """The clean data set that it was made from."""
    format: Literal["pt", "npy"] = "pt"
    """pt: D-VAE's float tensor (N, 3, H, W) in [0, 1]; npy: REM's int8 levels (N, 3, H, W)."""
    storage_option: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="KEY=VALUE")] = ()
    """Option of the file system, such as endpoint_url=http://…; can be given several times."""
    json: bool = False
    """End with one line of JSON."""

    def run(self) -> None:
        """Export."""
        from raydvae.attacks.releases import export_poison
        from raydvae.data.dataset import open_dataset

        options = storage_options(self.storage_option)
        after = open_dataset(self.poisoned, None, options)
        before = opened(self.clean, None, options, "train")
        rows, size = export_poison(after, before, self.out, self.format, options)
        finish({"rows": rows, "bytes": size, "out": self.out}, self.json, f"Noise of {rows} rows: {self.out}")
