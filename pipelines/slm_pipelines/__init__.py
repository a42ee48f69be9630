"""The steps that touch weights: each is ``python -m slm_pipelines STEP --spec FILE``."""
