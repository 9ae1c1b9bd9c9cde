"""A side's own life: set up, started, examined, tidied. Knows no Celery."""
