"""JSON schema of KubeRay's RayCluster and RayJob (ray.io/v1), as far as our files use them.

The names are those of KubeRay's API reference and of Kubernetes' pod template. No level lets unknown fields in, because
the API server drops a mistyped field with a warning that nobody reads.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]
TEXT: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}
FLAG: Schema = {"type": "boolean"}
TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}  # labels, rayStartParams: never numbers
QUANTITY: Schema = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|Ki|Mi|Gi|Ti)?$"}


def fields(properties: Schema, required: list[str] | None = None) -> Schema:
    """An object with these fields and no others."""
    return {"type": "object", "properties": properties, "required": required or [], "additionalProperties": False}


def many(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}


METADATA = fields({"name": TEXT, "generateName": TEXT, "namespace": TEXT, "labels": TEXTS, "annotations": TEXTS})
RESOURCE = {
    "type": "object",
    "propertyNames": {"enum": ["cpu", "memory", "ephemeral-storage", "nvidia.com/gpu"]},
    "additionalProperties": QUANTITY,
}
RESOURCES = fields({"requests": RESOURCE, "limits": RESOURCE}, ["requests", "limits"])
REFERENCE = fields({"name": TEXT, "optional": FLAG}, ["name"])
KEY = fields({"name": TEXT, "key": TEXT, "optional": FLAG}, ["name", "key"])
# A value here is one that is no secret; secrets come by reference.
VARIABLE = {
    "oneOf": [
        fields(
            {"name": {"type": "string", "not": {"pattern": "(?i)key|token|secret|password"}}, "value": TEXT},
            ["name", "value"],
        ),
        fields(
            {"name": TEXT, "valueFrom": fields({"secretKeyRef": KEY, "configMapKeyRef": KEY, "fieldRef": {}})},
            ["name", "valueFrom"],
        ),
    ]
}
SECURITY = {
    "runAsNonRoot": FLAG,
    "runAsUser": COUNT,
    "runAsGroup": COUNT,
    "seccompProfile": fields({"type": {"enum": ["RuntimeDefault", "Unconfined", "Localhost"]}}, ["type"]),
}
CONTAINER = fields(
    {
        "name": TEXT,
        "image": TEXT,
        "imagePullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
        "command": many(TEXT),
        "args": many(TEXT),
        "env": many(VARIABLE),
        "envFrom": many(fields({"secretRef": REFERENCE, "configMapRef": REFERENCE})),
        "ports": many(fields({"containerPort": {"type": "integer"}, "name": TEXT}, ["containerPort"])),
        "resources": RESOURCES,
        "volumeMounts": many(fields({"name": TEXT, "mountPath": TEXT, "readOnly": FLAG}, ["name", "mountPath"])),
        "securityContext": fields(
            SECURITY
            | {
                "allowPrivilegeEscalation": FLAG,
                "readOnlyRootFilesystem": FLAG,
                "privileged": {"const": False},
                "capabilities": fields({"drop": many(TEXT), "add": many(TEXT)}),
            }
        ),
    },
    ["name", "image", "resources"],
)
TEMPLATE = fields(
    {
        "metadata": METADATA,
        "spec": fields(
            {
                "containers": many(CONTAINER),
                "serviceAccountName": TEXT,
                "nodeSelector": TEXTS,
                "terminationGracePeriodSeconds": COUNT,
                "imagePullSecrets": many(REFERENCE),
                "securityContext": fields(SECURITY | {"fsGroup": COUNT}),
                "tolerations": many(
                    fields(
                        {
                            "key": TEXT,
                            "operator": {"enum": ["Exists", "Equal"]},
                            "value": TEXT,
                            "effect": {"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
                        }
                    )
                ),
                "volumes": many(
                    fields(
                        {"name": TEXT, "emptyDir": fields({"medium": {"enum": ["", "Memory"]}, "sizeLimit": QUANTITY})},
                        ["name"],
                    )
                ),
            },
            ["containers"],
        ),
    },
    ["spec"],
)
RULES = fields(
    {
        "ingressRules": many(
            fields(
                {
                    "from": many(fields({"namespaceSelector": {"type": "object"}, "podSelector": {"type": "object"}})),
                    "ports": many(fields({"port": {"type": "integer"}, "protocol": {"enum": ["TCP", "UDP"]}})),
                }
            )
        ),
        "egressRules": {"type": "array"},
    }
)
CLUSTER = fields(
    {
        "rayVersion": TEXT,
        "enableInTreeAutoscaling": FLAG,
        "autoscalerOptions": fields(
            {
                "resources": RESOURCES,
                "idleTimeoutSeconds": COUNT,
                "upscalingMode": {"enum": ["Default", "Aggressive", "Conservative"]},
                "imagePullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
                "env": many(VARIABLE),
            }
        ),
        "authOptions": fields({"mode": {"enum": ["token", "disabled"]}, "secretName": TEXT}, ["mode"]),
        "networkPolicy": fields(
            {"mode": {"enum": ["DenyAll", "DenyAllIngress", "DenyAllEgress"]}, "head": RULES, "worker": RULES}, ["mode"]
        ),
        "headGroupSpec": fields(
            {
                "serviceType": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
                "rayStartParams": TEXTS,
                "template": TEMPLATE,
            },
            ["template"],
        ),
        "workerGroupSpecs": many(
            fields(
                {
                    "groupName": TEXT,
                    "replicas": COUNT,
                    "minReplicas": COUNT,
                    "maxReplicas": COUNT,
                    "numOfHosts": COUNT,
                    "idleTimeoutSeconds": COUNT,
                    "rayStartParams": TEXTS,
                    "template": TEMPLATE,
                },
                ["groupName", "template", "minReplicas", "maxReplicas"],
            )
        ),
        "suspend": FLAG,
    },
    ["rayVersion", "headGroupSpec", "workerGroupSpecs"],
)
JOB = fields(
    {
        "entrypoint": TEXT,
        "runtimeEnvYAML": TEXT,
        "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"]},
        "backoffLimit": COUNT,
        "shutdownAfterJobFinishes": FLAG,
        "ttlSecondsAfterFinished": COUNT,
        "activeDeadlineSeconds": {"type": "integer", "minimum": 1},
        "preRunningDeadlineSeconds": {"type": "integer", "minimum": 1},
        "rayClusterSpec": CLUSTER,
        "clusterSelector": TEXTS,
        "submitterPodTemplate": TEMPLATE,
        "suspend": FLAG,
    },
    ["entrypoint"],
)


def document(kind: str, spec: Schema) -> Schema:
    return fields(
        {"apiVersion": {"const": "ray.io/v1"}, "kind": {"const": kind}, "metadata": METADATA, "spec": spec},
        ["apiVersion", "kind", "metadata", "spec"],
    )


SCHEMAS: Schema = {"RayCluster": document("RayCluster", CLUSTER), "RayJob": document("RayJob", JOB)}
