"""A queued resource of Cloud TPU: a script that requests it, and one that runs on each of its VMs at every boot."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence

from pivot_jax.errors import UserError
from pivot_jax.launch.job import Job
from pivot_jax.launch.machines import RUNTIMES
from pivot_jax.launch.shell import script

SUBMIT, STARTUP = "submit.sh", "startup.sh"
_CONFIG = "/opt/pivot-jax/config.json"
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:@_-]*")


def generate(job: Job) -> dict[str, str]:
    """Files by name. Raises UserError for names that gcloud or docker would not take."""
    options, machines, storage = job.options, job.machines, job.storage
    where = [f"--zone={_word('--zone', options.zone or '')}"]
    if options.project:
        where.append(f"--project={_word('--project', options.project)}")
    startup = script(
        "tpu_startup.sh.jinja",
        machines=machines.words(),
        config=job.config_text(),
        setup=options.setup_lines(),
        bucket=storage.bucket,
        mount=storage.mount,
        login=_login(options.image or ""),
        image=checked_image(options.image or ""),
        grace=job.grace,
        docker=container(job, _CONFIG),
    )
    submit = script("tpu_submit.sh.jinja", machines=machines.words(), name=job.name, where=where, create=_create(job))
    return {SUBMIT: submit, STARTUP: startup}


def commands(job: Job, folder: str) -> list[Sequence[str]]:
    return [["bash", f"{folder}/{SUBMIT}"]]


def container(job: Job, config: str) -> list[str]:
    """Words of the command that runs the image on a TPU VM, with ``config`` of the VM."""
    storage = job.storage
    folders = [storage.mount] if storage.mount else sorted({posixpath.dirname(storage.workdir), storage.chdir})
    variables = ["PYTHONUNBUFFERED=1", *(["PIVOT_DISTRIBUTED=auto"] if job.processes > 1 else [])]
    return [
        "docker", "run", "--rm", "--name=pivot-jax", "--privileged", "--network=host", "--shm-size=16g",
        *(f"--volume={folder}:{folder}" for folder in folders), f"--volume={config}:{config}:ro",
        f"--workdir={storage.chdir}",
        *(f"--env={variable}" for variable in variables),
        str(job.options.image), *job.train(config)[1:],
    ]  # fmt: skip


def checked_image(image: str) -> str:
    if not _IMAGE.fullmatch(image):
        raise UserError(f"--image {image}: not the name of a container image, such as REGISTRY/pivot-jax:tpu")
    return image


def _create(job: Job) -> list[str]:
    """Options of the request."""
    named, options = job.machines.named, job.options
    family = "v5litepod" if named.accelerator == "v5e" else named.accelerator
    several = [f"--node-count={named.slices}", f"--node-prefix={job.name}"]
    words = several if named.slices > 1 else [f"--node-id={job.name}"]
    words += [f"--accelerator-type={family}-{named.number}", f"--runtime-version={RUNTIMES[named.accelerator]}"]
    if options.service_account:
        words.append(f"--service-account={_word('--service-account', options.service_account)}")
    return [*words, *(["--spot"] if options.spot else [])]


def _login(image: str) -> str:
    """Host of Google's registry that an image is in, or ""."""
    host, slash, _ = image.partition("/")
    return host if slash and host.endswith("-docker.pkg.dev") else ""


def _word(option: str, text: str) -> str:
    if not _WORD.fullmatch(text):
        raise UserError(f"{option} {text}: not a name that gcloud takes; write letters, digits and .:@_-")
    return text
