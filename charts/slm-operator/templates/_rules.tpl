{{/*
What the operator may do where it reconciles: in all namespaces, or in each of watchNamespaces. Each verb on each
resource stands in tests/golden/chart/rbac.txt. There is no wildcard, nothing about Secrets, and no deletion of
PersistentVolumeClaims: bytes are a person's to delete.
*/}}
{{- define "slm-operator.rules" -}}
- apiGroups: [slm.dev]
  resources: [slmmodels, quantjobs, inferenceservices]
  verbs: [get, list, watch, patch]
- apiGroups: [slm.dev]
  resources: [slmmodels/status, quantjobs/status, inferenceservices/status]
  verbs: [get, patch]
# Children refer to their owner with blockOwnerDeletion, which clusters may guard with this.
- apiGroups: [slm.dev]
  resources: [slmmodels/finalizers, quantjobs/finalizers, inferenceservices/finalizers]
  verbs: [update]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
# What a template says never changes.
- apiGroups: [resource.k8s.io]
  resources: [resourceclaimtemplates]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{/* What the gateway may do where services are: look. */}}
{{- define "slm-operator.gatewayRules" -}}
- apiGroups: [slm.dev]
  resources: [slmmodels, quantjobs, inferenceservices]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
{{- end }}
