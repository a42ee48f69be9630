{{/* Name of everything in a release: the release's, with the chart's where that does not hold it already. */}}
{{- define "slm-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "slm-operator.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride }}
{{- else }}
{{- $name := include "slm-operator.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{/* Labels that find our pods; a Deployment's cannot change, so no version is among them. */}}
{{- define "slm-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "slm-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "slm-operator.commonLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/name: {{ include "slm-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: slm-operator
{{- end }}

{{- define "slm-operator.labels" -}}
{{ include "slm-operator.commonLabels" . }}
app.kubernetes.io/component: operator
{{- end }}

{{/* The gateway, beside the operator. */}}
{{- define "slm-operator.gatewayName" -}}
{{- printf "%s-gateway" (include "slm-operator.fullname" .) }}
{{- end }}

{{- define "slm-operator.gatewaySelectorLabels" -}}
app.kubernetes.io/name: {{ include "slm-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: gateway
{{- end }}

{{- define "slm-operator.gatewayLabels" -}}
{{ include "slm-operator.commonLabels" . }}
app.kubernetes.io/component: gateway
{{- end }}

{{- define "slm-operator.serviceAccountName" -}}
{{- $fallback := ternary (include "slm-operator.fullname" .) "default" .Values.serviceAccount.create }}
{{- default $fallback .Values.serviceAccount.name }}
{{- end }}

{{/* Full reference of an image: (list . "operator"). A digest wins over a tag. */}}
{{- define "slm-operator.image" -}}
{{- $root := index . 0 }}
{{- $image := index $root.Values.images (index . 1) }}
{{- $registry := default $root.Values.images.registry $image.registry }}
{{- $place := ternary (printf "%s/%s" $registry $image.repository) $image.repository (ne $registry "") }}
{{- if $image.digest }}
{{- printf "%s@%s" $place $image.digest }}
{{- else }}
{{- printf "%s:%s" $place (default $root.Chart.AppVersion $image.tag) }}
{{- end }}
{{- end }}

{{/* PSS restricted, for every container of ours. */}}
{{- define "slm-operator.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "slm-operator.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* Who the operator is to the API server. */}}
{{- define "slm-operator.subject" -}}
- kind: ServiceAccount
  name: {{ include "slm-operator.serviceAccountName" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}

{{- define "slm-operator.gatewaySubject" -}}
- kind: ServiceAccount
  name: {{ include "slm-operator.gatewayName" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}

{{- define "slm-operator.leaseName" -}}
{{- default (include "slm-operator.fullname" .) .Values.leaderElection.leaseName }}
{{- end }}

{{/* What every pod of ours may reach. */}}
{{- define "slm-operator.apiServerEgress" -}}
# Names.
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
# The API server; it is no pod, so that no selector finds it.
- ports:
    {{- range .Values.networkPolicy.apiServerPorts }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
  {{- with .Values.networkPolicy.apiServerCIDRs }}
  to:
    {{- range . }}
    - ipBlock: {cidr: {{ . | quote }}}
    {{- end }}
  {{- end }}
{{- end }}
