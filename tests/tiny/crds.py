"""Parts of JobSet's and Kueue's resources, those of ``pivot-jax launch`` and docs/guides/launch.md, as JSON schemas.

Written from their public API references: names of fields, types and enumerations. A field that is not here is an error.
"""

from __future__ import annotations

from typing import Any

NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "maxLength": 63}
COUNT = {"type": "integer", "minimum": 0}
LABELS = {"type": "object", "additionalProperties": {"type": "string"}}


def fields(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    """An object with these fields and no others."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def array(items: Any, **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **more}


def resource(group: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = fields(("name",), name=NAME, namespace=NAME, labels=LABELS, annotations=LABELS)
    required = ("apiVersion", "kind", "metadata", "spec")
    return fields(required, apiVersion={"const": group}, kind={"const": kind}, metadata=metadata, spec=spec)


STRINGS = array({"type": "string"})
JOB_REASONS = (
    "BackoffLimitExceeded",
    "DeadlineExceeded",
    "FailedIndexes",
    "MaxFailedIndexesExceeded",
    "PodFailurePolicy",
)
FAILURE_RULE = fields(
    ("name", "action"),
    name={"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", "maxLength": 128},
    action={"enum": ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]},
    onJobFailureReasons=array({"enum": list(JOB_REASONS)}),
    targetReplicatedJobs=STRINGS,
)
REPLICATED_JOB = fields(
    ("name", "template"),
    name=NAME,
    groupName=NAME,
    replicas=COUNT,
    # a batch/v1 JobTemplateSpec, which Kubernetes' own schema checks
    template=fields(("spec",), metadata=fields(labels=LABELS, annotations=LABELS), spec={"type": "object"}),
)
JOBSET = resource(
    "jobset.x-k8s.io/v1alpha2",
    "JobSet",
    fields(
        suspend={"type": "boolean"},
        network=fields(
            enableDNSHostnames={"type": "boolean"}, subdomain=NAME, publishNotReadyAddresses={"type": "boolean"}
        ),
        successPolicy=fields(("operator",), operator={"enum": ["All", "Any"]}, targetReplicatedJobs=STRINGS),
        failurePolicy=fields(
            maxRestarts=COUNT,
            restartStrategy={"enum": ["Recreate", "BlockingRecreate"]},
            rules=array(FAILURE_RULE, maxItems=20),
        ),
        startupPolicy=fields(("startupPolicyOrder",), startupPolicyOrder={"enum": ["AnyOrder", "InOrder"]}),
        ttlSecondsAfterFinished=COUNT,
        managedBy={"type": "string"},
        replicatedJobs=array(REPLICATED_JOB, minItems=1),
    ),
)

_KUEUE = "kueue.x-k8s.io/v1beta1"
_QUANTITY = {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": "^[0-9]+(m|Ki|Mi|Gi|Ti|k|M|G|T)?$"}]}
_QUOTA = fields(("name", "nominalQuota"), name={"type": "string"}, nominalQuota=_QUANTITY, borrowingLimit=_QUANTITY)
_GROUP = fields(
    ("coveredResources", "flavors"),
    coveredResources=array({"type": "string"}, minItems=1, maxItems=16),
    flavors=array(fields(("name", "resources"), name=NAME, resources=array(_QUOTA, minItems=1)), minItems=1),
)
KUEUE = {
    "ResourceFlavor": resource(
        _KUEUE, "ResourceFlavor", fields(nodeLabels=LABELS, tolerations=array({"type": "object"}))
    ),
    "ClusterQueue": resource(
        _KUEUE,
        "ClusterQueue",
        fields(
            resourceGroups=array(_GROUP, maxItems=16),
            cohort=NAME,
            queueingStrategy={"enum": ["StrictFIFO", "BestEffortFIFO"]},
            namespaceSelector={"type": "object"},
            preemption=fields(
                withinClusterQueue={"enum": ["Never", "LowerPriority", "LowerOrNewerEqualPriority"]},
                reclaimWithinCohort={"enum": ["Never", "LowerPriority", "Any"]},
            ),
        ),
    ),
    "LocalQueue": resource(_KUEUE, "LocalQueue", fields(("clusterQueue",), clusterQueue=NAME)),
}
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
