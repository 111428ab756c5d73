{{- define "airflow-ml.fullname" -}}
{{- .Values.fullnameOverride | default .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "airflow-ml.stepsNamespace" -}}
{{- .Values.steps.namespace.name | default .Release.Namespace -}}
{{- end -}}

{{- define "airflow-ml.stepServiceAccount" -}}
{{- .Values.steps.serviceAccount.name | default (printf "%s-step" (include "airflow-ml.fullname" .)) -}}
{{- end -}}

{{- define "airflow-ml.storeClaim" -}}
{{- .Values.store.volume.existingClaim | default (printf "%s-store" (include "airflow-ml.fullname" .)) -}}
{{- end -}}

{{- define "airflow-ml.mlflowName" -}}{{ include "airflow-ml.fullname" . }}-mlflow{{- end -}}
{{- define "airflow-ml.postgresqlName" -}}{{ include "airflow-ml.fullname" . }}-postgresql{{- end -}}

{{- define "airflow-ml.mlflowServiceAccount" -}}
{{- .Values.mlflow.serviceAccount.name | default (include "airflow-ml.mlflowName" .) -}}
{{- end -}}

{{- define "airflow-ml.mlflowAuthSecret" -}}
{{- .Values.mlflow.auth.existingSecret | default (printf "%s-auth" (include "airflow-ml.mlflowName" .)) -}}
{{- end -}}

{{- define "airflow-ml.mlflowClaim" -}}
{{- .Values.mlflow.artifacts.volume.existingClaim | default (printf "%s-artifacts" (include "airflow-ml.mlflowName" .)) -}}
{{- end -}}

{{- define "airflow-ml.connectionSecret" -}}
{{- .Values.airflow.connection.secretName | default (printf "%s-airflow-connections" (include "airflow-ml.fullname" .)) -}}
{{- end -}}

{{- /* Labels of an object: (dict "root" $ "component" "mlflow") */ -}}
{{- define "airflow-ml.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: airflow-ml
{{ include "airflow-ml.selector" . }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* What selects a component's pods. Immutable in Deployments and StatefulSets: never add to it. */ -}}
{{- define "airflow-ml.selector" -}}
app.kubernetes.io/name: airflow-ml
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- /* The labels that KubernetesCompute gives to every pod of a step. */ -}}
{{- define "airflow-ml.stepSelector" -}}
app.kubernetes.io/managed-by: airflow-ml-provider
app.kubernetes.io/component: step
{{- end -}}

{{- /* Drivers and executors of steps, by the label that Spark gives them. */ -}}
{{- define "airflow-ml.sparkSelector" -}}
matchLabels:
  app.kubernetes.io/managed-by: airflow-ml-provider
matchExpressions:
  - key: spark-role
    operator: In
    values: [driver, executor]
{{- end -}}

{{- /* (dict "image" .Values.mlflow.image "default" "0.1.0") */ -}}
{{- define "airflow-ml.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .default }}
{{- end -}}
{{- end -}}

{{- define "airflow-ml.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- /* A pod's security context: (dict "user" 50000) */ -}}
{{- define "airflow-ml.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .user }}
runAsGroup: {{ .user }}
fsGroup: {{ .user }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- /* The scheduling fields of a pod: .Values.mlflow or .Values.postgresql */ -}}
{{- define "airflow-ml.scheduling" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{- /* One key of a Secret in the cluster, decoded; empty where there is none, as in `helm template`. */ -}}
{{- define "airflow-ml.secretValue" -}}
{{- $secret := lookup "v1" "Secret" .namespace .name | default dict -}}
{{- get ($secret.data | default dict) .key | b64dec -}}
{{- end -}}

{{- /* Mistakes that a schema cannot express, each with what to do. */ -}}
{{- define "airflow-ml.checks" -}}
{{- if and .Values.steps.namespace.create (eq (include "airflow-ml.stepsNamespace" .) .Release.Namespace) -}}
{{- fail "steps.namespace.create is for a namespace other than the release's own: name one in steps.namespace.name, or create the release's with `helm install --create-namespace`" -}}
{{- end -}}
{{- if and .Values.mlflow.enabled (not .Values.postgresql.enabled) -}}
{{- if not .Values.postgresql.external.host -}}
{{- fail "postgresql.enabled is false: name MLflow's database in postgresql.external.host, and its password in postgresql.external.existingSecret" -}}
{{- end -}}
{{- if not .Values.postgresql.external.existingSecret -}}
{{- fail "postgresql.external.existingSecret is empty: name the Secret that holds the database's password" -}}
{{- end -}}
{{- end -}}
{{- $artifacts := .Values.mlflow.artifacts -}}
{{- if and .Values.mlflow.enabled (eq $artifacts.type "s3") (not $artifacts.s3.uri) -}}
{{- fail "mlflow.artifacts.type is s3: name the place in mlflow.artifacts.s3.uri, such as s3://bucket/mlflow" -}}
{{- end -}}
{{- if and .Values.mlflow.enabled (gt (int .Values.mlflow.replicas) 1) (eq $artifacts.type "volume") (not (has "ReadWriteMany" $artifacts.volume.accessModes)) -}}
{{- fail "mlflow.replicas is more than 1: artifacts need s3, or a volume with mlflow.artifacts.volume.accessModes [ReadWriteMany]" -}}
{{- end -}}
{{- end -}}
