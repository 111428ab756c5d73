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
