{{/* The operator's settings: see docs/reference/settings.md. What is empty is left out, and counts as the default. */}}
{{- define "slm-operator.environment" -}}
- name: SLM_OPERATOR_NAMESPACE
  valueFrom:
    fieldRef: {fieldPath: metadata.namespace}
- name: SLM_POD_NAME
  valueFrom:
    fieldRef: {fieldPath: metadata.name}
{{- $names := list }}
{{- range .Values.imagePullSecrets }}
{{- $names = append $names .name }}
{{- end }}
{{- $settings := list
  (list "SLM_LISTEN_PORT" "8080")
  (list "SLM_WATCH_NAMESPACES" (join "," .Values.watchNamespaces))
  (list "SLM_WATCH_NODES" (toString (and .Values.watchNodes (not .Values.watchNamespaces))))
  (list "SLM_LEASE_NAME" (include "slm-operator.leaseName" .))
  (list "SLM_LEASE_SECONDS" (toString .Values.leaderElection.leaseSeconds))
  (list "SLM_PIPELINES_IMAGE" (include "slm-operator.image" (list . "pipelines")))
  (list "SLM_ENGINE_IMAGE" (include "slm-operator.image" (list . "llamaCpp")))
  (list "SLM_ENGINE_IMAGES" (include "slm-operator.engineImages" .))
  (list "SLM_RUNTIMES" (ternary (toJson .Values.runtimes) "" (gt (len .Values.runtimes) 0)))
  (list "SLM_IMAGE_PULL_POLICY" .Values.images.pullPolicy)
  (list "SLM_IMAGE_PULL_SECRETS" (join "," $names))
  (list "SLM_STORE_CLAIM" .Values.store.claim)
  (list "SLM_STORE_SIZE" (toString .Values.store.size))
  (list "SLM_STORE_CLASS" .Values.store.storageClass)
  (list "SLM_STORE_ACCESS_MODE" .Values.store.accessMode)
  (list "SLM_HUB_ENDPOINT" .Values.hub.endpoint)
  (list "SLM_ALLOW_PRIVATE_HOSTS" (join "," .Values.hub.allowPrivateHosts))
  (list "SLM_GATEWAY_ACCOUNT" (include "slm-operator.gatewayAccount" .))
  (list "SLM_ENGINE_CALLERS" (include "slm-operator.engineCallers" .))
  (list "SLM_LOG_FORMAT" .Values.log.format)
  (list "SLM_LOG_LEVEL" .Values.log.level)
}}
{{- include "slm-operator.variables" $settings }}
{{- end }}

{{/* Images of further engines, as runtime/devices=image. */}}
{{- define "slm-operator.engineImages" -}}
{{- $images := list }}
{{- range $engine, $name := dict "vllm/nvidia" "vllm" "vllm/amd" "vllmRocm" }}
{{- if (index $.Values.images $name).repository }}
{{- $images = append $images (printf "%s=%s" $engine (include "slm-operator.image" (list $ $name))) }}
{{- end }}
{{- end }}
{{- range $engine, $image := .Values.engineImages }}
{{- $images = append $images (printf "%s=%s" $engine $image) }}
{{- end }}
{{- join "," $images }}
{{- end }}

{{/* Variables of a list of name and value; what is empty is left out. */}}
{{- define "slm-operator.variables" -}}
{{- range . }}
{{- if index . 1 }}
- name: {{ index . 0 }}
  value: {{ index . 1 | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* Whose reports of demand the operator hears, and whose pods reach engines. */}}
{{- define "slm-operator.gatewayAccount" -}}
{{- if .Values.gateway.enabled }}
{{- printf "%s/%s" .Release.Namespace (include "slm-operator.gatewayName" .) }}
{{- end }}
{{- end }}

{{/* Who may reach engines. */}}
{{- define "slm-operator.engineCallers" -}}
{{- $callers := .Values.networkPolicy.engineCallers }}
{{- if not .Values.gateway.enabled }}
{{- $callers = without $callers "gateway" }}
{{- end }}
{{- join "," $callers | default (ternary "gateway" "*" .Values.gateway.enabled) }}
{{- end }}
