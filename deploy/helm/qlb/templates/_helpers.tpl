{{- define "qlb.name" -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) (contains .Chart.Name .Release.Name) | trunc 53 | trimSuffix "-" }}
{{- end }}

{{- define "qlb.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "qlb.labels" -}}
{{ include "qlb.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The daemon's configuration: the operator's YAML with the settings of the chart. */}}
{{- define "qlb.config" -}}
{{- $admin := dict "listen" (printf "%s:%d" (ternary (printf "[%s]" .Values.admin.host) .Values.admin.host (contains ":" .Values.admin.host)) (int .Values.admin.port)) "socket" "/run/qlb/qlb.sock" }}
{{- toYaml (merge (dict "admin" $admin "reload_on_change" true) .Values.config) }}
{{- end }}

{{/* The direct-return mode, or empty. */}}
{{- define "qlb.direct" -}}
{{- with .Values.config.forwarding }}{{ if has .mode (list "l2" "ipip" "gue") }}{{ .mode }}{{ end }}{{ end }}
{{- end }}

{{/* True if a service port is below 1024. */}}
{{- define "qlb.lowPort" -}}
{{- range .Values.config.listen }}{{ if lt (int (regexFind "[0-9]+$" .)) 1024 }}yes{{ end }}{{ end }}
{{- end }}

{{/* JSON list of the namespaces in which discovery reads EndpointSlices with the pod's account, or empty. */}}
{{- define "qlb.namespaces" -}}
{{- $found := list }}
{{- range .Values.config.discovery }}
{{- if and .kubernetes (not .kubeconfig) }}{{ $found = append $found (first (splitList "/" .kubernetes)) }}{{ end }}
{{- end }}
{{- with uniq $found }}{{ toJson . }}{{ end }}
{{- end }}

{{- define "qlb.account" -}}
{{- .Values.rbac.serviceAccountName | default (include "qlb.name" .) }}
{{- end }}

{{- define "qlb.secret" -}}
{{- .Values.existingSecret | default (printf "%s-keys" (include "qlb.name" .)) }}
{{- end }}

{{/* JSON list of the entries of the Secret that the pods mount if they exist. A fixed list for the keys of all config IDs: a new key must
not change the pods. */}}
{{- define "qlb.entries" -}}
{{- $fixed := list "0.hex" "1.hex" "2.hex" "3.hex" "4.hex" "5.hex" "6.hex" }}
{{- concat $fixed (keys .Values.keys) .Values.existingSecretKeys | uniq | sortAlpha | toJson }}
{{- end }}
