{{- /* The database, as libpq reads it: no URI with a password in it is ever built. */ -}}
{{- define "airflow-ml.databaseEnvironment" -}}
{{- $external := .Values.postgresql.external -}}
{{- $own := .Values.postgresql.enabled -}}
- name: PGHOST
  value: {{ ternary (include "airflow-ml.postgresqlName" .) $external.host $own | quote }}
- name: PGPORT
  value: {{ ternary 5432 $external.port $own | quote }}
- name: PGDATABASE
  value: {{ ternary .Values.postgresql.database $external.database $own | quote }}
- name: PGUSER
  value: {{ ternary .Values.postgresql.username $external.username $own | quote }}
- name: PGSSLMODE
  value: {{ ternary "disable" $external.sslmode $own | quote }}
- name: PGPASSWORD
  valueFrom:
    secretKeyRef:
      {{- if $own }}
      name: {{ .Values.postgresql.existingSecret | default (include "airflow-ml.postgresqlName" .) }}
      key: password
      {{- else }}
      name: {{ $external.existingSecret }}
      key: {{ $external.existingSecretKey }}
      {{- end }}
{{- end -}}

{{- define "airflow-ml.authEnvironment" -}}
{{- $secret := include "airflow-ml.mlflowAuthSecret" . -}}
- name: MLFLOW_AUTH_CONFIG_PATH
  value: /etc/mlflow/basic_auth.ini
{{- range $variable, $key := dict
  "MLFLOW_AUTH_ADMIN_USERNAME" "username"
  "MLFLOW_AUTH_ADMIN_PASSWORD" "password"
  "MLFLOW_FLASK_SERVER_SECRET_KEY" "flask-secret-key" }}
- name: {{ $variable }}
  valueFrom:
    secretKeyRef:
      name: {{ $secret }}
      key: {{ $key }}
{{- end }}
{{- end -}}

{{- /* The names by which MLflow is called in the cluster, and what the values add. */ -}}
{{- define "airflow-ml.allowedHosts" -}}
{{- $hosts := list "localhost:*" "127.0.0.1:*" -}}
{{- $name := include "airflow-ml.mlflowName" . -}}
{{- range list $name (printf "%s.%s" $name .Release.Namespace) (printf "%s.%s.svc" $name .Release.Namespace) (printf "%s.%s.svc.cluster.local" $name .Release.Namespace) -}}
{{- $hosts = concat $hosts (list . (printf "%s:*" .)) -}}
{{- end -}}
{{- join "," (concat $hosts .Values.mlflow.allowedHosts) -}}
{{- end -}}
