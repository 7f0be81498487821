"""Celery settings of `freddy_tasks.app`."""
