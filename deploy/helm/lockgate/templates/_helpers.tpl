{{- define "lockgate.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "lockgate.selector" -}}
app.kubernetes.io/name: lockgate
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "lockgate.labels" -}}
{{ include "lockgate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "lockgate.postgres" -}}
{{- if (.Values.config.log).url }}yes{{ end -}}
{{- end -}}

{{- define "lockgate.port" -}}
{{- int (default 8000 (.Values.config.listen).port) -}}
{{- end -}}

{{- /* Time of preStop, of open answers, of their last words, and some for the log. */ -}}
{{- define "lockgate.grace" -}}
{{- add .Values.preStopSeconds (ceil (default 30 (.Values.config.listen).drain_timeout)) 5 20 -}}
{{- end -}}

{{- define "lockgate.check" -}}
{{- $log := default dict .Values.config.log -}}
{{- $listen := default dict .Values.config.listen -}}
{{- $many := or (gt (int .Values.replicas) 1) .Values.autoscaling.enabled -}}
{{- if and $many (not $log.url) -}}
{{- fail "replicas: more than one server needs one database: set config.log.url to a database of PostgreSQL" -}}
{{- end -}}
{{- if and $log.url $log.path -}}
{{- fail "config.log: expected either `path` or `url`" -}}
{{- end -}}
{{- if and $log.path (not (hasPrefix "/var/lib/lockgate/" $log.path)) -}}
{{- fail "config.log.path: expected a path below /var/lib/lockgate, where the volume is" -}}
{{- end -}}
{{- if or (not $listen.host) (eq $listen.host "localhost") (hasPrefix "127." $listen.host) (eq $listen.host "::1") -}}
{{- fail "config.listen.host: expected 0.0.0.0 or ::, since other pods can't reach a loopback address" -}}
{{- end -}}
{{- if eq .Values.image.tag "latest" -}}
{{- fail "image.tag: expected a version, since `latest` may be another image tomorrow" -}}
{{- end -}}
{{- if .Values.metrics.serviceMonitor.enabled -}}
{{- if not (and .Values.metrics.keySecret.name .Values.metrics.keySecret.key $listen.metrics_key_env) -}}
{{- fail "metrics.serviceMonitor: needs metrics.keySecret and config.listen.metrics_key_env, since /metrics needs a key" -}}
{{- end -}}
{{- end -}}
{{- end -}}
