"""A JobSet for Google Kubernetes Engine, with GPUs or TPUs, queued by Kueue.

What a pod does on a signal: it saves and exits with 143. Then, and where Kubernetes itself takes the pod away, the Job
fails by its pod failure policy, and the JobSet starts all pods again without counting it. Any other failure counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from pivot_jax.errors import UserError
from pivot_jax.launch.job import PORT, Job
from pivot_jax.launch.machines import GPU_LABELS, TPU_LABELS
from pivot_jax.launch.options import RESTARTS

FILE = "jobset.yaml"
SAVED = [129, 143]  # exit codes of a run that a signal stopped after it had saved
_CONFIG = "/etc/pivot-jax"
_WORKERS = "workers"
_DNS = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"


class _Readable(yaml.SafeDumper):
    """Safe YAML in which a text of several lines is a block."""


def _block(dumper: yaml.SafeDumper, text: str) -> Any:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Readable.add_representer(str, _block)


def as_yaml(documents: Sequence[Mapping[str, Any]]) -> str:
    return yaml.dump_all(documents, Dumper=_Readable, sort_keys=False, width=120)


def generate(job: Job) -> dict[str, str]:
    """Files by name. Raises UserError for names that Kubernetes would not take."""
    return {FILE: as_yaml([_config_map(job), _jobset(job)])}


def commands(job: Job, folder: str) -> list[Sequence[str]]:
    return [["kubectl", "apply", "--filename", f"{folder}/{FILE}"]]


def _metadata(job: Job, name: str, **more: Any) -> dict[str, Any]:
    namespace = _name("--namespace", job.options.namespace) if job.options.namespace else None
    return {"name": name} | ({"namespace": namespace} if namespace else {}) | more


def _name(option: str, text: str) -> str:
    if not re.fullmatch(_DNS, text):
        raise UserError(f"{option} {text}: not a name of Kubernetes; write lower-case letters, digits and dashes")
    return text


def _config_map(job: Job) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(job, f"{job.name}-config"),
        "data": {"config.json": job.config_text()},
    }


def _jobset(job: Job) -> dict[str, Any]:
    labels = {"kueue.x-k8s.io/queue-name": _name("--queue", job.options.queue)} if job.options.queue else {}
    more: dict[str, Any] = {"labels": labels} if labels else {}
    if job.machines.slices > 1:  # the pods of a slice share a node pool, and no other slice has it
        more["annotations"] = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    restarts = RESTARTS if job.options.restarts is None else job.options.restarts
    rule = {
        "name": "savedOrTakenAway",
        "action": "RestartJobSetAndIgnoreMaxRestarts",
        "onJobFailureReasons": ["PodFailurePolicy"],
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": _metadata(job, job.name, **more),
        "spec": {
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "failurePolicy": {"maxRestarts": restarts, "rules": [rule]},
            "replicatedJobs": [{"name": _WORKERS, "replicas": job.machines.slices, "template": _job(job)}],
        },
    }


def _job(job: Job) -> dict[str, Any]:
    """Template of a Job: one slice of TPUs, or all machines with GPUs."""
    hosts = job.machines.hosts
    return {
        "spec": {
            "parallelism": hosts,
            "completions": hosts,
            "completionMode": "Indexed",
            "backoffLimit": 0,
            "podFailurePolicy": {
                "rules": [
                    {"action": "FailJob", "onExitCodes": {"operator": "In", "values": SAVED}},
                    {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                ]
            },
            "template": _pod(job),
        }
    }


def _pod(job: Job) -> dict[str, Any]:
    volumes, mounts = _volumes(job)
    account = job.options.service_account
    named = job.machines.named
    if job.machines.tpu:
        selector = {
            "cloud.google.com/gke-tpu-accelerator": TPU_LABELS[named.accelerator],
            "cloud.google.com/gke-tpu-topology": named.sides,
        }
    else:
        selector = {"cloud.google.com/gke-accelerator": GPU_LABELS[named.accelerator]}
    devices = {("google.com/tpu" if job.machines.tpu else "nvidia.com/gpu"): job.machines.chips}
    container = {
        "name": "train",
        "image": job.options.image,
        # the image's entry point is pivot-jax below an init process, which passes SIGTERM on
        "args": job.train(f"{_CONFIG}/config.json")[1:],
        "workingDir": job.storage.chdir,
        "env": _environment(job),
        "resources": {"requests": devices, "limits": dict(devices)},
        "volumeMounts": mounts,
    }
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": job.grace,
        "nodeSelector": selector,
        "containers": [container],
        "volumes": volumes,
    }
    if account:
        pod["serviceAccountName"] = _name("--service-account", account)
    annotations = {"gke-gcsfuse/volumes": "true"} if job.storage.url else {}
    return ({"metadata": {"annotations": annotations}} if annotations else {}) | {"spec": pod}


def _environment(job: Job) -> list[dict[str, Any]]:
    """TPUs' processes find each other by what GKE sets; those of GPUs by our three variables."""
    buffered = {"name": "PYTHONUNBUFFERED", "value": "1"}
    if job.machines.tpu:
        return [{"name": "PIVOT_DISTRIBUTED", "value": "auto"}, buffered] if job.processes > 1 else [buffered]
    if job.processes == 1:
        return [buffered]
    index = {"fieldRef": {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"}}
    return [
        {"name": "PIVOT_COORDINATOR", "value": f"{job.name}-{_WORKERS}-0-0.{job.name}:{PORT}"},
        {"name": "PIVOT_NUM_PROCESSES", "value": str(job.processes)},
        {"name": "PIVOT_PROCESS_ID", "valueFrom": index},
        buffered,
    ]


def _volumes(job: Job) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(volumes of the pod, mounts of its container): config, shared memory, and where the run is."""
    storage = job.storage
    volumes: list[dict[str, Any]] = [
        {"name": "config", "configMap": {"name": f"{job.name}-config"}},
        {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},  # NCCL, and worker processes of the loader
    ]
    mounts: list[dict[str, Any]] = [
        {"name": "config", "mountPath": _CONFIG, "readOnly": True},
        {"name": "shared-memory", "mountPath": "/dev/shm"},
        {"name": "run", "mountPath": storage.mount},
    ]
    if storage.claim:
        return [*volumes, {"name": "run", "persistentVolumeClaim": {"claimName": storage.claim}}], mounts
    # A checkpoint becomes valid by renaming its folder, which gcsfuse does up to a number of files.
    attributes = {"bucketName": storage.bucket, "mountOptions": "implicit-dirs,rename-dir-limit=200000"}
    csi = {"driver": "gcsfuse.csi.storage.gke.io", "readOnly": False, "volumeAttributes": attributes}
    return [*volumes, {"name": "run", "csi": csi}], mounts
