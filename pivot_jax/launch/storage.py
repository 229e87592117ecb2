"""Where a run's folder is, as its machines see it: a shared file system, a mounted bucket or a volume."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pivot_jax.config import paths
from pivot_jax.errors import UserError
from pivot_jax.launch.options import Options

BUCKETS = {"gke": ("gs",), "tpu": ("gs",), "skypilot": ("gs", "s3")}
LOCAL = ("/tmp", "/var/tmp", "/dev", "/run", "/proc")  # folders that each machine has for itself
_URL = re.compile(r"(?P<scheme>[a-z0-9]+)://(?P<bucket>[^/]*)/?(?P<folder>.*)")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")
# Names that no shell, systemd or Kubernetes expands.
_PLAIN = re.compile(r"[A-Za-z0-9._/=@:+-]*")
# Keys of data sources and benchmarks that are paths.
_PATH_KEYS = ("path", "image_root", "root", "data_dir", "responses", "folder", "chat_template")


@dataclass(frozen=True)
class Storage:
    """The folders of a run on its machines."""

    workdir: str  # absolute
    chdir: str  # where relative paths of the config start
    url: str = ""  # of a bucket, "gs://NAME", that is mounted at ``mount``
    claim: str = ""  # PersistentVolumeClaim, mounted at ``mount``
    mount: str = ""  # "": a file system that the machines have already

    @property
    def bucket(self) -> str:
        return self.url.partition("://")[2]


def of(options: Options) -> Storage:
    """Where ``--workdir`` is for a target.

    Raises:
      UserError: a folder that the machines would not share, or none that they could mount.
    """
    to, workdir = options.to, options.workdir
    found = _URL.fullmatch(workdir)
    if found:
        return _bucket(options, found)
    if to in ("gke", "skypilot") and options.claim is None:
        schemes = " or ".join(f"{scheme}://BUCKET/FOLDER" for scheme in BUCKETS[to])
        claimed = ", or add --claim NAME:/MOUNT with a volume that holds it" if to == "gke" else ""
        raise UserError(f"--workdir {workdir}: the machines of --to {to} do not have it; write {schemes}{claimed}")
    if not posixpath.isabs(workdir):
        raise UserError(
            f"--workdir {workdir}: a relative path, and every machine has to find the same folder; write the absolute "
            "path of one that they share"
        )
    if to == "tpu" and options.setup is None:
        raise UserError(
            f"--workdir {workdir}: new machines do not have it; write gs://BUCKET/FOLDER, or name a --setup that "
            "mounts a file system there"
        )
    workdir = _plain("--workdir", posixpath.normpath(workdir)) if to in BUCKETS else posixpath.normpath(workdir)
    if any(_below(workdir, folder) for folder in LOCAL) and (to != "ssh" or len(options.hosts) > 1):
        raise UserError(f"--workdir {workdir}: every machine has its own folder there; name one that they share")
    if to == "gke":
        return _claimed(options, workdir)
    return Storage(workdir, _chdir(options, posixpath.dirname(workdir) if to == "tpu" else ""))


def _bucket(options: Options, found: re.Match[str]) -> Storage:
    to, scheme, bucket = options.to, found["scheme"], found["bucket"]
    allowed = BUCKETS.get(to, ())
    if scheme not in allowed:
        fix = " or ".join(f"{one}://BUCKET/FOLDER" for one in allowed)
        raise UserError(
            f"--workdir {options.workdir}: --to {to} cannot mount {scheme}:// buckets; write "
            + (fix or "the absolute path of a folder that all machines share")
        )
    if not _BUCKET.fullmatch(bucket):
        raise UserError(
            f"--workdir {options.workdir}: '{bucket}' is not the name of a bucket; write {scheme}://BUCKET/FOLDER"
        )
    folder = posixpath.normpath(found["folder"] or ".")
    if folder == "." or folder.startswith(("..", "/")):
        raise UserError(
            f"--workdir {options.workdir}: name a folder in the bucket, such as {scheme}://{bucket}/runs/dpo"
        )
    if options.claim is not None:
        raise UserError("--claim: --workdir is in a bucket already; leave --claim out, or write a path below its mount")
    mount = f"/mnt/{bucket}"
    workdir = posixpath.join(mount, _plain("--workdir", folder))
    return Storage(workdir, _chdir(options, mount), url=f"{scheme}://{bucket}", mount=mount)


def _claimed(options: Options, workdir: str) -> Storage:
    name, colon, mount = (options.claim or "").partition(":")
    if not (
        re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", name) and colon and posixpath.isabs(mount) and mount != "/"
    ):
        raise UserError(f"--claim {options.claim}: write NAME:/MOUNT, the claim and where its volume is mounted")
    mount = _plain("--claim", posixpath.normpath(mount))
    if not _below(workdir, mount) or workdir == mount:
        raise UserError(f"--workdir {workdir}: not in the volume that is mounted at {mount}; name a folder below it")
    return Storage(workdir, _chdir(options, mount), claim=name, mount=mount)


def _chdir(options: Options, default: str) -> str:
    chdir = options.chdir or default
    if chdir and not posixpath.isabs(chdir):
        raise UserError(f"--chdir {chdir}: write the absolute path of the folder on the machines")
    return _plain("--chdir", chdir) if options.to in BUCKETS else chdir


def _plain(what: str, text: str) -> str:
    if not _PLAIN.fullmatch(text):
        raise UserError(f"{what} {text}: only letters, digits and ._/=@:+- are safe here; name another folder")
    return text


def check_paths(config: Any, storage: Storage) -> None:
    """Raises UserError for a path of the config that the machines cannot have, and for variables that are not set."""
    for key, path in _paths(config):
        if variable := paths.unset(path):
            raise UserError(f"{key}: '{path}' does not say where the files are{variable}, or set the key itself")
        if not path or not storage.mount or paths.PACKAGED.fullmatch(path) or "://" in path:
            continue
        there = posixpath.normpath(posixpath.join(storage.chdir, path))
        if not _below(there, storage.mount):
            where = storage.url or f"the volume of {storage.claim}"
            raise UserError(
                f"{key}: {path} is not in {where}, the only storage of the machines (mounted at {storage.mount}); "
                f"copy it there and set the key to its path relative to {storage.chdir}"
            )


def _paths(config: Any) -> Iterator[tuple[str, str]]:
    """(key, path) of everything that a run reads; names of models on the hub are left out."""
    for prefix, source in config.init.items():
        kind, _, path = source.partition(":")
        if kind != "hf" or path.startswith(("/", ".", "$")):
            yield f"init.{prefix}", path
    yield "tokenizer.path", config.tokenizer.path
    yield "tokenizer.chat_template", config.tokenizer.chat_template
    yield "rl.vllm.folder", config.rl.vllm.folder
    lists = {"data.sources": config.data.sources, "rl.heldout.sources": config.rl.heldout.sources}
    for name, entries in (lists | {"eval.benchmarks": config.eval.benchmarks}).items():
        for i, entry in enumerate(entries):
            yield from _of_entry(f"{name}.{i}", entry)


def _of_entry(name: str, entry: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key in _PATH_KEYS:
        value = entry.get(key)
        if isinstance(value, str) and not value.startswith("hf:"):
            yield f"{name}.{key}", value


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
