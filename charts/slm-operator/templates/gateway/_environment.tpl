{{/* The gateway's settings. */}}
{{- define "slm-operator.gatewayEnvironment" -}}
- name: SLM_GATEWAY_NAMESPACE
  valueFrom:
    fieldRef: {fieldPath: metadata.namespace}
- name: SLM_POD_NAME
  valueFrom:
    fieldRef: {fieldPath: metadata.name}
{{- $demand := printf "http://%s-demand.%s.svc:8080/demand" (include "slm-operator.fullname" .) .Release.Namespace }}
{{- $tls := "/var/run/secrets/slm.dev/tls" }}
{{- $settings := list
  (list "SLM_GATEWAY_PORT" "8080")
  (list "SLM_GATEWAY_METRICS_PORT" "9090")
  (list "SLM_WATCH_NAMESPACES" (join "," .Values.watchNamespaces))
  (list "SLM_GATEWAY_AUDIENCE" .Values.gateway.audience)
  (list "SLM_GATEWAY_TOKEN_REVIEW" (toString .Values.gateway.tokenReview))
  (list "SLM_GATEWAY_DRAIN_SECONDS" (toString .Values.gateway.drainSeconds))
  (list "SLM_GATEWAY_AUDIT" .Values.gateway.audit)
  (list "SLM_GATEWAY_TLS_CERT" (ternary (printf "%s/tls.crt" $tls) "" (ne .Values.gateway.tls.secretName "")))
  (list "SLM_GATEWAY_TLS_KEY" (ternary (printf "%s/tls.key" $tls) "" (ne .Values.gateway.tls.secretName "")))
  (list "SLM_DEMAND_URL" (ternary $demand "" .Values.gateway.tokenReview))
  (list "SLM_LOG_FORMAT" .Values.log.format)
  (list "SLM_LOG_LEVEL" .Values.log.level)
}}
{{- include "slm-operator.variables" $settings }}
{{- end }}
