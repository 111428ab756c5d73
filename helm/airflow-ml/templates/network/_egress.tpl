{{- /* What steps and MLflow both call: DNS, and https where S3 is. */ -}}
{{- define "airflow-ml.sharedEgress" -}}
- to:
    {{- toYaml .Values.networkPolicies.dns | nindent 4 }}
  ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
{{- with .Values.networkPolicies.https }}
- to:
    {{- toYaml . | nindent 4 }}
  ports:
    - {protocol: TCP, port: 443}
{{- end }}
{{- end -}}

{{- /* What steps call: that, MLflow, and what the values name. */ -}}
{{- define "airflow-ml.stepsEgress" -}}
{{ include "airflow-ml.sharedEgress" . }}
{{- if .Values.mlflow.enabled }}
- to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: {{ .Release.Namespace }}
      podSelector:
        matchLabels:
          {{- include "airflow-ml.selector" (dict "root" $ "component" "mlflow") | nindent 10 }}
  ports:
    - {protocol: TCP, port: 5000}
{{- end }}
{{- with .Values.networkPolicies.stepsExtraEgress }}
{{ toYaml . }}
{{- end }}
{{- end -}}
